"""What grows: each case does its work at one size in a process of its own and prints its cost.

`cases.py NAME SIZE FOLDER` prints JSON: `cpu_s` for the whole work, with what it was made of, and
`units`, the number of things done; `bytes` where memory is what is asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rows import write_rows  # noqa: E402

import carbontrack  # noqa: E402 - after the path is set
from carbontrack.meters.rapl import powercap_meters  # noqa: E402
from carbontrack.testing import FakeMeter, MemorySink, Zone, build_powercap  # noqa: E402
from carbontrack.tracking.span import Span  # noqa: E402
from carbontrack.tracking.tracker import Tracker  # noqa: E402

Found = dict[str, float]
CPU = time.process_time
CALLS = 64_000
ROUNDS = 2_000


def resident() -> float:
    """Bytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


def tracker_in(folder: Path, **more: object) -> Tracker:
    """A tracker that reads a simulated socket with memory."""
    zones = [Zone("package-0", "intel-rapl:0"), Zone("dram", "intel-rapl:0:0", 2_000_000)]
    build_powercap(folder, zones)
    meters, _ = powercap_meters(folder)
    assert len(meters) == 2
    return Tracker(meters=meters, grid=50.0, **more)  # type: ignore[arg-type]


def threads(size: int, folder: Path) -> Found:
    """Short decorated calls in so many threads, the same number of calls in all."""
    sink = MemorySink()
    tracker = tracker_in(folder, sinks=[sink])

    @carbontrack.track("call", tracker=tracker)
    def call() -> None:
        pass

    call()
    each = CALLS // size
    workers = [threading.Thread(target=lambda: [call() for _ in range(each)]) for _ in range(size)]
    begun_s = CPU()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    used_s = CPU() - begun_s
    tracker.close()
    counted = sum(record.calls or 0 for record in sink.records)
    assert counted == each * size + 1, f"{counted} of {each * size + 1} calls were counted"
    return {"cpu_s": used_s, "units": float(each * size)}


def spans(size: int, folder: Path) -> Found:
    """So many spans, one after the other, in one root."""
    with tracker_in(folder) as tracker, tracker.span("root") as root:
        for _ in range(500):
            with root.span("x"):
                pass
        before, begun_s = resident(), CPU()
        for _ in range(size):
            with root.span("x"):
                pass
        return {
            "cpu_s": CPU() - begun_s,
            "units": float(size),
            "bytes": max(0.0, resident() - before),
        }


def open_spans(size: int, folder: Path) -> Found:
    """Opening and closing one more while so many are open; and the memory of the open ones."""
    with tracker_in(folder) as tracker, tracker.span("root") as root:
        before = resident()
        opened = [root.span("open").open() for _ in range(size)]
        grown = resident() - before
        begun_s = CPU()
        for _ in range(ROUNDS):
            root.span("x").open().close()
        used_s = CPU() - begun_s
        for span in reversed(opened):
            span.close()
    return {"cpu_s": used_s, "units": float(ROUNDS), "bytes": max(0.0, grown)}


def open_and_close(size: int, _: Path) -> Found:
    """So many spans, all open at the same time; with the root's own time they add up to it."""
    wall, watts = time.monotonic, 100.0
    with Tracker(meters=[FakeMeter(watts=watts)], grid=50.0) as tracker:
        times = [wall()]
        root = tracker.span("root").open()
        begun_s = CPU()
        opened = [root.span("open").open()]
        times.append(wall())
        opened += [root.span("open").open() for _ in range(size - 1)]
        for span in opened[:-1]:
            span.close()
        times.append(wall())
        opened[-1].close()
        used_s = CPU() - begun_s
        root.close()
        times.append(wall())
    own_kwh = watts * (times[1] - times[0] + times[3] - times[2]) / 3.6e6  # at most
    parts_kwh, whole_kwh = sum(energy_kwh(span) for span in opened), energy_kwh(root)
    assert parts_kwh <= whole_kwh * (1 + 1e-9), "energy was counted twice"
    assert parts_kwh + own_kwh >= whole_kwh * (1 - 1e-9), "energy was lost"
    return {"cpu_s": used_s, "units": float(size)}


def energy_kwh(span: Span) -> float:
    """What a closed span got."""
    assert span.record is not None
    assert span.record.energy_kwh is not None
    return span.record.energy_kwh


