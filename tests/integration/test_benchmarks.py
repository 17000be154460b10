"""The comparisons in benchmarks/ run, and hold what they are there to hold, at a small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("serial")  # instants, ratios of times

ROOT = Path(__file__).parents[2]
ACCURACY = ROOT / "benchmarks" / "accuracy"

TRUTHS = """
import ctypes, os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from curves import CURVES, curve_of, joules
from machine import Machine, compiled
folder = Path(sys.argv[3])
library, _ = compiled(folder)
for number, name in enumerate([*CURVES, "recorded"]):
    curve, told = curve_of(name), folder / f"{number}.txt"
    told.write_text(Machine(curve).text(0.0))
    os.environ["SIMULATED_MACHINE"] = str(told)
    copy = folder / f"{number}.so"  # the machine is read when the library is loaded
    copy.write_bytes(library.read_bytes())
    made = ctypes.CDLL(str(copy))
    made.simulated_joules.argtypes = [ctypes.c_double]
    made.simulated_joules.restype = ctypes.c_double
    for step in range(400):
        at_s = step * 0.0371
        ours, theirs = joules(curve, at_s), made.simulated_joules(at_s)
        assert abs(ours - theirs) <= 1e-5 * max(1.0, ours), (name, at_s, ours, theirs)
print("agree")
"""


def smoke(what: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / what), "--smoke", "--out", str(out)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, cwd=out
    )


def test_what_is_compared_with_is_the_truth(tmp_path: Path) -> None:
    """The simulated machine's energy is what another integration of the same curve gives."""
    done = subprocess.run(
        [sys.executable, "-c", TRUTHS, str(ROOT), str(ACCURACY), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "no C compiler" in done.stderr:
        pytest.skip("no C compiler: the simulated machine is a C library")
    assert done.stdout == "agree\n", done.stderr


def test_spans_hold_the_energy_of_their_time(tmp_path: Path) -> None:
    """On a machine whose power is known a span has no less than its body used, and no more than was
    used from before its opening to after its end, to 0.5 %; also while reads fail."""
    done = smoke("accuracy", tmp_path)
    if "no machine can be simulated here" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "accuracy.json").read_text())
    assert found["promise"]["spans"] == 4, done.stderr
    assert found["promise"]["broken"] == 0
    assert found["failures"] == []
    assert {(group["group"], group["case"]) for group in found["errors"]} == {
        ("curves", "bursts"),
        ("ideal", "bursts"),
        ("faults", "every 7th read fails"),
        ("faults", "mirrored dies"),
    }
    assert (tmp_path / "accuracy.svg").read_text().startswith("<svg")
    for title in ("Error by length", "With faults", "Not measured"):
        assert title in (tmp_path / "accuracy.md").read_text()


def test_every_cost_is_measured_against_its_size(tmp_path: Path) -> None:
    """No case fails, which holds counts and sums, too, and each tells how it grows."""
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "scale"), "--smoke", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    series = json.loads((tmp_path / "scale.json").read_text())["series"]
    assert len(series) == 9
    assert all(found["points"] and found["error"] is None for found in series)
    assert sum("slope" in found for found in series) == 8


def test_no_run_comes_back_and_no_journal_stays():
    """Roots and calls that end while their checkpoints are written: each is in one row."""
    script = ROOT / "benchmarks" / "journal_race.py"
    done = subprocess.run(
        [sys.executable, script, "--roots", "1000", "--repeats", "4"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
