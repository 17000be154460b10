"""Calls that get their name when they end: rows by name, CPU by who used it, waits left out."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from contextvars import Context, copy_context
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.api.named_calls import NOT_COUNTED, NamedCalls, ThreadCpu, request_name
from carbontrack.api.track import current_span, track
from carbontrack.errors import ConfigError
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import thread_cpu_s
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.context import current
from tests.support.bench import Bench, ScriptedUsage, joules
from tests.unit.tracking.test_cpu_seconds_of_calls import Shared


@pytest.fixture(autouse=True)
def nothing_is_current():
    """Also where a test before has ended a span in another context than it was opened in."""
    token = current.set(None)
    yield
    current.reset(token)


class Spent:
    """The CPU seconds of a call, as a test sets them."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def begun_apart(calls, cpu_s=None):
    """A call that begins, and ends, in a context of its own."""
    context = Context()
    call = context.run(calls.begin, cpu_s or Spent(), is_outermost=True)
    end_as = call.end_as
    return SimpleNamespace(
        begin_wait=call.begin_wait,
        end_wait=call.end_wait,
        end_as=lambda *given: context.run(end_as, *given),
        call=call,
    )


def by_name(bench):
    """The rows by their names; none is there twice."""
    found = {record.name: record for record in bench.records}
    assert len(found) == len(bench.records)
    return found


def test_short_calls_are_summed_by_the_name_they_end_with():
    """A row for each name, with its calls, their time and their part of the energy."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker, window_s=1000)
        for n in range(300):
            call = calls.begin()
            bench.clock.advance(0.001 if n % 3 else 0.002)
            call.end_as("GET /a" if n % 3 else "GET /b", "error" if n == 0 else "ok")
    rows = by_name(bench)
    assert {name: row.calls for name, row in rows.items()} == {"GET /a": 200, "GET /b": 100}
    assert joules(rows["GET /a"]) == pytest.approx(20.0, rel=1e-6)
    assert joules(rows["GET /b"]) == pytest.approx(20.0, rel=1e-6)
    assert (rows["GET /b"].status, rows["GET /b"].error) == ("error", "1 of 100 calls failed")
    assert rows["GET /a"].status == "ok"


def test_windows_end_with_a_row_and_nothing_stays_open():
    """After `window_s` the rows are written at the next tick, and the sampler falls asleep."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker)
        for name in ("a", "b", "a"):
            call = calls.begin()
            bench.clock.advance(0.01)
            call.end_as(name)
        bench.run(11.0)
        assert {name: row.calls for name, row in by_name(bench).items()} == {"a": 2, "b": 1}
        bench.run(11.0)
        assert not bench.sampler.awake
    assert len(bench.records) == 2


def test_a_long_call_has_a_row_of_its_own():
    """From one second on, with its name; one that is credited by the process and one by itself."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker, window_s=1000)
        for cpu_s in (None, Spent()):
            call = calls.begin(cpu_s)
            bench.run(3.0, ticks=3)
            call.end_as("GET /long", "error", "ValueError: no")
        short = calls.begin()
        bench.clock.advance(0.5)
        short.end_as("GET /long")
    assert [row.calls for row in bench.records] == [1, 1, 1]
    for row in bench.records[:2]:
        assert (row.name, row.status, row.error) == ("GET /long", "error", "ValueError: no")
        assert row.duration_s == pytest.approx(3.0)
        assert joules(row) == pytest.approx(300.0)


@pytest.mark.parametrize("seconds", [0.1, 1.5])
def test_each_call_has_a_row_where_that_is_asked_for(seconds):
    """`window_s=0`: the record of one request."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker, window_s=0)
        for _ in range(3):
            call = calls.begin(Spent())
            bench.clock.advance(seconds)
            call.end_as("GET /")
            assert current.get() is None
        assert [(row.name, row.calls) for row in bench.records] == [("GET /", 1)] * 3
        assert not [row for row in bench.records if joules(row) != pytest.approx(100 * seconds)]
    assert len({row.record_id for row in bench.records}) == 3


def test_names_are_bounded(caplog):
    """What is one too many is counted as (other), which is said once."""
    with Bench() as bench, caplog.at_level(logging.WARNING, "carbontrack"):
        calls = NamedCalls(tracker=bench.tracker, most_names=3)
        for n in range(10):
            call = calls.begin()
            bench.clock.advance(0.01)
            call.end_as(f"GET /{n}")
    rows = {name: row.calls for name, row in by_name(bench).items()}
    assert rows == {"GET /0": 1, "GET /1": 1, "GET /2": 1, "(other)": 7}
    (said,) = caplog.messages
    assert "more than 3 names" in said
    assert "'GET /3'" in said


