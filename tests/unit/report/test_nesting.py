"""Which rows a sum adds up, and how much of each: nothing twice, and nothing left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.record import COLUMNS, Record
from carbontrack.report.frame import Loaded, load
from carbontrack.report.nesting import (
    NotAdded,
    counted_once,
    holders,
    one_per_id,
    one_row_per_id,
    shares_of,
)
from carbontrack.report.read import read_records
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

BEGIN = datetime(2026, 11, 24, tzinfo=timezone.utc)


def at(seconds: float) -> str:
    moment = BEGIN + timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def a_row(number: int, start_s: float = 0.0, end_s: float = 10.0, **changes: Any) -> Record:
    """A row of a run of its own, from one second of a day to another."""
    own = {"run_id": f"run-{number}", "record_id": f"run-{number}-1", "energy_kwh": 1.0}
    times = {"started_at": at(start_s), "ended_at": at(end_s), "duration_s": end_s - start_s}
    return a_record(number, **(own | times | {"host_id": "here"} | changes))


def loaded(tmp_path: Path, records: Iterable[Record]) -> Loaded:
    path = tmp_path / "runs.csv"
    path.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    return load([path])


def kwh(found: Loaded) -> float:
    return float(found.frame["energy_kwh"].sum())


LAUNCHER = a_row(1, 0.0, 0.5, name="launcher", energy_kwh=0.051)


def test_a_parent_that_says_that_it_does_not_hold_a_row_leaves_it_in_the_sum(
    tmp_path: Path,
) -> None:
    """A child that outlives its launcher's block counts, whatever the times are."""
    for end_s in (0.4, 3.0):
        child = a_row(
            2, 0.1, end_s, parent_id=LAUNCHER.record_id, parent_holds=False, energy_kwh=2.7
        )
        found = loaded(tmp_path, [LAUNCHER, child])
        assert kwh(found) == pytest.approx(2.751)
        assert found.not_added == NotAdded()


def test_a_parent_that_says_that_it_holds_a_row_is_the_only_one_in_the_sum(tmp_path: Path) -> None:
    """Of another host, later, or under the parent's run id: what the row says decides."""
    inner = [
        a_row(2, parent_id=LAUNCHER.record_id, parent_holds=True),
        a_row(3, 50.0, 60.0, parent_id=LAUNCHER.record_id, parent_holds=True),
        a_row(4, parent_id=LAUNCHER.run_id, parent_holds=True, host_id="there"),
        a_row(5, parent_id="run-4-1", parent_holds=True, energy_kwh=None),
    ]
    found = loaded(tmp_path, [*inner, LAUNCHER])
    assert kwh(found) == pytest.approx(0.051)
    assert found.not_added == NotAdded(nested=4, nested_energy_kwh=3.0)


def test_a_row_whose_parent_is_elsewhere_is_added(tmp_path: Path) -> None:
    """What a parent holds counts while that parent is in another file."""
    rows = [
        a_row(n, parent_id="run-9-1", parent_holds=holds) for n, holds in enumerate((True, None))
    ]
    found = loaded(tmp_path, rows)
    assert (kwh(found), found.not_added) == (2.0, NotAdded())


OUTER = a_row(1, 0.0, 10.0)


@pytest.mark.parametrize(
    ("changes", "is_inside"),
    [
        ({}, True),
        ({"parent_id": "run-1"}, True),
        ({"started_at": at(-0.9)}, True),
        ({"ended_at": at(10.9)}, True),
        ({"host_id": None}, True),
        ({"started_at": at(-1.1)}, False),
        ({"ended_at": at(11.1)}, False),
        ({"started_at": at(20.0), "ended_at": at(21.0)}, False),
        ({"host_id": "there"}, False),
        ({"ended_at": "2026-11-24Tsoon"}, False),
    ],
)
def test_a_row_that_does_not_say_lies_inside_by_its_time_and_host(
    tmp_path: Path, changes: dict[str, Any], is_inside: bool
) -> None:
    """Rows of schema 1 are inside a parent that covers them to a second; others are told of."""
    row = a_row(2, 2.0, 8.0, schema=1, **({"parent_id": OUTER.record_id} | changes))
    for order in ([OUTER, row], [row, OUTER]):
        found = loaded(tmp_path, order)
        assert kwh(found) == (1.0 if is_inside else 2.0)
        assert (found.nested, found.not_added.not_covered) == (is_inside, not is_inside)
        assert [share for share in shares_of(order) if share] == [1.0] * (2 - is_inside)


def test_a_run_of_many_rows_holds_what_any_of_them_covers(tmp_path: Path) -> None:
    """An old row that names its parent's run is inside one of its rows, or in none of them."""
    run = [a_row(1, 20.0 * n, 20.0 * n + 10.0, record_id=f"run-1-{n}") for n in range(5)]
    run.append(a_row(1, 61.0, 62.0, record_id="run-1-9"))
    inside, between = (
        a_row(n, start_s, start_s + 5.0, parent_id="run-1", run_id=f"child-{n}")
        for n, start_s in ((7, 63.0), (8, 51.5))
    )
    found = loaded(tmp_path, [inside, *run, between])
    assert (kwh(found), found.nested, found.not_added.not_covered) == (7.0, 1, 1)


