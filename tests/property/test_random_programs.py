"""Whatever a program opens, closes, outlives and leaves open, each joule is in one row that counts.

Programs are generated, run on a simulated machine, and compared with a model that knows only what
is open when.
"""

from __future__ import annotations

import gc
import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbontrack.api.track import PROVIDER
from carbontrack.record import Record
from carbontrack.report.nesting import one_per_id, shares_of
from carbontrack.report.read import read_records
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import joules
from tests.support.costs import collect_all
from tests.support.random_programs import STEPS, Program, Step

STEP = st.builds(
    Step, st.sampled_from(STEPS), st.integers(0, 4), st.integers(0, 7), st.integers(0, 63)
)
PROGRAMS = st.lists(STEP, max_size=40)
SHAPES = st.fixed_dictionaries(
    {
        "spans": st.sampled_from(["roots", "all"]),
        "window_s": st.sampled_from([10.0, 0.5, 0.0]),
        "trackers": st.sampled_from([1, 2]),
        "budget": st.booleans(),
    }
)


class Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage() + "".join(map(str, record.exc_info or ())))


def ran(steps: Sequence[Step], **shape) -> Program:
    """The program, after its end; no error of ours was logged."""
    errors, logger = Errors(), logging.getLogger("carbontrack")
    logger.addHandler(errors)
    program = Program(**shape)
    try:
        program.run(list(steps))
    finally:
        logger.removeHandler(errors)
        program.bench.sampler.close()
    assert errors.messages == []
    return program


def used(record: Record) -> float:
    """A record's energy; without a reading after its start it is unknown."""
    if record.energy_kwh is None:
        assert record.duration_s == 0.0
        return 0.0
    return joules(record)


def assert_sum(program: Program) -> None:
    """What a report adds up is what the model says."""
    records, model = program.bench.records, program.model
    ids = [record.record_id for record in records]
    assert len(set(ids)) == len(ids)
    shares = shares_of(one_per_id(records))
    total = sum(used(r) * share for r, share in zip(records, shares, strict=True) if share)
    if not model.overlapped:
        assert total == pytest.approx(model.ours_j, rel=1e-9, abs=1e-9)
    else:
        assert model.ours_j * (1 - 1e-9) - 1e-9 <= total <= model.machine_j * (1 + 1e-9) + 1e-9


def assert_parents(records: Sequence[Record]) -> None:
    """A parent that holds a row is in the data, and its time contains the row's.

    A parent that outlives its own parent has two rows, and keeps its id for the later one; what has
    ended before that names this id as well.
    """
    by_id = {record.record_id: record for record in records}
    rows = defaultdict(list)
    for record in records:
        rows[record.name].append(record)
    for record in records:
        if record.parent_holds:
            parents = rows[by_id[record.parent_id or ""].name]
            assert min(parent.started_at for parent in parents) <= record.started_at
            assert record.ended_at <= max(parent.ended_at for parent in parents)


def assert_no_gaps(records: Sequence[Record]) -> None:
    """Rows of one span follow each other."""
    rows = defaultdict(list)
    for record in records:
        if record.name.partition("-")[0] in ("root", "child", "track", "block"):
            rows[record.name].append(record)
    for own in rows.values():
        own.sort(key=lambda row: (row.started_at, row.ended_at))
        for before, after in pairwise(own):
            assert before.ended_at == after.started_at


def assert_nothing_left(program: Program) -> None:
    sampler = program.bench.sampler
    assert sampler.leaves == 0
    assert not sampler.under_way
    assert not sampler.awake
    assert not getattr(sampler.apportioner, "single", ())
    for tracker in program.trackers:
        assert not tracker.session._open_roots
        assert tracker.session.lost_records == 0


def check(program: Program) -> None:
    """All that holds of a program that has ended."""
    assert_sum(program)
    assert_parents(program.bench.records)
    assert_no_gaps(program.bench.records)
    assert_nothing_left(program)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(steps=PROGRAMS, shape=SHAPES)
def test_a_report_adds_up_what_the_machine_used_while_anything_was_open(steps, shape):
    """Roots, and rows that no parent holds: to rounding, and each record once."""
    check(ran(steps, **shape))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), length=st.sampled_from([20, 50, 100]), shape=SHAPES)
def test_long_programs(seed, length, shape):
    """Likewise for programs that are longer than the ones which are easily made smaller."""
    chance = random.Random(seed)
    steps = [
        Step(chance.choice(STEPS), chance.randrange(5), chance.randrange(8), chance.randrange(64))
        for _ in range(length)
    ]
    check(ran(steps, **shape))


@pytest.mark.parametrize(
    ("trackers", "steps"),
    [
        pytest.param(
            1,
            [
                Step("call"), Step("stream"), Step("quick", how=3), Step("advance", how=1),
                Step("open"), Step("step", how=6), Step("advance", how=3), Step("leave"),
                *(Step("advance", how=how) for how in (2, 7, 5, 2, 4, 6, 7, 6, 6, 2)),
                Step("step", how=1), Step("quick", how=4),
            ],
            id="a generator that is a row's length suspended ran for no time",
        ),
        pytest.param(
            2,
            [
                Step("stream", which=2, how=1), Step("stream", which=2, how=1),
                Step("step", which=1, how=1), Step("step", how=1),
            ],
            id="two short calls of one function at once, each with a block inside",
        ),
    ],
)  # fmt: skip
def test_programs_that_were_once_counted_wrongly(trackers, steps):
    """As they were found, and made smaller."""
    check(ran(steps, trackers=trackers, spans="all"))


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(steps=PROGRAMS, shape=SHAPES)
def test_a_file_read_without_double_counting_has_the_same_sum(steps, shape):
    """As `read_records` does it, on columns, for a file that all trackers have written."""
    program = ran(steps, **shape)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        sink = CsvSink(path)
        for record in program.bench.records:
            sink.write(record)
        sink.close()
        if not path.exists():
            assert not program.bench.records
            return
        frame = read_records(path, without_double_counting=True)
    shares = shares_of(program.bench.records)
    expected = sum(used(r) * s for r, s in zip(program.bench.records, shares, strict=True))
    assert frame["energy_kwh"].sum() * JOULES_PER_KWH == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.usefixtures("frozen")
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(steps=PROGRAMS, shape=SHAPES)
def test_a_program_leaves_nothing_to_the_garbage_collector(steps, shape):
    """What has ended is freed by its last reference: no object of ours is in a cycle."""
    PROVIDER.close()  # what other tests have left to it may be given up at any moment
    collect_all()
    gc.disable()
    try:
        program = ran(steps, **shape)
        for forgotten in (program.actors, program.streams, program.open):
            forgotten.clear()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        ours = [type(one) for one in gc.garbage if "carbontrack" in type(one).__module__]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert ours == []
