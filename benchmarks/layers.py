"""Where each microsecond goes: `python benchmarks/layers.py`; about fifteen seconds.

The fastest of many short rounds is shown, since whatever else the machine does only adds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from carbontrack.api.track import track
from carbontrack.meters.rapl import powercap_meters
from carbontrack.testing import Powercap, Zone, build_powercap
from carbontrack.tracking.tracker import Tracker

BLOCK = """
import sys
bare = set(sys.modules)
import carbontrack
with carbontrack.track():
    pass
print(*[name for name in sys.modules if name not in bare and not name.startswith("carbontrack")])
"""
START = """
import sys, time
clock = time.perf_counter
begun = clock()
for name in sys.argv[1:]:
    __import__(name)
standard = clock()
import carbontrack
carbontrack.track
imported = clock()
block = carbontrack.track()
with block:
    opened = clock()
ended = clock()
print(standard - begun, imported - standard, opened - imported, ended - opened)
"""
STAGES = (
    "modules of the standard library on the way to the end of the block",
    "the modules of `carbontrack.track`",
    "opening: settings, region, meters, thread, journal, with their modules",
    "closing: record and CSV",
)
ZONES = [
    Zone("package-0", "intel-rapl:0", 1_000_000),
    Zone("dram", "intel-rapl:0:0", 2_000_000),
    Zone("package-1", "intel-rapl:1", 3_000_000),
    Zone("dram", "intel-rapl:1:0", 4_000_000),
]


def best_us(act: Callable[[], object], times: int = 40, rounds: int = 400) -> float:
    """The fastest of many short rounds, for one act."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(times):
            act()
        best = min(best, time.perf_counter() - started)
    return best / times * 1e6


def table(title: str, unit: str, rows: list[tuple[str, float]]) -> None:
    """Print one."""
    print(f"\n| {title} | {unit} |\n|---|---|")
    for what, cost in rows:
        print(f"| {what} | {cost:.2f} |")


def start() -> None:
    """A new process, from its first line to the end of an empty block."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"PATH": os.environ["PATH"], "HOME": folder, "CARBONTRACK_REGION": "FR"}

        def printed(program: str, *arguments: str) -> list[str]:
            command = [sys.executable, "-c", program, *arguments]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=folder, env=env
            )
            return done.stdout.split()

        standard = printed(BLOCK)
        runs = [list(map(float, printed(START, *standard))) for _ in range(15)]
    stages = [min(column) * 1e3 for column in zip(*runs, strict=True)]
    rows = list(zip(STAGES, stages, strict=True))
    table("new process", "ms", [*rows, ("together", min(map(sum, runs)) * 1e3)])


@contextmanager
def moving(tree: Powercap) -> Iterator[None]:
    """Have counters grow, as a machine's do; one that stands still is looked at more closely."""
    stop = threading.Event()

    def move() -> None:
        while not stop.wait(0.01):
            for zone in tree.zones:
                tree.add_joules(zone, 0.1)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def span(folder: Path) -> None:
    """A child span on two sockets with memory."""
    tree = build_powercap(folder, ZONES)
    meters, _ = powercap_meters(folder)
    descriptor = os.open(folder / "class" / "powercap" / "intel-rapl:0" / "energy_uj", os.O_RDONLY)
    tracker = Tracker(meters=meters, grid=50.0, attribution="machine", interval_s=3600.0)
    with moving(tree), tracker.span("root") as root:
        sampler = tracker.session.sampler

        def one() -> None:
            with root.span("x"):
                pass

        whole = best_us(one)
        pread = best_us(lambda: int(os.pread(descriptor, 32, 0)))
        meter = best_us(lambda: meters[0].read_joules(time.monotonic()))
        bank = best_us(lambda: sampler.bank.step(sampler.counts, time.monotonic()))
        sample = best_us(sampler.sample)
        counts = sampler.counts
        sealed = best_us(lambda: tracker.session.builder.facts_now(counts.at_s))
        made = best_us(lambda: root.span("x"))
    tracker.close()
    os.close(descriptor)
    table(
        "span, opened and closed: two readings of four zones",
        "µs",
        [
            ("8 system calls that read a counter's file, and the number in it", 8 * pread),
            ("8 counts unwrapped and checked for what cannot be", 8 * (meter - pread)),
            (
                "2 passes over the meters: their faults, and whether it is a plain step",
                2 * (bank - 4 * meter),
            ),
            ("2 times clock, suspension, lock, history", 2 * (sample - bank)),
            ("what is only known at the end: length, gap, time, grid", sealed),
            ("making the object", made),
            ("place in the tree and the context, locks, ids", whole - 2 * sample - sealed - made),
            ("together", whole),
        ],
    )


def call() -> None:
    """A decorated call."""
    tracker = Tracker(meters=[], grid=50.0, interval_s=3600.0)
    around: ContextVar[object] = ContextVar("around", default=None)

    def bare() -> None:
        pass

    tracked = track(tracker=tracker)(bare)
    whole, plain = best_us(tracked, 640, 100), best_us(bare, 640, 100)
    cpu, clock = best_us(time.process_time), best_us(time.monotonic)
    context = best_us(lambda: (around.get(), around.set(None)))
    tracker.close()
    rest = whole - plain - 2 * cpu - 2 * clock - 2 * context
    table(
        "decorated call",
        "µs",
        [
            ("2 system calls for the process's CPU time", 2 * cpu),
            ("2 readings of the clock", 2 * clock),
            ("2 times the context read and set", 2 * context),
            ("wrapper, the call's object, the list of calls under way, folding", rest),
            ("together, over the bare call", whole - plain),
        ],
    )


def main() -> None:
    """Measure and print."""
    load = os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, load average {load:.1f}")
    start()
    with tempfile.TemporaryDirectory() as folder:
        span(Path(folder))
    call()


if __name__ == "__main__":
    main()
