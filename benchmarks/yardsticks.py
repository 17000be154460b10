"""Costs beside yardsticks, inside one process: `yardsticks.py CASE SIZE FOLDER`.

Run by costs.py in an environment with opentelemetry-sdk and psutil. Each case takes ours and the
yardstick in turns, a batch of each, so that what else the machine does meets both; it prints
`{"ours": [...], "yardstick": [...]}`, the cost of one act in each batch, in microseconds.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

Act = Callable[[], object]
Found = dict[str, list[float]]
WALL, CPU = time.perf_counter, time.process_time


def each_us(act: Act, times: int, clock: Callable[[], float] = WALL) -> float:
    """The mean cost of so many acts, in microseconds."""
    started_s = clock()
    for _ in range(times):
        act()
    return (clock() - started_s) / times * 1e6


def in_turns(ours: Act, yardstick: Act, rounds: int, times: tuple[int, int], **more: Any) -> Found:
    """So many rounds of a batch of each."""
    for act, count in zip((ours, yardstick), times, strict=True):
        each_us(act, count)
    found: Found = {"ours": [], "yardstick": []}
    for _ in range(rounds):
        found["ours"].append(each_us(ours, times[0], **more))
        found["yardstick"].append(each_us(yardstick, times[1], **more))
    return found


def their_span() -> Act:
    """OpenTelemetry's span, with a batch processor whose exporter drops what it gets: Y2."""
    from peers.opentelemetry_tool import provider

    tracer = provider().get_tracer("x")

    def step() -> None:
        with tracer.start_as_current_span("x"):
            pass

    return step


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """A simulated socket with memory, whose counters costs.py moves, in France."""
    here: dict[str, Any] = {
        "sysfs_path": str(folder / "sys"),
        "state_dir": str(folder / "state"),
        "region": "FR",
        "output": None,
    }
    return here | more


def child_span(scope: str, size: int, folder: Path) -> Found:
    """A child span, opened and closed by `with`, beside Y2; CPU time of all threads."""
    import carbontrack

    with carbontrack.auto(**settings(folder, scope=scope)) as tracker, tracker.span("x") as root:

        def step() -> None:
            with root.span("x"):
                pass

        return in_turns(step, their_span(), size, (300, 900), clock=CPU)


def root_span(size: int, folder: Path) -> Found:
    """A root with a row in a CSV file and a journal beside it, and Y2; CPU time of all threads."""
    import carbontrack

    tracker = carbontrack.auto(**settings(folder, output=str(folder / "runs.csv")))

    def step() -> None:
        with tracker.span("x"):
            pass

    found = in_turns(step, their_span(), size, (50, 1000), clock=CPU)
    tracker.close()
    return found


def paced(call: Act, count: int, period_s: float = 1e-4) -> list[float]:
    """The lengths of so many calls, at ten thousand a second."""
    lengths, due = [], WALL()
    for _ in range(count):
        while WALL() < due:
            pass
        due += period_s
        started_s = WALL()
        call()
        lengths.append((WALL() - started_s) * 1e6)
    return lengths


