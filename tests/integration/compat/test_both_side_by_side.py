"""Scripts of documentations: ours, which runs a program under both packages, and CodeCarbon's own.

Where CodeCarbon itself is installed, docs/how-to/both-side-by-side.md runs it with that one.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carbontrack.compat.codecarbon import aliases

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "docs" / "examples" / "both_side_by_side.py"
ALIKE = {
    "cpu": 100.0, "ram": 10.0, "gpu": 0.0, "energy": 110.0, "g_per_kwh": 50.0, "mg": 1.5,
    "seconds": 5.0, "cpu_how": "intel_rapl",
}  # fmt: skip
OURS = {**ALIKE, "cpu_how": "measured", "ram_how": "measured", "gpu_how": None, "gpu": None,
        "scope": "machine", "source": "a source, 2025", "faults": None}  # fmt: skip


def test_it_prints_what_both_say(tmp_path: Path) -> None:
    """The program gets its arguments and runs once; its exit does not end the comparison."""
    (tmp_path / "program.py").write_text(
        "import sys\nprint('ran', sys.argv[1:])\nsum(range(2_000_000))\nsys.exit(3)\n"
    )
    done = as_codecarbon(tmp_path, SCRIPT, "--json", "both.json", "program.py", "--fast")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ran ['--fast']") == 1
    assert "ended with 3" in done.stderr
    both = json.loads((tmp_path / "both.json").read_text())
    assert set(both) == {"codecarbon", "carbontrack"}
    assert all(figures["energy"] > 0 for figures in both.values())
    assert "carbontrack's interval:" in done.stdout


def test_a_program_may_send_the_messages_elsewhere(tmp_path: Path) -> None:
    """It takes all handlers of CodeCarbon's logger away, and sets its own, as examples do."""
    (tmp_path / "program.py").write_text(
        "import logging\n"
        "from codecarbon import OfflineEmissionsTracker\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "logger = logging.getLogger('codecarbon')\n"
        "while logger.hasHandlers():\n"
        "    logger.removeHandler(logger.handlers[0])\n"
        "logger.addHandler(logging.FileHandler('codecarbon.log'))\n"
        "OfflineEmissionsTracker(country_iso_code='FRA').stop()\n"
    )
    done = as_codecarbon(tmp_path, "program.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "never started" in (tmp_path / "codecarbon.log").read_text()


def as_codecarbon(folder: Path, *program: object) -> subprocess.CompletedProcess[str]:
    """Run a program for which carbontrack stands in for CodeCarbon."""
    command = ["-m", "carbontrack", "run", "--quiet", "--as-codecarbon", "--", sys.executable]
    return subprocess.run(
        [sys.executable, *command, *map(str, program)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "why"),
    [
        ({}, {}, []),
        ({"ram": 100.0}, {}, ["memory, -90.00 J: …", "reads the memory's counter"]),
        ({"ram": 100.0}, {"ram_how": "modelled"}, ["memory, …", "for each GiB"]),
        ({"cpu": 60.0, "cpu_how": "constant"}, {}, ["processor, +40.00 J", "(constant)"]),
        ({"cpu": 60.0}, {}, ["processor, +40.00 J", "other moments"]),
        ({"cpu": 60.0}, {"cpu_how": "modelled"}, ["does not trust"]),
        ({"g_per_kwh": 56.0}, {}, ["grid, x 0.89", "a source, 2025"]),
        ({"seconds": 6.2}, {}, ["length"]),
        ({}, {"scope": "process", "cpu": 3.0}, ["scope", "processor, -97.00 J"]),
        ({}, {"faults": "reset:rapl"}, ["reset:rapl"]),
    ],
)
def test_each_gap_has_its_reason(
    theirs: dict[str, Any], ours: dict[str, Any], why: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures that agree have none."""
    monkeypatch.setitem(sys.modules, "codecarbon", aliases)
    reasons = runpy.run_path(str(SCRIPT))["reasons"]
    told = "\n".join(reasons({**ALIKE, **theirs}, {**OURS, **ours}))
    assert bool(told) is bool(why)
    for part in why:
        assert part.rstrip("… :") in told
