"""Decorated calls: one row for many, one for each long one, contexts left as they were."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from contextlib import nullcontext, suppress

import pytest

from carbontrack.api.track import current_span, track
from carbontrack.report.nesting import shares_of
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.call import Call, CoveredCall
from carbontrack.tracking.call_site import Callee, call_site_of
from carbontrack.tracking.context import current
from tests.support.bench import Bench, joules


def calls_of(bench):
    """How many calls the rows stand for."""
    return sum(record.calls for record in bench.records)


def begun(site):
    """A call that has begun."""
    call = Call(site)
    call.begin()
    return call


def test_short_calls_make_one_row():
    """A thousand short calls are one row with their number, their time and their energy."""
    with Bench() as bench:

        @track(tracker=bench.tracker)
        def work(n):
            bench.clock.advance(0.001)
            return n

        assert [work(n) for n in range(1000)] == list(range(1000))
        assert bench.records == []
    (row,) = bench.records
    assert row.calls == 1000
    assert row.duration_s == pytest.approx(1.0)
    assert joules(row) == pytest.approx(100.0, rel=1e-6)
    assert row.name == f"{__name__}.test_short_calls_make_one_row.<locals>.work"
    assert row.status == "ok"
    assert row.basis == "measured"


def test_what_lies_between_calls_is_nobodys():
    """Time without a call is not billed to the calls around it."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker, window_s=1000)
        def work():
            bench.clock.advance(0.01)

        for _ in range(10):
            work()
            bench.clock.advance(0.09)
        bench.sampler.tick()
    (row,) = bench.records
    assert row.duration_s == pytest.approx(0.1)
    assert joules(row) == pytest.approx(10.0, rel=1e-6)


def test_a_window_ends_with_a_row():
    """After `window_s` the row is written at the next tick, and a new window begins when called."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker, window_s=10)
        def work():
            bench.clock.advance(0.01)

        work()
        bench.run(9.0)
        assert bench.records == []
        bench.run(1.0)
        assert [row.calls for row in bench.records] == [1]
        assert not bench.sampler.awake
        work()
        work()
        bench.run(10.0)
        assert [row.calls for row in bench.records] == [1, 2]
        assert len({row.record_id for row in bench.records}) == 2


def test_a_long_call_has_a_row_of_its_own():
    """A call of a second or longer is not summed up."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        def work(seconds):
            bench.clock.advance(seconds)

        work(0.5)
        work(1.5)
        (long,) = bench.records
        assert long.calls == 1
        assert long.duration_s == pytest.approx(1.5)
        assert joules(long) == pytest.approx(150.0, rel=1e-6)
    assert calls_of(bench) == 2
    assert sum(map(joules, bench.records)) == pytest.approx(200.0, rel=1e-6)


def test_a_long_call_that_ticks_meet_is_whole():
    """Ticks in the middle of a call change neither its length nor its energy."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        def work():
            bench.run(5.0, ticks=7)

        work()
        (row,) = bench.records
        assert row.duration_s == pytest.approx(5.0)
        assert joules(row) == pytest.approx(500.0, rel=1e-6)
        assert row.coverage == pytest.approx(1.0)


class SlowMeter(FakeMeter):
    """Reading it takes 5 ms."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(watts=100.0)
        self._clock = clock

    def read_joules(self, now_s: float) -> float:
        found = super().read_joules(now_s)
        self._clock.advance(0.005)
        return found


def test_nothing_is_between_a_long_call_and_the_span_that_it_becomes():
    """One reading ends what the call has used, and begins what its span uses."""
    clock = FakeClock()
    with Bench([SlowMeter(clock)], clock=clock) as bench:

        @track("work", tracker=bench.tracker)
        def work():
            began_s = clock.monotonic_s()
            bench.run(3.0, ticks=3)
            return clock.monotonic_s() - began_s

        ran_s = work()
        (row,) = bench.records
    assert row.duration_s == pytest.approx(ran_s, abs=1e-9)
    assert joules(row) == pytest.approx(100.0 * ran_s, rel=1e-9)


