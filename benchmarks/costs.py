"""What carbontrack costs, beside its goals: `python benchmarks/costs.py [--quick] [--json OUT]`."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

PROLOGUE = """
import os, resource, sys, time
begun = time.perf_counter()
"""
MEMORY = """
with open("/proc/self/statm") as statm:
    pages = int(statm.read().split()[1])
print(pages * resource.getpagesize() / 2**20)
"""
TREE = """
import tempfile
from pathlib import Path
from carbontrack.meters.rapl import powercap_meters
from carbontrack.testing import Zone, build_powercap
from carbontrack.tracking.tracker import Tracker
folder = tempfile.mkdtemp()
build_powercap(Path(folder), [
    Zone("package-0", "intel-rapl:0", 1_000_000),
    Zone("dram", "intel-rapl:0:0", 2_000_000),
    Zone("package-1", "intel-rapl:1", 3_000_000),
    Zone("dram", "intel-rapl:1:0", 4_000_000),
])
meters, refused = powercap_meters(Path(folder))
assert len(meters) == 4, meters
"""


@dataclass(frozen=True)
class Row:
    """One cost: what, how much, in which unit, and the goal in the same unit."""

    what: str
    median: float
    low: float
    high: float
    unit: str
    goal: float

    @property
    def line(self) -> str:
        """A row of the table."""
        spread = f"{self.low:.3g} … {self.high:.3g}"
        verdict = "yes" if self.median <= self.goal else "**no**"
        cells = (self.what, f"{self.median:.3g} {self.unit}", spread, f"{self.goal:g}", verdict)
        return "| " + " | ".join(cells) + " |"


def row(what: str, values: list[float], unit: str, goal: float) -> Row:
    """The median and the spread of several rounds."""
    return Row(what, statistics.median(values), min(values), max(values), unit, goal)


def run(code: str) -> list[float]:
    """Run code in a new interpreter; returns the numbers it prints."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", PROLOGUE + code],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "CARBONTRACK_REGION": "FR"},
        )
    return [float(number) for number in done.stdout.split()]


def rounds(code: str, times: int) -> list[list[float]]:
    """The numbers of several runs, column by column."""
    return [list(column) for column in zip(*(run(code) for _ in range(times)), strict=True)]


def whole_process_ms(code: str) -> float:
    """The wall time of a whole process, in ms."""
    started = time.perf_counter()
    run(code)
    return (time.perf_counter() - started) * 1e3


def over_bare_ms(code: str, times: int) -> list[float]:
    """What a process takes longer than one that does nothing; in turns, so that drift cancels."""
    return [whole_process_ms(code) - whole_process_ms("") for _ in range(times)]


def import_cost(times: int) -> list[Row]:
    """`import carbontrack`."""
    memory = "import carbontrack\n" + MEMORY
    bare = rounds(MEMORY, times)[0]
    ours = rounds(memory, times)[0]
    foreign = run(
        "before = set(sys.modules)\nimport carbontrack\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(len(new - set(sys.stdlib_module_names) - {'carbontrack'}))"
    )
    return [
        row("import, over bare Python", over_bare_ms("import carbontrack", times), "ms", 10),
        row("import, memory", [a - b for a, b in zip(ours, bare, strict=True)], "MiB", 3),
        row("import, third-party modules", foreign, "", 0),
    ]


def process_cost(times: int) -> list[Row]:
    """From the import to the end of an empty block, and what is left in memory."""
    block = "import carbontrack\nwith carbontrack.track(): pass\n"
    inside = block + "print((time.perf_counter() - begun) * 1e3)"
    bare = rounds(MEMORY, times)[0]
    ours = rounds(block + MEMORY, times)[0]
    return [
        row("new process, import to end of empty block", rounds(inside, times)[0], "ms", 50),
        row("memory after one run", [a - b for a, b in zip(ours, bare, strict=True)], "MiB", 8),
    ]


def second_tracker_cost(times: int) -> list[Row]:
    """A second tracker in the same process."""
    code = """
import carbontrack
def once():
    tracker = carbontrack.auto(output=None)
    with tracker.span("x"): pass
    tracker.close()
once()
started = time.perf_counter()
for _ in range(200): once()
print((time.perf_counter() - started) / 200 * 1e3)
"""
    return [row("second tracker, start to stop", rounds(code, times)[0], "ms", 0.5)]


def span_cost(times: int) -> list[Row]:
    """Opening and closing a child span on two simulated sockets with memory, and one tick."""
    rows = []
    for scope, goal in (("machine", 25), ("process", 60)):
        code = (
            TREE
            + f"""
tracker = Tracker(meters=meters, grid=50.0, attribution={scope!r})
with tracker.span("root") as root:
    def once():
        with root.span("x"): pass
    for _ in range(200): once()
    rounds = []
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(200): once()
        rounds.append((time.perf_counter() - started) / 200 * 1e6)
    sampler = tracker.session.sampler
    started = time.perf_counter()
    for _ in range(500): sampler.tick()
    tick = (time.perf_counter() - started) / 500 * 1e6
rounds.sort()
print(rounds[10], tick)
"""
        )
        spans, ticks = rounds(code, times)
        rows.append(row(f"span open + close, scope {scope}", spans, "µs", goal))
    return [*rows, row("tick, 2 sockets with memory", ticks, "µs", 500)]


def call_cost(times: int) -> list[Row]:
    """A decorated short call, paced at 10,000 a second; the bare call is taken off."""
    code = """
import carbontrack
@carbontrack.track(output=None)
def tracked(): pass
def bare(): pass
def paced(call, n=20000, period_s=1e-4):
    lengths, clock = [], time.perf_counter
    due = clock()
    for _ in range(n):
        while clock() < due: pass
        due += period_s
        started = clock(); call(); lengths.append(clock() - started)
    lengths.sort()
    return lengths[n // 2] * 1e6, lengths[int(n * 0.99)] * 1e6, lengths[int(n * 0.999)] * 1e6
tracked()
ours, plain = paced(tracked), paced(bare)
print(*(a - plain[0] for a in ours))
"""
    p50, p99, p999 = rounds(code, times)
    return [
        row("decorated call, p50", p50, "µs", 3),
        row("decorated call, p99", p99, "µs", 10),
        row("decorated call, p99.9", p999, "µs", 50),
    ]


def idle_cost(times: int, length_s: float) -> list[Row]:
    """The sampler of a process that sleeps inside an open span."""
    code = f"""
import carbontrack
with carbontrack.track(output=None):
    time.sleep(0.2)
    cpu, started = time.process_time(), time.perf_counter()
    time.sleep({length_s})
    used = time.process_time() - cpu
print(used / (time.perf_counter() - started) * 100)
"""
    return [row("sampler at 1 s, idle, of one core", rounds(code, times)[0], "%", 0.05)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures as JSON too")
    options = parser.parse_args()
    times = 3 if options.quick else 9
    parts: list[Callable[[], list[Row]]] = [
        lambda: import_cost(times),
        lambda: process_cost(times),
        lambda: second_tracker_cost(min(times, 5)),
        lambda: span_cost(min(times, 5)),
        lambda: call_cost(min(times, 5)),
        lambda: idle_cost(1 if options.quick else 3, 10.0),
    ]
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}\n")
    print("| cost | median | spread | goal | met |\n|---|---|---|---|---|")
    rows = []
    for part in parts:
        for found in part():
            print(found.line, flush=True)
            rows.append(found)
    if options.json:
        options.json.write_text(json.dumps([asdict(found) for found in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
