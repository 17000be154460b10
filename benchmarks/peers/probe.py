"""Run inside a tool's own environment: `probe.py TOOL WHAT OUT`; writes one JSON object."""

import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from peers import load, usage, workload  # noqa: E402 - after the path is set

CLOCK = time.perf_counter
IDLE_S = {1.0: 10.0, 0.1: 5.0}
"""For how long an idle process is watched, by the interval of its sampler."""
PIECE_S, PAIRS = 0.15, 30
"""The length of one piece of work, and how many pairs are compared."""
SETTLE_S = 1.2
"""How long a tool is left alone after its start before it is watched."""


def imported(tool: ModuleType) -> dict[str, float]:
    """Time and memory of the import."""
    before_mib, started = usage.memory_mib(), CLOCK()
    exec(tool.IMPORT)
    return {"import_ms": (CLOCK() - started) * 1e3, "import_mib": usage.memory_mib() - before_mib}


def lives(tool: ModuleType) -> dict[str, float]:
    """The first start-stop, and the median of later ones for up to 3 s."""
    exec(tool.IMPORT)
    started = CLOCK()
    tool.life()
    first_ms = (CLOCK() - started) * 1e3
    later = repeated(tool.life, 3.0, 50)
    return {"first_ms": first_ms, "later_ms": statistics.median(later) * 1e3}


def repeated(act: Callable[[], None], limit_s: float, times: int) -> list[float]:
    """The lengths of up to so many acts in up to so many seconds; at least one."""
    lengths, until = [], CLOCK() + limit_s
    while len(lengths) < times and (not lengths or CLOCK() < until):
        started = CLOCK()
        act()
        lengths.append(CLOCK() - started)
    return lengths


def bare() -> None:
    """What is called."""


def paced(call: Callable[[], None], times: int) -> list[float]:
    """Sorted lengths of calls at 10,000 a second; a call that is late starts at once."""
    lengths, due = [], CLOCK()
    until = due + 4.0
    for _ in range(times):
        while CLOCK() < due:
            pass
        due += 1e-4
        started = CLOCK()
        call()
        ended = CLOCK()
        lengths.append(ended - started)
        if ended > until:
            break
    return sorted(lengths)


def calls(tool: ModuleType) -> dict[str, float]:
    """A decorated empty function, less the bare one's median.

    A quantile is only told of enough calls that some lie beyond it.
    """
    call = tool.decorated(bare)
    call()
    plain = paced(bare, 5000)
    lengths, free_s = paced(call, 20000), plain[len(plain) // 2]
    found = {"calls": float(len(lengths))}
    for name, share, least in (("p50", 0.5, 1), ("p99", 0.99, 300), ("p999", 0.999, 3000)):
        if len(lengths) >= least:
            found[f"call_{name}_us"] = (lengths[int(len(lengths) * share)] - free_s) * 1e6
    found["bare_p99_us"] = (plain[int(len(plain) * 0.99)] - free_s) * 1e6
    return found


def steps(tool: ModuleType) -> dict[str, float]:
    """A span or task, opened and closed; the median."""
    with tool.session() as step:
        step()
        lengths = repeated(step, 2.0, 5000)
    return {"step_us": statistics.median(lengths) * 1e6}


def sampled(tool: ModuleType, interval_s: float, body: Callable[[], None]) -> None:
    """Run the body while the tool samples this often."""
    if hasattr(tool, "sampled"):
        tool.sampled(interval_s, body)
    else:
        with tool.sampling(interval_s):
            body()


def idle(tool: ModuleType, interval_s: float, name: str) -> dict[str, float]:
    """CPU and memory of a process, its children included, that sleeps while it is measured."""
    before_mib, found = usage.tree_memory_mib(), {}

    def body() -> None:
        time.sleep(SETTLE_S)
        watch, started = usage.CpuWatch(), CLOCK()
        time.sleep(IDLE_S[interval_s])
        length_s = CLOCK() - started
        found[f"idle_{name}_percent"] = watch.used_s() / length_s * 100
        found[f"idle_{name}_mib"] = usage.tree_memory_mib() - before_mib

    sampled(tool, interval_s, body)
    return found


def slowed(tool: ModuleType, cores: int) -> dict[str, list[float]]:
    """Logarithms of the ratios of the same work inside of a measured process to outside of it.

    The tool is left running, and the two take turns in short pieces; which comes first changes from
    pair to pair, so that drift cancels. What works outside was forked off before the tool came.
    """
    rounds = workload.rounds_for(PIECE_S, cores)
    outside, inside = workload.helpers(cores), workload.helpers(cores - 1)
    ratios: list[float] = []

    def body() -> None:
        time.sleep(SETTLE_S)
        for number in range(PAIRS):
            times = {}
            for tracked in (True, False) if number % 2 else (False, True):
                others = inside if tracked else outside
                times[tracked] = workload.together(rounds, others, here=tracked)
            ratios.append(math.log(times[True] / times[False]))

    sampled(tool, 1.0, body)
    return {f"slow_{cores}_log": ratios}


WHAT: dict[str, Callable[[ModuleType], object]] = {
    "import": imported,
    "life": lives,
    "call": calls,
    "step": steps,
    "idle": lambda tool: idle(tool, 1.0, "1"),
    "idle fast": lambda tool: idle(tool, 0.1, "01"),
    "one core": lambda tool: slowed(tool, 1),
    "two cores": lambda tool: slowed(tool, 2),
}
NEEDS = {"call": "decorated", "step": "session"}


def main() -> None:
    """Measure one thing of one tool; nothing where the tool does not have it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tool, what, out = load(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    found = WHAT[what](tool) if hasattr(tool, NEEDS.get(what, "IMPORT")) else {}
    out.write_text(json.dumps(found))
    os._exit(0)  # a tool may leave threads behind that outlive it


if __name__ == "__main__":
    main()
