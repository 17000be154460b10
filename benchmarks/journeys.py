"""What a step of carbontrack takes, as counts: `python benchmarks/journeys.py [--json OUT]`.

`--update` writes the counts into tests/data/costs.json, which the tests hold, for each Python of
this machine or for those that are named: `python benchmarks/journeys.py --update python3.12`.

A journey is one step that a program takes: a block is entered, a call is counted. For each of them:

- files: the distinct source files of the package in which one of its functions is called, or a
  generator of it resumed.
- returns: how often the way leads into a file again after it has left it. A call, or the resumption
  of a generator, enters a file if the nearest function around it that belongs to the package is in
  another file, or if there is none. Each entry beyond a file's first is a return, so returns =
  entries - files. A call within one file is no entry, and neither is coming back to a caller when
  what it called has ended.
- calls: functions of the package called and generators resumed.
- bytecodes: instructions of the interpreter in functions of the package, counted in rounds of their
  own; "all" adds those of the standard library. They are those of one version of Python only.

Everything is warm: each step is taken a few times before it is counted, so that nothing is imported
or made for the first time. The meters are a simulated RAPL package with its memory, and records go
to a CSV file with a journal beside it. Time is simulated as well, because what is done depends on
how long ago things were done last; and the figures are those that most rounds have, because some do
a little more, such as a reading that is due every few seconds. All memory counts as surveyed.

How long ago the use of the processors was read counts most. Readings that follow within 20 ms do
not read it again: this is so in all journeys but those that say "usage due". For `track(...)` the
number of settings given counts: here it is five. The scope is "process", unless it says otherwise.

One more count is that of a first block, from the import on, in a new process: the modules loaded
and, where valgrind is there, the instructions of the processor beyond those of a bare interpreter.
They are those of one build of Python.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the package beside this file, and how its tests find interpreters

import carbontrack  # noqa: E402 - after the path is set
from carbontrack.attribution.memory import MemorySurvey  # noqa: E402
from carbontrack.sampling.sampler import Sampler  # noqa: E402
from carbontrack.system.clock import SystemClock  # noqa: E402
from carbontrack.testing import Zone, build_powercap  # noqa: E402


class Clock:
    """A monotonic clock that moves when it is told to, and a little at each look."""

    now_s = 1000.0
    looks = 0

    def monotonic_s(self) -> float:
        """What stands for `SystemClock.monotonic_s`."""
        self.looks += 1
        self.now_s += LOOK_S
        return self.now_s


LOOK_S = 20e-6
"""A look at the clock and what is done until the next one take about as long."""
CLOCK = Clock()
SystemClock.monotonic_s = staticmethod(CLOCK.monotonic_s)

PACKAGE = str(Path(carbontrack.__file__).parent) + os.sep
COSTS = ROOT / "tests" / "data" / "costs.json"
WARM_ROUNDS = 6
ROUNDS = 12
DUE_S = 0.25
"""After this time without a reading, the next one reads the use of the processors as well."""
SOON_S = 0.001
"""After this time it does not."""
POWER_W = 20.0

IS_MONITORED = sys.version_info >= (3, 12)
"""Whether the interpreter counts by `sys.monitoring`; from 3.13 on, tracing leaves some out."""

Act = Callable[[], object]
T = TypeVar("T", int, tuple[Any, ...])


# -- what is counted ---------------------------------------------------------------------------


def file_of(frame: FrameType | None) -> str | None:
    """The source file of a frame, from the package's folder on; None for one of anybody else."""
    if frame is None or not frame.f_code.co_filename.startswith(PACKAGE):
        return None
    return frame.f_code.co_filename[len(PACKAGE) :]


def file_around(frame: FrameType) -> str | None:
    """The file of the nearest function of the package around this frame."""
    around = frame.f_back
    while around is not None and file_of(around) is None:
        around = around.f_back
    return file_of(around)