def test_window_0_gives_every_call_a_row():
    """`window_s=0`: as many rows as calls."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker, window_s=0)
        def work():
            bench.clock.advance(0.01)

        for _ in range(3):
            work()
        assert [row.calls for row in bench.records] == [1, 1, 1]
        assert joules(bench.records[0]) == pytest.approx(1.0)


def test_failures_are_counted():
    """The row says how many of its calls failed; the exceptions pass."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        def work(n):
            bench.clock.advance(0.01)
            if n % 4 == 0:
                raise KeyError(n)

        for n in range(8):
            with suppress(KeyError):
                work(n)
    (row,) = bench.records
    assert (row.status, row.error) == ("error", "2 of 8 calls failed")


def test_calls_inside_a_span_are_the_spans():
    """A decorated call in an open span of the same tracker costs no row, and nothing twice."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        def work():
            bench.clock.advance(0.5)

        with bench.tracker.span("root") as root:
            work()
            work()
        assert [row.name for row in bench.records] == ["root"]
        assert joules(root.record) == pytest.approx(100.0)
    assert len(bench.records) == 1


def test_who_asks_inside_a_call_is_given_a_span():
    """`current_span` in a decorated call is that call, and can hold children."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        def work():
            bench.clock.advance(0.2)
            span = current_span()
            with span.span("part") as part:
                bench.clock.advance(0.3)
            return span, part

        span, part = work()
        assert span.name == "work"
        assert part.parent is span
        assert joules(part.record) == pytest.approx(30.0)
        assert joules(span.record) == pytest.approx(50.0, rel=1e-6)
    assert calls_of(bench) == 1


def test_recursion_is_counted_once():
    """A decorated function that calls itself uses its energy once."""
    with Bench() as bench:

        @track("fib", tracker=bench.tracker)
        def fib(n):
            bench.clock.advance(0.001)
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        assert fib(10) == 55
    assert sum(map(joules, bench.records)) == pytest.approx(17.7, rel=1e-3)


def test_overlapping_calls_share():
    """Calls in two threads at once use no more than the machine, and both get something."""
    with Bench() as bench:
        inside, leave = threading.Barrier(3), threading.Barrier(3)

        def body():
            inside.wait(60.0)
            leave.wait(60.0)

        threads = [
            threading.Thread(target=track(name, tracker=bench.tracker)(body)) for name in "ab"
        ]
        for thread in threads:
            thread.start()
        inside.wait(60.0)
        bench.run(0.5)
        leave.wait(60.0)
        for thread in threads:
            thread.join()
    used = [joules(row) for row in bench.records]
    assert len(used) == 2
    assert sum(used) <= 50.0 + 1e-9
    assert used == pytest.approx([25.0, 25.0], rel=0.02)


# -- coroutines and generators ------------------------------------------------------------------


def test_a_coroutine_is_measured_over_its_real_length():
    """From the first step to the last, awaiting included."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        async def work():
            for _ in range(3):
                bench.clock.advance(0.5)
                await asyncio.sleep(0)

        asyncio.run(work())
        (row,) = bench.records
        assert row.duration_s == pytest.approx(1.5)
        assert joules(row) == pytest.approx(150.0, rel=1e-6)


@pytest.mark.parametrize("window_s", [0, 10])
def test_a_generator_is_measured_without_its_consumer(window_s):
    """What the consumer does between two steps is not the generator's."""
    with Bench() as bench:

        @track("steps", tracker=bench.tracker, window_s=window_s)
        def steps():
            for n in range(4):
                bench.clock.advance(0.25)
                yield n

        for _ in steps():
            bench.run(3.0)
        (row,) = bench.records
        assert row.duration_s == pytest.approx(1.0)
        assert joules(row) == pytest.approx(100.0, rel=1e-6)


