"""Tasks that run side by side: whatever the order of their hooks, each joule is in one of them."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import carbontrack
from carbontrack.errors import BudgetExceeded, ConfigError
from carbontrack.integrations.tasks import Tasks
from carbontrack.testing import FakeClock, FakeMeter, MemorySink

WATTS = 100.0
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 5), st.integers(0, 5)),
        st.tuples(st.just("end"), st.integers(0, 5), st.just(0)),
    ),
    max_size=30,
)


def joules(records: list[carbontrack.Record]) -> float:
    """The energy of records that are in no other one."""
    alone = (record for record in records if not (record.parent_id and record.parent_holds))
    return sum((record.energy_kwh or 0.0) * 3.6e6 for record in alone)


@settings(max_examples=60)
@given(STEPS)
def test_whatever_the_order_each_joule_is_counted_once(steps: list[tuple[str, int, int]]) -> None:
    """Hooks that come twice, too late or for unknown tasks leave nothing open and count nothing."""
    clock, sink = FakeClock(), MemorySink()
    with carbontrack.Tracker(meters=[FakeMeter(watts=WATTS)], sinks=[sink], clock=clock) as tracker:
        tasks, around, used_j = Tasks(tracker=tracker), dict[int, int | None](), 0.0
        for kind, key, outer in steps:
            if kind == "begin" and key not in tasks:
                tasks.begin(key, f"task {key}", {"key": key}, outer)
                around[key] = outer if outer in around else None
            elif kind == "end":
                tasks.end(key)
                ended = {key}
                while more := {k for k, o in around.items() if o in ended} - ended:
                    ended |= more
                around = {k: o for k, o in around.items() if k not in ended}
            assert {k for k in range(6) if k in tasks} == around.keys()
            clock.advance(1.0)
            used_j += WATTS if around else 0.0
        for key in list(around):
            tasks.end(key)
    assert joules(sink.records) == pytest.approx(used_j)
    assert {record.status for record in sink.records} <= {"ok"}
    assert carbontrack.current_span() is None


def test_a_task_of_another_thread_is_a_child() -> None:
    """It is inside the task around it, though a thread begins with an empty context."""
    clock, sink = FakeClock(), MemorySink()
    with carbontrack.Tracker(meters=[FakeMeter(watts=WATTS)], sinks=[sink], clock=clock) as tracker:
        tasks = Tasks(tracker=tracker, labels={"team": "a"})
        assert tasks.record is None
        tasks.begin("fit", "fit", {})
        seen = []

        def work() -> None:
            tasks.begin("part", "part", {"n": 1}, "fit")
            seen.append(carbontrack.current_span())
            clock.advance(2.0)
            tasks.end("part")
            seen.append(carbontrack.current_span())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        tasks.end("fit")
    part, after = seen
    assert after is None
    assert part is not None
    assert part.record is not None
    assert dict(part.record.labels) == {"n": 1, "team": "a"}
    assert joules(sink.records) == pytest.approx(200.0)
    assert tasks.record is sink.records[0]
    assert part.record.parent_id == tasks.record.record_id


def test_a_budget_that_is_due_ends_everything_that_is_open() -> None:
    """What is raised at the end of an inner task does not leave the outer one open."""
    clock, sink = FakeClock(), MemorySink()
    with carbontrack.Tracker(meters=[FakeMeter(watts=WATTS)], sinks=[sink], clock=clock) as tracker:
        tasks = Tasks(tracker=tracker, budget="100 J", on_exceed="raise")
        tasks.begin("fit", "fit", {})
        tasks.begin("part", "part", {}, "fit")
        clock.advance(2.0)
        with pytest.raises(BudgetExceeded):
            tasks.end("fit")
        assert "part" not in tasks
    assert [record.status for record in sink.records] == ["budget"]
    assert carbontrack.current_span() is None


def test_copies_have_nothing_open() -> None:
    """A copy goes where there is no tracker; settings are checked before it could."""
    with carbontrack.Tracker(meters=[]) as tracker:
        tasks = Tasks(tracker=tracker)
        tasks.begin("fit", "fit", {})
        copies = (pickle.loads(pickle.dumps(tasks)), copy.deepcopy(tasks))
        tasks.end("fit")
        for copied in copies:
            assert "fit" not in copied
            copied.begin("fit", "fit", {})
            copied.end("fit")
            assert copied.record is not None
            assert copied.record.status == "disabled"
        assert tasks.record is not None
        assert tasks.record.status == "ok"
    with pytest.raises(ConfigError):
        Tasks(labels=3)