def test_the_name_of_a_request_has_no_text_of_the_client():
    """Methods that HTTP does not know have one name, and so have paths without a route."""
    assert request_name("GET", "/users/{id}") == "GET /users/{id}"
    assert request_name("BREW", "/pot") == "_OTHER /pot"
    assert request_name("get", None) == "_OTHER (no route)"


def shared_process():
    """A tracker of scope process, whose CPU energy is shared by CPU seconds."""
    shared = Shared()
    return shared, shared.tracker("process")


def test_cpu_is_theirs_who_used_it():
    """What waits gets nothing of the CPU's energy, however long; what works gets all of it."""
    shared, tracker = shared_process()
    calls = NamedCalls(tracker=tracker)
    for _ in range(3):
        wait, dear_cpu = calls.begin(Spent()), Spent()
        dear = copy_context().run(calls.begin, dear_cpu, is_outermost=True)
        dear_cpu.s = 5.0
        shared.clock.advance(0.1)
        dear.end_as("dear")
        shared.clock.advance(0.2)
        wait.end_as("wait")
    rows = shared.rows(tracker)
    assert rows["wait"] <= 1e-9
    # in the first round a window is opened at its end, and what comes later is nobody's
    assert rows["dear"] == pytest.approx(0.5 * (10.0 + 30.0 + 30.0), rel=0.01)


def test_what_is_used_is_credited_at_each_tick():
    """A long call's CPU seconds are shared where they were used, not where it ends."""
    shared, tracker = shared_process()
    calls, spent = NamedCalls(tracker=tracker), Spent()
    long = calls.begin(spent)
    for _ in range(4):
        spent.s += 10.0
        shared.clock.advance(1.0)
        shared.sampler.tick()
    shared.clock.advance(1.0)  # it waits
    shared.sampler.tick()
    long.end_as("long")
    assert shared.rows(tracker)["long"] == pytest.approx(0.5 * 400.0, rel=0.01)


def test_time_that_a_call_waits_for_a_message_is_not_its_own():
    """Neither in its length nor in what goes by time, with ticks meanwhile or without."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker, window_s=1000)
        call, other = begun_apart(calls), begun_apart(calls)
        bench.clock.advance(0.1)
        call.begin_wait()
        bench.run(5.0, ticks=5)
        call.end_wait()
        bench.clock.advance(0.1)
        call.begin_wait()
        bench.clock.advance(0.1)
        call.end_wait()
        call.end_as("socket")
        other.end_as("other")
    rows = by_name(bench)
    assert rows["socket"].duration_s == pytest.approx(0.2)
    # by time, from one reading at which it ran to the next
    assert joules(rows["socket"]) == pytest.approx(110.0 * 0.1 / 1.2 + 20.0 * 0.1 / 0.3)
    assert joules(rows["other"]) == pytest.approx(530.0 - joules(rows["socket"]))


def test_a_thousand_sockets_that_wait_cost_a_tick_nothing():
    """What waits, and has been credited what it used, is looked at no more."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker)
        sockets = [begun_apart(calls) for _ in range(1000)]
        for one in sockets:
            one.begin_wait()
        bench.run(2.0, ticks=2)
        assert not bench.sampler.under_way
        assert not bench.sampler.apportioner.single
        assert all(one.call.is_open for one in sockets)
        for one in sockets:
            one.end_wait()
            bench.clock.advance(0.001)
            one.end_as("WS /")
    (row,) = bench.records
    assert row.calls == 1000
    assert joules(row) == pytest.approx(100.0)


def test_what_never_got_a_name_is_in_a_row():
    """The program ends: what runs, and what waits, is written as unfinished."""
    with Bench() as bench:
        calls = NamedCalls("(at the end)", tracker=bench.tracker, labels={"app": "x"})
        running, waiting = begun_apart(calls), begun_apart(calls)
        waiting.begin_wait()
        bench.run(0.5)
        bench.run(0.25)
    (row,) = bench.records
    assert (row.name, row.calls, row.status) == ("(at the end)", 2, "error")
    assert row.labels == {"app": "x"}
    assert joules(row) == pytest.approx(75.0)
    running.end_as("late")
    waiting.end_as("late")
    assert len(bench.records) == 1
    assert calls.begin() is NOT_COUNTED  # its tracker is closed


