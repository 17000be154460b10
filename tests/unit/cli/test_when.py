"""`carbontrack when` on the command line."""

from __future__ import annotations

import json
import threading
from argparse import ArgumentParser, Namespace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from carbontrack.cli import main, when
from carbontrack.errors import NoIntensity
from carbontrack.grid.advice import greenest_window
from carbontrack.grid.series import Series
from carbontrack.testing import FakeClock
from tests.support.intensity_services import NOW, IntensityServices

GB = str(Path(__file__).parents[2] / "support" / "grid_pack" / "gb_national_hourly.csv")
MARCH = datetime(2026, 3, 1, tzinfo=timezone.utc)
Printed = pytest.CaptureFixture[str]


def asked(*options: str) -> Namespace:
    parser = ArgumentParser()
    when.add_parser(parser.add_subparsers())
    return parser.parse_args(["when", *options])


class SteppingClock(FakeClock):
    """A wait takes no real time: it moves the clock, and is counted."""

    waits = 0

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        self.waits += 1
        self.advance(timeout_s or 0.0)
        return event.is_set()


def test_the_window_is_the_true_minimum_of_the_series(capsys: Printed) -> None:
    """The command says what the function finds."""
    given = ["--series", GB, "--from", "2026-03-01T00:00Z", "--within", "72"]
    assert main(["when", "--hours", "4.5", *given, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    best = greenest_window(
        Series.from_csv(GB).slots, 4.5, earliest=MARCH, latest_end=MARCH + timedelta(hours=72)
    )
    assert found["start"] == best.start.isoformat().replace("+00:00", "Z")
    assert found["g_per_kwh"] == best.g_per_kwh
    assert found["saving"] == best.saving
    assert found["source"] == "gb_national_hourly.csv"


def test_a_person_reads_times_and_what_is_saved(capsys: Printed) -> None:
    """Start, end, intensity and saving."""
    assert main(["when", "--hours", "4", "--series", GB, "--from", "2026-03-01T00:00Z"]) == 0
    text = capsys.readouterr().out
    for word in ("start", "end", "g CO2e/kWh", "saves", "source"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hours", "4"], "--series FILE"),
        (["--hours", "-1", "--series", GB, "--from", "2026-03-01"], "hours"),
        (["--hours", "5", "--series", GB, "--from", "2026-03-01", "--within", "4"], "no period of"),
        (["--hours", "5", "--series", GB, "--from", "soon"], "--from"),
        (["--hours", "5", "--series", "gone.csv"], "gone.csv"),
        (["--hours", "5", "--source", "ukcarbon"], "ukcarbon"),
        (["--hours", "5", "--source", "ukcarbonintensity", "--region", "FR"], "does not cover"),
        (["--series", GB], "--hours"),
    ],
)
def test_what_cannot_be_answered_is_bad_usage(
    capsys: Printed, options: list[str], says: str
) -> None:
    """Exit code 2, nothing on stdout, and what to do on stderr."""
    assert main(["when", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err


def test_a_live_forecast_is_asked_for(capsys: Printed) -> None:
    """Great Britain's own service: the figure grows, so that starting at once is best."""
    with IntensityServices() as services:
        code = when.run(
            asked("--hours", "1", "--region", "GB", "--source", "ukcarbonintensity", "--json"),
            clock=FakeClock(now=NOW),
            base_urls={"ukcarbonintensity": f"{services.url}/gb"},
        )

    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["start"] == "2026-08-01T12:10:00Z"
    assert found["saving"] == 0.0
    assert found["source"] == "UK Carbon Intensity, average, direct"


def test_a_service_that_is_down_is_said_and_no_window_is_made_up(capsys: Printed) -> None:
    """Not a time out of thin air."""
    args = asked("--hours", "1", "--region", "GB", "--source", "ukcarbonintensity")
    with IntensityServices() as services:
        services.fault = "500"
        where = {"ukcarbonintensity": f"{services.url}/gb"}
        with pytest.raises(NoIntensity, match="HTTP 500"):
            when.run(args, clock=FakeClock(now=NOW), base_urls=where)

    assert capsys.readouterr().out == ""


def series(path: Path, *values: float) -> str:
    lines = [f"{NOW + timedelta(hours=n):%Y-%m-%dT%H:%MZ},{g}" for n, g in enumerate(values)]
    path.write_text("\n".join(["time,g_per_kwh", *lines]) + "\n", encoding="utf-8")
    return str(path)


def test_waiting_ends_when_the_window_begins(capsys: Printed, tmp_path: Path) -> None:
    """Two hours later here; no line of progress where stderr is no terminal."""
    clock = SteppingClock(now=NOW)
    path = series(tmp_path / "a.csv", 300, 300, 100, 300)

    assert when.run(asked("--hours", "1", "--series", path, "--wait"), clock=clock) == 0

    assert clock.now_utc() == NOW + timedelta(hours=2)
    assert capsys.readouterr().err == ""


def test_a_window_that_has_begun_is_not_waited_for(tmp_path: Path) -> None:
    """Now is best."""
    clock = SteppingClock(now=NOW)
    path = series(tmp_path / "a.csv", 100, 300)

    assert when.run(asked("--hours", "1", "--series", path, "--wait"), clock=clock) == 0
    assert clock.waits == 0


class Interrupted(FakeClock):
    """Ctrl-C while it waits."""

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        raise KeyboardInterrupt


def test_ctrl_c_ends_the_wait(tmp_path: Path) -> None:
    """As it ends any other command."""
    path = series(tmp_path / "a.csv", 300, 100)

    with pytest.raises(KeyboardInterrupt):
        when.run(asked("--hours", "1", "--series", path, "--wait"), clock=Interrupted(now=NOW))
