"""Figures of one's own over time: read from CSV and pandas, exact in time, honest outside."""

from datetime import datetime, timedelta, timezone

import pandas as pd
import pytest

from carbontrack.errors import ConfigError
from carbontrack.grid.series import Series, Slot, gapless_runs, in_order, parse_time_s, slot_at

START = datetime(2026, 3, 1, tzinfo=timezone.utc)


def hours(count):
    return START + timedelta(hours=count)


def day(values=(100.0, 200.0, 300.0)):
    return Series.of([hours(n).timestamp() for n in range(len(values))], values)


def test_each_figure_holds_until_the_next_one_begins():
    """A step function: no figure is smeared into its neighbour."""
    series = day()

    assert series.at(hours(0)).g_per_kwh == 100.0
    assert series.at(hours(1) - timedelta(microseconds=1)).g_per_kwh == 100.0
    assert series.at(hours(1)).g_per_kwh == 200.0
    assert series.at(hours(2.99)).g_per_kwh == 300.0


def test_outside_its_hours_a_series_gives_its_mean_and_says_so():
    """The interval is then the whole range of the series."""
    series = day()

    for when in (hours(-1), hours(3)):
        found = series.at(when)
        assert series.find(when) is None
        assert (found.low_g_per_kwh, found.g_per_kwh, found.high_g_per_kwh) == (100, 200, 300)
        assert "outside" in found.source


def test_a_gap_is_not_filled_with_the_figure_before_it():
    """A value lasts as long as most others do, also before a gap."""
    times = [hours(n).timestamp() for n in (0, 1, 2, 10)]
    series = Series.of(times, [10, 20, 30, 40])

    assert series.find(hours(2.5)).g_per_kwh == 30
    assert series.find(hours(5)) is None
    assert series.find(hours(10.5)).g_per_kwh == 40


def test_the_same_slot_gives_the_same_object():
    """A sampler sees by identity that nothing has changed."""
    series = day()

    assert series.at(hours(0.1)) is series.at(hours(0.9))
    assert series.at(hours(0.1)) is not series.at(hours(1.1))


def test_any_time_zone_names_the_same_instant():
    """A time is an instant, however it is written."""
    east = timezone(timedelta(hours=9))

    assert day().at(hours(1).astimezone(east)).g_per_kwh == 200.0


def test_times_in_any_order_are_one_series():
    """Newest first, as many services send them."""
    times = [hours(n).timestamp() for n in (2, 1, 0)]

    assert Series.of(times, [300, 200, 100]).slots == day().slots


@pytest.mark.parametrize("bad", [-1.0, 50_000.0, float("nan"), float("inf")])
def test_an_impossible_figure_is_refused(bad):
    """Before anything starts."""
    with pytest.raises(ConfigError, match="1 of 3"):
        day((100.0, bad, 200.0))


def test_an_empty_or_doubled_series_is_refused():
    """No time, or one twice with two figures."""
    with pytest.raises(ConfigError):
        Series([])
    with pytest.raises(ConfigError):
        Series.of([0.0, 0.0], [1.0, 2.0])


def test_the_uncertainty_makes_the_interval():
    """Ten per cent, by ratio on both sides."""
    slot = Slot(0.0, 3600.0, 110.0)
    found = Series([slot], relative_uncertainty=0.1).at(datetime.fromtimestamp(1, timezone.utc))

    assert (found.low_g_per_kwh, found.high_g_per_kwh) == pytest.approx((100.0, 121.0))


@pytest.mark.parametrize(
    "text",
    [
        "datetime,g_per_kwh\n2026-03-01T00:00Z,100\n2026-03-01T01:00Z,200\n",
        "g_per_kwh,timestamp\n100,2026-03-01 00:00\n200,2026-03-01 01:00\n",
        "when,what\n2026-03-01T01:00:00+01:00,100\n\n2026-03-01T02:00:00+01:00,200\n",
        "\ufefftime,intensity,more\n2026-03-01T00:00:00.1234567Z,100,x\n2026-03-01T01:00Z,200,y\n",
    ],
)
def test_a_csv_file_is_read_by_its_usual_columns(tmp_path, text):
    """Names, order, offsets, fractions and a byte-order mark are understood."""
    path = tmp_path / "grid.csv"
    path.write_text(text, encoding="utf-8")

    series = Series.from_csv(path, zone="home")

    assert series.at(hours(0.5)).g_per_kwh == 100
    assert series.at(hours(1.5)).g_per_kwh == 200
    assert series.at(hours(1.5)).zone == "home"
    assert series.at(hours(1.5)).source == "grid.csv"