@pytest.mark.parametrize("window_s", [0, 10])
@pytest.mark.parametrize("around", [False, True])
def test_a_suspended_generator_leaves_no_trace_in_its_consumer(window_s, around):
    """Between two steps the consumer's current span is its own, whatever the body has open."""
    with Bench() as bench:

        @track("steps", tracker=bench.tracker, window_s=window_s)
        def steps():
            with track("inside", tracker=bench.tracker) as inside:
                assert current_span() is inside
                yield 1
                assert current_span() is inside
                yield 2
            yield 3

        def consume():
            before = current.get()
            generator = steps()
            next(generator)
            assert current.get() is before
            with bench.tracker.span("consumer") as mine:
                next(generator)
                assert current_span() is mine
                assert list(generator) == [3]
                assert current_span() is mine
            assert current.get() is before

        if around:
            with bench.tracker.span("around"):
                consume()
        else:
            consume()
        assert current.get() is None


def test_a_generator_may_be_moved_between_contexts():
    """Started in one thread and finished in another, it ends in both as it should."""
    with Bench() as bench:

        @track("steps", tracker=bench.tracker)
        def steps():
            bench.clock.advance(0.5)
            yield 1
            bench.clock.advance(0.7)
            yield 2

        generator = steps()
        next(generator)
        other = contextvars.Context()
        assert other.run(list, generator) == [2]
        assert other.run(current.get) is None
        assert current.get() is None
        (row,) = bench.records
        assert joules(row) == pytest.approx(120.0, rel=1e-6)


def test_tasks_that_outlive_a_decorated_coroutine_count_for_themselves():
    """A task that outlives the call that made it is neither lost nor revives the call."""
    with Bench() as bench:

        @track("late", tracker=bench.tracker)
        async def late():
            bench.clock.advance(0.25)

        async def background():
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert current_span() is None
            await late()
            with track("block", tracker=bench.tracker) as block:
                bench.clock.advance(0.5)
            return block

        @track("main", tracker=bench.tracker)
        async def main():
            return asyncio.create_task(background())

        async def run():
            return await (await main())

        block = asyncio.run(run())
        assert block.parent is None
        assert joules(block.record) == pytest.approx(50.0)
        assert bench.sampler.leaves == 0
    assert {row.name: row.calls for row in bench.records} == {"main": 1, "late": 1, "block": 1}
    assert {row.status for row in bench.records} == {"ok"}


def test_what_outlives_a_long_decorated_coroutine_counts_for_itself():
    """A call of a second or longer is over when it ends, for the tasks that it has made too."""
    with Bench() as bench:

        @track("late", tracker=bench.tracker)
        async def late():
            bench.clock.advance(0.25)

        async def background():
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await late()

        @track("main", tracker=bench.tracker)
        async def main():
            contextvars.Context().run(bench.run, 2.0)  # as the sampler's own thread does
            return asyncio.create_task(background())

        async def run():
            await (await main())

        asyncio.run(run())
    assert {row.name: row.calls for row in bench.records} == {"main": 1, "late": 1}


@pytest.mark.parametrize("longest_s", [0.25, 4.0], ids=["all are short", "the first is long"])
def test_blocks_in_calls_at_once_are_inside_a_row_that_is_written(longest_s):
    """Each names a row that holds it and is in the data, so that no sum counts it twice."""
    with Bench() as bench:
        bench.session.spans = "all"

        @track("task", tracker=bench.tracker)
        async def task(go_on):
            with track("block"):
                await go_on.wait()

        async def main():
            first, others = asyncio.Event(), asyncio.Event()
            tasks = [asyncio.create_task(task(e)) for e in (first, others, others)]
            await asyncio.sleep(0)
            contextvars.Context().run(bench.run, 0.25)
            others.set()
            await asyncio.sleep(0.01)
            contextvars.Context().run(bench.run, longest_s, ticks=4)
            first.set()
            await asyncio.gather(*tasks)

        asyncio.run(main())
    by_id = {row.record_id: row for row in bench.records}
    blocks = [row for row in bench.records if row.name == "block"]
    assert [by_id[block.parent_id].name for block in blocks] == ["task"] * 3
    assert all(block.parent_holds for block in blocks)
    tasks = [row for row in bench.records if row.name == "task"]
    assert len(tasks) == (1 if longest_s < 1.0 else 2)
    assert sum(row.calls for row in tasks) == 3
    counted = zip(bench.records, shares_of(bench.records), strict=True)
    assert sum(joules(row) * share for row, share in counted) == pytest.approx(
        100.0 * (0.25 + longest_s)
    )


