"""What outlives its parent: every joule is in exactly one row that a report adds up."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Iterator, Sequence

import pytest

from carbontrack.api.track import current_span, track
from carbontrack.record import Record
from carbontrack.tracking.context import current
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import Bench, joules

WATTS = 100.0


def added_up(records: Sequence[Record]) -> float:
    """The sum of the roots, and of what no parent holds, in joules."""
    return sum(joules(record) for record in records if not record.parent_holds)


def by_name(records: Sequence[Record]) -> dict[str, Record]:
    """The records, each with a name of its own."""
    assert len({record.name for record in records}) == len(records)
    return {record.name: record for record in records}


def assert_sound(bench: Bench, seconds: float) -> None:
    """The rows add up to what the machine used, no id is there twice, and nothing is left open."""
    assert added_up(bench.records) == pytest.approx(WATTS * seconds, rel=1e-12)
    ids = [record.record_id for record in bench.records]
    assert len(set(ids)) == len(ids)
    assert bench.sampler.leaves == 0
    assert not bench.sampler.under_way
    known = {record.record_id for record in bench.records}
    assert {record.parent_id for record in bench.records if record.parent_holds} <= known


@pytest.fixture(params=["roots", "all"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A tracker of a machine of 100 W, with rows for roots or for all spans."""
    with Bench() as made:
        made.session.spans = request.param
        yield made


def test_a_span_that_outlives_its_parent_is_a_root_from_there_on(bench: Bench) -> None:
    """What it used before is in the parent's row, what it uses after in its own; no gap between."""
    request = bench.tracker.span("request").open()
    job = bench.tracker.span("job").open()
    bench.run(1.0)
    request.close()
    bench.run(2.0)
    assert job.snapshot().duration_s == pytest.approx(2.0)
    job.close()

    last = bench.records[-1]
    assert (last.name, last.parent_id, last.parent_holds) == ("job", request.record_id, False)
    assert (last.record_id, job.record) == (job.record_id, last)
    assert last.started_at == request.record.ended_at  # type: ignore[union-attr]
    assert [joules(r) for r in bench.records if not r.parent_holds] == pytest.approx([100.0, 200.0])
    assert_sound(bench, 3.0)


def test_what_outlives_a_root_goes_on_from_the_roots_last_reading(bench: Bench) -> None:
    """Nothing is read once more for it, and a read that failed has failed once."""
    request = bench.tracker.span("request").open()
    jobs = [request.span(f"job {number}").open() for number in range(3)]
    reads = bench.meter.reads
    bench.meter.fail()
    request.close()
    assert bench.meter.reads == reads + 1
    for job in jobs:
        job.close()
    assert bench.sampler.counts.missed == 1
    assert [one.record.missed_reads for one in (request, *jobs) if one.record] == [1, 0, 0, 0]
    assert not bench.sampler.awake


def test_with_all_spans_each_part_has_a_row_inside_its_parent() -> None:
    """The part before, and those of the spans inside, name the row that contains them."""
    with Bench() as bench:
        bench.session.spans = "all"
        outer = bench.tracker.span("outer").open()
        middle = outer.span("middle").open()
        inner = middle.span("inner").open()
        bench.run(1.0)
        outer.close()
        bench.run(1.0)
        inner.close()
        middle.close()
        rows = [(r.name, r.parent_holds, joules(r)) for r in bench.records]
        parents = {r.record_id: r for r in bench.records}

    assert sorted(rows, key=lambda row: (row[0], str(row[1]))) == [
        ("inner", True, pytest.approx(100.0)),
        ("inner", True, pytest.approx(100.0)),
        ("middle", False, pytest.approx(100.0)),
        ("middle", True, pytest.approx(100.0)),
        ("outer", None, pytest.approx(100.0)),
    ]
    for record in bench.records:
        if record.parent_holds:
            parent = parents[record.parent_id or ""]
            assert parent.started_at <= record.started_at
            assert record.ended_at <= parent.ended_at
    assert_sound(bench, 2.0)


def test_a_span_inside_another_open_one_moves_into_that(bench: Bench) -> None:
    """The outermost span contains it all the time, so it needs no second row."""
    with bench.tracker.span("root") as root:
        middle = root.span("middle").open()
        inner = middle.span("inner").open()
        bench.run(1.0)
        middle.close()
        bench.run(1.0)
        inner.close()
    assert inner.record is not None
    assert (inner.record.parent_id, inner.record.parent_holds) == (root.record_id, True)
    assert joules(inner.record) == pytest.approx(200.0)
    assert_sound(bench, 2.0)


