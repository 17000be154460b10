"""The record: its columns, its rows, and what a reader takes."""

import json
import math
import pickle
from dataclasses import FrozenInstanceError

import pytest

from carbontrack.record import COLUMNS, NUMBER_COLUMNS, SCHEMA, TRUTH_COLUMNS, Record
from carbontrack.sinks.jsonl import json_line, record_object
from tests.support.records import HOSTILE, a_record

SCHEMA_1 = [
    "schema",
    "record_id",
    "run_id",
    "parent_id",
    "name",
    "labels",
    "status",
    "error",
    "started_at",
    "ended_at",
    "duration_s",
    "calls",
    "cpu_kwh",
    "gpu_kwh",
    "ram_kwh",
    "other_kwh",
    "energy_kwh",
    "energy_low_kwh",
    "energy_high_kwh",
    "machine_kwh",
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
    "water_l",
    "embodied_g",
    "region",
    "region_basis",
    "intensity_g_per_kwh",
    "intensity_low_g_per_kwh",
    "intensity_high_g_per_kwh",
    "intensity_source",
    "intensity_year",
    "pue",
    "basis",
    "cpu_basis",
    "gpu_basis",
    "ram_basis",
    "meters",
    "coverage",
    "max_gap_s",
    "missed_reads",
    "faults",
    "scope",
    "idle",
    "cpu_share",
    "cpu_model",
    "cpu_threads",
    "cpu_tdp_w",
    "gpu_models",
    "gpu_count",
    "ram_gib",
    "host_id",
    "pid",
    "rank",
    "world_size",
    "cloud_provider",
    "cloud_region",
    "os",
    "python",
    "carbontrack",
]


SCHEMA_2 = [
    *SCHEMA_1,
    "parent_holds",
    "job_id",
    "attempt",
    "local_rank",
    "task_id",
    "market_emissions_g",
    "abiotic_kg_sb",
]


def test_columns_of_schema_2_never_change():
    """The columns stand in this order for as long as the schema is 2; those of 1 come first."""
    assert SCHEMA == 2
    assert list(COLUMNS) == SCHEMA_2
    assert list(a_record().to_row()) == SCHEMA_2


def test_number_columns_are_those_of_numbers():
    """Quantities and counts are numbers; names, ids and instants are text."""
    text = {
        "record_id", "run_id", "parent_id", "name", "labels", "status", "error", "started_at",
        "ended_at", "region", "region_basis", "intensity_source", "basis", "cpu_basis",
        "gpu_basis", "ram_basis", "meters", "faults", "scope", "idle", "cpu_model", "gpu_models",
        "host_id", "cloud_provider", "cloud_region", "os", "python", "carbontrack", "job_id",
        "task_id",
    }  # fmt: skip
    assert set(TRUTH_COLUMNS) == {"parent_holds"}
    assert set(NUMBER_COLUMNS) == set(COLUMNS) - text - {"parent_holds"}


def test_unknown_is_none_everywhere():
    """A record that only says that something ran holds no figure at all, and no zero."""
    bare = Record(record_id="a", run_id="a", name="a", started_at="x", ended_at="y")
    figures = {name: getattr(bare, name) for name in NUMBER_COLUMNS}
    assert figures.pop("schema") == 2
    assert figures.pop("calls") == 1
    assert set(figures.values()) == {None}


def test_a_record_cannot_be_changed():
    """A record is a fact."""
    with pytest.raises(FrozenInstanceError):
        a_record().energy_kwh = 0.0


def test_rows_come_back_as_they_went():
    """A record survives being a row of values, and a row of text."""
    record = a_record(
        labels={"n": 3, "x": [1.5, None], "ü": "é"}, coverage=0.1 + 0.2, parent_holds=False
    )
    assert Record.from_row(record.to_row()) == record
    as_text = {k: "" if v is None else str(v) for k, v in record.to_row().items()}
    assert Record.from_row(as_text) == record


@pytest.mark.parametrize(
    ("cell", "holds"),
    [(True, True), (1, True), ("1.0", True), ("True", True), ("false", False), ("0", False)],
)
def test_truth_is_read_from_every_store(cell, holds):
    """CSV writes words, SQLite numbers, and pandas both with capitals and as floats."""
    assert Record.from_row(a_record().to_row() | {"parent_holds": cell}).parent_holds is holds


