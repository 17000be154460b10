"""How costs grow with size: `python benchmarks/scale [--smoke] [--ten-million] [--out FOLDER]`."""

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
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RUN_LIMIT_S = 240.0


@dataclass(frozen=True)
class Series:
    """One thing that grows.

    Attributes:
        case: its name in cases.py.
        what: what grows, and what one unit of cost is.
        sizes: from small to large.
        most: the slope, of the cost of one unit against the size, that is still fine: 0 where a
            unit should not know of the others, 1 where it has to look at each.
    """

    case: str
    what: str
    sizes: Sequence[int]
    most: float


SERIES = (
    Series("threads", "threads; a decorated call", (1, 2, 4, 8, 16, 32, 64), 0.0),
    Series("spans", "spans in a run; one of them", (1_000, 10_000, 100_000, 1_000_000), 0.0),
    Series("open_spans", "spans open; one more", (1, 10, 100, 1_000, 10_000), 0.0),
    Series("open_and_close", "spans open at once; each", (10, 100, 1_000, 10_000), 0.0),
    Series("deep", "spans one in another; two in the last", (1, 10, 100, 1_000), 1.0),
    Series("tasks", "asyncio tasks; each, ten steps", (1, 10, 100, 1_000), 0.0),
    Series("meters", "meters; a span", (1, 4, 16, 64, 256), 1.0),
    Series("processes", "processes on one CSV; a row", (1, 2, 4, 8, 16, 32), 0.0),
    Series("reports", "records in a report; a record", (10_000, 100_000, 1_000_000), 0.0),
)
SMOKE = {
    "threads": (1, 4), "spans": (100, 400), "open_spans": (1, 50), "open_and_close": (10, 50),
    "deep": (1, 20), "tasks": (2, 20), "meters": (1, 16), "processes": (1, 2),
    "reports": (10_000,),
}  # fmt: skip


def measure(case: str, size: int) -> dict[str, float]:
    """One size of one case in a new process.

    Raises:
        subprocess.SubprocessError: it failed, or took longer than RUN_LIMIT_S.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "cases.py"), case, str(size), folder],
            check=True, capture_output=True, text=True, cwd=folder, timeout=RUN_LIMIT_S,
            env=os.environ | {"CARBONTRACK_REGION": "FR"},
        )  # fmt: skip
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent: the slope of a line through logarithms, by least squares."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / sum((x - mean_x) ** 2 for x in xs)


def series_of(series: Series, sizes: Sequence[int], times: int, until_s: float) -> dict[str, Any]:
    """The least cost of several rounds at each size, and how it grows."""
    points: list[dict[str, float]] = []
    error = None
    load = [os.getloadavg()[0]]
    for size in sizes:
        rounds: list[dict[str, float]] = []
        for _ in range(times):
            if rounds and time.monotonic() > until_s:
                break
            try:
                rounds.append(measure(series.case, size))
            except subprocess.SubprocessError as failure:
                text = str(getattr(failure, "stderr", "") or failure).strip()
                error = f"at {size:,}: {text.splitlines()[-1][:200]}"
                break
            if rounds[-1]["cpu_s"] > 10.0:
                break
        if error or not rounds:
            break
        best = min(rounds, key=lambda found: found["cpu_s"])
        points.append({"size": size, "unit_us": best["cpu_s"] / best["units"] * 1e6} | best)
        print(series.case, size, points[-1], file=sys.stderr)
    found: dict[str, Any] = {"case": series.case, "what": series.what, "points": points}
    load.append(os.getloadavg()[0])
    found |= {"expected_slope": series.most, "error": error}
    found |= {"at": _now(), "load": [round(one, 1) for one in load]}
    if len(points) > 1:
        costs = [point["unit_us"] for point in points]
        found["slope"] = slope([point["size"] for point in points], costs)
        last = points[-3:]
        found["last_slope"] = slope([p["size"] for p in last], [p["unit_us"] for p in last])
    return found


def row(found: dict[str, Any]) -> str:
    """One line of the table."""
    points = found["points"]
    costs = ", ".join(f"{p['size']:,}: {digits(p['unit_us'])}" for p in points)
    memory = [p for p in points if "bytes" in p]
    text = ", ".join(f"{p['size']:,}: {p['bytes'] / 2**20:.3g}" for p in memory)
    slopes = [f"{found[key]:+.2f}" if key in found else "—" for key in ("slope", "last_slope")]
    allowed = f"{found['expected_slope']:g}"
    load = " to ".join(map(str, found["load"]))
    cells = (found["what"], costs, *slopes, allowed, text or "—", load)
    return "| " + " | ".join(cells) + " |"


def kept(out: Path) -> dict[str, dict[str, Any]]:
    """What an earlier run has found, by case: with `--only`, the others stay as they are."""
    try:
        before = json.loads((out / "scale.json").read_text())
    except FileNotFoundError:
        return {}
    at_that_time = {"at": before["at"], "load": [before[f"load_{end}"][0] for end in ENDS]}
    return {found["case"]: at_that_time | found for found in before["series"]}


ENDS = ("before", "after")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def digits(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def page(about: dict[str, Any], everything: list[dict[str, Any]]) -> str:
    """The table."""
    head = "| what grows; the unit | µs of CPU a unit, by size | slope | of the last three "
    head += "| fine | memory, MiB | load average |\n|---|---|---|---|---|---|---|"
    failed = [f"- {found['what']}: {found['error']}" for found in everything if found["error"]]
    lines = ["; ".join(f"{key}: {value}" for key, value in about.items()), "", head]
    return "\n".join([*lines, *map(row, everything), "", *failed]) + "\n"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--ten-million", action="store_true", help="a report over 10^7 records")
    parser.add_argument("--limit-s", type=float, default=300.0, help="no repetition begins later")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[series.case for series in SERIES])
    parser.add_argument("--out", type=Path, default=HERE.parent / "results")
    options = parser.parse_args()
    began_s, load = time.monotonic(), os.getloadavg()
    everything = kept(options.out) if options.only else {}
    for series in SERIES:
        if options.only and series.case not in options.only:
            continue
        sizes = list(SMOKE[series.case] if options.smoke else series.sizes)
        if series.case == "reports" and options.ten_million:
            sizes.append(10_000_000)
        times = 1 if options.smoke else options.rounds
        until_s = began_s + options.limit_s
        everything[series.case] = series_of(series, sizes, times, until_s)
    sys.path.insert(0, str(HERE.parents[1]))
    from carbontrack.system.version import VERSION

    about = {
        "at": _now(),
        "took_s": round(time.monotonic() - began_s),
        "carbontrack": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_before": [round(one, 1) for one in load],
        "load_after": [round(one, 1) for one in os.getloadavg()],
    }
    in_order = [everything[series.case] for series in SERIES if series.case in everything]
    text = page(about, in_order)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scale.md").write_text(text)
    made = json.dumps(about | {"series": in_order}, indent=1)
    (options.out / "scale.json").write_text(made + "\n")
    return 1 if any(found["error"] for found in in_order) else 0


if __name__ == "__main__":
    sys.exit(main())
