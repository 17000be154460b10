"""What carbontrack costs, as ratios to yardsticks that are measured in turns with it, in one run.

    python benchmarks/costs.py [--quick] [--only PART ...] [--json OUT] [--into PAGE]

Times differ between machines and hours; what is promised is a ratio, beside the cost of things that
programs pay for already. The yardsticks:

- Y1: a new process that imports psutil and starts a thread;
- Y2: OpenTelemetry's span, with a batch processor whose exporter drops what it gets;
- Y3: a thread that wakes once a second and reads two files.

Each row is the median over rounds, in each of which ours and the yardstick were taken one after the
other; the ratio is the median of the rounds' own ratios, and its interval runs between two of them
in order of size, the narrowest that holds the true median with 95 % (order statistics: nothing is
assumed of how they are distributed; it takes six rounds, and with fewer it is their range). The
load average beside each row is that of its end. CPU times are those of all threads of a process;
they suffer least where others use the machine.

An environment with opentelemetry-sdk and psutil is made in the cache folder (`--cache`) at the
first run, which needs a package index, as the row of the installation does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from pages import put_into  # noqa: E402 - after the path is set

from carbontrack.testing import Zone, build_powercap  # noqa: E402 - as above

Y1 = "import psutil, threading\nt = threading.Thread(target=str)\nt.start()\nt.join()"
BLOCK = "import carbontrack\nwith carbontrack.track(): pass"
TOOK = "import time\nbegun = time.perf_counter()\n{}\nprint((time.perf_counter() - begun) * 1e3)"
RESIDENT = """
import resource
with open("/proc/self/statm") as statm: pages = int(statm.read().split()[1])
print(pages * resource.getpagesize() / 1e6)
"""


@dataclass(frozen=True)
class Row:
    """One cost.

    Attributes:
        ours: the median, in `unit`.
        yardstick: the name of what it is beside; "" where the figure stands by itself.
        its: the yardstick's median, in `unit`.
        ratio: the median of the rounds' ratios; None without a yardstick.
        low, high: the interval of the ratio, or of the figure that stands by itself.
        goal: for the ratio, or for the figure.
        rounds: how many.
        load: the load average at the end.
    """

    what: str
    unit: str
    ours: float
    low: float
    high: float
    goal: float
    rounds: int
    load: float
    yardstick: str = ""
    its: float | None = None
    ratio: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the median keeps the goal."""
        return (self.ours if self.ratio is None else self.ratio) <= self.goal

    @property
    def cells(self) -> list[str]:
        """A row of the table."""
        spread = f"{shown(self.low)} … {shown(self.high)}" if self.rounds > 1 else "—"
        beside = "—" if self.its is None else f"{self.yardstick}: {shown(self.its)} {self.unit}"
        ratio = "—" if self.ratio is None else f"{shown(self.ratio)} x"
        goal = f"{shown(self.goal)} {self.unit}" if self.ratio is None else f"{shown(self.goal)} x"
        met = "yes" if self.is_met else "**no**"
        ours = f"{shown(self.ours)} {self.unit}".strip()
        return [self.what, ours, beside, ratio, spread, goal.strip(), met, f"{self.load:.1f}"]


HEAD = ["cost", "carbontrack", "yardstick", "ratio", "95 % interval", "goal", "met", "load"]


