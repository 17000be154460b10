"""`carbontrack top` beside real processes, on a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.records import HOSTILE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="journals are told apart by flock")

WORK = """
import sys, time, carbontrack
with carbontrack.track(sys.argv[1], region="FR", checkpoint_s=0.1, interval_s=0.1):
    print("open", flush=True)
    while True:
        sum(range(10_000))
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"CARBONTRACK_STATE_DIR": str(tmp_path / "state"), "PYTHONUTF8": "1"}


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Start a program that measures itself, and end it with the test."""
    running = []

    def begin(name: str, *before: str) -> Any:
        command = [*before, sys.executable, "-c", WORK, name]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        return process

    yield begin
    for process in running:
        process.terminate()
        process.wait(timeout=60.0)
        process.stdout.close()


def top(environ: dict[str, str], *options: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "carbontrack", "top", *options],
        env=environ, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip


def seen(environ: dict[str, str], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What top says as soon as it says what is wanted."""
    deadline = time.monotonic() + 30.0
    while not wanted(found := json.loads(top(environ, "--json"))):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def test_running_processes_are_seen_and_ended_ones_are_not(
    start: Callable[..., Any], environ: dict[str, str]
) -> None:
    """Each with its pid, watts and grams; the killed one is gone, and is still to be recovered."""
    kept, killed = start("kept"), start(HOSTILE[16])
    found = seen(environ, lambda f: len(f["runs"]) == 2 and all(r["watts"] for r in f["runs"]))
    assert {run["pid"] for run in found["runs"]} == {kept.pid, killed.pid}
    assert {run["name"] for run in found["runs"]} == {"kept", HOSTILE[16]}
    assert all(run["emissions_g"] > 0.0 and run["region"] == "FR" for run in found["runs"])
    assert found["watts"] == pytest.approx(sum(run["watts"] for run in found["runs"]))
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60.0)
    assert [run["pid"] for run in json.loads(top(environ, "--json"))["runs"]] == [kept.pid]
    recovered = subprocess.run(
        [sys.executable, "-m", "carbontrack", "recover", "--json"],
        env=environ, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert HOSTILE[16] in json.dumps(json.loads(recovered.stdout), ensure_ascii=False)


def test_a_program_within_run_is_counted_once(
    start: Callable[..., Any], environ: dict[str, str]
) -> None:
    """The command's own run lies inside; the totals are the outer one's."""
    start("inner", sys.executable, "-m", "carbontrack", "run", "--quiet", "--name", "outer", "--")
    found = seen(environ, lambda f: len(f["runs"]) == 2)
    outer, inner = sorted(found["runs"], key=lambda run: run["name"], reverse=True)
    assert inner["parent_id"] == outer["record_id"]
    assert found["energy_kwh"] == outer["energy_kwh"]
    assert re.search(r"^\s*\d+  {3}inner", top(environ, "--once"), re.MULTILINE)


def test_on_a_terminal_it_refreshes_until_ctrl_c(
    start: Callable[..., Any], environ: dict[str, str]
) -> None:
    """It draws on a screen of its own, gives the old one back, and ends with 0."""
    import pty

    start("job")
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "carbontrack", "top"]
        os.execve(sys.executable, command, environ | {"TERM": "xterm", "NO_COLOR": "1"})
    printed = b""
    while printed.count(b"\x1b[H") < 2:
        printed += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        printed += more
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    text = printed.decode()
    assert text.startswith("\x1b[?1049h\x1b[?25l")
    assert text.rstrip().endswith("\x1b[?25h\x1b[?1049l")
    assert "job" in text
    assert "\x1b[1m" not in text
