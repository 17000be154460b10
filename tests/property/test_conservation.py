"""Nothing is billed twice and nothing is lost, whatever is opened, closed and broken when."""

from __future__ import annotations

import contextvars
import dataclasses
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carbontrack.attribution.policy import Attribution, IdlePower, Shares, Usage
from carbontrack.record import COLUMNS, Record
from carbontrack.sampling.counts import Counts, Reading, advance
from carbontrack.sampling.ledger import Account, Step, Terms, credit
from carbontrack.testing import FakeMeter
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import Bench, joules

ACTION = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 9)),
    st.tuples(st.just("child"), st.integers(0, 9)),
    st.tuples(st.just("close"), st.integers(0, 9)),
    st.tuples(st.just("advance"), st.floats(0.0, 5.0)),
    st.tuples(st.just("watts"), st.floats(0.0, 500.0)),
    st.tuples(st.just("fail"), st.integers(1, 2)),
    st.tuples(st.just("tick"), st.just(0)),
    st.tuples(st.just("snapshot"), st.integers(0, 9)),
)


class Machinery:
    """Runs a program of actions and keeps its own account of what the machine used."""

    def __init__(self, *, always_open: bool) -> None:
        self.meters = [FakeMeter("fake:cpu"), FakeMeter("fake:gpu", "gpu", watts=30.0)]
        self.bench = Bench(self.meters)
        self.spans = []
        self.open = []
        if always_open:
            self.roof = self._opened(self.bench.tracker.span("roof"))

    def _opened(self, span):
        contextvars.Context().run(span.open)
        self.spans.append(span)
        return span

    def do(self, action, amount):
        """One step of the program."""
        if action == "open":
            self.open.append(self._opened(self.bench.tracker.span("root")))
        elif action == "child" and self.open:
            parent = self.open[amount % len(self.open)]
            self.open.append(self._opened(parent.span("child")))
        elif action == "close" and self.open:
            self.open.pop(amount % len(self.open)).close()
        elif action == "advance":
            self.bench.clock.advance(amount)
        elif action == "watts":
            self.bench.sampler.sample()  # the fake's power changes at a read
            self.meters[0].watts = amount
        elif action == "fail":
            self.meters[amount - 1].fail(amount)
        elif action == "tick":
            self.bench.sampler.tick()
        elif action == "snapshot" and self.open:
            self.open[amount % len(self.open)].snapshot()

    def finish(self):
        """Close what is open, in order of opening, with meters that answer."""
        for meter in self.meters:
            meter.back()
        self.bench.sampler.sample()
        for span in self.open:
            span.close()
        if hasattr(self, "roof"):
            self.roof.close()
        assert self.bench.sampler.leaves == 0
        assert not self.bench.sampler.awake
        self.bench.tracker.close()  # else its thread would go on polling the clock


def _used(span):
    columns = (span.record.cpu_kwh, span.record.gpu_kwh)
    return sum(column for column in columns if column is not None) * JOULES_PER_KWH


@settings(max_examples=150, deadline=None)
@given(program=st.lists(ACTION, max_size=40))
def test_roots_add_up_to_the_machine_while_something_is_open(program):
    """With something open all the time the roots are the whole, failed reads included."""
    machinery = Machinery(always_open=True)
    before = sum(machinery.bench.sampler.counts.energy_j)
    for action, amount in program:
        machinery.do(action, amount)
    machinery.finish()
    used = sum(machinery.bench.sampler.counts.energy_j) - before
    roots = [span for span in machinery.spans if span.parent is None]
    total = sum(map(_used, roots))
    assert total <= used * (1 + 1e-9) + 1e-9
    # What a child uses after the end of its last parent is in no root.
    if not _has_orphans(machinery.spans):
        assert total == pytest.approx(used, rel=1e-9, abs=1e-9)


def _has_orphans(spans):
    """Whether anything was counted between the end of a parent and that of a child of it."""
    counted = {span.record.record_id: sum(span._end.counts.energy_j) for span in spans}
    return any(
        span.parent is not None
        and counted[span.record.record_id] > counted[span.parent.record.record_id]
        for span in spans
    )