def test_a_generator_runs_for_no_time_while_it_is_suspended():
    """In what is said of it meanwhile too; and its length is the sum of its runs, to the bit."""
    with Bench() as bench:
        seen = []

        @track("stream", tracker=bench.tracker)
        def stream():
            seen.append(current_span())
            yield
            bench.clock.advance(0.1)
            yield

        items = stream()
        next(items)
        for _ in range(7):
            bench.clock.advance(0.7)
        assert seen[0].snapshot().duration_s == 0.0
        before_s = bench.clock.monotonic_s()
        next(items)
        ran_s = bench.clock.monotonic_s() - before_s
        bench.clock.advance(0.3)
        assert seen[0].snapshot().duration_s == ran_s
        items.close()
    assert [row.duration_s for row in bench.records] == [ran_s]


@pytest.mark.parametrize("inside", [False, True])
def test_a_task_that_starts_the_next_leaves_nothing_behind(inside):
    """However often a decorated coroutine starts its successor, the calls before are let go."""
    with Bench() as bench:

        @track("step", tracker=bench.tracker)
        async def step(n):
            loop = asyncio.get_running_loop()
            following.append(loop.create_task(step(n - 1)) if n else None)

        async def run():
            await step(50)
            while (task := following.pop()) is not None:
                await task
            gc.collect()
            return sum(type(one) in (Call, CoveredCall) for one in gc.get_objects())

        following = []
        gc.collect()
        before = sum(type(one) in (Call, CoveredCall) for one in gc.get_objects())
        with bench.tracker.span("root") if inside else nullcontext():
            assert asyncio.run(run()) <= before + 2


def test_async_generators_are_counted():
    """`async for` over a decorated async generator: one call, its own steps."""
    with Bench() as bench:

        @track("steps", tracker=bench.tracker)
        async def steps():
            for n in range(4):
                bench.clock.advance(0.25)
                yield n

        async def consume():
            got = []
            async for n in steps():
                assert current_span() is None
                bench.run(1.0)
                got.append(n)
            return got

        assert asyncio.run(consume()) == [0, 1, 2, 3]
        (row,) = bench.records
        assert row.duration_s == pytest.approx(1.0)
        assert joules(row) == pytest.approx(100.0, rel=1e-6)


# -- ends ---------------------------------------------------------------------------------------


