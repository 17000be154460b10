"""What the grid says arrives in the record: hour by hour, from a found cloud, with its water."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import carbontrack
from carbontrack.api.assembly import assemble, current_environment, find_region, probe_cloud
from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.grid.series import Series
from carbontrack.grid.tables import grid_water
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock, FakeMeter
from tests.unit.grid.test_metadata import Metadata, wait_for_the_probe

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def test_a_day_whose_intensity_halves_at_noon_is_integrated() -> None:
    """1 kWh spread over the day, 2/3 of it in the morning: grams are the integral, to 0.1 %."""
    clock = FakeClock(7.0, now=NOON - timedelta(hours=12))  # ticks do not fall on the hours
    watts = 3.6e6 / 43200.0
    meter = FakeMeter(watts=watts * 2 / 3)
    hours = [(NOON + timedelta(hours=n)).timestamp() for n in range(-12, 12)]
    grid = Series.of(hours, [400.0] * 12 + [200.0] * 12)
    tracker = carbontrack.Tracker(meters=[meter], grid=grid, clock=clock, interval_s=30.0)

    with tracker, tracker.span("day") as run:
        clock.until_waiting()
        clock.advance(43200.0)
        run.snapshot()
        meter.watts = watts / 3
        clock.advance(43200.0)

    record = run.record
    expected_g = 400.0 * 2 / 3 + 200.0 / 3
    assert record.energy_kwh == pytest.approx(1.0, rel=1e-9)
    assert record.emissions_g is not None
    assert record.emissions_g == pytest.approx(expected_g, rel=1e-3)
    assert record.emissions_g != pytest.approx(300.0, rel=0.05)


def settings(tmp_path: Path, **more: object) -> Settings:
    (tmp_path / "sys").mkdir(exist_ok=True)
    (tmp_path / "proc").mkdir(exist_ok=True)
    roots = {"sysfs_path": str(tmp_path / "sys"), "state_dir": str(tmp_path / "state")}
    here = Environment.take(environ={}, working_folder=str(tmp_path))
    return load_settings({"output": None, "scope": "machine", **roots, **more}, here)


def test_water_stands_in_the_record_beside_the_grams(tmp_path: Path) -> None:
    """On site and at the plants: the region's WUE and its country's water, each with its kWh."""
    meter, clock = FakeMeter(watts=3.6e6), FakeClock()
    given = settings(tmp_path, region="eu-west-1", pue=1.25, wue=0.4)
    sampler = Sampler([meter], clock=clock)
    with (
        closing(sampler),
        assemble(given, current_environment(), sampler=sampler) as tracker,
        tracker.span("work") as run,
    ):
        clock.advance(1.0)
    water = grid_water("IE")

    assert water is not None
    assert run.record.energy_kwh == pytest.approx(1.25)
    assert run.record.water_l == pytest.approx(0.4 + 1.25 * water.l_per_kwh)
    assert run.record.region == "aws:eu-west-1"


@pytest.mark.parametrize("market_g_per_kwh", [None, 0.0, 12.5])
def test_a_contract_stands_in_the_record_beside_the_grid(
    tmp_path: Path, market_g_per_kwh: float | None
) -> None:
    """The site's energy times the contract's figure; the emissions of the place do not change."""
    meter, clock = FakeMeter(watts=3.6e6), FakeClock()
    given = settings(tmp_path, region="FR", pue=1.25, market_g_per_kwh=market_g_per_kwh)
    sampler = Sampler([meter], clock=clock)
    with (
        closing(sampler),
        assemble(given, current_environment(), sampler=sampler) as tracker,
        tracker.span("work") as run,
    ):
        clock.advance(1.0)

    expected_g = None if market_g_per_kwh is None else 1.25 * market_g_per_kwh
    assert run.record.market_emissions_g == pytest.approx(expected_g)
    assert run.record.emissions_g == pytest.approx(1.25 * carbontrack.lookup("FR").g_per_kwh)


def test_a_metadata_service_moves_the_record_while_it_runs(tmp_path: Path) -> None:
    """Asked for with cloud="detect": the record names the cloud, and how that is known."""
    meter, clock = FakeMeter(watts=3.6e6), FakeClock()
    given = settings(tmp_path, cloud="detect", procfs_path=str(tmp_path / "proc"))
    with Metadata("aws", "eu-west-3") as services:
        services.hold.clear()
        sampler = Sampler([meter], clock=clock)
        tracker = assemble(
            given, current_environment(), sampler=sampler, metadata_urls=services.base_urls
        )
        with closing(sampler), tracker, tracker.span("work") as run:
            before = run.snapshot()
            services.hold.set()
            wait_for_the_probe()
            clock.advance(1.0)
            run.snapshot()

    assert before.region_basis in {"unknown", "timezone"}
    assert (run.record.region, run.record.region_basis) == ("aws:eu-west-3", "metadata")
    assert (run.record.cloud_provider, run.record.cloud_region) == ("aws", "eu-west-3")


@pytest.mark.parametrize("more", [{}, {"cloud": "none"}, {"cloud": "detect", "region": "FR"}])
def test_no_metadata_service_is_asked_unless_it_is_wanted_and_needed(
    tmp_path: Path, more: dict[str, object]
) -> None:
    """Not by default, and not where the region was given."""
    given = settings(tmp_path, **more)

    here = current_environment()
    assert probe_cloud(given, here, find_region(given, here)) is None


def test_nothing_is_asked_of_any_network_by_default(tmp_path: Path) -> None:
    """Nothing configured: a whole measured block without one connection or name look-up."""
    program = """