def shown(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(found: Sequence[float]) -> tuple[float, float]:
    """Between which two of them, in order, the true median lies with 95 %; all, if they are few."""
    ordered, count = sorted(found), len(found)
    outside, cut = 0.0, 0
    while cut < count // 2:
        outside += 2.0 * math.comb(count, cut) / 2.0**count
        if outside > 0.05:
            break
        cut += 1
    place = max(cut - 1, 0)
    return ordered[place], ordered[count - 1 - place]


def beside(
    what: str, unit: str, goal: float, name: str, ours: Sequence[float], its: Sequence[float]
) -> Row:
    """A row of rounds that are paired with a yardstick's."""
    ratios = [one / other for one, other in zip(ours, its, strict=True)]
    low, high = interval(ratios)
    medians = statistics.median(ours), statistics.median(its)
    load, ratio = os.getloadavg()[0], statistics.median(ratios)
    return Row(what, unit, medians[0], low, high, goal, len(ours), load, name, medians[1], ratio)


def alone(what: str, unit: str, goal: float, found: Sequence[float]) -> Row:
    """A row that stands by itself."""
    low, high = interval(found)
    return Row(
        what, unit, statistics.median(found), low, high, goal, len(found), os.getloadavg()[0]
    )


# -- processes ---------------------------------------------------------------------------------


class Bench:
    """The interpreter of the yardsticks, and how often things are done."""

    def __init__(self, cache: Path, *, is_quick: bool) -> None:
        self.python = str(_environment(cache))
        self.cache = cache
        self.is_quick = is_quick
        self.rounds = 6 if is_quick else 15

    def start(self, folder: Path, *command: str) -> subprocess.Popen[str]:
        """A new process with nothing of the user's in its environment."""
        environ = {"PATH": os.defpath, "HOME": str(folder), "CARBONTRACK_REGION": "FR"}
        return subprocess.Popen(
            [self.python, *command],
            cwd=folder,
            env=environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str) -> tuple[float, float, list[float]]:
        """The wall time and the CPU time of a process in ms, and the numbers it has printed."""
        with tempfile.TemporaryDirectory() as folder:
            started_s = time.perf_counter()
            process = self.start(Path(folder), "-c", code)
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            took_s = time.perf_counter() - started_s
            process.returncode = os.waitstatus_to_exitcode(status)
            process.stdout.close()
        assert process.returncode == 0, code
        numbers = [float(number) for number in printed.split()]
        return took_s * 1e3, (used.ru_utime + used.ru_stime) * 1e3, numbers

    def case(self, name: str, size: int) -> dict[str, list[float]]:
        """What a case of yardsticks.py finds, on counters that move."""
        return self.cases([(name, size)])[0]

    def cases(self, wanted: Sequence[tuple[str, int]]) -> list[dict[str, list[float]]]:
        """What several cases find at the same time."""
        with ExitStack() as stack:
            running = []
            for name, size in wanted:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                stack.enter_context(Moving(folder / "sys"))
                script = str(HERE / "yardsticks.py")
                running.append(self.start(folder, script, name, str(size), str(folder)))
            said = [process.communicate()[0] for process in running]
            assert all(process.returncode == 0 for process in running), wanted
            return [json.loads(one.splitlines()[-1]) for one in said]


class Moving:
    """A socket with memory whose counters move: 20 W and 5 W."""

    def __init__(self, folder: Path) -> None:
        zones = [Zone("package-0", "intel-rapl:0"), Zone("dram", "intel-rapl:0:0", 2_000_000)]
        self._tree = build_powercap(folder, zones)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._move, daemon=True)

    def _move(self) -> None:
        last_s = time.monotonic()
        while not self._stop.wait(0.02):
            now_s = time.monotonic()
            self._tree.add_joules("package-0", 20.0 * (now_s - last_s))
            self._tree.add_joules("dram", 5.0 * (now_s - last_s))
            last_s = now_s

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _environment(cache: Path) -> Path:
    """The interpreter of an environment with the yardsticks' libraries."""
    python = cache / "yardsticks" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        install = [python, "-m", "pip", "install", "-q", "opentelemetry-sdk", "psutil"]
        subprocess.run(install, check=True)
    return python


# -- the rows ----------------------------------------------------------------------------------