def test_a_circle_of_parents_leaves_no_row_out(tmp_path: Path) -> None:
    """Rows that name each other, or themselves, count; what hangs on them stays inside."""
    rows = [
        a_row(1, parent_id="run-1-1", parent_holds=True),
        a_row(2, parent_id="run-2", parent_holds=True),
        a_row(3, parent_id="run-4-1", parent_holds=True),
        a_row(4, parent_id="run-5-1", parent_holds=True),
        a_row(5, parent_id="run-3-1", parent_holds=True),
        a_row(6, parent_id="run-5-1", parent_holds=True),
        a_row(7, parent_id="run-6-1", parent_holds=True),
    ]
    found = loaded(tmp_path, rows)
    assert (kwh(found), found.nested) == (5.0, 2)
    assert [holder is None for holder in holders(rows)] == [True] * 5 + [False] * 2


def test_a_parent_that_was_delivered_twice_or_recovered_counts_by_its_id(tmp_path: Path) -> None:
    """A checkpoint gives way to its finished row in any order, and holds as that one does."""
    checkpoint = replace(OUTER, status="recovered", energy_kwh=0.4, ended_at=at(1.0))
    child = a_row(2, 2.0, 9.0, parent_id=OUTER.record_id)
    for order in ([checkpoint, OUTER, OUTER, child], [child, OUTER, checkpoint, OUTER]):
        found = loaded(tmp_path, order)
        assert (kwh(found), found.nested, found.repeated) == (1.0, 1, 2)
        records = one_per_id(order)
        assert sum(r.energy_kwh * s for r, s in zip(records, shares_of(records), strict=True)) == 1


# -- one machine -------------------------------------------------------------------------------


def ranks(count: int, **changes: Any) -> list[Record]:
    return [
        a_row(n, 0.01 * n, 3600.0 + 0.01 * n, scope="machine", rank=n, **changes)
        for n in range(count)
    ]


def test_eight_ranks_of_one_machine_are_that_machine(tmp_path: Path) -> None:
    """Figures and intervals of k rows at one time are their mean, not their sum."""
    found = loaded(
        tmp_path,
        ranks(8, emissions_g=50.0, energy_low_kwh=0.9, energy_high_kwh=1.2, embodied_g=3.0),
    )
    sums = found.frame[["energy_kwh", "energy_low_kwh", "energy_high_kwh", "emissions_g"]].sum()
    assert 1.0 <= sums["energy_kwh"] <= 1.02
    assert sums["energy_low_kwh"] == pytest.approx(0.9 * sums["energy_kwh"])
    assert sums["energy_high_kwh"] == pytest.approx(1.2 * sums["energy_kwh"])
    assert sums["emissions_g"] == pytest.approx(50.0 * sums["energy_kwh"])
    assert found.frame["embodied_g"].sum() == pytest.approx(3.0 * sums["energy_kwh"])
    assert (found.not_added.overlapping, found.not_added.overlapping_hosts) == (8, 1)
    assert found.not_added.overlapping_energy_kwh == pytest.approx(8.0 - sums["energy_kwh"])