import sys
def watch(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"}:
        print("NETWORK", event, args, flush=True)
sys.addaudithook(watch)
import carbontrack
with carbontrack.track("work", output=None) as run:
    sum(range(100_000))
print(run.record.region, run.record.region_basis, run.record.intensity_source, sep="|")
"""
    environ = {"HOME": str(tmp_path), "TZ": "Europe/Paris", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ | {"PYTHONPATH": str(Path(carbontrack.__file__).parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "NETWORK" not in done.stdout
    zone, basis, source = done.stdout.strip().split("|")
    assert (zone, basis) == ("FR", "timezone")
    assert "Ember" in source


def test_waiting_for_a_green_grid_needs_one_that_is_followed(tmp_path: Path) -> None:
    """A yearly table never becomes green: an error, not a wait of an hour."""
    with pytest.raises(carbontrack.ConfigError, match="intensity_source"):
        carbontrack.wait_for_green(max_wait_s=3600, below=100, region="FR", state_dir=str(tmp_path))


def test_a_source_that_is_handed_in_is_waited_for() -> None:
    """Without any settings."""
    clock = FakeClock()

    assert carbontrack.wait_for_green(
        carbontrack.Fixed.of(50.0), max_wait_s=3600, below=100, clock=clock
    )


def test_another_packages_source_is_found_by_its_name(tmp_path: Path) -> None:
    """An entry point of the group carbontrack.intensity, as an installed package declares it."""
    (tmp_path / "mymeter.py").write_text(
        "from carbontrack import Fixed\n"
        "def make_source(region, token):\n"
        "    return Fixed.of(77.0, zone=region.zone, source=f'my meter, token {token}')\n"
    )
    folder = tmp_path / "mymeter-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mymeter\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[carbontrack.intensity]\nmymeter = mymeter:make_source\n"
    )
    program = (
        "import carbontrack\n"
        "with carbontrack.track(region='FR', intensity_source='mymeter', output=()) as run:\n"
        "    pass\n"
        "record = run.record\n"
        "print(record.region, record.intensity_g_per_kwh, record.intensity_source)\n"
    )
    paths = f"{Path(carbontrack.__file__).parents[1]}:{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "FR 77.0 my meter, token None\n", done.stderr
