"""The whole way from a counter's file to a record, with the real thread, real forks, real tasks."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from carbontrack.api.track import track
from carbontrack.meters.rapl import powercap_meters
from carbontrack.system.clock import SystemClock
from carbontrack.testing import FakeClock, FakeMeter, MemorySink, Zone, build_powercap
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import joules
from tests.support.costs import run

pytestmark = pytest.mark.xdist_group("serial")  # instants, memory, threads

ROOT = Path(__file__).parents[3]
RANGE_UJ = 400_000_000  # a second at the power cap: a busy machine holds the sampler up that long


def watts(at_s: float) -> float:
    """A load that swings between 40 and 160 W twice a second."""
    return 100.0 + 60.0 * math.sin(4.0 * math.pi * at_s)


def energy_j(at_s: float) -> float:
    """The integral of `watts` from 0."""
    return 100.0 * at_s + 60.0 / (4.0 * math.pi) * (1.0 - math.cos(4.0 * math.pi * at_s))


class Driven(SystemClock):
    """The real clock; whoever looks at it finds the counter's file moved to that very instant.

    The sampler takes the time and then reads the file, so the file holds the truth of the instant
    that the sample is stamped with; the lock keeps the order when several threads look.
    """

    def __init__(self, tree):
        self._tree = tree
        self._start_s = time.monotonic()
        self._done_j = 0.0
        self._lock = threading.Lock()

    def monotonic_s(self):
        """Now, and the counter with it."""
        with self._lock:
            now_s = time.monotonic()
            truth_j = energy_j(now_s - self._start_s)
            self._tree.add_joules("package-0", truth_j - self._done_j)
            self._done_j = truth_j
            return now_s

    def truth_j(self, start_s, end_s):
        """What was used between two instants."""
        return energy_j(end_s - self._start_s) - energy_j(start_s - self._start_s)


@pytest.fixture
def driven(tmp_path):
    """A tracker on a powercap tree that follows the curve, and wraps 5 J after its beginning."""
    zone = Zone("package-0", "intel-rapl:0", RANGE_UJ - 5_000_000, RANGE_UJ, 400.0)
    tree = build_powercap(tmp_path, [zone])
    clock = Driven(tree)
    meters, refused = powercap_meters(tmp_path)
    assert [meter.id for meter in meters] == ["rapl:package-0"], refused
    with Tracker(meters=meters, interval_s=0.1, clock=clock) as tracker:
        yield tracker, clock


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.7, 2.0])
def test_spans_meet_the_truth(driven, seconds):
    """From 50 ms to 2 s, over wraps, the record lies within 0.5 % of the curve's integral."""
    tracker, clock = driven
    started_s = time.monotonic()
    with tracker.span("load") as span:
        inner_start_s = time.monotonic()
        time.sleep(seconds)
        inner_end_s = time.monotonic()
    ended_s = time.monotonic()
    used_j = joules(span.record)
    # The edges lie somewhere between the two pairs of instants, and cannot lie anywhere else.
    assert clock.truth_j(inner_start_s, inner_end_s) * 0.995 <= used_j
    assert used_j <= clock.truth_j(started_s, ended_s) * 1.005
    assert span.record.basis == "measured"
    assert span.record.faults is None
    assert span.record.coverage == pytest.approx(1.0)


def test_nested_and_concurrent_spans_conserve(driven):
    """Roots in several threads, with children, add up to what the counter saw, to 1e-9."""
    tracker, _ = driven

    def work(seed):
        rng = random.Random(seed)
        with tracker.span(f"root {seed}") as root:
            for _ in range(5):
                with root.span("child"):
                    time.sleep(rng.uniform(0.001, 0.02))
        return root

    with tracker.span("roof") as roof:
        before_j = roof._start.counts.energy_j[0]
        with ThreadPoolExecutor(6) as pool:
            roots = list(pool.map(work, range(24)))
    after_j = roof._end.counts.energy_j[0]
    used_j = sum(joules(root.record) for root in [roof, *roots])
    assert used_j == pytest.approx(after_j - before_j, rel=1e-9)


def test_a_thousand_short_calls_are_one_row_with_energy(driven):
    """Calls of a millisecond: one row, their number, and an energy that is not zero."""
    tracker, _ = driven
    sink = MemorySink()
    tracker.session.sinks = (sink,)

    @track("short", tracker=tracker)
    def short():
        end_s = time.perf_counter() + 0.001
        while time.perf_counter() < end_s:
            pass

    for _ in range(1000):
        short()
    tracker.close()
    (row,) = sink.records
    assert row.calls == 1000
    assert joules(row) / row.duration_s == pytest.approx(100.0, rel=0.3)


def test_coroutines_and_generators_are_measured_over_their_real_length(driven):
    """1.5 s of a coroutine that waits, and 1 s of a generator whose consumer dawdles."""
    tracker, _ = driven
    sink, lengths = MemorySink(), {"coroutine": 0.0, "generator": 0.0}
    tracker.session.sinks = (sink,)

    @track("coroutine", tracker=tracker)
    async def coroutine():
        start_s = time.monotonic()
        await asyncio.sleep(1.5)
        lengths["coroutine"] += time.monotonic() - start_s

    @track("generator", tracker=tracker)
    def generator():
        for n in range(5):
            start_s = time.monotonic()
            time.sleep(0.21)
            lengths["generator"] += time.monotonic() - start_s
            yield n

    asyncio.run(coroutine())
    for _ in generator():
        time.sleep(0.1)
    by_name = {row.name: row for row in sink.records}
    assert {name: row.duration_s for name, row in by_name.items()} == pytest.approx(
        lengths, rel=0.05
    )
    for row in by_name.values():
        assert joules(row) / row.duration_s == pytest.approx(100.0, rel=0.3)


