"""Costs as counts, and as ratios to a calibration, which hold on any machine."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_around: ContextVar[object] = ContextVar("around", default=None)


def run(
    code: str, folder: Path, *, through: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter with nothing of ours in its environment."""
    return subprocess.run(
        [*through, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        timeout=100,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONHASHSEED": "0",
            "CARBONTRACK_REGION": "FR",
        },
    )


def function_calls(act: Callable[[], object], times: int = 200) -> float:
    """How many functions, of Python and of C, one act calls; the same on every machine."""
    events = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal events
        events += event in ("call", "c_call")

    act()
    with without_collections():  # what a collection calls is not the act's
        sys.setprofile(count)
        try:
            for _ in range(times):
                act()
        finally:
            sys.setprofile(None)
    return events / times


def blocks_kept(act: Callable[[], object], times: int = 5000) -> int:
    """How many blocks of memory are in use after so many acts that were not before."""
    for _ in range(300):
        act()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(times):
        act()
    gc.collect()
    return sys.getallocatedblocks() - before


def calibration() -> None:
    """Work of the kind that a decorated call does: clocks, a context, an object, a dictionary."""
    time.monotonic()
    time.process_time()
    token = _around.set(object())
    {"a": 1}.pop("a")
    _around.reset(token)
    time.process_time()
    time.monotonic()


def ratio(act: Callable[[], object], to: Callable[[], object], times: int = 400) -> float:
    """How many times as long one takes as the other, by the fastest of interleaved rounds."""
    best = [float("inf"), float("inf")]
    for _ in range(60):
        for place, one in enumerate((act, to)):
            started = time.perf_counter()
            for _ in range(times):
                one()
            best[place] = min(best[place], time.perf_counter() - started)
    return best[0] / best[1]


def collect_all() -> None:
    """Leave no garbage of others: what is collected may close things, and leave new garbage."""
    for _ in range(10):
        if not gc.collect():
            return


@contextmanager
def without_collections():
    """No garbage collection in between; inside of another such block it does nothing."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def has(tool: str) -> bool:
    """Whether a tool is there and may be used here."""
    path = shutil.which(tool)
    return (
        path is not None
        and not subprocess.run([path, *PROBES[tool]], capture_output=True, check=False).returncode
    )


def needs(library: str) -> None:
    """Skip the test where a library is not installed; it is not imported, as that may change costs.

    Beside time-machine, for instance, the wall clock is read in another way.
    """
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


PROBES = {
    "strace": ("-c", "true"),
    "valgrind": ("--tool=callgrind", "--callgrind-out-file=/dev/null", "true"),
}


def instructions(code: str, folder: Path) -> int:
    """The instructions of a new process that runs the code, as callgrind counts them."""
    valgrind = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    said = run(code, folder, through=valgrind).stderr
    found = re.search(r"Collected : (\d+)", said)
    assert found, said
    return int(found[1])


def system_calls(code: str, folder: Path, *, kinds: str = "all") -> int:
    """The system calls of a new process that runs the code, in all its threads.

    `kinds`: which of them, as strace(1) names them.
    """
    counts = folder / "strace.txt"
    run(code, folder, through=("strace", "-f", "-c", "-e", f"trace={kinds}", "-o", str(counts)))
    total = counts.read_text().splitlines()[-1].split()
    assert total[-1] == "total", total
    return int(total[3])
