"""One program under CodeCarbon and carbontrack, on a simulated package of known power.

    python benchmarks/codecarbon_beside.py PYTHON [--times 5]

PYTHON is an interpreter that has both packages. In a mount namespace of its own a powercap tree,
with a processor's package and its memory, is what both find; its counters move by the clock, so
that the truth is watts times the seconds of the program.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from simulated import PACKAGE, drawing, inside, tree_in  # noqa: E402 - path set

from carbontrack.testing import Zone  # noqa: E402

SCRIPT = HERE.parent / "docs" / "examples" / "both_side_by_side.py"
MEMORY = Zone("dram", "intel-rapl:0:0", 23_456_789)
BUSY = """
import multiprocessing, time
def work(until):
    while time.perf_counter() < until:
        sum(range(2000))
until = time.perf_counter() + {seconds}
others = [multiprocessing.Process(target=work, args=(until,)) for _ in range(1)]
[one.start() for one in others]
work(until)
[one.join() for one in others]
"""


class Case(NamedTuple):
    """What is run, and what the hardware draws meanwhile."""

    name: str
    program: str
    package_w: float
    memory_w: float


CASES = (
    Case("both cores busy, 5 s", BUSY.format(seconds=5), 90.0, 6.0),
    Case("idle, 5 s", "import time; time.sleep(5)", 20.0, 2.0),
    Case("busy, 0.3 s", BUSY.format(seconds=0.3), 90.0, 6.0),
    Case("idle, 0.01 s", "import time; time.sleep(0.01)", 20.0, 2.0),
)


def once(python: str, case: Case) -> dict[str, dict[str, Any]]:
    """Run the case once; what each says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = tree_in(folder / "sys", (PACKAGE, MEMORY))
        program, out = folder / "program.py", folder / "out.json"
        program.write_text(case.program)
        command = [python, str(SCRIPT), "--json", str(out), str(program)]
        watts = {PACKAGE.key: case.package_w, MEMORY.key: case.memory_w}
        with drawing(tree, watts, refresh_s=0.001):
            subprocess.run(inside(tree, command), check=True, capture_output=True, cwd=folder)
        found: dict[str, dict[str, Any]] = json.loads(out.read_text())
        return found


def main() -> None:
    """Run all cases in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    given = parser.parse_args()
    cases = [case for case in CASES if given.only in (None, case.name)]
    found = [[once(given.python, case) for case in cases] for _ in range(given.times)]
    print("| case | true J | CodeCarbon, J | off by, % | carbontrack, J | off by, % |")
    print("|---|---|---|---|---|---|")
    for number, case in enumerate(cases):
        runs = [one[number] for one in found]
        for part, watts in (("cpu", case.package_w), ("ram", case.memory_w)):
            true_j = [watts * run["carbontrack"]["seconds"] for run in runs]
            cells = [f"{case.name}, {part}", f"{statistics.median(true_j):.3g}"]
            for tool in ("codecarbon", "carbontrack"):
                said_j = [run[tool][part] or 0.0 for run in runs]
                errors = [(s / t - 1) * 100 for s, t in zip(said_j, true_j, strict=True)]
                cells.append(f"{statistics.median(said_j):.3g}")
                cells.append(f"{statistics.median(errors):+.1f}")
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