@settings(max_examples=150, deadline=None)
@given(program=st.lists(ACTION, max_size=40))
def test_roots_never_exceed_the_machine(program):
    """What is used while nothing is open is nobody's; the roots are never more than the whole."""
    machinery = Machinery(always_open=False)
    for action, amount in program:
        machinery.do(action, amount)
    machinery.finish()
    used = sum(machinery.bench.sampler.counts.energy_j)
    roots = [span for span in machinery.spans if span.parent is None]
    assert sum(map(_used, roots)) <= used * (1 + 1e-9) + 1e-9
    for span in machinery.spans:
        assert span.record.coverage is None or 0.0 <= span.record.coverage <= 1.0
        assert span.record.missed_reads >= 0


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.tuples(st.floats(0.01, 5.0), st.booleans()), min_size=1, max_size=12),
    watts=st.floats(1.0, 500.0),
)
def test_children_in_a_row_and_the_rest_are_the_parent(pieces, watts):
    """What the children used and what the parent used alone is the parent, to rounding."""
    meter = FakeMeter(watts=watts)
    with Bench([meter]) as bench:
        children, alone_s = [], 0.0
        with bench.tracker.span("parent") as parent:
            for seconds, in_child in pieces:
                if in_child:
                    with parent.span("child") as child:
                        bench.clock.advance(seconds)
                    children.append(child)
                else:
                    bench.clock.advance(seconds)
                    alone_s += seconds
        parts = sum(joules(child.record) for child in children) + alone_s * watts
        assert joules(parent.record) == pytest.approx(parts, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 12), seconds=st.floats(0.01, 100.0))
def test_concurrent_spans_get_equal_parts(count, seconds):
    """Spans that are open over the same time have the same energy, and together all of it."""
    with Bench() as bench:
        spans = [bench.tracker.span("s") for _ in range(count)]
        for span in spans:
            contextvars.Context().run(span.open)
        bench.clock.advance(seconds)
        for span in spans:
            span.close()
        used = [joules(span.record) for span in spans]
        assert used == pytest.approx([100.0 * seconds / count] * count, rel=1e-9)
        assert sum(used) == pytest.approx(100.0 * seconds, rel=1e-9)


COUNTS = st.lists(
    st.tuples(st.floats(0.001, 10.0), st.floats(0.0, 1000.0), st.booleans()),
    min_size=1,
    max_size=20,
)


@given(course=COUNTS)
def test_any_split_of_reads_gives_the_same_sum(course):
    """However often the meters are read, and whichever reads fail, the sum is the last count."""
    machine, _, _ = advance(Counts(0.0), Reading(0.0, (0.0,)))
    account, now_s, count = Account(), 0.0, 0.0
    for elapsed_s, step_j, fails in course:
        now_s += elapsed_s
        count += step_j
        machine, steps, _ = advance(machine, Reading(now_s, (None,) if fails else (count,)))
        step = Step(now_s, steps, ("cpu",), 1, 0, elapsed_s, 0.0)
        account = credit(account, step, Terms((1.0,), None, 1.0))
    now_s += 1.0
    machine, steps, _ = advance(machine, Reading(now_s, (count,)))
    account = credit(
        account, Step(now_s, steps, ("cpu",), 1, 0, 1.0, 0.0), Terms((1.0,), None, 1.0)
    )
    assert machine.energy_j[0] == pytest.approx(count, rel=1e-12)
    assert account.leaf_j[0] == pytest.approx(count, rel=1e-12)
    assert machine.observed_s[0] == pytest.approx(now_s, rel=1e-12)


@given(
    loads=st.lists(st.tuples(st.floats(0.0, 4.0), st.integers(0, 1 << 40)), min_size=8, max_size=8),
    others=st.floats(0.0, 16.0),
    elapsed_s=st.floats(0.05, 100.0),
)
def test_shares_of_eight_processes_are_no_more_than_the_machine(loads, others, elapsed_s):
    """Eight processes with common readings: each share lies in 0 to 1, and so does their sum."""
    policy = Attribution("process")
    machine_s = (sum(load for load, _ in loads) + others) * elapsed_s
    memory = sum(size for _, size in loads) + 1
    shares = [
        policy.shares(
            Usage(0.0, 5.0, 100.0, size, memory),
            Usage(elapsed_s, 5.0 + load * elapsed_s, 100.0 + machine_s, size, memory),
        )
        for load, size in loads
    ]
    for name in ("cpu", "ram", "other"):
        known = [getattr(share, name) for share in shares if getattr(share, name) is not None]
        assert all(0.0 <= share <= 1.0 for share in known)
        assert sum(known) <= 1.0 + 1e-9