def test_threads_and_tasks_together(driven):
    """Loops in threads, tasks in loops: every span ends, nothing stays open, the sum holds."""
    tracker, _ = driven

    async def task(number):
        async with tracker.span(f"task {number}") as span:
            await asyncio.sleep(0.001 * (number % 5))
            with span.span("inner"):
                await asyncio.sleep(0.001)
        return span

    async def many(first):
        return await asyncio.gather(*(task(first + n) for n in range(50)))

    with tracker.span("roof") as roof, ThreadPoolExecutor(4) as pool:
        loops = pool.map(lambda n: asyncio.run(many(n)), range(4))
        spans = [span for loop in loops for span in loop]
    used_j = sum(joules(span.record) for span in [roof, *spans])
    seen_j = roof._end.counts.energy_j[0] - roof._start.counts.energy_j[0]
    assert used_j == pytest.approx(seen_j, rel=1e-9)
    assert tracker.session.sampler.leaves == 0


# -- forks --------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_in_an_open_span_is_the_parents_once():
    """The child is a run of its own below the parent's; the parent's record is the parent's."""
    program = """
import json, os, sys
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.tracker import Tracker
clock, sink = FakeClock(), MemorySink()
tracker = Tracker(meters=[FakeMeter(watts=100.0)], clock=clock, sinks=[sink], interval_s=3600)
with tracker.span("parent") as parent:
    clock.advance(1.0)
    pid = os.fork()
    with tracker.span("child" if pid == 0 else "inner") as inner:
        clock.advance(2.0)
if pid:
    os.waitpid(pid, 0)
tell = [
    [r.name, r.run_id, r.record_id, r.parent_id, r.cpu_kwh * 3.6e6, r.pid] for r in sink.records
]
with open(sys.argv[1] + (".child" if pid == 0 else ".parent"), "w") as file:
    json.dump({"rows": tell, "pid": os.getpid()}, file)
"""
    rows = _run_forking(program)
    (parent,), (child,) = rows["parent"], rows["child"]
    assert parent[0] == "parent"
    assert parent[4] == pytest.approx(300.0)
    assert child[0] == "child"
    assert child[1] != parent[1]
    assert child[3] in (parent[1], parent[2])
    assert child[4] == pytest.approx(200.0)
    assert child[5] != parent[5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_inside_a_decorated_call_counts_it_once():
    """A call under way, and a generator that is suspended, are the parent's alone."""
    program = """
import json, os, sys
from carbontrack.api.track import track
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.tracker import Tracker
clock, sink = FakeClock(), MemorySink()
tracker = Tracker(meters=[FakeMeter(watts=100.0)], clock=clock, sinks=[sink], interval_s=3600)
@track("steps", tracker=tracker)
def steps():
    clock.advance(0.25)
    yield 1
    clock.advance(0.25)
@track("work", tracker=tracker)
def work():
    clock.advance(0.5)
    pid = os.fork()
    clock.advance(0.25)
    return pid
generator = steps()
next(generator)
pid = work()
if pid == 0:
    work_in_child = track("mine", tracker=tracker)(lambda: clock.advance(0.125))
    work_in_child()
list(generator)
tracker.close()
if pid:
    os.waitpid(pid, 0)
tell = [[r.name, r.calls, r.duration_s, r.run_id] for r in sink.records]
with open(sys.argv[1] + (".child" if pid == 0 else ".parent"), "w") as file:
    json.dump({"rows": tell, "pid": os.getpid()}, file)
"""
    rows = _run_forking(program)
    assert {row[0]: row[1:3] for row in rows["parent"]} == {
        "steps": [1, pytest.approx(0.5)],
        "work": [1, pytest.approx(0.75)],
    }
    assert {row[0]: row[1:3] for row in rows["child"]} == {"mine": [1, pytest.approx(0.125)]}


def _run_forking(program):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, out],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60.0,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return {
            who: json.loads(Path(f"{out}.{who}").read_text())["rows"] for who in ("parent", "child")
        }


# -- costs --------------------------------------------------------------------------------------


MANY_SPANS = """
import gc, json, os, threading
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker

def used():
    gc.collect()
    with open("/proc/self/statm") as file:
        resident_bytes = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident_bytes, len(os.listdir("/proc/self/fd")), threading.active_count()

with Tracker(meters=[FakeMeter()], clock=FakeClock(), interval_s=3600.0) as tracker:
    def many(count):
        for _ in range(count):
            with tracker.span("span", labels={"n": 1}):
                pass

    many(5_000)
    before = used()
    many(100_000)
    print(json.dumps([before, used()]))
"""


def test_many_spans_leave_nothing_behind(tmp_path):
    """100,000 spans: less than 1 MiB of memory more, no descriptor, no thread."""
    before, after = json.loads(run(MANY_SPANS, tmp_path).stdout)
    assert after[0] - before[0] < 1 << 20
    assert after[1] <= before[1]  # fewer, if a tick has closed what an idle tracker needs not
    assert after[2] == before[2]


def test_the_sampler_sleeps_while_nothing_is_open():
    """Hours without a span cost no reading; the first span wakes it, and it ticks again."""
    clock, meter = FakeClock(), FakeMeter()
    with Tracker(meters=[meter], clock=clock, interval_s=1.0) as tracker:
        with tracker.span("a"):
            clock.until_waiting()
            clock.advance(5.0)
        ticking = meter.reads
        clock.advance(2.0)
        asleep = meter.reads
        clock.advance(36_000.0)
        assert ticking >= 5
        assert meter.reads == asleep
        with tracker.span("b") as b:
            clock.until_waiting()
            clock.advance(3.0)
        assert meter.reads >= asleep + 3
        assert joules(b.record) == pytest.approx(300.0)