@pytest.mark.parametrize("spans", ["roots", "all"])
@pytest.mark.parametrize("seconds", [0.1, 1.5])
def test_a_block_inside_is_a_child(spans, seconds):
    """The call becomes a span, and is summed all the same; where all spans are written it has a
    row that theirs name."""
    with Bench() as bench:
        bench.session.spans = spans
        calls = NamedCalls(tracker=bench.tracker, window_s=1000)
        for _ in range(2):
            call = calls.begin(Spent())
            with track("inside"):
                bench.clock.advance(seconds)
            call.end_as("GET /")
            assert current.get() is None
    outer = [row for row in bench.records if row.name == "GET /"]
    inner = [row for row in bench.records if row.name == "inside"]
    assert sum(map(joules, outer)) == pytest.approx(200 * seconds)
    assert len(outer) == (1 if spans == "roots" and seconds < 1 else 2)
    assert sum(row.calls for row in outer) == 2
    assert len(inner) == (2 if spans == "all" else 0)
    assert {row.parent_id for row in inner} == {row.record_id for row in outer if inner}
    assert len({row.record_id for row in bench.records}) == len(bench.records)


def test_decorated_functions_inside_are_counted_by_the_call():
    """As inside any open block: they have no rows of their own."""
    with Bench() as bench:

        @track(tracker=bench.tracker)
        def inner():
            bench.clock.advance(0.1)

        calls = NamedCalls(tracker=bench.tracker)
        for _ in range(2):
            call = calls.begin(Spent())
            inner()
            call.end_as("GET /")
    (row,) = bench.records
    assert (row.name, row.calls) == ("GET /", 2)
    assert joules(row) == pytest.approx(20.0)


def test_inside_an_open_block_that_counts(caplog):
    """A block around has the energy, which is said where it surprises; where all spans are written,
    each call is its child."""
    for spans in ("roots", "all"):
        with Bench() as bench:
            bench.session.spans = spans
            calls = NamedCalls(region="FR")
            with bench.tracker.span("serve") as around:
                calls.begin(Spent()).end_as("a task")
                assert not caplog.messages
                call = calls.begin(Spent(), is_outermost=True)
                bench.clock.advance(1.0)
                call.end_as("GET /", "error", "no")
        said = ["'serve' is open around the server" in one for one in caplog.messages]
        assert said == ([True] if spans == "roots" else [])
        caplog.clear()
        rows = by_name(bench)
        assert joules(rows.pop("serve")) == pytest.approx(100.0)
        rows.pop("a task", None)
        found = [(row.name, row.status, row.parent_id) for row in rows.values()]
        assert found == ([("GET /", "error", around.record_id)] if spans == "all" else [])


def test_requests_never_lie_in_one_another():
    """A context copied from that of another request says nothing, a block around it does."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker)

        def in_a_copied_context(n):
            call = calls.begin(Spent(), is_outermost=True)
            assert call.is_counted
            assert calls.begin(Spent()) is NOT_COUNTED
            if n == 1:
                current_span()
            if n < 3:
                copy_context().run(in_a_copied_context, n + 1)
            bench.clock.advance(0.1)
            call.end_as("GET /")
            assert current.get() is None

        in_a_copied_context(0)
        with bench.tracker.span("around"):
            assert calls.begin(Spent()) is NOT_COUNTED
    assert sum(row.calls for row in bench.records if row.name == "GET /") == 4


def test_each_call_is_counted_in_the_context_where_it_began():
    """Tasks that take turns leave each other's current call alone."""
    with Bench() as bench:
        calls = NamedCalls(tracker=bench.tracker, window_s=1000)

        async def request(n):
            call = calls.begin(Spent(), is_outermost=True)
            for _ in range(3):
                await asyncio.sleep(0)
                assert current.get() is call
            bench.clock.advance(0.001)
            call.end_as(f"GET /{n % 2}")
            assert current.get() is None

        async def main():
            await asyncio.gather(*map(request, range(10)))

        asyncio.run(main())
    assert {name: row.calls for name, row in by_name(bench).items()} == {"GET /0": 5, "GET /1": 5}


