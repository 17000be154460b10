"""What carbontrack and its peers cost: `python benchmarks/side_by_side.py [--out FOLDER]`.

Each tool is installed, newest release, in a virtual environment of its own under the user's cache
folder. Every measurement is a new process without network, with a simulated powercap tree where
RAPL would be, whose counter moves; the tools take turns, so that the machine's drift meets all of
them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from environments import TOOLS, Installed, install, measure, reason  # noqa: E402 - path set
from peers import load  # noqa: E402
from side_by_side_table import report  # noqa: E402
from simulated import drawing, tree_in, works  # noqa: E402

from carbontrack.testing import Powercap  # noqa: E402

OFTEN = ("import", "life", "call", "step")
"""Measured in every round."""
ONCE = ("one core", "two cores", "idle", "idle fast")
"""Measured in the first round: they average over many seconds themselves."""


def measures(number: int) -> tuple[str, ...]:
    """What is measured in this round."""
    return OFTEN + (ONCE if number == 0 else ())


def rounds(
    tools: Mapping[str, Installed], times: int, tree: Powercap | None, until_s: float
) -> dict[str, dict[str, Any]]:
    """All measures of all tools, in turns. What has failed once is not tried again."""
    results: dict[str, dict[str, Any]] = {tool: {"values": {}, "errors": {}} for tool in tools}
    for number in range(times):
        for what in measures(number):
            begun = time.monotonic()
            for tool, installed in tools.items():
                result = results[tool]
                if what in result["errors"]:
                    continue
                if time.monotonic() > until_s:
                    if not number:
                        result["errors"][what] = "no time was left"
                    continue
                try:
                    found = measure(tool, what, installed.python, tree)
                except (RuntimeError, ValueError) as error:
                    result["errors"][what] = reason(error)
                    continue
                for name, value in found.items():
                    values = value if isinstance(value, list) else [value]
                    result["values"].setdefault(name, []).extend(values)
            took_s = time.monotonic() - begun
            print(f"round {number + 1}, {what}: {took_s:.0f} s", file=sys.stderr, flush=True)
    return results


def installs(tools: tuple[str, ...], cache: Path) -> tuple[dict[str, Installed], dict[str, str]]:
    """What could be installed, and why the rest could not."""
    done, failed = {}, {}
    for tool in tools:
        try:
            done[tool] = install(tool, cache)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            failed[tool] = reason(error)
        print(f"installed: {tool}", file=sys.stderr, flush=True)
    return done, failed


def describe(tool: str, installed: Installed) -> dict[str, Any]:
    """The facts of an installation that go into the tables."""
    adapter = load(tool)
    name = "carbontrack" if adapter.REQUIREMENT == "." else adapter.REQUIREMENT.lower()
    return {
        "version": installed.versions.get(name, "?"),
        "ways": adapter.WAYS,
        "samples": getattr(adapter, "SAMPLES", True),
        "also": list(getattr(adapter, "ALSO", ())),
        "installed": installed.versions,
    }


def machine(simulated: bool, times: int) -> dict[str, Any]:  # noqa: FBT001 - a fact, not a switch
    """Where and when."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": models[0] if models else "unknown",
        "cpus": os.cpu_count(),
        "simulated_rapl": simulated,
        "rounds": times,
    }


def main() -> int:
    """Install, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=600.0, help="no measurement begins later")
    parser.add_argument("--only", nargs="*", default=TOOLS, choices=TOOLS)
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="FOLDER")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--cache", type=Path, default=home / "carbontrack-peers")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    done, failed = installs(tuple(options.only), options.cache)
    with tempfile.TemporaryDirectory() as folder:
        tree = tree_in(Path(folder))
        simulated = works(tree)
        about = machine(simulated, options.rounds) | {"load_before": os.getloadavg()}
        until_s = time.monotonic() + options.limit_s
        with drawing(tree):
            results = rounds(done, options.rounds, tree if simulated else None, until_s)
    about["load_after"] = os.getloadavg()
    for tool, result in results.items():
        result.update(describe(tool, done[tool]))
        result["values"]["install_mib"] = [done[tool].size_mib]
        result["values"]["distributions"] = [len(done[tool].versions)]
    for tool, why in failed.items():
        results[tool] = {"values": {}, "errors": {"install": why}, "version": "", "samples": True}
    whole = {"machine": about, "tools": {tool: results[tool] for tool in options.only}}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "side_by_side.json").write_text(json.dumps(whole, indent=1) + "\n")
    text = report(whole)
    (options.out / "side_by_side.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
