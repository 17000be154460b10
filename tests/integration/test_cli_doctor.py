"""`carbontrack doctor` on machines that a test builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import carbontrack
from carbontrack.settings import READERS
from carbontrack.testing import build_powercap

ROOT = Path(carbontrack.__file__).parents[1]
Doctor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Ask the doctor about the machine below `tmp_path/sys`."""
    (tmp_path / "sys").mkdir()

    def ask(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "carbontrack", "doctor", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "error",
                "CARBONTRACK_SYSFS_PATH": f"{tmp_path}/sys",
                **variables,
            },
            timeout=60,
            check=False,
        )

    return ask


def test_a_machine_without_counters_is_told_what_it_lacks(doctor: Doctor) -> None:
    """All is modelled: exit code 1, and RAPL stands among what is not used, with the reason."""
    done = doctor("--json", "--region", "FR")

    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    assert found["measured"] is False
    assert {meter["basis"] for meter in found["meters"]} <= {"modelled", "assumed"}
    assert any("rapl" in refusal["id"] and refusal["reason"] for refusal in found["refused"])


def test_a_machine_with_counters_is_measured(doctor: Doctor, tmp_path: Path) -> None:
    """One readable RAPL package makes the exit code 0."""
    build_powercap(tmp_path / "sys")

    done = doctor("--json", "--region", "FR")

    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["measured"] is True
    assert any(meter["id"].startswith("rapl:") for meter in found["meters"])


def test_every_setting_is_told_with_its_origin(doctor: Doctor, tmp_path: Path) -> None:
    """Where a value comes from is half of a diagnosis; a token is never shown."""
    (tmp_path / "pyproject.toml").write_text("[tool.carbontrack]\ninterval_s = 5\n")

    done = doctor("--json", CARBONTRACK_REGION="DE", CARBONTRACK_HTTP_TOKEN="hush")

    settings = json.loads(done.stdout)["settings"]
    assert list(settings) == list(READERS)
    assert settings["region"] == {"value": "DE", "origin": "environment"}
    assert settings["interval_s"] == {"value": 5.0, "origin": f"{tmp_path}/pyproject.toml"}
    assert settings["http_token"] == {"value": "(set)", "origin": "environment"}
    assert "hush" not in done.stdout + done.stderr


def test_the_text_has_a_part_for_each_question(doctor: Doctor) -> None:
    """What is there, what is not used and why, where, and with which settings."""
    done = doctor("--region", "FR")

    for part in ("This machine", "Meters", "Not used", "Grid", "Settings", "model:cpu"):
        assert part in done.stdout
    assert "FR  (argument)" in done.stdout
    assert "interval_s" in done.stdout
    assert "\x1b" not in done.stdout


def test_an_unknown_place_is_said_in_a_note(doctor: Doctor) -> None:
    """A warning becomes part of the report, even where warnings are errors."""
    found = json.loads(doctor("--json", TZ="UTC", CARBONTRACK_CLOUD="none").stdout)

    assert found["region_basis"] == "unknown"
    assert len(found["notes"]) == 1


def test_an_output_that_cannot_be_written_does_not_silence_the_doctor(doctor: Doctor) -> None:
    """It writes nothing itself."""
    done = doctor("--json", CARBONTRACK_OUTPUT="no/such/place.csv")

    assert json.loads(done.stdout)["settings"]["output"]["value"] == ["no/such/place.csv"]