def test_a_mistake_is_said_when_they_are_made():
    """Before anything starts, as with `track`; nothing is measured under CARBONTRACK_DISABLE."""
    with pytest.raises(ConfigError, match="regoin"):
        NamedCalls(regoin="FR")
    with pytest.raises(ConfigError, match="most_names"):
        NamedCalls(most_names=0)
    with pytest.raises(ConfigError, match="window_s"):
        NamedCalls(window_s=-1)
    for ignored in ({"budget": "3 g"}, {"on_exceed": "raise"}, {"name": "all"}):
        with pytest.raises(ConfigError, match="applies to blocks and functions"):
            NamedCalls(**ignored)
    off = NamedCalls(disable=True)
    assert off.is_off
    assert off.begin() is NOT_COUNTED
    NOT_COUNTED.begin_wait()
    NOT_COUNTED.end_wait()
    NOT_COUNTED.end_as("GET /")


def test_they_can_be_pickled():
    """Settings only: another process has its own trackers."""
    calls = pickle.loads(pickle.dumps(NamedCalls(region="FR", output=None)))
    call = calls.begin(ThreadCpu())
    assert call.is_counted
    call.end_as("a")


def test_a_failure_of_ours_reaches_nobody(caplog):
    """The call is not counted, which is logged."""

    def fails():
        raise OSError("no clock")

    with Bench() as bench, caplog.at_level(logging.ERROR, "carbontrack"):
        calls = NamedCalls(tracker=bench.tracker)
        call = calls.begin(fails)
        call.end_as("GET /")
        assert current.get() is None
        call = calls.begin()
        bench.clock.advance(0.1)
        call.end_as("GET /")
    assert sum(row.calls for row in bench.records) == 1
    assert "could not be counted" in caplog.text


def burn(seconds):
    """Use the processor."""
    end_s = thread_cpu_s() + seconds
    while thread_cpu_s() < end_s:
        pass


def test_a_threads_cpu_seconds_can_be_asked_by_another():
    """They are that thread's own, and stay what they were when it has ended."""
    found, go_on, burnt = [], threading.Event(), threading.Event()

    def work():
        cpu_s = ThreadCpu()
        found.append(cpu_s)
        burn(0.02)
        found.append(cpu_s())
        burnt.set()
        go_on.wait()

    thread = threading.Thread(target=work)
    thread.start()
    burnt.wait()
    burn(0.02)  # in this one
    cpu_s, own_s = found
    assert own_s == pytest.approx(0.02, rel=0.5)
    assert own_s <= cpu_s() <= own_s + 0.01
    go_on.set()
    thread.join()
    assert own_s <= cpu_s() <= own_s + 0.01


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "work", "tick", "wait", "go on", "block"]),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.01, 0.4, 1.2]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.sampled_from([0.0, 1.0, 10.0]))
def test_whatever_the_order_the_rows_add_up(steps, window_s):
    """No row is there twice, all calls are counted, and no more energy than there was."""
    clock, sink = FakeClock(), MemorySink()
    began_s = clock.monotonic_s()
    sampler = Sampler(
        [FakeMeter(watts=100.0)], interval_s=3600.0, clock=clock, usage=ScriptedUsage(ours=0.5)
    )
    shared = Shared()
    shared.clock, shared.sampler, shared.sink = clock, sampler, sink
    tracker = shared.tracker("process")
    calls = NamedCalls(tracker=tracker, window_s=window_s, most_names=2)
    running, began = {}, 0
    for what, which, seconds in steps:
        if what == "begin" and which not in running:
            context, spent = Context(), Spent()
            call = context.run(calls.begin, spent, is_outermost=True)
            running[which], began = (context, call, spent), began + 1
        elif what == "tick":
            clock.advance(seconds)
            sampler.tick()
        elif which in running:
            context, call, spent = running[which]
            if what == "end":
                context.run(call.end_as, f"name {which}")
                del running[which]
            elif what == "work":
                clock.advance(seconds)
                spent.s += seconds
            elif what == "block":
                context.run(current_span)
            else:
                (call.begin_wait if what == "wait" else call.end_wait)()
    tracker.close()
    is_awake, still = sampler.awake, dict(sampler.under_way)
    sampler.close()
    assert sum(row.calls for row in sink.records) == began
    assert len({row.record_id for row in sink.records}) == len(sink.records)
    known = [row for row in sink.records if row.energy_kwh is not None]
    assert sum(map(joules, known)) <= 100.0 * (clock.monotonic_s() - began_s) + 1e-6
    assert not is_awake
    assert not still
