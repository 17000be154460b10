"""What is measured: which spans, on which curves, with which faults, by whom."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from curves import CURVES, curve_of
from inside.windows import SHORTEST_S, WITH_GPU
from machine import GPU_REFRESH_S, PACKAGE, REFRESH_S, Machine

from carbontrack.testing import Zone

LENGTHS_S = {0.005: 40, 0.01: 30, 0.02: 20, 0.05: 20, 0.1: 10, 0.25: 6, 1.0: 3}
"""How many spans of which length on each curve: most of them short."""
LONG_S = {10.0: 2, 30.0: 1, 60.0: 1}
"""On the recorded curve only, and all tools at once."""
FIRST_S = 0.1
"""The first span of a process stands in a table of its own: some tools count their start in it."""
FAULT_LENGTHS_S = {0.05: 20, 0.25: 8, 1.0: 4}
GPU_LENGTHS_S = {0.05: 10, 0.25: 6, 1.0: 6, 2.0: 2}
JOB_S = 12.0
"""No span of a job begins so that it would end later; tools that take long do fewer."""
GIL_S = 3.0


@dataclass(frozen=True)
class Job:
    """One tool on one machine.

    Attributes:
        group: which table the spans stand in: "curves", "ideal", "long", "faults" or "gpu".
        case: the name of the curve or of the fault.
    """

    group: str
    case: str
    tool: str
    machine: Machine
    plan: dict[str, Any]
    limit_s: float


def order(lengths: dict[float, int], tool: str) -> list[float]:
    """The first, one of each length, then the others shuffled, so that drift meets all alike."""
    shortest_s = SHORTEST_S.get(tool, 0.0)
    able = {length: n for length, n in lengths.items() if length >= shortest_s}
    rest = [length for length, n in able.items() for _ in range(n - 1)]
    random.Random(11).shuffle(rest)
    return [max(FIRST_S, shortest_s), *sorted(able), *rest]


def _plan(lengths: dict[float, int], tool: str, **more: Any) -> dict[str, Any]:
    standard = {"part": "cpu", "refresh_s": REFRESH_S, "holds_gil": False}
    return standard | {"lengths_s": order(lengths, tool)} | more


def faults() -> dict[str, Machine]:
    """Machines with something the matter, on the ramp."""
    sound = Machine(curve_of("ramp"))
    small = replace(PACKAGE, raw_uj=190_000_000, range_uj=200_000_000)
    second = replace(PACKAGE, name="package-1", key="intel-rapl:1")
    psys = Zone("psys", "intel-rapl:1", 987_654_321, limit_w=300.0)
    core = Zone("core", "intel-rapl:0:0", 23_456_789, limit_w=None)
    return {
        "none": sound,
        "every 7th read fails": replace(sound, fail_every=7),
        "wraps every 2.7 s": replace(sound, zones=[(small, 1.0)]),
        "resets every 3 s": replace(sound, resets_s=[2.5 + 3.0 * n for n in range(30)]),
        "mirrored dies": replace(sound, zones=[(PACKAGE, 1.0), (second, 1.0)]),
        "psys and core present": replace(sound, zones=[(PACKAGE, 1.0), (core, 0.7), (psys, 1.6)]),
    }


def jobs(tools: Sequence[str], *, smoke: bool) -> Iterator[Job]:
    """Everything, the longest first."""
    if smoke:
        few = {name: faults()[name] for name in ("every 7th read fails", "mirrored dies")}
        yield from _curve_jobs(tools, ["bursts"], {0.05: 3, 0.1: 1}, 6.0)
        yield from _fault_jobs(tools, few, {0.05: 4}, 6.0)
        return
    machine = Machine(curve_of("recorded"))
    for tool in tools:
        yield Job("long", "recorded", tool, machine, _plan(LONG_S, tool), 150.0)
    yield from _curve_jobs(tools, [*CURVES, "recorded"], LENGTHS_S, JOB_S)
    yield from _fault_jobs(tools, faults(), FAULT_LENGTHS_S, JOB_S)
    for tool in tools:
        plan = _plan({GIL_S: 2}, tool, holds_gil=True)
        yield Job("faults", "GIL held for 3 s", tool, faults()["none"], plan, 15.0)
    yield from _gpu_jobs(tools)


def _curve_jobs(
    tools: Sequence[str], names: Sequence[str], lengths: dict[float, int], limit_s: float
) -> Iterator[Job]:
    for name in names:
        for tool in tools:
            plan = _plan(lengths if tool not in SHORTEST_S else {1.0: 3}, tool)
            yield Job("curves", name, tool, Machine(curve_of(name)), plan, limit_s)
        if "carbontrack" in tools:
            ideal, plan = Machine(curve_of(name), refresh_s=0.0), _plan(lengths, "", refresh_s=0.0)
            yield Job("ideal", name, "carbontrack", ideal, plan, limit_s)


def _fault_jobs(
    tools: Sequence[str], cases: dict[str, Machine], lengths: dict[float, int], limit_s: float
) -> Iterator[Job]:
    for name, machine in cases.items():
        for tool in tools:
            yield Job("faults", name, tool, machine, _plan(lengths, tool), limit_s)


def _gpu_jobs(tools: Sequence[str]) -> Iterator[Job]:
    for name in ("constant", "square 1 s", "bursts"):
        for tool in sorted(set(tools) & set(WITH_GPU)):
            plan = _plan(GPU_LENGTHS_S, tool, part="gpu", refresh_s=GPU_REFRESH_S)
            yield Job("gpu", name, tool, Machine(curve_of(name)), plan, JOB_S)