def test_blocks_that_overlap_have_a_row_each_and_are_warned_of_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Open a, open b, close a, close b: b counts for itself, and stays the current span."""
    for _ in range(3):
        a = bench.tracker.span("a").open()
        bench.run(1.0)
        b = bench.tracker.span("b").open()
        a.close()
        assert current_span() is b
        bench.run(3.0)
        b.close()
        assert current_span() is None
    assert {r.name for r in bench.records} == {"a", "b"}
    assert_sound(bench, 12.0)
    warnings = [r.message for r in caplog.records if "was closed before" in r.message]
    assert len(warnings) == 1
    assert "'a' was closed before 'b'" in warnings[0]


def test_a_block_that_is_never_closed_does_not_swallow_later_ones(bench: Bench) -> None:
    """It is a run of its own from the end of the block around it, and interrupted at the end."""
    for number in range(3):
        with bench.tracker.span(f"request-{number}") as request:
            if number == 0:
                bench.tracker.span("forgotten").open()
            bench.run(1.0)
        assert current_span() is None
        assert request.record is not None
        assert request.record.parent_id is None
    bench.tracker.close()
    last = [r for r in bench.records if not r.parent_holds][-1]
    assert (last.name, last.status) == ("forgotten", "interrupted")
    assert {r.name for r in bench.records if not r.parent_holds} == {
        "request-0", "request-1", "request-2", "forgotten",
    }  # fmt: skip
    assert_sound(bench, 3.0)


def test_a_block_of_a_generators_consumer_stays_current(bench: Bench) -> None:
    """`with` will close it, so that blocks opened inside it are its children still."""

    def steps() -> Iterator[int]:
        with bench.tracker.span("inside the generator"):
            yield 1

    going = steps()
    next(going)
    with bench.tracker.span("consumer") as consumer:
        bench.run(1.0)
        assert list(going) == []
        assert current_span() is consumer
        bench.run(1.0)
    assert current_span() is None
    assert_sound(bench, 2.0)


def test_tasks_that_outlive_the_request_that_started_them(bench: Bench) -> None:
    """A block in a task and a decorated coroutine, both started inside the request."""

    @track("stored", tracker=bench.tracker)
    async def store() -> None:
        await asyncio.sleep(0)
        bench.run(1.0)
        await asyncio.sleep(0)
        bench.run(1.0)

    async def index() -> None:
        with bench.tracker.span("index"):
            for _ in range(4):
                await asyncio.sleep(0)

    async def main() -> None:
        with bench.tracker.span("request"):
            tasks = [asyncio.create_task(store()), asyncio.create_task(index())]
            await asyncio.sleep(0)
            bench.run(1.0)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    bench.tracker.close()
    names = {r.name for r in bench.records if not r.parent_holds}
    assert names == {"request", "stored", "index"}
    assert_sound(bench, 3.0)


@pytest.mark.parametrize("length_s", [0.25, 2.0], ids=["summed", "a row of its own"])
def test_a_generator_that_outlives_its_block_counts_for_itself(
    bench: Bench, length_s: float
) -> None:
    """While its body runs; what its consumer uses meanwhile is in the consumer's block."""

    @track("stream", tracker=bench.tracker)
    def stream() -> Iterator[int]:
        for number in range(3):
            bench.run(length_s)
            yield number

    with bench.tracker.span("request") as request:
        going = stream()
        next(going)
    with bench.tracker.span("other"):
        bench.run(length_s)
    assert list(going) == [1, 2]
    assert current.get() is None or not current.get().is_open
    bench.tracker.close()
    assert request.record is not None
    assert joules(request.record) == pytest.approx(WATTS * length_s)
    used = [joules(r) for r in bench.records if r.name == "stream" and not r.parent_holds]
    assert sum(used) == pytest.approx(2 * WATTS * length_s)
    assert_sound(bench, 4 * length_s)