def importing(bench: Bench) -> list[Row]:
    """`import carbontrack`, over a bare interpreter."""
    took, y1, ours_mb, bare_mb = [], [], [], []
    for _ in range(bench.rounds):
        took.append(bench.run(TOOK.format("import carbontrack"))[2][0])
        y1.append(bench.run(Y1)[0])
        ours_mb.append(bench.run("import carbontrack" + RESIDENT)[2][0])
        bare_mb.append(bench.run(RESIDENT)[2][0])
    foreign = bench.run(
        "import sys\nbefore = set(sys.modules)\nimport carbontrack\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(len(new - set(sys.stdlib_module_names) - {'carbontrack'}))"
    )[2]
    added = [one - other for one, other in zip(ours_mb, bare_mb, strict=True)]
    return [
        beside("`import carbontrack`", "ms", 2 / 28, "Y1", took, y1),
        alone("`import carbontrack`, memory", "MB", 0.5, added),
        alone("`import carbontrack`, third-party modules", "", 0, foreign),
    ]


def process(bench: Bench) -> list[Row]:
    """A new process with an empty block, and what it has in memory afterwards."""
    ours, y1, mb = [], [], []
    for _ in range(2 * bench.rounds):
        ours.append(bench.run(BLOCK))
        y1.append(bench.run(Y1))
        mb.append(bench.run(BLOCK + RESIDENT)[2][0] - bench.run(RESIDENT)[2][0])
    what = "new process with an empty block"
    return [
        beside(what, "ms", 1.5, "Y1", [one[0] for one in ours], [one[0] for one in y1]),
        beside(f"{what}, CPU", "ms", 1.5, "Y1", [one[1] for one in ours], [one[1] for one in y1]),
        alone("memory after one run, CSV and journal", "MB", 7, mb),
    ]


def second(bench: Bench) -> list[Row]:
    """A second tracker."""
    ours, y1 = [], []
    for _ in range(bench.rounds):
        ours.append(bench.case("second", 100)["ours"][0] / 1e3)
        y1.append(bench.run(Y1)[1])
    return [beside("second tracker, start to stop, CPU", "ms", 0.4 / 28, "Y1", ours, y1)]


def spans(bench: Bench) -> list[Row]:
    """Child spans, and roots with their rows; two processes of each."""
    rows = []
    for case, what, goal in (
        ("machine", "child span, scope machine", 0.8),
        ("process", "child span, scope process", 1.0),
        ("root", "root span with CSV and journal", 10.0),
    ):
        parts = [bench.case(case, bench.rounds) for _ in range(2)]
        found = ([x for part in parts for x in part[side]] for side in ("ours", "yardstick"))
        rows.append(beside(f"{what}, CPU", "µs", goal, "Y2", *found))
    return rows


def calls(bench: Bench) -> list[Row]:
    """A decorated short call, beside the same quantile of Y2, and the garbage it leaves."""
    parts = [bench.case("calls", 3 if bench.is_quick else 8) for _ in range(bench.rounds)]
    rows = []
    for place, (name, goal) in enumerate((("p50", 0.14), ("p99", 0.15), ("p99.9", 0.1))):
        found = ([part[side][place] for part in parts] for side in ("ours", "yardstick"))
        rows.append(beside(f"decorated call, {name}", "µs", goal, "Y2", *found))
    left = bench.case("garbage", 1000)["ours"]
    return [*rows, alone("garbage of 1,000 calls, objects", "", 0, left)]


def idle(bench: Bench) -> list[Row]:
    """The sampler at 1 s; all processes at the same time, as they sleep."""
    length_s = 10 if bench.is_quick else 30
    found = bench.cases([("sampler", length_s), ("waking", length_s)] * bench.rounds)
    ours = [x for one in found for x in one["ours"]]
    y3 = [x for one in found for x in one["yardstick"]]
    percent = [one / 1e4 for one in ours]
    return [
        beside("sampler at 1 s, idle, each second", "µs", 3.0, "Y3", ours, y3),
        alone("sampler at 1 s, idle, of one core", "%", 0.05, percent),
    ]