def test_what_is_under_way_at_the_end_is_written_once():
    """A tracker that is closed inside a call writes it as it is; the real end adds nothing."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        def work(seconds):
            bench.clock.advance(seconds)
            bench.tracker.close()
            bench.clock.advance(seconds)

        work(0.25)
        assert len(bench.records) == 1
        assert joules(bench.records[0]) == pytest.approx(25.0, rel=1e-6)
        assert not bench.sampler.awake


def test_a_suspended_generator_at_the_end_is_written():
    """What a generator has used before the program ended is not lost."""
    with Bench() as bench:

        @track("steps", tracker=bench.tracker)
        def steps():
            bench.clock.advance(0.5)
            yield 1

        generator = steps()
        next(generator)
        bench.tracker.close()
        (row,) = bench.records
        assert joules(row) == pytest.approx(50.0, rel=1e-6)
        generator.close()
        assert len(bench.records) == 1
        assert not bench.sampler.awake


def test_calls_after_the_tracker_was_closed_are_made_uncounted():
    """The function works on, nothing piles up, nothing stays awake."""
    bench = Bench()

    @track("work", tracker=bench.tracker)
    def work():
        return 1

    bench.tracker.close()
    for _ in range(100):
        assert work() == 1
    assert len(bench.session.sites) <= 1
    assert not bench.sampler.awake
    assert bench.sampler.under_way == {}


def test_calls_that_cannot_be_counted_any_more_are_said(caplog):
    """Nothing is left out in silence: one warning, with a count, however many calls."""
    bench = Bench()

    @track("work", tracker=bench.tracker)
    def work():
        return 1

    bench.tracker.close()
    with caplog.at_level(logging.WARNING, logger="carbontrack"):
        for _ in range(100):
            work()
        bench.clock.advance(61.0)
        work()
    first, second = [record.getMessage() for record in caplog.records]
    assert "work was called after its tracker was closed" in first
    assert "101 calls so far" in second


def test_a_call_that_crosses_the_close_has_a_row_at_once():
    """A call that another thread began while the tracker was closing is written, not forgotten."""
    with Bench() as bench:
        callee = Callee("work", {}, 1)
        site = call_site_of(bench.session, callee, window_s=10.0, budget_check=None)
        begun(site).end()
    before = len(bench.records)
    begun(site).end()
    crossing = begun(site)
    crossing.pause()
    crossing.resume()
    crossing.end()
    assert [record.calls for record in bench.records[before:]] == [1, 1]
    assert calls_of(bench) == 3
    assert not bench.sampler.awake


def test_a_function_that_is_made_anew_each_time_is_one_function():
    """A decorated function inside of another has one row per window, and nothing piles up."""
    with Bench() as bench:

        def outer(n):
            @track("inner", tracker=bench.tracker)
            def inner():
                bench.clock.advance(0.001)
                return n

            return inner()

        assert [outer(n) for n in range(500)] == list(range(500))
        assert len(bench.session.sites) == 1
    (row,) = bench.records
    assert row.calls == 500
    assert joules(row) == pytest.approx(50.0, rel=1e-6)


def test_a_function_that_is_gone_leaves_its_row_and_nothing_else():
    """What was summed for a function that no longer exists is written when its window is over."""
    with Bench() as bench:
        track("gone", tracker=bench.tracker, window_s=10)(lambda: bench.clock.advance(0.5))()
        gc.collect()
        bench.run(20.0)
        (row,) = bench.records
        assert (row.name, row.calls) == ("gone", 1)
        assert joules(row) == pytest.approx(50.0, rel=1e-6)
        assert not bench.session.sites
        assert not bench.sampler.awake


def test_functions_of_one_name_keep_their_own_rows():
    """Two functions are two, though they are called the same."""
    with Bench() as bench:
        same = track("same", tracker=bench.tracker)
        same(lambda: bench.clock.advance(0.1))()
        same(lambda: bench.clock.advance(0.2))()
    assert sorted(row.duration_s for row in bench.records) == pytest.approx([0.1, 0.2])


def test_another_trackers_span_does_not_swallow_the_calls():
    """With `tracker=` a call is a root of that tracker, whatever is open elsewhere."""
    with Bench() as outer, Bench() as inner:

        @track("work", tracker=inner.tracker)
        def work():
            inner.clock.advance(0.5)

        with outer.tracker.span("outer"):
            work()
    assert [row.name for row in inner.records] == ["work"]
    assert joules(inner.records[0]) == pytest.approx(50.0, rel=1e-6)


def test_a_budget_is_judged_for_the_row():
    """A call over its budget is marked, and no more."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker, budget="10 J", window_s=0)
        def work(seconds):
            bench.clock.advance(seconds)

        work(0.05)
        work(0.2)
        assert [row.status for row in bench.records] == ["ok", "budget"]


def test_calls_while_a_span_is_open_elsewhere_add_up_to_no_more_than_the_machine():
    """Short calls beside a long span share with it; the sum stays below what was used."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker)
        def work():
            bench.clock.advance(0.01)

        other = contextvars.Context().run(bench.tracker.span("other").open)
        for n in range(300):
            work()
            if n % 10 == 0:
                bench.sampler.tick()
        other.close()
    assert sum(map(joules, bench.records)) <= 300.0 + 1e-9