def walk(act: Act) -> tuple[int, tuple[str, ...]]:
    """How many of the package's functions an act calls, and the files it enters, in order."""
    calls = 0
    entered: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        file = file_of(frame) if event == "call" else None
        if file is not None:
            calls += 1
            if file != file_around(frame):
                entered.append(file)

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls, tuple(entered)


def bytecodes(act: Act) -> tuple[int, int]:
    """The instructions that an act takes in the package, and in the standard library."""
    return monitored(act) if IS_MONITORED else traced(act)


def traced(act: Act) -> tuple[int, int]:
    """What `bytecodes` says, by tracing."""
    counts = [0, 0]  # ours, others

    def note(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename == __file__:
            return None
        place = 0 if file_of(frame) is not None else 1
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            counts[place] += 1
        return note

    sys.settrace(note)
    try:
        act()
    finally:
        sys.settrace(None)
    return counts[0], counts[1]


def monitored(act: Act) -> tuple[int, int]:
    """What `bytecodes` says, by monitoring; all threads are monitored, and this one is counted."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    tool, instruction = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION
    here = threading.get_ident()
    counts: Counter[str] = Counter()

    def note(code: CodeType, _: int) -> None:
        if threading.get_ident() == here:
            counts[code.co_filename] += 1

    monitoring.use_tool_id(tool, "journeys")
    monitoring.register_callback(tool, instruction, note)
    monitoring.set_events(tool, instruction)
    try:
        act()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    del counts[__file__]
    ours = sum(count for file, count in counts.items() if file.startswith(PACKAGE))
    return ours, sum(counts.values()) - ours


def count_jobs_here() -> None:
    """Have what the sampler's thread does for the main thread done, and counted, in the latter.

    The way there and back is taken as well, with nothing to be done.
    """
    to_the_thread = Sampler.uninterrupted

    def here_and_there(sampler: Sampler, do: Callable[[], None]) -> None:
        do()
        to_the_thread(sampler, lambda: None)

    Sampler.uninterrupted = here_and_there  # type: ignore[method-assign]


def know_the_memory() -> None:
    """Have no new memory in any round: that of this process grows as it likes.

    The sampler's thread surveys what has come after a time that is not simulated: whether it has by
    then is otherwise so in all rounds of one run of this program, and not in those of the next.
    """
    never = property(lambda _: False, lambda *_: None)
    MemorySurvey.is_behind = never  # type: ignore[assignment]


# -- the journeys ------------------------------------------------------------------------------


class Fixture:
    """A simulated machine and a program's settings; each journey yields the act that is counted.

    What stands before a `yield` prepares the act, what stands after it tidies up.
    """

    def __init__(self, folder: Path) -> None:
        count_jobs_here()
        know_the_memory()
        zones = [Zone("package-0", "intel-rapl:0"), Zone("dram", "intel-rapl:0:0")]
        self.tree = build_powercap(folder / "sys", zones)
        self.output = folder / "emissions.csv"
        self.settings: dict[str, Any] = {
            "output": str(self.output),
            "sysfs_path": str(folder / "sys"),
            "state_dir": str(folder / "state"),
            "region": "FR",
            "interval_s": 3600.0,  # no tick comes between
        }
        self.tracker = carbontrack.auto(**self.settings)
        self.sampler = self.tracker.session.sampler
        assert CLOCK.looks, "the package does not go by the simulated clock"

    def go_on(self, length_s: float) -> None:
        """Let time pass and the counters move on."""
        CLOCK.now_s += length_s
        self.tree.add_joules("package-0", POWER_W * length_s)
        self.tree.add_joules("dram", POWER_W / 4 * length_s)

    def have_read(self) -> None:
        """Have everything read just now."""
        self.go_on(DUE_S)
        self.sampler.sample()
        self.go_on(SOON_S)

    def rows(self) -> int:
        """How many records have been written."""
        return len(self.output.read_text().splitlines()) - 1 if self.output.exists() else 0

    def sample(self, rounds: int) -> Iterator[Act]:
        """One reading of all meters, inside an open block."""
        with self.tracker.span("open"):
            for _ in range(rounds):
                self.have_read()
                yield self.sampler.sample

    def tick(self, rounds: int) -> Iterator[Act]:
        """A tick while a block is open in which nothing happens."""
        with self.tracker.span("open"):
            for _ in range(rounds):
                self.go_on(DUE_S)
                yield self.sampler.tick

    def soon_tick(self, rounds: int) -> Iterator[Act]:
        """The same, so soon after a reading that the use of the processors is not read."""
        with self.tracker.span("open"):
            for _ in range(rounds):
                self.have_read()
                yield self.sampler.tick

    def child(self, rounds: int, *, due: bool = False, **more: Any) -> Iterator[Act]:
        """A child span opened and closed."""
        tracker = carbontrack.auto(**self.settings | more) if more else self.tracker
        sampler = tracker.session.sampler
        with tracker.span("open") as root:
            for _ in range(rounds):
                self.go_on(DUE_S)
                if not due:
                    sampler.sample()
                    self.go_on(SOON_S)
                yield lambda: root.span("child").open().close()
        if more:
            tracker.close()

    def child_due(self, rounds: int) -> Iterator[Act]:
        """The same, where the use of the processors is read as it is opened."""
        return self.child(rounds, due=True)

    def child_in_machine(self, rounds: int) -> Iterator[Act]:
        """The same in scope machine, where it is never read."""
        return self.child(rounds, scope="machine")

    def second_tracker(self, rounds: int) -> Iterator[Act]:
        """A tracker made, used for an empty span, and closed, beside one that is there."""

        def once() -> None:
            tracker = carbontrack.auto(**self.settings)
            tracker.span("second").open().close()
            tracker.close()

        for _ in range(rounds):
            self.go_on(DUE_S)
            yield once

    def made(self, rounds: int) -> Iterator[Act]:
        """A block object made, of the same settings as before."""
        for _ in range(rounds):
            yield lambda: carbontrack.track("block", **self.settings)

    def made_in_use(self, rounds: int) -> Iterator[Act]:
        """The same, where a block with these settings has been open before."""
        with carbontrack.track("block", **self.settings):
            pass
        yield from self.made(rounds)

    def entered(self, rounds: int) -> Iterator[Act]:
        """A root block entered, soon after another was left."""
        for _ in range(rounds):
            block = carbontrack.track("block", **self.settings)
            self.go_on(SOON_S)
            yield block.__enter__
            self.have_read()
            block.__exit__(None, None, None)

    def left(self, rounds: int, *, due: bool = False) -> Iterator[Act]:
        """A root block left, until its row is written."""
        for _ in range(rounds):
            block = carbontrack.track("block", **self.settings)
            block.__enter__()
            if due:
                self.go_on(DUE_S)
            else:
                self.have_read()
            before = self.rows()
            yield lambda block=block: block.__exit__(None, None, None)  # type: ignore[misc]
            assert self.rows() == before + 1

    def left_due(self, rounds: int) -> Iterator[Act]:
        """The same, of a block that has lasted longer than two readings may be apart."""
        return self.left(rounds, due=True)

    def first_call(self, rounds: int) -> Iterator[Act]:
        """The first call of a decorated function, while nothing is open."""
        for number in range(rounds):
            job = self.decorated(f"job {number}")
            before = self.rows()
            self.go_on(SOON_S)
            yield job
            self.end_window()
            assert self.rows() == before + 1

    def short_call(self, rounds: int) -> Iterator[Act]:
        """A later call, which lasts no time."""
        job = self.decorated("short job")
        job()
        for _ in range(rounds):
            yield job
        self.end_window()

    def decorated(self, name: str) -> Act:
        """An empty function whose calls are counted; any tick ends the window of its sums."""

        def job() -> None:
            pass

        wrapped: Act = carbontrack.track(name, window_s=0.001, **self.settings)(job)
        return wrapped

    def end_window(self) -> None:
        """Have the row of the short calls written, so that nothing is open any more."""
        self.go_on(DUE_S)
        self.sampler.tick()


Journey = Callable[[Fixture, int], Iterator[Act]]
JOURNEYS: dict[str, Journey] = {
    "sample()": Fixture.sample,
    "idle tick, usage due": Fixture.tick,
    "idle tick": Fixture.soon_tick,
    "child span opened and closed": Fixture.child,
    "child span, usage due": Fixture.child_due,
    "child span in scope machine": Fixture.child_in_machine,
    "track(...) made, no tracker in use": Fixture.made,
    "track(...) made, its tracker in use": Fixture.made_in_use,
    "root block entered": Fixture.entered,
    "block left to its row": Fixture.left,
    "block left to its row, usage due": Fixture.left_due,
    "first decorated call": Fixture.first_call,
    "short decorated call": Fixture.short_call,
    "second tracker, start to stop": Fixture.second_tracker,
}
"""In this order: `track` does not use the fixture's tracker, so that it has none at first."""


# -- the figures -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """The figures of one journey.

    Attributes:
        agreeing: the share of the rounds that went exactly this way.
        entries: the files in the order in which they are entered.
    """

    journey: str
    files: int
    returns: int
    calls: int
    bytecodes: int
    bytecodes_all: int
    agreeing: float
    entries: tuple[str, ...]

    @property
    def line(self) -> str:
        """A row of the table."""
        counts = (self.files, self.returns, self.calls, self.bytecodes, self.bytecodes_all)
        return f"| {self.journey:35} | " + " | ".join(f"{count:7}" for count in counts) + " |"


def counted(journey: Journey, fixture: Fixture, count: Callable[[Act], T]) -> list[T]:
    """What is counted in each round, the first ones left out."""
    found = []
    for act in journey(fixture, WARM_ROUNDS + ROUNDS):
        gc.collect()
        gc.disable()  # what a collection calls is not the act's
        try:
            found.append(count(act))
        finally:
            gc.enable()
    return found[WARM_ROUNDS:]


def usual(found: Sequence[T]) -> tuple[T, float]:
    """What most rounds found, or the least of what equally many did; and their share.

    Others do a little more now and then, the more so where the machine is busy, or a little less.
    """
    times = Counter(found)
    most = max(times.values())
    return min(one for one in found if times[one] == most), most / len(found)


def row(name: str, fixture: Fixture) -> Row:
    """Measure one journey."""
    (calls, entries), agreeing = usual(counted(JOURNEYS[name], fixture, walk))
    found = counted(JOURNEYS[name], fixture, bytecodes)
    (ours, _), (others, _) = usual([one[0] for one in found]), usual([one[1] for one in found])
    files = len(set(entries))
    returns = len(entries) - files
    return Row(name, files, returns, calls, ours, ours + others, agreeing, entries)


def alone(folder: Path) -> None:
    """Take away what the user or the folder has set; the rest of the environment costs time too."""
    os.environ.clear()
    os.environ["HOME"] = os.environ["XDG_CONFIG_HOME"] = str(folder)
    os.chdir(folder)


# -- a first block -----------------------------------------------------------------------------

FIRST_BLOCK = """
import json, sys
before = set(sys.modules)
import carbontrack
with carbontrack.track("x", sysfs_path="sys", interval_s=3600.0):
    pass
new = set(sys.modules) - before
ours = sum(name.partition(".")[0] == "carbontrack" for name in new)
standard = sum(name.partition(".")[0] in sys.stdlib_module_names for name in new)
print(json.dumps({"own modules": ours, "standard modules": standard}))
"""
CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")


def build() -> str:
    """What tells one build of Python from another: instructions are those of one."""
    return f"{platform.python_version()}, {platform.python_compiler()}, {platform.machine()}"


def new_process(code: str, folder: Path, *through: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter with nothing of the user's in its environment."""
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),  # so that a second run finds all of it
        "PYTHONHASHSEED": "0",
        "CARBONTRACK_REGION": "FR",
    }
    return subprocess.run(
        [*through, sys.executable, "-c", code],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )


