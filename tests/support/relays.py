"""Relays as processes of their own, and processes that hand them a record each and end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from carbontrack.record import Record
from carbontrack.sinks.jsonl import json_line, record_object

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0

SENDERS = """
import os, sys
from pathlib import Path
from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.system.http import load_requests
from tests.support.records import a_record

state, url, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
load_requests()  # once, before the forks
for number in range(first, first + count):
    pid = os.fork()
    if pid == 0:
        journal = Journal(state)
        sink = JournaledHttpSink(url, journal=journal, exit_timeout_s=0.2)
        sink.write(a_record(number))
        sink.close()
        journal.close()
        os._exit(0)
    if number % 10 == 9 or number == first + count - 1:
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
"""
"""Forks a process for each record; it writes the record to an output, and ends."""


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def environ_of(state: Path, **more: str) -> dict[str, str]:
    """The environment of a command with this state directory."""
    return os.environ | {"CARBONTRACK_STATE_DIR": str(state), "PYTHONPATH": str(ROOT)} | more


def command(*args: str | Path, python: str = sys.executable) -> list[str]:
    """The command line of a relay that says what happens in lines of JSON."""
    return [python, "-m", "carbontrack", "relay", "--json", *map(str, args)]


class RunningRelay:
    """A relay, from the line that says that it has started, to its end.

    Attributes:
        events: what it has said so far.
        url: where it takes records.
        errors: what it has printed on stderr, once it has ended.
    """

    def __init__(self, state: Path, *args: str | Path, **environ: str) -> None:
        self.errors = ""
        self.process = subprocess.Popen(
            command(*args),
            cwd=state,
            env=environ_of(state, **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.events: list[dict[str, Any]] = [json.loads(line)]
        self.url = str(self.events[0]["listen"])
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.events.append(json.loads(line))

    def kill(self) -> None:
        """Kill it, as the kernel does when memory is short."""
        self.process.kill()
        self._see_end()

    def end(self) -> int:
        """End it as systemd does; its exit code."""
        self.process.terminate()
        return self._see_end()

    def _see_end(self) -> int:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()
        code = self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self) -> RunningRelay:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def relay_once(
    state: Path, *args: str | Path, python: str = sys.executable, **environ: str
) -> tuple[int, dict[str, Any], subprocess.CompletedProcess[str]]:
    """Run a relay with `--once`: its exit code, its last line, and all of it."""
    done = subprocess.run(
        command("--once", *args, python=python),
        cwd=state,
        env=environ_of(state, **environ),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done


def post(
    url: str, records: Sequence[Record | dict[str, Any]], **headers: str
) -> tuple[int, dict[str, str]]:
    """Post records as any HTTP client does; the status and the headers of the answer."""
    rows = [record_object(one) if isinstance(one, Record) else one for one in records]
    return post_body(url, json_line(rows), **headers)


def post_body(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, str]]:
    """As `post`, whatever the body is."""
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE_S)
    try:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"} | named)
        answer = connection.getresponse()
        answer.read()
        return answer.status, dict(answer.headers)
    finally:
        connection.close()


def until(is_so: Callable[[], bool]) -> bool:
    """Wait until something is so; False if that takes longer than anybody would wait."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > give_up_s:
            return False
        threading.Event().wait(0.02)
    return True
