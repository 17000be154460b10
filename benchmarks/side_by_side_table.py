"""A comparison as Markdown, from its JSON: `side_by_side_table.py FILE [--into PAGE]`."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pages import put_into

TABLES = {
    "Installing and importing": {
        "install_mib": "installed, MiB",
        "distributions": "distributions",
        "import_ms": "import, ms",
        "import_mib": "import, MiB",
        "first_ms": "first start to stop, ms",
        "later_ms": "later ones, ms",
    },
    "Calls and spans": {
        "call_p50_us": "decorated call p50, µs",
        "call_p99_us": "p99, µs",
        "call_p999_us": "p99.9, µs",
        "calls": "calls timed",
        "step_us": "span or task, µs",
    },
    "Idle in the background": {
        "idle_1_percent": "CPU at 1 s, % of a core",
        "idle_1_mib": "memory at 1 s, MiB",
        "idle_01_percent": "CPU at 0.1 s, %",
        "idle_01_mib": "memory at 0.1 s, MiB",
    },
}
YARDSTICK = "opentelemetry"
"""What programs pay for already: times stand beside its own in the same run."""
T95 = 2.05
"""Student's t for 95 %, two-sided, 29 degrees of freedom: thirty pairs."""


def shown(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(logs: Sequence[float]) -> str:
    """The mean slow-down in percent, and its 95 % interval over the pairs."""
    mean = statistics.fmean(logs)
    half = T95 * statistics.stdev(logs) / math.sqrt(len(logs))
    low, best, high = (math.expm1(at) * 100 for at in (mean - half, mean, mean + half))
    return f"{best:+.1f} ({low:+.1f} … {high:+.1f})"


def titled(tool: str, result: Mapping[str, Any]) -> str:
    """The tool's name and version, with what its environment had to be given besides."""
    also = f", with {', '.join(result['also'])}" if result.get("also") else ""
    return f"{tool} {result['version']}{also}".strip()


def rows(tools: Mapping[str, Any], columns: Mapping[str, str], *, idle: bool) -> list[str]:
    """A table of medians."""
    lines = ["| tool | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for tool, result in tools.items():
        found = [result["values"].get(column) for column in columns]
        cells = [shown(statistics.median(values)) if values else "—" for values in found]
        if tool != YARDSTICK:
            cells = [
                cell + times_yardstick(tools, column, values)
                for cell, column, values in zip(cells, columns, found, strict=True)
            ]
        mark = "" if result["samples"] or not idle else " (does not sample)"
        lines.append(f"| {titled(tool, result)}{mark} | " + " | ".join(cells) + " |")
    return lines


def times_yardstick(tools: Mapping[str, Any], column: str, values: Sequence[float] | None) -> str:
    """How many times the yardstick's median, of a time; "" where one of them is unknown."""
    its = tools.get(YARDSTICK, {}).get("values", {}).get(column)
    if not values or not its or not column.endswith(("_us", "_ms")):
        return ""
    return f" ({shown(statistics.median(values) / statistics.median(its))} x)"


def slow_downs(tools: Mapping[str, Any]) -> list[str]:
    """The table of slow-downs."""
    lines = ["| tool | one core, % | two cores, % | pairs |", "|---|---|---|---|"]
    for tool, result in tools.items():
        found = [result["values"].get(f"slow_{cores}_log") for cores in (1, 2)]
        cells = [interval(logs) if logs else "—" for logs in found]
        pairs = max(len(logs or ()) for logs in found)
        lines.append(f"| {titled(tool, result)} | {' | '.join(cells)} | {pairs} |")
    return lines


def report(whole: Mapping[str, Any]) -> str:
    """All tables, and what could not be measured."""
    about, tools = whole["machine"], whole["tools"]
    load = f"{about['load_before'][0]:.1f} before, {about['load_after'][0]:.1f} after"
    rapl = "simulated RAPL, no network" if about["simulated_rapl"] else "no RAPL, network as it is"
    lines = [
        f"{about['at']}; Python {about['python']}, {about['system']}, {about['cpus']} x "
        f"{about['cpu']}; {rapl}; {about['rounds']} rounds; load average {load}.",
    ]
    for title, columns in TABLES.items():
        lines += ["", f"**{title}**", "", *rows(tools, columns, idle=title.startswith("Idle"))]
    lines += ["", "**Slow-down of a fixed piece of work, sampled every second**", ""]
    lines += slow_downs(tools)
    failures = [
        f"- {titled(tool, result)}, {what}: {error}"
        for tool, result in tools.items()
        for what, error in result["errors"].items()
    ]
    if failures:
        lines += ["", "**Could not be measured**", "", *failures]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what a comparison has written")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="a page with a place for them")
    options = parser.parse_args()
    text = report(json.loads(options.file.read_text()))
    if options.into:
        put_into(options.into, text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
