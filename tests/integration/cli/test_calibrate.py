"""`carbontrack calibrate` from the first reading to records that hold the wall's power."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import carbontrack
from carbontrack.testing import build_powercap
from tests.support.used_counters import used

ROOT = Path(carbontrack.__file__).parents[1]
Ask = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Run a command on a machine with RAPL below `tmp_path`, whose state is there too."""
    return _asker(tmp_path)


@pytest.fixture
def moving(ask: Ask, tmp_path: Path) -> Iterator[None]:
    """Its counters move, as those of a machine do: 100 W and 10 W."""
    with used(build_powercap(tmp_path / "sys"), package_0=100.0, dram=10.0):
        yield


def _asker(tmp_path: Path) -> Ask:
    if not (tmp_path / "sys").exists():
        build_powercap(tmp_path / "sys")

    def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "carbontrack", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": str(ROOT),
                "CARBONTRACK_SYSFS_PATH": f"{tmp_path}/sys",
                "CARBONTRACK_STATE_DIR": f"{tmp_path}/state",
                "CARBONTRACK_REGION": "FR",
                **variables,
            },
            timeout=60,
            check=False,
        )

    return command


def _record(ask: Ask, **variables: str) -> dict[str, object]:
    done = ask("run", "--json", "--output", "none", "--", "sleep", "0.5", **variables)
    assert done.returncode == 0, done.stderr
    record: dict[str, object] = json.loads(done.stderr)
    return record


@pytest.mark.usefixtures("moving")
def test_from_two_readings_to_the_walls_energy_and_back(ask: Ask, tmp_path: Path) -> None:
    """Typed readings make a meter of component other; `--clear` takes it away again."""
    assert _record(ask)["other_kwh"] is None
    done = ask("calibrate", "--json", "50:110", "100:170")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fit"]["constant_w"] == pytest.approx(50.0)
    kept = list((tmp_path / "state").glob("calibration-*.json"))
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600]

    record = _record(ask, CARBONTRACK_SCOPE="machine")
    other_j, cpu_j, ram_j = (
        float(str(record[f"{name}_kwh"])) * 3.6e6 for name in ("other", "cpu", "ram")
    )
    constant_j = 50.0 * float(str(record["duration_s"]))
    assert other_j == pytest.approx(constant_j + 0.2 * (cpu_j + ram_j), rel=0.01)
    assert record["meters"] == "rapl:package-0;rapl:dram-0;wall:rest"
    assert record["basis"] == "measured"

    assert ask("calibrate", "--clear").returncode == 0
    assert _record(ask)["other_kwh"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["50:110", "50:111"], "too close"),
        (["50:110", "100:120"], "gain of 0.200"),
        (["50:40", "100:160"], "constant of -80.0 W"),
        (["50"], "METERED:WALL"),
        (["--wall", "none"], "no number above 0"),
        (["--plug", "none.csv"], "none.csv"),
    ],
)
def test_what_gives_no_line_is_refused_and_not_kept(
    ask: Ask, tmp_path: Path, arguments: list[str], says: str
) -> None:
    """Exit code 2, what was wrong, and no file."""
    (tmp_path / "emissions.csv").write_text("schema,record_id\n")
    done = ask("calibrate", *arguments)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert not list(tmp_path.glob("state/calibration*"))


def test_readings_are_taken_with_our_own_meters(ask: Ask) -> None:
    """`--wall` measures our side; counters that stand still are no reading, and it says so."""
    done = ask("calibrate", "--wall", "60", "--seconds", "0.3")
    assert done.returncode == 2
    assert "0 W metered" in done.stderr


@pytest.mark.usefixtures("moving")
def test_a_broken_file_stops_nothing(ask: Ask, tmp_path: Path) -> None:
    """A run goes on without the line; `calibrate` names the file and the way out."""
    ask("calibrate", "50:110", "100:170")
    (path,) = (tmp_path / "state").glob("calibration-*.json")
    path.write_text("{")
    record = _record(ask)
    assert record["meters"] == "rapl:package-0;rapl:dram-0"
    done = ask("calibrate")
    assert done.returncode == 2
    assert "--clear" in done.stderr