@pytest.mark.parametrize(
    "changes", [{"scope": "process"}, {"scope": None}, {"host_id": None}, {"ended_at": at(-1.0)}]
)
def test_rows_that_do_not_measure_one_machine_are_left_as_they_are(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Scope process adds up by itself; an unknown host or time tells of no overlap."""
    found = loaded(tmp_path, [replace(rank, **changes) for rank in ranks(8)])
    assert (kwh(found), found.not_added) == (8.0, NotAdded())


def test_rows_of_one_run_share_the_machine_already(tmp_path: Path) -> None:
    """A tracker splits what it measures among its open spans: only other runs measure it again."""
    own = [
        a_row(n, 0.0, 10.0, run_id="run-1", record_id=f"run-1-{n}", scope="machine", energy_kwh=0.5)
        for n in range(2)
    ]
    assert kwh(loaded(tmp_path, own)) == 1.0
    other = a_row(2, 0.0, 10.0, scope="machine")
    assert kwh(loaded(tmp_path, [*own, other])) == pytest.approx(1.0)


def test_only_rows_that_are_added_take_a_share(tmp_path: Path) -> None:
    """What a parent holds takes nothing from those beside it."""
    rows = ranks(2)
    inner = a_row(5, 1.0, 9.0, scope="machine", parent_id="run-0-1", parent_holds=True)
    found = loaded(tmp_path, [*rows, inner])
    assert found.frame["energy_kwh"].tolist() == pytest.approx([0.5, 0.5], rel=1e-5)
    assert found.not_added.overlapping == 2


spans = st.tuples(st.integers(0, 400), st.integers(0, 300)).map(lambda one: (one[0], sum(one)))


def machines(spans_ms: Sequence[tuple[int, int]], hosts: int = 1) -> list[Record]:
    return [
        a_row(n, start / 1000, end / 1000, scope="machine", host_id=f"host {n % hosts}")
        for n, (start, end) in enumerate(spans_ms)
    ]


def frame_of(records: Sequence[Record]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {name: [getattr(r, name) for r in records] for name in COLUMNS}, dtype=object
    )
    return frame.assign(energy_kwh=frame["energy_kwh"].astype("float64"))


def shares_in(records: Sequence[Record]) -> list[float]:
    """The share of each row by the rule on columns."""
    sized = [replace(record, energy_kwh=1.0) for record in records]
    added, _ = counted_once(frame_of(sized))
    shares = dict(zip(added["record_id"], added["energy_kwh"], strict=True))
    return [float(shares.get(record.record_id, 0.0)) for record in records]


@pytest.mark.slow
@given(st.lists(spans, min_size=1, max_size=12), st.integers(1, 3), st.randoms())
def test_the_shares_of_one_machine_add_up_to_the_time_it_was_measured(
    spans_ms: list[tuple[int, int]], hosts: int, chance: Any
) -> None:
    """Any intervals: shared lengths sum to the length of their union, in any order of the rows."""
    records = machines(spans_ms, hosts)
    for shares in (shares_in(records), shares_of(records)):
        shared = math.fsum(
            share * (end - start) for share, (start, end) in zip(shares, spans_ms, strict=True)
        )
        union = sum(
            len({ms for start, end in spans_ms[host::hosts] for ms in range(start, end)})
            for host in range(hosts)
        )
        assert shared == pytest.approx(union, rel=1e-9, abs=1e-9)
        assert all(0.0 < share <= 1.0 for share in shares)
    mixed = list(records)
    chance.shuffle(mixed)
    by_id = dict(zip((r.record_id for r in mixed), shares_in(mixed), strict=True))
    assert [by_id[r.record_id] for r in records] == pytest.approx(shares_in(records), rel=1e-9)


ids = st.integers(0, 7)


@st.composite
def rows(draw: Any) -> list[Record]:
    """Rows with any parents, times, hosts and scopes; a run is on one host."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        run = draw(st.integers(0, 3))
        start, end = draw(spans)
        parent = draw(st.none() | ids.map("row-{}".format) | ids.map("run-{}".format))
        found.append(
            a_row(
                number,
                start / 20,
                end / 20,
                record_id=f"row-{number}",
                run_id=f"run-{run}",
                parent_id=parent,
                parent_holds=draw(st.sampled_from([True, False, None])),
                host_id=(None, "left", "right", "right")[run],
                scope=draw(st.sampled_from(["machine", "process"])),
            )
        )
    return found


@given(rows())
def test_columns_and_records_have_one_rule(records: list[Record]) -> None:
    """What `top` and `regions` add up is what the report adds up, whatever the rows say."""
    assert shares_of(records) == pytest.approx(shares_in(records), rel=1e-9)
    assert any(shares_of(records))


@given(st.lists(st.tuples(ids, st.booleans()), min_size=1, max_size=8))
def test_repeated_rows_have_one_rule(deliveries: list[tuple[int, bool]]) -> None:
    """Finished rows beat their checkpoints in lists and in frames, in any order."""
    records = [
        a_row(n, record_id=f"row-{number}", status="recovered" if recovered else "ok", pid=n)
        for n, (number, recovered) in enumerate(deliveries)
    ]
    frame, repeated = one_row_per_id(frame_of(records))
    kept = one_per_id(records)
    assert sorted(frame["pid"]) == sorted(record.pid for record in kept)
    assert repeated == len(records) - len(kept)


def test_a_frame_without_double_counting_adds_up_to_the_report(tmp_path: Path) -> None:
    """One argument of `read_records` makes every sum right; without it every row is there."""
    inner = a_row(20, 1.0, 2.0, parent_id="run-0-1", parent_holds=True)
    path = tmp_path / "runs.csv"
    found = loaded(tmp_path, [*ranks(4), inner, replace(inner, status="recovered")])
    every = read_records(path)
    once = read_records(path, without_double_counting=True)
    assert (len(every), every["energy_kwh"].sum()) == (5, 5.0)
    assert once["energy_kwh"].sum() == pytest.approx(kwh(found))
    assert tuple(once.columns) == tuple(every.columns)
    sums = "1.00 kWh"
    assert (
        f"5 records, 1 of them nested in others, 4 that overlap on a machine counted once: {sums}"
        in (every._repr_html_())
    )
    assert f"4 records: {sums}" in once._repr_html_()
