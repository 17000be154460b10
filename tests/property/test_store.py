"""Any order and any split of what clients send ends in the same table, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.record import Record
from carbontrack.report.nesting import one_row_per_id
from carbontrack.report.typed import distinct, frame_of_records
from carbontrack.sinks.jsonl import record_object
from carbontrack.store.base import Store
from carbontrack.store.factory import open_store
from carbontrack.store.rows import StoredRow
from tests.support.records import a_record
from tests.support.stores import content, rows_of

pytestmark = pytest.mark.xdist_group("postgres")

IDS = 6
PROJECTS = count()
TIMES = ("started_at", "ended_at")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """A store of which each example has a project."""
    if request.param == "sqlite":
        address = str(tmp_path_factory.mktemp("store") / "team.db")
    else:
        address = request.getfixturevalue("postgres").new_schema()
    with open_store(address) as made:
        yield made


@cache
def sent(number: int, *, is_recovered: bool) -> Record:
    """The finished record of an id, or its checkpoint: each is the same however often it comes."""
    if is_recovered:
        return a_record(number, status="recovered", energy_kwh=0.25 * number, labels={"n": number})
    return a_record(number, status=("ok", "error")[number % 2], energy_kwh=1.0 * number, error=None)


@cache
def row_of(number: int, *, is_recovered: bool) -> StoredRow:
    """As the store takes it."""
    return rows_of([sent(number, is_recovered=is_recovered)])[0]


parts = st.tuples(st.integers(0, IDS - 1), st.booleans())
"""The number of a record, and whether it is its checkpoint."""


@settings(max_examples=25)
@given(
    batches=st.lists(st.lists(parts, max_size=12), max_size=6),
    random=st.randoms(use_true_random=False),
)
def test_any_order_ends_in_the_same_table(
    store: Store, batches: list[list[tuple[int, bool]]], random: Any
) -> None:
    """It is what `report` keeps of the same rows in a file, whatever was repeated or recovered."""
    project, mixed = f"p{next(PROJECTS)}", f"p{next(PROJECTS)}"
    rows = [[row_of(number, is_recovered=early) for number, early in batch] for batch in batches]
    added = [store.add(project, batch) for batch in rows]

    everything = [sent(number, is_recovered=early) for batch in batches for number, early in batch]
    frame = frame_of_records(everything)
    kept = one_row_per_id(frame)[0]
    assert len(distinct(frame)) == len(kept)
    found = content(store, project)
    assert {(row["record_id"], row["status"]) for row in found.values()} == {
        *zip(kept["record_id"], kept["status"], strict=True)
    }
    for row in found.values():
        number = int(row["record_id"].partition(":")[2])
        whole = record_object(sent(number, is_recovered=row["status"] == "recovered"))
        assert row | {time: whole[time] for time in TIMES} == whole
    # each row that was written is new, or has replaced a checkpoint
    written = sum(one.stored for one in added)
    assert len(found) <= written <= 2 * len(found)
    assert written + sum(one.repeated for one in added) == len(everything)

    together = [row for batch in rows for row in batch]
    random.shuffle(together)
    while together:
        size = random.randint(1, len(together))
        store.add(mixed, together[:size])
        del together[:size]
    assert content(store, mixed) == found
