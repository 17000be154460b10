"""Sixteen threads that do nothing but be measured: counts are exact and nothing is left over."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

import carbontrack
from carbontrack.record import Record
from carbontrack.testing import FakeMeter, MemorySink
from carbontrack.units import JOULES_PER_KWH

pytestmark = pytest.mark.xdist_group("serial")  # one torture for all tests; threads, descriptors

THREADS, CALLS, SPANS = 16, 5_000, 25


def descriptors() -> Counter[str]:
    """What the process has open, by where it points; nothing where that cannot be seen."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return Counter()
    found: Counter[str] = Counter()
    for entry in folder.iterdir():
        try:
            found[os.readlink(entry)] += 1  # noqa: PTH115 - the text, whatever it is
        except FileNotFoundError:
            continue  # the one that lists this folder
    return found


class Watcher:
    """Looks at an open span from a thread of its own, again and again."""

    def __init__(self, look: Callable[[], Record]) -> None:
        self.seen: list[Record] = []
        self._look = look
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.is_set():
            self.seen.append(self._look())
            self._over.wait(0.001)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Machine:
    """A machine of constant power, which knows when it was first and last looked at."""

    def __init__(self, watts: float) -> None:
        self._watts = watts
        self._first_s, self._last_s = float("inf"), float("-inf")

    def joules(self, now_s: float) -> float:
        """Its count at an instant."""
        self._first_s, self._last_s = min(self._first_s, now_s), max(self._last_s, now_s)
        return self._watts * now_s

    @property
    def used_kwh(self) -> float:
        """All that it used between the first look and the last."""
        return self._watts * (self._last_s - self._first_s) / JOULES_PER_KWH


def tortured(machine: Machine) -> tuple[list[Record], list[Record]]:
    """Calls and spans in all threads at once beside a root; the rows, and the looks at the root."""
    sink, meter = MemorySink(), FakeMeter(joules=machine.joules)
    with carbontrack.Tracker(meters=[meter], sinks=[sink], interval_s=0.01) as tracker:

        @carbontrack.track("call", tracker=tracker, window_s=0.2)
        def call(number: int) -> int:
            return number + 1

        start = threading.Barrier(THREADS)

        def work(thread: int) -> int:
            start.wait()
            total = 0
            for number in range(CALLS):
                if number % (CALLS // SPANS) == 0:
                    with tracker.span(f"span {thread}"):
                        total += call(0)
                else:
                    total += call(0)
            return total

        with tracker.span("root") as root:
            with Watcher(root.snapshot) as watcher, ThreadPoolExecutor(THREADS) as executor:
                assert list(executor.map(work, range(THREADS))) == [CALLS] * THREADS
            assert watcher.seen
    return list(sink.records), watcher.seen


class Result(NamedTuple):
    """The rows, the looks, the machine's energy, and what was not there before and is now."""

    rows: list[Record]
    seen: list[Record]
    machine_kwh: float
    threads_left: list[str]
    descriptors_left: Counter[str]


@pytest.fixture(scope="module")
def result() -> Result:
    """Once for all tests, with threads that take turns a hundred times as often as usual."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(usual_s / 100)
    threads, before = set(threading.enumerate()), descriptors()
    machine = Machine(watts=400.0)
    try:
        rows, seen = tortured(machine)
    finally:
        sys.setswitchinterval(usual_s)
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    return Result(rows, seen, machine.used_kwh, left, descriptors() - before)


def test_every_call_and_span_is_counted_once(result: Result) -> None:
    """Calls inside of a span are part of it; all others stand in the rows of their function."""
    calls = sum(row.calls or 0 for row in result.rows if row.name == "call")
    spans = Counter(row.name for row in result.rows if row.name.startswith("span"))
    assert calls == THREADS * (CALLS - SPANS)
    assert spans == {f"span {thread}": SPANS for thread in range(THREADS)}
    assert {row.status for row in result.rows} == {"ok"}
    assert len({row.record_id for row in result.rows}) == len(result.rows)


def test_nothing_is_billed_twice(result: Result) -> None:
    """All rows together have what the machine used, and no more."""
    total_kwh = sum(row.energy_kwh or 0.0 for row in result.rows)
    # the root was open nearly all of the time, so nearly all of it belongs to somebody
    assert 0.95 * result.machine_kwh < total_kwh <= result.machine_kwh * (1 + 1e-9)
    assert all(row.energy_kwh is not None and row.energy_kwh >= 0.0 for row in result.rows)


def test_looks_from_outside_never_go_back(result: Result) -> None:
    """Each snapshot of the open root has at least the energy and the time of the one before."""
    (root,) = [row for row in result.rows if row.name == "root"]
    seen = [*result.seen, root]
    energies, times = [row.energy_kwh for row in seen], [row.duration_s for row in seen]
    assert len(seen) > 2
    assert energies == sorted(energies)
    assert times == sorted(times)


def test_nothing_is_left_over(result: Result) -> None:
    """After the tracker's end there is no thread and no descriptor that was not there before."""
    assert result.threads_left == []
    assert result.descriptors_left == Counter()
