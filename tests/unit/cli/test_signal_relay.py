"""Signals to us and to our group, with real processes; tests/integration has the whole table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from carbontrack.cli.signal_relay import GroupProbe, PlainRelay, SignalRelay

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what is pending")

ENDS_BY_USR1 = (
    "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5));"
    "print('ready', flush=True); signal.pause()"
)
RELAYS: list[Callable[[], SignalRelay | PlainRelay]] = [PlainRelay]
if sys.platform == "linux":
    RELAYS.append(SignalRelay)


@on_linux
def test_a_probe_shows_what_it_was_sent_and_outlives_it() -> None:
    """Each signal, until the probe is ended; nothing is there before."""
    before = _children()  # a server of `multiprocessing`, which other tests have started
    probe = GroupProbe.start(["sleep", "1"])
    assert probe is not None
    try:
        assert probe.pending() == frozenset()
        (child,) = _children() - before
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMAX, signal.SIGTERM):
            os.kill(child, number)

        assert probe.pending() == {signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMAX}
    finally:
        probe.end()
    assert probe.pending() is None
    assert _children() == before


FEW = """
import os, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
from carbontrack.cli.signal_relay import GroupProbe
GroupProbe.start(["true"]).end()  # everything is imported
before = os.listdir("/proc/self/fd")
for free in range(7):
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
    probe = GroupProbe.start(["true"])
    if probe is not None:
        probe.end()
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    assert os.listdir("/proc/self/fd") == before, (free, before, os.listdir("/proc/self/fd"))
"""


@on_linux
def test_a_probe_that_finds_too_few_descriptors_keeps_none() -> None:
    """However many are free. `Popen` itself keeps some, up to Python 3.11.3."""
    done = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _children() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    return set(map(int, text.split()))


@pytest.mark.parametrize("relay_of", RELAYS)
def test_a_signal_before_the_command_is_kept_for_it(
    relay_of: Callable[[], SignalRelay | PlainRelay],
) -> None:
    """And afterwards everything is as it was."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    relay = relay_of()
    with relay:
        _send_from_another(signal.SIGTERM)
        with relay.lifted():
            process = subprocess.Popen(["sleep", "60"])
        relay.serve(process, ["sleep", "60"])
        relay.wait(nullcontext)

    assert process.returncode == -signal.SIGTERM
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers


@pytest.mark.parametrize("relay_of", RELAYS)
def test_a_signal_to_us_is_relayed(relay_of: Callable[[], SignalRelay | PlainRelay]) -> None:
    """To a command that catches it, whose own exit code follows."""
    relay = relay_of()
    with relay:
        with relay.lifted():
            process = subprocess.Popen([sys.executable, "-c", ENDS_BY_USR1], stdout=subprocess.PIPE)
        relay.serve(process, ["python"])
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        _send_from_another(signal.SIGUSR1)
        relay.wait(nullcontext)
        process.stdout.close()

    assert process.returncode == 5


def _send_from_another(number: int) -> None:
    """As a signal of ours to ourselves is not meant for the command."""
    subprocess.run(["kill", f"-{int(number)}", str(os.getpid())], check=True)


@on_linux
def test_what_comes_after_the_command_ends_nobody() -> None:
    """Its exit code is known, and the row is still to be written."""
    with SignalRelay() as relay:
        with relay.lifted():
            process = subprocess.Popen(["true"])
        relay.serve(process, ["true"])
        relay.wait(nullcontext)
        for number in (signal.SIGTERM, signal.SIGXCPU, signal.SIGALRM, signal.SIGTSTP):
            _send_from_another(number)

    assert process.returncode == 0