def calls(size: int, folder: Path) -> Found:
    """p50, p99 and p99.9 of a decorated call, beside Y2 as a decorator; the bare call taken off."""
    from peers.opentelemetry_tool import provider

    import carbontrack

    def bare() -> None:
        pass

    ours = carbontrack.track(**settings(folder))(bare)
    theirs = provider().get_tracer("x").start_as_current_span("x")(bare)
    lengths: dict[str, list[float]] = {"ours": [], "yardstick": [], "bare": []}
    for _ in range(size):
        for name, call in (("ours", ours), ("yardstick", theirs), ("bare", bare)):
            lengths[name] += paced(call, 2000)
    off = sorted(lengths["bare"])[len(lengths["bare"]) // 2]
    return {
        name: [sorted(found)[int(len(found) * part)] - off for part in (0.5, 0.99, 0.999)]
        for name, found in lengths.items()
    }


def garbage(size: int, folder: Path) -> Found:
    """The most objects that only the collector finds after so many calls of one kind, in a span."""
    import asyncio

    import carbontrack

    def generator() -> Any:
        yield

    async def coroutine() -> None:
        pass

    async def await_all(made: Callable[[], Any]) -> None:
        for _ in range(size):
            await made()

    def left_by(act: Act) -> float:
        act()
        gc.collect()
        gc.disable()
        try:
            act()
            return float(gc.collect())
        finally:
            gc.enable()

    track = carbontrack.track(**settings(folder))
    plain, several, later = track(lambda: None), track(generator), track(coroutine)
    acts = (
        lambda: [None for _ in range(size) if plain()],
        lambda: [None for _ in range(size) if list(several()) is None],
        lambda: asyncio.run(await_all(later)),
    )
    found = [left_by(act) for act in acts]
    with carbontrack.track("around", **settings(folder)):
        found += [left_by(act) for act in acts]
    return {"ours": [max(found)], "yardstick": [0.0]}


def second_tracker(size: int, folder: Path) -> Found:
    """A tracker from start to stop in a process that has measured before; its yardstick is Y1."""
    import carbontrack

    given = settings(folder)

    def once() -> None:
        tracker = carbontrack.auto(**given)
        with tracker.span("x"):
            pass
        tracker.close()

    each_us(once, 10)
    return {"ours": [each_us(once, size, CPU)], "yardstick": []}


def sampler(size: int, folder: Path) -> Found:
    """CPU time for each second of a process that sleeps inside a block, for so many seconds."""
    import carbontrack

    with carbontrack.track(**settings(folder)):
        return {"ours": [asleep_us(size)], "yardstick": []}


def waking(size: int, folder: Path) -> Found:  # noqa: ARG001 - called as the others
    """Y3: a thread that wakes once a second and reads two files."""
    files = [open(path, "rb", buffering=0) for path in ("/proc/stat", "/proc/self/stat")]  # noqa: PTH123, SIM115
    stop = threading.Event()

    def wake() -> None:
        while not stop.wait(1.0):
            for file in files:
                file.seek(0)
                file.read()

    thread = threading.Thread(target=wake)
    thread.start()
    found = asleep_us(size)
    stop.set()
    thread.join()
    return {"ours": [], "yardstick": [found]}


def asleep_us(length_s: int) -> float:
    """CPU time of this process, in microseconds for each second, after it has settled."""
    time.sleep(1.5)
    cpu_s, started_s = CPU(), WALL()
    time.sleep(length_s)
    return (CPU() - cpu_s) / (WALL() - started_s) * 1e6


def checkpoints(size: int, folder: Path, roots: int = 1000) -> Found:
    """The checkpoint of an open root, of a thousand, in a tick that writes them, beside Y2."""
    import carbontrack

    given = settings(
        folder, output=str(folder / "runs.csv"), interval_s=3600.0, checkpoint_s=3600.0
    )
    tracker = carbontrack.auto(**given)
    kept = tracker.session._checkpoints
    contexts = [Context() for _ in range(roots)]  # in one context they were one in another
    opened = [context.run(tracker.span("root").open) for context in contexts]
    tick, step = tracker.session.sampler.tick, their_span()
    tick()
    found: Found = {"ours": [], "yardstick": []}
    for _ in range(size):
        kept._written_s = float("-inf")  # so that this tick writes them, not the sampler's thread
        found["ours"].append(each_us(tick, 1, CPU) / roots)
        found["yardstick"].append(each_us(step, 1000, CPU))
    for context, span in zip(contexts, opened, strict=True):
        context.run(span.close)
    tracker.close()
    return found


CASES: dict[str, Callable[[int, Path], Found]] = {
    "machine": lambda size, folder: child_span("machine", size, folder),
    "process": lambda size, folder: child_span("process", size, folder),
    "root": root_span,
    "calls": calls,
    "garbage": garbage,
    "second": second_tracker,
    "sampler": sampler,
    "waking": waking,
    "checkpoints": checkpoints,
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))))
