"""Record how the reference metric scatters on this machine, at rest and under load.

    python benchmarks/record_noise.py OUT.json [ROUNDS]

Three pieces of work of different kinds and lengths are measured over and over as the pytest plugin
measures a test: CPU seconds of the process tree, with the speed of the machine from five slices
before and after. First as the machine is, then beside as many spinning processes as there are
twice the cores. Rounds stand in the order in which they were measured, so that noise which lasts
for several rounds stays together.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

from carbontrack.integrations.pytest_plugin.reference import ReferenceMetric


def arithmetic() -> None:
    """About 4 ms of a bytecode loop."""
    total = 0
    for number in range(90_000):
        total += number * number % 7


def parsing() -> None:
    """About 8 ms of JSON, text and a regular expression."""
    rows = [{"name": f"row {n}", "value": n / 3, "tags": ["a", "b"]} for n in range(2500)]
    text = json.dumps(rows)
    re.findall(r'"value": ([0-9.]+)', text)
    sorted(json.loads(text), key=lambda row: str(row["value"]))


def memory() -> None:
    """About 40 ms of filling and reading lists that no small cache holds."""
    numbers = list(range(200_000))
    numbers.sort(key=lambda n: n * 7919 % 1_000_003)
    sum(numbers[::17])


WORK: dict[str, Callable[[], None]] = {
    "arithmetic": arithmetic,
    "parsing": parsing,
    "memory": memory,
}
_SPIN = "while True: pass"


def rounds(work: Callable[[], None], count: int) -> list[tuple[float, float]]:
    """Joules before scaling, and speed, of each round."""
    metric = ReferenceMetric()
    work()
    found = []
    for _ in range(count):
        before = metric.speed_now()
        window = metric.open("work")
        work()
        joules = window.close().joules
        found.append((float(f"{joules:.5g}"), round(max(before, metric.speed_now()), 4)))
    return found


def spinning() -> int:
    """The number of a process that spins and is not our descendant, or we would be billed for it.

    It ends by itself after ten minutes.
    """
    script = f'timeout 600 "{sys.executable}" -S -c "{_SPIN}" >/dev/null 2>&1 & echo $!'
    done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def main(out: Path, count: int) -> None:
    """Measure, with and without load."""
    cores = os.cpu_count() or 1
    quiet = {name: rounds(work, count) for name, work in WORK.items()}
    load = [spinning() for _ in range(2 * cores)]
    try:
        loaded = {name: rounds(work, count) for name, work in WORK.items()}
    finally:
        for one in load:
            os.kill(one, signal.SIGTERM)  # timeout hands it on
    how = {
        "recorded_with": "benchmarks/record_noise.py",
        "on": date.today().isoformat(),
        "machine": f"{platform.machine()}, {cores} virtual cores, shared with other programs",
        "python": platform.python_version(),
        "load": f"{2 * cores} spinning processes",
        "columns": "joules before scaling, speed of the machine beside it",
    }
    out.write_text(json.dumps({"how": how, "quiet": quiet, "loaded": loaded}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 400)
