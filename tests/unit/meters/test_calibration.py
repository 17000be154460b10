"""What is calibrated is kept: for this host, by its owner, or not at all."""

import json

import pytest

from carbontrack.api.idle_power import idle_power
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.meters.calibration import (
    Calibration,
    clear_calibration,
    load_calibration,
    save_calibration,
)
from carbontrack.meters.meter import Hardware, MeterSet
from carbontrack.meters.ram_model import RamModel
from carbontrack.meters.wall import WallFit, WallReading, with_wall
from carbontrack.system.host import calibration_path
from carbontrack.testing import FakeMeter

TWO = (WallReading(50.0, 110.0), WallReading(100.0, 170.0))


def test_what_is_kept_comes_back(tmp_path):
    """Readings, line and idle powers, in a file that nobody else can read."""
    path = calibration_path(tmp_path / "state", "host-1")
    kept = Calibration(idle_w={"cpu": 12.5}).with_readings(TWO, ("a", "b"))
    assert load_calibration(path) is None
    save_calibration(path, kept)
    assert load_calibration(path) == kept
    assert kept.fit is not None
    assert (round(kept.fit.gain, 6), round(kept.fit.constant_w, 6)) == (1.2, 50.0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [clear_calibration(path), clear_calibration(path)] == [True, False]
    assert list(path.parent.iterdir()) == []


def test_each_host_has_its_own_file(tmp_path):
    """A state directory may be shared, and a host's name may hold anything."""
    paths = {calibration_path(tmp_path, host) for host in ("a", "b", "../../etc/x")}
    assert len(paths) == 3
    assert {path.parent for path in paths} == {tmp_path}


def test_one_reading_waits_for_the_next(tmp_path):
    """The first reading gives no line and is kept; the second makes it."""
    path = calibration_path(tmp_path, "h")
    save_calibration(path, Calibration().with_readings(TWO[:1], ("a",)))
    first = load_calibration(path)
    assert first is not None
    assert first.fit is None
    assert first.with_readings(TWO[1:], ("a",)).fit is not None
    with pytest.raises(ConfigError, match="--clear"):
        first.with_readings(TWO[1:], ("b",))


GOOD = {"schema": 1, "meters": ["a"], "readings": [[50, 110], [100, 170]], "idle_w": {}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        *(
            json.dumps(GOOD | wrong)
            for wrong in (
                {"schema": 2},
                {"readings": 5},
                {"readings": [[50]]},
                {"readings": [[50, 110], [100, 120]]},
                {"readings": [["x", "y"], [1, 2]]},
                {"idle_w": {"cpu": -1}},
                {"idle_w": []},
                {"meters": "a"},
            )
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_an_error_that_names_it(tmp_path, text):
    """Nothing is guessed from it, and the error says how to be rid of it."""
    path = tmp_path / "calibration-h.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"calibration-h\.json .*--clear"):
        load_calibration(path)


def meters(*more, tdp_w=100.0):
    return MeterSet((FakeMeter(), *more), hardware=Hardware(cpu_tdp_w=tdp_w))


def test_idle_power_as_given_as_measured_or_as_modelled():
    """In this order, and the basis says which."""
    measured = Calibration(idle_w={"cpu": 20.0, "gpu": 30.0})
    given = idle_power(Settings(idle_w=15.0), meters(), measured)
    assert (given.cpu, given.basis, given.gpu) == (15.0, "modelled", 30.0)
    kept = idle_power(Settings(), meters(), measured)
    assert (kept.cpu, kept.basis) == (20.0, "measured")
    modelled = idle_power(Settings(), meters(RamModel(8.0)), Calibration())
    assert (modelled.cpu, modelled.ram, modelled.basis) == (12.0, 1.2, "modelled")
    assert idle_power(Settings(), meters(tdp_w=None), Calibration()).cpu is None


def test_the_rest_of_the_wall_idles_with_the_meters():
    """What the line gives for the idle machine, where the line is in use."""
    fit = WallFit(1.5, 40.0, 0.1, ("fake:cpu",), 2)
    kept = Calibration(("fake:cpu",), TWO, fit, {"cpu": 20.0})
    assert idle_power(Settings(), meters(), kept).other is None
    assert idle_power(Settings(), MeterSet(with_wall([FakeMeter()], fit)), kept).other == 50.0
