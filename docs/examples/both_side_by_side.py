"""Run a Python program once under CodeCarbon and carbontrack, and say why the figures differ.

    python both_side_by_side.py [--country FRA] [--scope process] PROGRAM [ARGUMENT ...]

Both measure the same machine over the same time, unless carbontrack is asked for the program's part
with `--scope process`. What they say, part by part, and which known difference explains each gap is
printed when the program has ended; `--json PATH` writes it too.
"""

from __future__ import annotations

import argparse
import json
import logging
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import codecarbon

import carbontrack

J_PER_KWH = 3.6e6
PARTS = {"cpu": "processor, J", "ram": "memory, J", "gpu": "graphics, J", "energy": "energy, J"}
CLOSE = 0.03
"""Figures this near to each other are called the same: the two do not begin at the same instant."""


def run(program: str, arguments: list[str], country: str, scope: str) -> dict[str, Any]:
    """Run the program under both, and return what they say."""
    logging.getLogger("codecarbon").disabled = True  # it speaks before it has read its log_level
    theirs = codecarbon.OfflineEmissionsTracker(
        country_iso_code=country, output_methods=[], log_level="critical"
    )
    ours = carbontrack.auto(scope=scope, region=country, output=None)
    sys.argv = [program, *arguments]
    theirs.start()
    try:
        with ours.span(program) as span:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        if end.code:
            print(f"the program ended with {end.code}", file=sys.stderr)
    finally:
        theirs.stop()
    return {
        "codecarbon": figures_of_codecarbon(theirs),
        "carbontrack": figures_of(span.record),
    }


def figures_of_codecarbon(tracker: Any) -> dict[str, Any]:
    """CodeCarbon's figures, and how it got them."""
    data = tracker.final_emissions_data
    hardware = getattr(tracker, "_hardware", [])  # what CodeCarbon found, and how it counts it
    modes = {type(one).__name__.lower(): getattr(one, "_mode", "") for one in hardware}
    return {
        "cpu": data.cpu_energy * J_PER_KWH,
        "ram": data.ram_energy * J_PER_KWH,
        "gpu": data.gpu_energy * J_PER_KWH,
        "energy": data.energy_consumed * J_PER_KWH,
        "g_per_kwh": data.emissions / data.energy_consumed * 1000 if data.energy_consumed else 0.0,
        "mg": data.emissions * 1e6,
        "seconds": data.duration,
        "cpu_how": modes.get("cpu", ""),
    }


def figures_of(record: Any) -> dict[str, Any]:
    """carbontrack's figures, and how it got them; None is unknown."""
    found: dict[str, Any] = {
        part: None if kwh is None else kwh * J_PER_KWH
        for part in PARTS
        for kwh in [getattr(record, f"{part}_kwh")]
    }
    return found | {
        "g_per_kwh": record.intensity_g_per_kwh,
        "mg": record.emissions_g * 1000,
        "seconds": record.duration_s,
        **{f"{part}_how": getattr(record, f"{part}_basis") for part in ("cpu", "ram", "gpu")},
        "scope": record.scope,
        "low": record.energy_low_kwh * J_PER_KWH,
        "high": record.energy_high_kwh * J_PER_KWH,
        "source": f"{record.intensity_source}, {record.intensity_year}",
        "faults": record.faults,
    }


def reasons(theirs: dict[str, Any], ours: dict[str, Any]) -> Iterator[str]:
    """Why the two differ, one sentence for each part that does, and by how much."""
    why = {
        "cpu": why_cpu(theirs["cpu_how"], ours["cpu_how"]),
        "ram": "CodeCarbon counts some watts for each module that it takes to be there; "
        + why_memory(ours["ram_how"]),
        "gpu": "docs/explanation/faults.md has what each does when a board's counter fails.",
    }
    if ours["scope"] == "process":
        yield "scope: CodeCarbon counts the machine, carbontrack this program and its children."
    for part, reason in why.items():
        if not same(theirs[part], ours[part]):
            name, gap_j = PARTS[part].partition(",")[0], (ours[part] or 0.0) - theirs[part]
            yield f"{name}, {gap_j:+,.2f} J: {reason}"
    if not same(theirs["g_per_kwh"], ours["g_per_kwh"]):
        ratio = ours["g_per_kwh"] / theirs["g_per_kwh"] if theirs["g_per_kwh"] else 0.0
        yield f"grid, x {ratio:.2f}: another year or source; here it is {ours['source']}."
    if not same(theirs["seconds"], ours["seconds"]):
        yield "length: CodeCarbon's clock goes on while it loads its tables, after the end."
    if ours["faults"]:
        yield f"carbontrack saw a meter fail: {ours['faults']}"


def why_memory(ours: str | None) -> str:
    """How carbontrack counts memory."""
    if ours == "measured":
        return "carbontrack reads the memory's counter."
    return "carbontrack counts watts for each GiB, with an interval."


def why_cpu(theirs: str, ours: str) -> str:
    """Why the figures of the processor differ."""
    if theirs == "intel_rapl" and ours == "measured":
        return "both read its counter, at other moments; a short run shows the difference most."
    if ours == "measured":
        return f"carbontrack reads its counter; CodeCarbon models it ({theirs or 'no counter'})."
    if theirs == "intel_rapl":
        return "CodeCarbon reads a counter that carbontrack does not trust: `carbontrack doctor`."
    return (
        f"neither reads a counter; CodeCarbon models it by load and rated power ({theirs}), "
        "carbontrack by load and the processor's or guest's own range, with an interval."
    )


def same(one: float | None, other: float | None) -> bool:
    """Whether two figures agree; unknown and 0 do."""
    low, high = sorted((one or 0.0, other or 0.0))
    return high - low <= CLOSE * high


def table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The figures, a line each."""
    yield f"{'':16}" + "".join(f"{name:>14}" for name in found)
    rows = PARTS | {"g_per_kwh": "grid, g/kWh", "mg": "emissions, mg", "seconds": "seconds"}
    for key, name in rows.items():
        cells = (one[key] for one in found.values())
        texts = ("unknown" if cell is None else f"{cell:,.2f}" for cell in cells)
        yield f"{name:16}" + "".join(f"{text:>14}" for text in texts)


def main() -> None:
    """Run, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--country", default="FRA", help="three letters, such as FRA")
    parser.add_argument("--scope", default="machine", choices=("machine", "process"))
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    found = run(given.program, given.arguments, given.country, given.scope)
    theirs, ours = found["codecarbon"], found["carbontrack"]
    print(*table(found), sep="\n")
    print(f"carbontrack's interval: {ours['low']:,.2f} to {ours['high']:,.2f} J")
    print(*("why: " + reason for reason in reasons(theirs, ours)), sep="\n")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