MOMENT = st.tuples(
    st.floats(0.01, 5.0),  # how long
    st.floats(0.0, 400.0),  # at how many watts
    st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8),  # how busy each process is
    st.floats(0.0, 4.0),  # and everything else
)


@settings(max_examples=150, deadline=None)
@given(
    moments=st.lists(MOMENT, min_size=1, max_size=12),
    threads=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    idle=st.sampled_from(["proportional", "reserved", "none"]),
    idle_w=st.floats(0.0, 500.0),
)
@example(  # CPU seconds so few that they are subnormal numbers, which round coarsely
    moments=[(1.0, 0.0, [0.0] * 8, 0.0), (3.0, 1.0, [0, 0, 0, 1.0, 0, 0, 0, 5e-324], 0.0)],
    threads=[0, 0, 0, 1, 0, 0, 0, 1],
    idle="reserved",
    idle_w=1.0,
)
@example(  # differences of CPU seconds that are lost in the sum of all processes
    moments=[
        (1.0, 0.0, [0, 0, 0, 0, 0, 0, 1.0, 0], 0.0),
        (1.0, 1.0, [1.0401779615204189e-259, 1.0, 1.0, 1.0, 0, 0, 0, 5e-324], 0.0),
    ],
    threads=[1, 1, 1, 1, 0, 0, 0, 0],
    idle="reserved",
    idle_w=1.0,
)
def test_eight_processes_get_no_more_than_the_machine_by_any_policy(moments, threads, idle, idle_w):
    """Whoever works when: with disjoint or common reservations the sum is at most the machine."""
    policy = Attribution("process", idle, idle_power=IdlePower(cpu=idle_w))
    size = max(1, sum(threads))  # a process with no thread of its own shares those of the first
    group = [process if threads[process] else 0 for process in range(8)]
    splits = [policy.idle_split() for _ in range(8)]
    used_s, all_s, here_s, total_j, ours_j = [0.0] * 8, 0.0, [0.0] * 8, 0.0, 0.0
    for length_s, watts, busy, others in moments:
        before = [(used_s[p], all_s, here_s[group[p]]) for p in range(8)]
        for process in range(8):
            used_s[process] += busy[process] * length_s
            here_s[group[process]] += busy[process] * length_s
        all_s += (sum(busy) + others) * length_s
        total_j += watts * length_s
        for p in range(8):
            share = threads[group[p]] / size
            shares = policy.shares(
                Usage(0.0, before[p][0], before[p][1], 1, 8, share, before[p][2]),
                Usage(length_s, used_s[p], all_s, 1, 8, share, here_s[group[p]]),
            )
            shares = shares.over(Shares(0.0, 0.0, 0.0, 0.0, 0.0))
            if splits[p] is not None:
                shares = splits[p].shares(shares, ("cpu",), (watts * length_s,), length_s)
            assert 0.0 <= shares.cpu <= 1.0 + 1e-9
            ours_j += shares.cpu * watts * length_s
    assert ours_j <= total_j * (1 + 1e-9) + 1e-9


FINITE = st.floats(allow_nan=False, allow_infinity=False)
BY_TYPE = {
    "str": st.text(st.characters(exclude_categories=["Cs"])),
    "int": st.integers(-(2**53), 2**53),
    "float": FINITE,
}
JSON = st.recursive(
    st.none() | st.booleans() | FINITE | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def records(draw):
    """Any record at all."""
    given_ = {}
    for field in dataclasses.fields(Record):
        kind = str(field.type).split(" ")[0]
        if field.name == "labels":
            given_["labels"] = draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
        elif kind in BY_TYPE or kind in ("Status", "Basis"):
            text = BY_TYPE.get(kind, BY_TYPE["str"])
            filled = text.filter(bool) if kind not in ("int", "float") else text
            given_[field.name] = draw(
                filled if "None" not in str(field.type) else st.none() | filled
            )
    return Record(**given_)


@pytest.mark.slow
@settings(deadline=None)
@given(record=records())
def test_any_record_survives_being_a_row(record):
    """From a record to a row of text and back nothing changes."""
    row = record.to_row()
    assert tuple(row) == COLUMNS
    text = {key: "" if cell is None else str(cell) for key, cell in row.items()}
    assert Record.from_row(text) == record
    assert Record.from_row(row) == record
    assert json.loads(text["labels"]) == record.labels