def instructions(code: str, folder: Path) -> int:
    """The instructions of a new process, as callgrind counts them."""
    said = new_process(code, folder, *CALLGRIND).stderr
    found = re.search(r"Collected : (\d+)", said)
    assert found, said
    return int(found[1])


def first_block(folder: Path) -> dict[str, int | str]:
    """The counts of a first block."""
    build_powercap(folder / "sys", [Zone("package-0", "intel-rapl:0")])
    # all of it, as a slow run may load what a fast one does not
    new_process(f"import compileall; compileall.compile_dir({PACKAGE!r}, quiet=1)", folder)
    found: dict[str, int | str] = json.loads(new_process(FIRST_BLOCK, folder).stdout)
    if shutil.which("valgrind"):
        found["instructions"] = instructions(FIRST_BLOCK, folder) - instructions("", folder)
        found["build"] = build()
    return found


# -- the committed counts ----------------------------------------------------------------------


def version() -> str:
    """The version of Python that counts belong to: 3.12, or 3.13t for a free-threaded build."""
    return "{}.{}{}".format(*sys.version_info[:2], sys.abiflags)


def update(names: Sequence[str]) -> None:
    """Write the counts of these interpreters, or of all that are found, for the tests to hold."""
    from tests.support.interpreters import VERSIONS, find

    costs = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    for path in names or filter(None, map(find, VERSIONS)):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "counts.json"
            subprocess.run([path, __file__, "--first-block", "--json", out], check=True)
            found = json.loads(out.read_text())
        kept = ("files", "returns", "bytecodes")
        costs[found["version"]] = {
            "first block": found["first block"],
            "journeys": {
                one["journey"]: {what: one[what] for what in kept} for one in found["rows"]
            },
        }
    numbered = sorted(costs.items(), key=lambda one: (int(one[0].strip("t").split(".")[1]), one[0]))
    text = json.dumps(dict(numbered), indent=1)
    flat = re.sub(
        r"\{\s*(\"files\"[^}]*?)\s*\}", lambda m: "{" + " ".join(m[1].split()) + "}", text
    )
    COSTS.write_text(flat + "\n")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a step of carbontrack takes, as counts.")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures as JSON too")
    parser.add_argument("--first-block", action="store_true", help="count a first block as well")
    parser.add_argument("--update", nargs="*", metavar="PYTHON", help=f"write {COSTS.name}")
    options = parser.parse_args()
    if options.update is not None:
        update(options.update)
        return 0
    out = options.json and options.json.absolute()
    # how deep a folder lies counts, as settings are looked for in those above it
    with tempfile.TemporaryDirectory(dir="/tmp" if os.name == "posix" else None) as folder:
        block = first_block(Path(folder)) if options.first_block else None
        alone(Path(folder))
        fixture = Fixture(Path(folder))
        print(f"carbontrack {carbontrack.__version__}, Python {build()}\n")
        print(f"| {'journey':35} |   files | returns |   calls | bytecodes |   all |")
        print("|---|---|---|---|---|---|")
        rows = []
        for name in JOURNEYS:
            rows.append(row(name, fixture))
            print(rows[-1].line, flush=True)
        fixture.tracker.close()
        os.chdir("/")
    if block:
        print(f"\nfirst block: {block}")
    if out:
        found = {"version": version(), "build": build(), "rows": [asdict(r) for r in rows]}
        out.write_text(json.dumps(found | ({"first block": block} if block else {}), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
