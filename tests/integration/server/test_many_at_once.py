"""Senders that all come in the same moment, as the processes of a job array do when they end."""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.records import a_record
from tests.support.serving import a_post, serving

SENDERS = 800


@pytest.mark.skipif(sys.platform != "linux", reason="holds so many connections in the kernel")
def test_who_comes_first_is_answered_first(tmp_path: Path, send_token: str) -> None:
    """The first have their answers long before the last: none waits for all others."""
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) <= SENDERS:
        pytest.skip("the kernel does not hold so many connections")
    with serving(tmp_path) as server, ExitStack() as opened, selectors.DefaultSelector() as ready:
        assert server.post([a_record(SENDERS)], send_token).status_code == 204
        os.kill(server.process.pid, signal.SIGSTOP)
        for number in range(SENDERS):
            sender = opened.enter_context(server.connect())
            sender.sendall(a_post([a_record(number)], send_token))
            ready.register(sender, selectors.EVENT_READ, sender)
        begun_s = time.monotonic()
        os.kill(server.process.pid, signal.SIGCONT)
        answered_s: list[float] = []
        while len(answered_s) < SENDERS:
            for key, _ in ready.select(60):
                assert key.data.recv(4096).startswith(b"HTTP/1.1 204")
                ready.unregister(key.data)
                answered_s.append(time.monotonic() - begun_s)
    assert answered_s[SENDERS // 8] < answered_s[-1] / 2