def test_named_columns_are_taken(tmp_path):
    """Where the file holds more than one figure."""
    path = tmp_path / "grid.csv"
    path.write_text("t,intensity,mine\n2026-03-01T00:00Z,1,7\n")

    assert Series.from_csv(path, time_column="t", column="mine").slots[0].g_per_kwh == 7
    with pytest.raises(ConfigError, match="no column 'yours'"):
        Series.from_csv(path, column="yours")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "needs a column"),
        ("time,g\n", "at least one"),
        ("time,g\n2026-03-01T00:00Z,many\n", "line 2"),
        ("time,g\nyesterday,5\n", "line 2"),
        ("time,g\n2026-03-01T00:00Z\n", "line 2"),
        ("time,g\n2026-03-01T00:00Z,-5\n", "1 of 1"),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_place(tmp_path, text, what):
    """File and line, before anything starts."""
    path = tmp_path / "grid.csv"
    path.write_text(text)

    with pytest.raises(ConfigError, match=what) as caught:
        Series.from_csv(path)
    assert "grid.csv" in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    """With its name."""
    with pytest.raises(ConfigError, match=r"gone\.csv"):
        Series.from_csv(tmp_path / "gone.csv")


def test_pandas_series_and_frames_are_taken():
    """A column of a frame, or a series, with a DatetimeIndex; naive times are UTC."""
    index = pd.date_range("2026-03-01", periods=3, freq="h")
    for frame in (
        pd.Series([100.0, 200.0, 300.0], index=index),
        pd.DataFrame({"other": "x", "g_per_kwh": [100.0, 200.0, 300.0]}, index=index),
        pd.Series([100.0, 200.0, 300.0], index=index.tz_localize("UTC").tz_convert("Asia/Tokyo")),
    ):
        assert Series.from_frame(frame).slots == day().slots


def test_a_frame_without_times_is_refused():
    """A range index is no time."""
    with pytest.raises(ConfigError, match="DatetimeIndex"):
        Series.from_frame(pd.Series([1.0, 2.0]))


def test_the_mean_over_any_part_is_the_integral():
    """Slots count by the time they share with the part."""
    (run,) = gapless_runs(day().slots)
    start = hours(0).timestamp()

    assert run.mean_g_per_kwh(start, start + 3 * 3600) == pytest.approx(200)
    assert run.mean_g_per_kwh(start + 1800, start + 5400) == pytest.approx(150)
    assert run.mean_g_per_kwh(start + 3540, start + 3660) == pytest.approx(150)


def test_absurd_slots_are_left_out_and_overlaps_cut():
    """What a service sends is put in order before anyone relies on it."""
    slots = in_order(
        [Slot(20, 30, 3), Slot(0, 15, 1), Slot(10, 20, 2), Slot(30, 40, -1), Slot(40, 40, 5)]
    )

    assert slots == (Slot(0, 10, 1), Slot(10, 20, 2), Slot(20, 30, 3))
    assert slot_at(slots, 10).g_per_kwh == 2
    assert slot_at(slots, -1) is None
    assert slot_at(slots, 30) is None
    assert slot_at((), 30) is None


@pytest.mark.parametrize(
    "text",
    ["2026-03-01T00:00Z", "2026-03-01T00:00:00.000Z", "2026-03-01 00:00:00+00:00", "2026-03-01"],
)
def test_times_are_read_as_services_write_them(text):
    """ISO 8601 with Z, fractions, a blank for T, or no offset at all."""
    assert parse_time_s(text) == START.timestamp()


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01T00:00Z"])
def test_no_time_is_a_value_error(text):
    """Nothing else escapes."""
    with pytest.raises(ValueError, match=r".*"):
        parse_time_s(text)