def test_what_is_neither_true_nor_false_is_refused():
    """A cell of another column, in a row that was shifted, is not taken for an answer."""
    with pytest.raises(ValueError, match="parent_holds"):
        Record.from_row(a_record().to_row() | {"parent_holds": "FR"})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_come_back(name):
    """A name is text, whatever a spreadsheet or a parser would make of it."""
    record = a_record(name=name, labels={name: name})
    assert Record.from_row(record.to_row()) == record


def test_a_record_crosses_processes():
    """Pickling, as worker processes do it, changes nothing."""
    record = a_record()
    assert pickle.loads(pickle.dumps(record)) == record


def test_unknown_columns_are_ignored_and_absent_ones_unknown():
    """A reader takes rows of other versions."""
    row = {"record_id": "a", "run_id": "b", "name": "n", "started_at": "x", "ended_at": "y"}
    record = Record.from_row(row | {"from_the_future": "1", "cpu_kwh": "1e-3"})
    assert record.cpu_kwh == 1e-3
    assert record.gpu_kwh is None


@pytest.mark.parametrize("column", ["record_id", "run_id", "name", "started_at", "ended_at"])
def test_a_row_without_its_identity_is_refused(column):
    """What was measured, and when, must be there."""
    row = a_record().to_row() | {column: ""}
    with pytest.raises(ValueError, match=column):
        Record.from_row(row)


@pytest.mark.parametrize(
    ("column", "cell"), [("cpu_kwh", "much"), ("calls", "x"), ("labels", "[1]"), ("labels", "{")]
)
def test_a_cell_of_the_wrong_type_is_named(column, cell):
    """The error names the column and the cell."""
    with pytest.raises(ValueError, match=column):
        Record.from_row(a_record().to_row() | {column: cell})


def test_whole_numbers_that_a_spreadsheet_made_floats_are_read():
    """`1000.0` in a column of counts is 1000."""
    assert Record.from_row(a_record().to_row() | {"calls": "1000.0"}).calls == 1000


class Mute:
    """Something that cannot even say what it is."""

    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    "labels",
    [
        {("a", 1): "tuple as a key"},
        {None: 1, 2: "two", True: "yes"},
        {"nested": {("x",): object()}},
        {"not finite": float("nan")},
        {"bytes": b"\x00\xff", "set": {1}},
        {"mute": Mute()},
    ],
)
def test_labels_of_any_kind_make_a_row(labels):
    """No label can keep a record from being written."""
    record = a_record(labels=labels)
    text = record.to_row()["labels"]
    assert isinstance(text, str)
    assert text.startswith("{")
    assert json.loads(json_line(record_object(record)))["labels"]


def test_labels_that_hold_themselves_make_a_row():
    """Not even a label without an end can keep a record from being written."""
    labels: dict[str, object] = {}
    labels["self"] = labels
    record = a_record(labels=labels)
    assert str(record.to_row()["labels"]).startswith("{")
    assert json.loads(json_line(record_object(record)))["labels"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_the_cell_of_labels_is_json_that_every_parser_takes(number):
    """NaN and the infinities, which JSON does not have, are null at any depth; the rest stays."""
    labels = {"loss": number, "deep": [1.5, {"x": number}], "text": "NaN, Infinity", "no": None}
    cell = a_record(labels=labels).to_row()["labels"]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(cell, parse_constant=refuse) == labels | {
        "loss": None,
        "deep": [1.5, {"x": None}],
    }


@pytest.mark.parametrize(
    ("column", "cell"),
    [("labels", "[" * 100_000), ("labels", '{"a":' * 100_000), ("calls", "1e999")],
    ids=["list", "object", "infinite"],
)
def test_a_cell_that_is_a_bomb_is_refused_like_any_other(column: str, cell: str) -> None:
    """A reader passes over the row; no RecursionError and no OverflowError comes out of it."""
    with pytest.raises(ValueError, match=f"column '{column}' cannot contain"):
        Record.from_row(a_record().to_row() | {column: cell})
