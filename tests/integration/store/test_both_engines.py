"""What a store promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import COLUMNS
from carbontrack.sinks.jsonl import record_object
from carbontrack.store.base import Added, Project, Store
from carbontrack.store.factory import open_store
from carbontrack.store.rows import stored_row, time_text
from carbontrack.testing import FakeClock
from tests.support.records import HOSTILE, a_record
from tests.support.stores import a_row, content, execute, rows_of

pytestmark = pytest.mark.xdist_group("postgres")

EVERY_COLUMN = {
    name: {"rank": 3, "parent_holds": True, "labels": {"a": [1, {"b": None}], "ü": "x"}}.get(name)
    for name in COLUMNS
}


def test_rows_come_back_as_they_were_sent(store: Store):
    """All of their columns, with the time of their arrival, and the columns of newer versions."""
    records = [a_record(number, name=name) for number, name in enumerate(HOSTILE)]
    records.append(a_record(100, **{k: v for k, v in EVERY_COLUMN.items() if v is not None}))
    sent = [record_object(one) | {"new": {"deep": [1.5]}, "newer": None} for one in records]
    assert store.add("team", [stored_row(one) for one in sent]) == Added(len(sent), 0)

    found = {row["record_id"]: row for row in store.rows("team")}

    times = ("started_at", "ended_at", "received_at")
    assert all(row[time].endswith("Z") for row in found.values() for time in times)
    for one in sent:
        row = found[one["record_id"]]
        assert {k: row[k] for k in one if k not in times} == {
            k: cell for k, cell in one.items() if k not in times
        }
        assert list(row)[-1] == "received_at"


def test_numbers_keep_all_their_digits(store: Store):
    """The smallest, the largest and the odd ones."""
    numbers = [5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0, 1 / 3, 2.0**53 + 2]
    store.add("team", [a_row(i, energy_kwh=kwh) for i, kwh in enumerate(numbers)])
    found = content(store, "team")
    assert [found[f"run-7f3a:{i}"]["energy_kwh"] for i in range(len(numbers))] == numbers
    store.add("team", [a_row(99, pid=-(1 << 63), calls=(1 << 63) - 1)])
    assert content(store, "team")["run-7f3a:99"]["pid"] == -(1 << 63)
    assert content(store, "team")["run-7f3a:99"]["calls"] == (1 << 63) - 1


def test_a_repeated_record_is_stored_once(store: Store):
    """In one batch or in two; what is counted as stored is what has changed the table."""
    rows = [a_row(i) for i in range(3)]
    assert store.add("team", [*rows, rows[0]]) == Added(3, 1)
    assert store.add("team", [*rows, a_row(3)]) == Added(1, 3)
    assert store.add("team", []) == Added(0, 0)
    assert store.count("team") == 4


def test_a_recovered_record_yields_to_the_finished_one(store: Store):
    """Whichever came first; the first of two of a kind stays."""
    recovered, finished = a_row(1, status="recovered"), a_row(1, status="error")
    store.add("team", [recovered])
    assert store.add("team", [a_row(1, status="recovered", name="again")]) == Added(0, 1)
    assert content(store, "team")["run-7f3a:1"]["name"] == "train"
    assert store.add("team", [finished]) == Added(1, 0)
    assert store.add("team", [recovered, a_row(1, name="later")]) == Added(0, 2)
    assert content(store, "team")["run-7f3a:1"]["status"] == "error"


def test_projects_do_not_meet(store: Store):
    """The same id in two projects is two records, and each sees its own alone."""
    store.add("ours", [a_row(1, name="ours")])
    assert store.add("theirs", [a_row(1, name="theirs"), a_row(2)]) == Added(2, 0)
    assert [row["name"] for row in store.rows("ours")] == ["ours"]
    assert content(store, "theirs")["run-7f3a:1"]["name"] == "theirs"
    assert (store.count("ours"), store.count("theirs"), store.count()) == (1, 2, 3)
    assert list(store.rows("nobodys")) == []


def test_hostile_columns_reach_no_statement(store: Store):
    """Keys that are no columns are data, and names that are asked for must be columns."""
    hostile = 'name") VALUES (1); DROP TABLE records; --'
    row = record_object(a_record()) | {hostile: hostile, "rowid": 1, "ctid": "(0,1)"}
    store.add("team", [stored_row(row)])
    (found,) = store.rows("team")
    assert (found[hostile], found["rowid"], found["ctid"]) == (hostile, 1, "(0,1)")
    for name in (hostile, "project", "rowid", "energy"):
        with pytest.raises(ConfigError, match="no column"):
            store.rows("team", columns=["name", name])
    for project in (hostile, "' OR 1=1", ""):
        with pytest.raises(ConfigError, match="project"):
            store.rows(project)
        with pytest.raises(ConfigError, match="project"):
            store.add(project, [a_row()])


def test_rows_of_some_days_and_columns(store: Store):
    """From a time on, before another one; a zone is counted in."""
    start = datetime(2026, 3, 1, tzinfo=timezone.utc)
    store.add(
        "team",
        [a_row(i, started_at=time_text(start + timedelta(days=i)), calls=i) for i in range(10)],
    )
    since = (start + timedelta(days=3)).astimezone(timezone(timedelta(hours=-8)))
    found = store.rows("team", since=since, until=start + timedelta(days=6), columns=["calls"])
    assert sorted(row["calls"] for row in found) == [3, 4, 5]


def test_rows_are_those_of_one_moment(store: Store):
    """What is written while they are read does not come, and waits for nobody."""
    store.add("team", [a_row(i) for i in range(1500)])
    with closing(store.rows("team", columns=["record_id"])) as found:  # type: ignore[type-var]
        first = list(islice(found, 10))
        store.add("team", [a_row(i) for i in range(1500, 1600)])
        store.create_token("team")
        assert len(first) + sum(1 for _ in found) == 1500
    assert store.count("team") == 1600


def test_rows_may_be_left_early(store: Store, address: str):
    """Nothing is held for them afterwards, and others may drop the table."""
    store.add("team", [a_row(i) for i in range(1500)])
    found = store.rows("team")
    next(found)
    found.close()  # type: ignore[attr-defined]
    store.close()
    execute(address, "DROP TABLE records")


def test_records_go_when_their_time_is_over(store: Store, clock: FakeClock):
    """By their arrival, in batches, in projects that have a limit."""
    long_ago = "1970-01-01T00:00:00Z"
    for project in ("short", "long", "all"):
        store.add(project, [a_row(i, started_at=long_ago) for i in range(207)])
    store.set_project(Project("short", retention_days=1.5))
    store.set_project(Project("long", retention_days=300_000.0))
    clock.advance(86_400.0)
    store.add("short", [a_row(i) for i in range(900, 903)])
    assert store.apply_retention(batch_rows=100) == 0
    clock.advance(86_400.0)
    assert store.apply_retention(batch_rows=100) == 207
    assert store.apply_retention() == 0
    assert store.count("short") == 3
    assert store.count() == 3 + 2 * (207)


def test_a_finished_record_arrives_when_it_replaces(store: Store, clock: FakeClock):
    """Its time counts from then on."""
    store.set_project(Project("team", retention_days=1.0))
    store.add("team", [a_row(1, status="recovered"), a_row(2)])
    clock.advance(50_000.0)
    store.add("team", [a_row(1), a_row(2)])
    clock.advance(50_000.0)
    assert store.apply_retention() == 1
    assert [row["record_id"] for row in store.rows("team")] == ["run-7f3a:1"]


def test_limits_of_projects(store: Store):
    """They can be set, changed and taken back; one without any has none."""
    assert store.project("team") == Project("team", None, None)
    limits = Project("team", 600, 90.5)
    store.set_project(limits)
    store.create_token("other")
    assert store.project("team") == limits
    assert store.projects() == [Project("other"), limits]
    store.set_project(limits._replace(quota_records_per_min=None))
    assert store.project("team") == Project("team", None, 90.5)


def test_limits_that_are_none(store: Store):
    """Each is refused before anything is written."""
    wrong: list[Any] = [
        ("a b",),
        *(("team", quota) for quota in (0, 10**12, 1.5, True, "600")),
        *(("team", None, days) for days in (0.0, -1, float("nan"), 1e9, "7", True)),
    ]
    for limits in wrong:
        with pytest.raises(ConfigError):
            store.set_project(Project(*limits))
    assert store.projects() == []


def test_tokens(store: Store, address: str):
    """A token is known by its text until it is revoked; the tables have no part of its secret."""
    assert not store.has_tokens()
    writes, reads = store.create_token("team"), store.create_token("team", "read")
    assert store.has_tokens()
    found = store.token(writes)
    assert found is not None
    assert (found.project, found.may) == ("team", "ingest")
    assert store.token(reads).may == "read"  # type: ignore[union-attr]
    secret = writes.rpartition("_")[2]
    for wrong in (writes[:-1] + ("0" if writes[-1] != "0" else "1"), secret, "", "x" * 10_000):
        assert store.token(wrong) is None
    assert store.token(f"ct_{found.id}_{reads.rpartition('_')[2]}") is None
    assert secret not in repr(execute(address, "SELECT * FROM tokens"))
    assert secret not in repr(store.tokens())

    assert store.revoke(found.id)
    assert store.revoke(writes)
    assert not store.revoke("nobody's")
    assert store.token(writes) is None
    assert store.token(reads) is not None
    assert [(one.id == found.id, one.revoked_at is None) for one in store.tokens()] in (
        [(True, False), (False, True)],
        [(False, True), (True, False)],
    )


def test_many_threads_and_stores_at_once(store: Store, address: str):
    """All that was acknowledged is there once, whoever wrote it, beside readers and revocations."""
    batches = [[a_row(i) for i in range(at, at + 60)] for at in range(0, 600, 30)]
    with open_store(address) as other, ThreadPoolExecutor(8) as pool:
        added = list(
            pool.map(lambda n: (store, other)[n % 2].add("team", batches[n // 2]), range(40))
        )
        reading = [pool.submit(lambda: sum(1 for _ in store.rows("team"))) for _ in range(4)]
        assert {one.result() for one in reading} == {630}
    assert sum(one.stored for one in added) == 630
    assert sum(one.repeated for one in added) == 40 * 60 - 630
    assert len(content(store, "team")) == 630


def test_writers_of_the_same_records_do_not_lock_each_other(address: str):
    """In whatever order each of them sends them."""
    rows = [a_row(i) for i in range(300)]
    barrier = threading.Barrier(4)

    def write(number: int) -> int:
        with open_store(address) as mine:
            barrier.wait(60.0)
            mixed = rows[:: (1, -1)[number % 2]]
            return sum(mine.add("team", mixed[at : at + 150]).stored for at in (0, 150, 75))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == 300


def test_a_closed_store_serves_again(store: Store):
    """The next call opens it, so that nothing is lost at an end in the wrong order."""
    store.close()
    store.close()
    store.check()
    assert store.add("team", rows_of([a_record()])) == Added(1, 0)
