"""What the page draws: the steps of time, the bars, the listed runs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from carbontrack.report.frame import HOW, load
from carbontrack.report.page_data import (
    MOST_BARS,
    bars,
    coarser,
    grids,
    labels_of,
    over_time,
    places_of,
    runs,
)
from carbontrack.report.totals import totals
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

BEGIN = datetime(2026, 3, 1, tzinfo=timezone.utc)


def frame_of(tmp_path: Path, starts_h: list[float], **changes: Any) -> Any:
    records = [
        a_record(
            n,
            started_at=(BEGIN + timedelta(hours=hours)).isoformat(),
            **{"cpu_kwh": 1.0, "ram_kwh": None, "energy_kwh": 1.5, "name": f"job {n}"} | changes,
        )
        for n, hours in enumerate(starts_h)
    ]
    path = tmp_path / "runs.csv"
    path.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    return load([path], extra=["labels", *HOW]).frame


@pytest.mark.parametrize(
    ("hours", "step"), [(1, "minute"), (48, "hour"), (24 * 60, "day"), (24 * 400, "week")]
)
def test_steps_of_time_suit_the_span_and_keep_the_sum(
    tmp_path: Path, hours: float, step: str
) -> None:
    """Minutes to months; whatever the step, all energy is drawn, and what PUE adds stands apart."""
    named, rows = over_time(frame_of(tmp_path, [0, hours / 3, hours]))
    assert named == step
    assert sum(row["kwh"] for row in rows) == pytest.approx(4.5)
    assert sum(row["kwh"] for row in rows if row["part"] == "building") == pytest.approx(1.5)


def test_no_energy_is_no_chart(tmp_path: Path) -> None:
    """Runs of unknown energy are not drawn as zeros."""
    assert over_time(frame_of(tmp_path, [0], energy_kwh=None))[1] == []


def test_few_bars_and_the_rest_in_one(tmp_path: Path) -> None:
    """The largest groups have a bar each; the others share one, without an interval."""
    groups = totals(frame_of(tmp_path, list(range(20)), emissions_g=2.0), "name")
    drawn = bars(groups)
    assert len(drawn) == MOST_BARS + 1
    assert sum(row["g"] for row in drawn) == pytest.approx(40.0)
    assert (drawn[-1]["key"], drawn[-1]["low_g"]) == ("8 others", None)


def test_listed_runs_keep_their_texts_and_unknowns(tmp_path: Path) -> None:
    """Each text is held once; what is unknown is null, not NaN and not 0."""
    listed = runs(frame_of(tmp_path, [0, 1, 2], name="=same", water_l=None, gpu_kwh=None))
    assert listed["texts"]["name"] == ["=same"]
    assert listed["columns"]["name"] == [0, 0, 0]
    assert listed["columns"]["gpu_kwh"] == [None] * 3
    assert listed["columns"]["started_ms"][0] == BEGIN.timestamp() * 1000


@pytest.mark.parametrize(("days", "step"), [(10, None), (60, "week"), (400, "month")])
def test_a_narrow_screen_gets_fewer_bars_of_the_same_sum(
    tmp_path: Path, days: int, step: str | None
) -> None:
    """Weeks that begin on Mondays for many days, months for many weeks; few bars stay."""
    frame = frame_of(tmp_path, [24.0 * day for day in range(days)])
    named, rows = over_time(frame)
    found = coarser(frame, named, rows)
    assert (found and found[0]) == step
    if found is not None:
        assert sum(row["kwh"] for row in found[1]) == pytest.approx(1.5 * days)
        assert len({row["at"] for row in found[1]}) < len({row["at"] for row in rows})
    if found is not None and step == "week":
        begins = {datetime.fromtimestamp(row["at"] / 1e3, timezone.utc) for row in found[1]}
        assert {begin.weekday() for begin in begins} == {0}


def test_regions_have_names_and_keep_apart() -> None:
    """Names for codes; a cloud region keeps its code, and what has no name is shown as it is."""
    regions = ["FR", "US-CA", "gcp:europe-west1", "no\x1bwhere"]
    assert list(places_of(regions).values()) == [
        "France",
        "California",
        "Belgium (St. Ghislain) (gcp:europe-west1)",
        "no\\x1bwhere",
    ]


def test_labels_are_pairs_of_visible_texts() -> None:
    """Whatever the cell holds: nested values are JSON, a cell that is none is one text."""
    assert labels_of('{"model": "ridge", "n": 3, "deep": {"a": [1]}}') == [
        ["model", "ridge"],
        ["n", "3"],
        ["deep", '{"a": [1]}'],
    ]
    assert labels_of('{"a\u202eb": "c\\nd"}') == [["a\\u202eb", "c\\nd"]]
    assert labels_of("not JSON") == [["labels", "not JSON"]]
    assert labels_of("{}") == []


def test_the_mean_of_equal_intensities_is_that_intensity(tmp_path: Path) -> None:
    """329.65 g in every row is not 329.65000000000003 g, which a page would round up."""
    kwh = [2.1e-7, 1.9e-8, 3.3e-7, 1.01e-7, 4.7e-9, 6.1e-8, 1.3e-7]
    for count in range(1, len(kwh) + 1):
        path = tmp_path / f"{count}.csv"
        path.write_bytes(
            HEADER
            + b"".join(
                record_line(a_record(n, energy_kwh=used, intensity_g_per_kwh=329.65).to_row())
                for n, used in enumerate(kwh[:count])
            )
        )
        frame = load([path], extra=["labels", *HOW]).frame

        assert [row["g_per_kwh"] for row in grids(frame)] == [329.65]