def checkpoints(bench: Bench) -> list[Row]:
    """A checkpoint of each of a thousand open roots."""
    found = bench.case("checkpoints", bench.rounds)
    ours, y2 = found["ours"], found["yardstick"]
    return [
        alone("checkpoint of an open root, of 1,000, CPU", "µs", 50, ours),
        beside("the same beside Y2", "µs", 50 / 10.5, "Y2", ours, y2),
    ]


def scaled(case: str, size: int) -> dict[str, float]:
    """What a case of benchmarks/scale finds, and how long it took."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, str(HERE / "scale" / "cases.py"), case, str(size), folder]
        environ = os.environ | {"CARBONTRACK_REGION": "FR"}
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=folder, env=environ
        )
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def rows(bench: Bench) -> list[Row]:
    """Rows of 32 processes into one CSV file, which has all of them once."""
    found = [scaled("processes", 32) for _ in range(3 if bench.is_quick else 6)]
    each_us = [one["cpu_s"] / one["units"] * 1e6 for one in found]
    return [alone("a row into one CSV by 32 processes, CPU", "µs", 250, each_us)]


def report(bench: Bench) -> list[Row]:
    """A report of a million rows."""
    found = [scaled("reports", 1_000_000) for _ in range(1 if bench.is_quick else 3)]
    return [
        alone("report of a million rows", "s", 8, [one["took_s"] for one in found]),
        alone("the same, memory", "MB", 700, [one["bytes"] / 1e6 for one in found]),
    ]


def accuracy(bench: Bench) -> list[Row]:
    """The error against a simulated truth, and conservation: of benchmarks/accuracy."""
    with tempfile.TemporaryDirectory() as out:
        how = ["--smoke"] if bench.is_quick else ["--only", "carbontrack", "--cache", bench.cache]
        subprocess.run(
            [sys.executable, HERE / "accuracy", *how, "--out", out],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        promise: dict[str, Any] = json.loads((Path(out) / "accuracy.json").read_text())["promise"]
    return [
        alone(
            "energy error, median, spans of 50 ms on", "%", 0.5, [promise["median_error_percent"]]
        ),
        alone("records that break conservation", "", 0, [promise["broken"]]),
    ]


def install(bench: Bench) -> list[Row]:
    """The core in an environment of its own."""
    sys.path.insert(0, str(HERE))
    from environments import install as installed

    found = installed("carbontrack", bench.cache)
    return [
        alone("install, distributions", "", 10, [len(found.versions)]),
        alone("install, size", "MB", 8, [found.size_mib * 2**20 / 1e6]),
    ]


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "import": importing,
    "install": install,
    "process": process,
    "second": second,
    "spans": spans,
    "calls": calls,
    "idle": idle,
    "checkpoints": checkpoints,
    "rows": rows,
    "report": report,
    "accuracy": accuracy,
}


# -- the table ---------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(one.cells for one in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What carbontrack costs, beside yardsticks.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures as JSON too")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="a page with a place for them")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carbontrack-peers"
    parser.add_argument("--cache", type=Path, default=cache, help="where environments are kept")
    options = parser.parse_args()
    bench = Bench(options.cache.absolute(), is_quick=options.quick)
    load = os.getloadavg()[0]
    found: list[Row] = []
    print(table(()), flush=True)
    for name in options.only or PARTS:
        for one in PARTS[name](bench):
            found.append(one)
            print("| " + " | ".join(one.cells) + " |", flush=True)
    about = (
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC; Python {platform.python_version()},"
        f" {platform.system()} {platform.machine()}, {os.cpu_count()} processors; load average"
        f" {load:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    print(f"\n{about}")
    if options.into:
        put_into(options.into, f"{about}\n\n{table(found)}")
    if options.json:
        kept = [asdict(one) | {"is_met": one.is_met} for one in found]
        options.json.write_text(json.dumps({"about": about, "rows": kept}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