def deep(size: int, folder: Path) -> Found:
    """Opening and closing two spans, side by side, in the innermost of so many."""
    with tracker_in(folder) as tracker, ExitStack() as stack:
        innermost = [stack.enter_context(tracker.span("in")) for _ in range(size)][-1]
        times = max(50, 20_000 // (size + 10))
        begun_s = CPU()
        for _ in range(times):
            pair = [innermost.span(name).open() for name in ("x", "y")]
            for span in reversed(pair):
                span.close()
        return {"cpu_s": CPU() - begun_s, "units": float(times)}


def tasks(size: int, folder: Path) -> Found:
    """So many concurrent asyncio tasks, each with a root and ten decorated steps in it."""
    sink = MemorySink()
    tracker = tracker_in(folder, sinks=[sink])

    @carbontrack.track("step", tracker=tracker)
    async def step() -> None:
        await asyncio.sleep(0)

    async def task() -> None:
        async with tracker.span("task"):
            for _ in range(10):
                await step()

    async def everything() -> None:
        await asyncio.gather(*(task() for _ in range(size)))

    asyncio.run(task())
    begun_s = CPU()
    asyncio.run(everything())
    used_s = CPU() - begun_s
    tracker.close()
    rows = sum(record.name == "task" for record in sink.records)
    assert rows == size + 1, f"{rows} of {size + 1} rows"
    return {"cpu_s": used_s, "units": float(size)}


def meters(size: int, _: Path) -> Found:
    """Opening and closing a span with so many meters."""
    made = [FakeMeter(f"fake:{n}", watts=1.0) for n in range(size)]
    with Tracker(meters=made, grid=50.0) as tracker, tracker.span("root") as root:
        begun_s = CPU()
        for _ in range(ROUNDS // 4):
            with root.span("x"):
                pass
        return {"cpu_s": CPU() - begun_s, "units": float(ROUNDS // 4)}


WRITER = """
import sys, time, carbontrack
tracker = carbontrack.auto(region="FR", output=sys.argv[1], scope="machine")
for number in range(int(sys.argv[3])):
    with tracker.span("first"):
        pass
print("ready", flush=True)
sys.stdin.readline()
begun_s = time.process_time()
for number in range(int(sys.argv[2])):
    with tracker.span("row"):
        pass
print(time.process_time() - begun_s)
tracker.close()
"""
FIRST_ROWS = 10
"""Rows that each writes before all begin together; what is imported or made once is over then."""
ROWS_OF_EACH = 200


def processes(size: int, folder: Path) -> Found:
    """So many processes that together write 200 roots each to one CSV; all must be there, once."""
    place = folder / "runs.csv"
    command = [sys.executable, "-c", WRITER, str(place), str(ROWS_OF_EACH), str(FIRST_ROWS)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state")}
    running = [
        subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(size)
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in running:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    used_s = sum(float(one.communicate()[0]) for one in running)
    assert all(one.returncode == 0 for one in running)
    lines = place.read_text().splitlines()
    # what a writer leaves that takes another's row, half written, for a torn one
    assert "" not in lines, f"{lines.count('')} empty lines"
    rows = [line.split(",")[1] for line in lines[1:]]
    expected = size * (FIRST_ROWS + ROWS_OF_EACH)
    assert len(rows) == len(set(rows)) == expected, f"{len(rows)} of {expected} rows"
    return {"cpu_s": used_s, "units": float(size * ROWS_OF_EACH)}


def reports(size: int, folder: Path) -> Found:
    """A report by day over so many records in a CSV; time and the most memory."""
    place = folder / "runs.csv"
    write_rows(place, size)
    begun_s = time.perf_counter()
    command = [sys.executable, "-m", "carbontrack", "report", str(place), "--by", "day", "--json"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    took_s = time.perf_counter() - begun_s
    place.unlink()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout)
    assert found["total"]["runs"] + found["repeated"] + found["nested"] == size
    return {
        "cpu_s": used.ru_utime + used.ru_stime,
        "took_s": took_s,
        "units": float(size),
        "bytes": used.ru_maxrss * 1024.0,
    }


ALL = (threads, spans, open_spans, open_and_close, deep, tasks, meters, processes, reports)
CASES: dict[str, Callable[[int, Path], Found]] = {case.__name__: case for case in ALL}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))))