def test_an_async_generator_goes_on_in_another_task(bench: Bench) -> None:
    """As `StreamingResponse` does: made in the request, consumed after it."""

    @track("stream", tracker=bench.tracker)
    async def stream():  # type: ignore[no-untyped-def]
        for number in range(3):
            bench.run(0.5)
            yield number
            await asyncio.sleep(0)

    async def request():  # type: ignore[no-untyped-def]
        with bench.tracker.span("request"):
            going = stream()
            await anext(going)
        return going

    async def main() -> list[int]:
        going = await asyncio.create_task(request())
        return [number async for number in going]

    assert asyncio.run(main()) == [1, 2]
    bench.tracker.close()
    assert_sound(bench, 1.5)


def test_a_call_in_a_thread_outlives_the_block_around_it(bench: Bench) -> None:
    """Its context was carried into the thread, where it is in the middle of its body."""
    from carbontrack.tracking.context import wrap_context

    begun, goes_on = threading.Event(), threading.Event()

    @track("work", tracker=bench.tracker)
    def work() -> None:
        begun.set()
        assert goes_on.wait(60.0)

    with bench.tracker.span("request"):
        thread = threading.Thread(target=wrap_context(work))
        thread.start()
        assert begun.wait(60.0)
        bench.run(1.0)
    bench.run(3.0)
    goes_on.set()
    thread.join()
    bench.tracker.close()
    rows = by_name([r for r in bench.records if not r.parent_holds])
    assert joules(rows["work"]) == pytest.approx(300.0)
    assert_sound(bench, 4.0)


def test_a_call_inside_a_call_outlives_it(bench: Bench) -> None:
    """A task that a decorated coroutine starts and does not wait for."""

    @track("later", tracker=bench.tracker)
    async def later() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            bench.run(1.0)

    @track("handler", tracker=bench.tracker)
    async def handler() -> asyncio.Task[None]:
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
        return task

    async def main() -> None:
        await (await handler())

    asyncio.run(main())
    bench.tracker.close()
    assert {r.name for r in bench.records} == {"later", "handler"}
    assert_sound(bench, 3.0)


def test_a_budget_counts_both_rows_of_its_span() -> None:
    """The limit belongs to the block, whichever row its energy is in."""
    with Bench() as bench, pytest.MonkeyPatch.context():
        request = bench.tracker.span("request").open()
        with track("job", budget="250 J", tracker=bench.tracker):
            pass  # a root of its own: tracker= makes it one
        job = track("job", budget="250 J").open()
        bench.run(1.0)
        request.close()
        bench.run(2.0)
        job.close()
    assert job.record is not None
    assert joules(job.record) == pytest.approx(200.0)
    assert job.record.status == "budget"


def test_a_budget_of_the_block_around_ends_with_it() -> None:
    """What goes on after it may use as much as it likes."""
    with Bench() as bench:
        request = track("request", budget="150 J", tracker=bench.tracker).open()
        job = request.span("job").open()
        bench.run(1.0)
        request.close()
        bench.run(5.0)
        assert job.check() is None
        job.close()
    assert job.record is not None
    assert job.record.status == "ok"


def test_nothing_is_kept_of_what_outlived_its_parent(bench: Bench) -> None:
    """No reference cycle is left to the garbage collector."""

    @track("call", tracker=bench.tracker, window_s=1000)
    def call() -> None:
        bench.clock.advance(0.001)

    def once(tracker: Tracker) -> None:
        a = tracker.span("a").open()
        call()
        b = tracker.span("b").open()
        bench.clock.advance(0.001)
        a.close()
        b.close()

    once(bench.tracker)
    gc.collect()
    for _ in range(100):
        once(bench.tracker)
    assert gc.collect() == 0


def test_calls_beside_a_span_take_from_it_only_what_their_time_is_worth(bench: Bench) -> None:
    """A call in another context that has just begun does not share in all of the last step."""

    @track("call", tracker=bench.tracker)
    def call() -> None:
        bench.clock.advance(0.1)

    span = bench.tracker.span("span")
    contextvars.Context().run(span.open)
    bench.clock.advance(0.9)
    contextvars.Context().run(call)
    span.close()
    bench.clock.advance(5.0)
    contextvars.Context().run(call)
    bench.tracker.close()
    rows = by_name(bench.records)
    assert joules(rows["span"]) == pytest.approx(95.0)
    assert joules(rows["call"]) == pytest.approx(15.0)
    assert_sound(bench, 1.1)


