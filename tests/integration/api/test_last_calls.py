"""What a program still does while it goes down: its calls are in rows, and it goes down as before.

A decorated call leaves one byte in a file when it has returned; the rows must hold as many calls.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records

PROGRAM = """
import asyncio, atexit, contextlib, os, sys, threading, time
import carbontrack

DONE = os.open("done", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@carbontrack.track("work", region="FR", output="rows.csv")
def work():
    return 1

@carbontrack.track("count", region="FR", output="rows.csv")
def count():
    for number in range(3):
        yield number

@carbontrack.track("wait", region="FR", output="rows.csv")
async def wait(seconds):
    await asyncio.sleep(seconds)

def call():
    work()
    os.write(DONE, b"x")

def without_end():
    while True:
        call()
        time.sleep(0.0001)

call()
"""
LAST = {
    "atexit": "",  # its handler is in the prologue: registered before ours, it runs after it
    "daemon threads": (
        "for _ in range(4):\n"
        "    threading.Thread(target=without_end, daemon=True).start()\n"
        "time.sleep(0.2)\n"
    ),
    "thread": (
        "def late():\n"
        "    time.sleep(0.2)\n"
        "    for _ in range(100): call()\n"
        "threading.Thread(target=late).start()\n"
    ),
}
BEFORE = """
import atexit
atexit.register(lambda: [call() for _ in range(50)])
"""


def run(folder: Path, program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "CARBONTRACK_STATE_DIR": str(folder / "state"), **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("last", LAST)
def test_calls_of_the_last_moment_are_in_rows(tmp_path: Path, last: str) -> None:
    """Handlers that run after ours, threads that nobody waits for: what they called is written."""
    done = run(tmp_path, BEFORE + PROGRAM + LAST[last] + "sys.exit(7)")
    rows = list(iter_records(tmp_path / "rows.csv"))
    answered = (tmp_path / "done").stat().st_size
    written = sum(row.calls or 0 for row in rows)

    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert answered > 50
    # a thread may be stopped for good between the end of its call and its byte
    assert answered <= written <= answered + (4 if last == "daemon threads" else 0)
    assert len({row.record_id for row in rows}) == len(rows)


UNFINISHED = {
    "closed early": ("steps = count(); next(steps); steps.close()", "count", "ok"),
    "forgotten": ("next(count())", "count", "ok"),
    "never finished": ("steps = count(); next(steps)", "count", "error"),
    "never begun": ("steps = count()", None, ""),
    "cancelled": (
        "async def main():\n"
        "    task = asyncio.ensure_future(wait(60)); await asyncio.sleep(0.05); task.cancel()\n"
        "    with contextlib.suppress(asyncio.CancelledError): await task\n"
        "asyncio.run(main())",
        "wait",
        "error",
    ),
    "timed out": (
        "async def main():\n"
        "    with contextlib.suppress(asyncio.TimeoutError):\n"
        "        await asyncio.wait_for(wait(60), 0.05)\n"
        "asyncio.run(main())",
        "wait",
        "error",
    ),
    "left running": (
        "async def main():\n"
        "    asyncio.ensure_future(wait(60)); await asyncio.sleep(0.05)\n"
        "asyncio.run(main())",
        "wait",
        "error",
    ),
    "closed in another thread": (
        "steps = count(); next(steps)\n"
        "thread = threading.Thread(target=steps.close); thread.start(); thread.join()",
        "count",
        "ok",
    ),
}


@pytest.mark.parametrize("way", UNFINISHED)
def test_what_is_never_finished_is_one_call_all_the_same(tmp_path: Path, way: str) -> None:
    """Generators and coroutines that stop in the middle, in a whole program, at its normal end."""
    program, name, status = UNFINISHED[way]
    done = run(tmp_path, PROGRAM + program)
    alone = run(tmp_path / "alone", PROGRAM + program, CARBONTRACK_DISABLE="1")
    rows = {row.name: row for row in iter_records(tmp_path / "rows.csv")}

    assert (done.returncode, done.stdout, done.stderr) == (0, alone.stdout, alone.stderr)
    assert set(rows) == {"work", name} - {None}
    if name is not None:
        assert (rows[name].calls, rows[name].status) == (1, status)