@pytest.mark.parametrize("budget", [None, "1 kJ"])
def test_a_block_counts_while_the_generator_that_it_consumes_is_suspended(
    bench: Bench, budget: str | None
) -> None:
    """Also where the generator is a span inside of it."""

    @track("stream", tracker=bench.tracker, budget=budget)
    def stream() -> Iterator[None]:
        for _ in range(3):
            bench.clock.advance(0.5)
            yield

    with bench.tracker.span("outer"), bench.tracker.span("block") as block:
        for _ in stream():
            bench.clock.advance(2.0)
    bench.tracker.close()
    assert joules(block.record) == pytest.approx(750.0)
    assert_sound(bench, 7.5)


def test_calls_inside_a_block_and_after_it_are_in_different_rows(bench: Bench) -> None:
    """A row has one parent: what the block does not hold is not in a row that it holds."""

    @track("call", tracker=bench.tracker)
    def call() -> None:
        bench.clock.advance(0.5)

    for _ in range(2):
        with bench.tracker.span("block"):
            call()
            bench.clock.advance(0.25)
        call()
    bench.tracker.close()
    assert sum(r.calls or 0 for r in bench.records if r.name == "call" and not r.parent_holds) == 2
    starts = {r.record_id: (r.started_at, r.ended_at) for r in bench.records}
    for record in bench.records:
        if record.parent_holds:
            started_at, ended_at = starts[record.parent_id or ""]
            assert started_at <= record.started_at <= record.ended_at <= ended_at
    assert_sound(bench, 2.5)


@pytest.mark.parametrize("length_s", [0.25, 2.0], ids=["summed", "a row of its own"])
def test_a_call_inside_another_of_its_function_is_not_its_own_parent(
    bench: Bench, length_s: float
) -> None:
    """Recursion, directly and through another function."""

    @track("even", tracker=bench.tracker, budget="1 MJ")
    def even(depth: int) -> None:
        bench.clock.advance(length_s)
        if depth:
            odd(depth - 1)

    @track("odd", tracker=bench.tracker)
    def odd(depth: int) -> None:
        bench.clock.advance(length_s)
        if depth:
            even(depth - 1)
            odd(0)

    with bench.tracker.span("block"):
        even(4)
        odd(0)
    bench.tracker.close()
    for record in bench.records:
        assert record.parent_id != record.record_id
    assert_sound(bench, 8 * length_s)


def test_a_call_with_a_budget_inside_inner_blocks_names_the_row_that_holds_it(
    bench: Bench,
) -> None:
    """Only the outermost block has a row by default."""

    @track("call", tracker=bench.tracker, budget="1 kJ")
    def call() -> None:
        bench.clock.advance(0.5)

    with bench.tracker.span("outer"), bench.tracker.span("inner"):
        call()
    bench.tracker.close()
    assert {r.name for r in bench.records if r.parent_holds} >= {"call"}
    assert_sound(bench, 0.5)


def test_a_generator_that_goes_on_after_the_end_is_not_counted(bench: Bench) -> None:
    """It was inside a block when its tracker was closed."""

    @track("stream", tracker=bench.tracker)
    def stream() -> Iterator[None]:
        yield
        bench.clock.advance(1.0)
        yield

    block = bench.tracker.span("block").open()
    going = stream()
    next(going)
    bench.clock.advance(2.0)
    bench.tracker.close()
    assert block.record is not None
    assert len(list(going)) == 1
    assert not bench.sampler.awake
    assert_sound(bench, 2.0)


@pytest.mark.parametrize("length_s", [0.001, 2.0])
@pytest.mark.parametrize("budget", [None, "1 kJ"])
def test_calls_and_blocks_leave_no_cycles(
    bench: Bench, length_s: float, budget: str | None
) -> None:
    """Of any kind, also generators that are dropped half way."""

    @track("call", tracker=bench.tracker, budget=budget)
    def call() -> None:
        bench.clock.advance(length_s)

    @track("stream", tracker=bench.tracker, budget=budget)
    def stream() -> Iterator[None]:
        while True:
            bench.clock.advance(length_s)
            yield

    def once() -> None:
        call()
        next(stream())
        with track("block", tracker=bench.tracker, budget=budget):
            call()
            next(stream())

    once()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            once()
        assert gc.collect() == 0
    finally:
        gc.enable()
