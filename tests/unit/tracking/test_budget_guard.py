"""Budgets on blocks that are running: said at 80 %, acted on at edges, never in between."""

# ruff: noqa: PT012, SIM117 - what raises is a block, and where in it is the point

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from contextlib import nullcontext
from typing import Any

import pytest

import carbontrack
from carbontrack import Budget, BudgetExceeded, ConfigError, track
from carbontrack.testing import FakeMeter
from carbontrack.tracking.budget import BudgetGuard
from tests.support.bench import Bench


def tracked(bench: Bench, budget: str, on_exceed: Any = "raise", name: str = "train") -> Any:
    """A block with a budget on the bench, which uses 100 W."""
    return track(name, tracker=bench.tracker, budget=budget, on_exceed=on_exceed)


@pytest.mark.parametrize(("seconds", "raises"), [(0.999, False), (1.0, False), (1.001, True)])
def test_under_at_and_over_the_budget(seconds: float, raises: bool) -> None:
    """100 W for 1 s are 100 J: at the limit is within it."""
    with Bench() as bench:
        told = "^train is over budget: 100 J of 100 J$"
        with pytest.raises(BudgetExceeded, match=told) if raises else nullcontext() as caught:
            with tracked(bench, "100 J") as run:
                bench.clock.advance(seconds)
    assert not raises or caught.value.verdict.outcome == "over"
    assert run.record.status == ("budget" if raises else "ok")
    assert len(bench.records) == 1


@pytest.mark.parametrize("edge", ["opening", "closing", "check"])
def test_it_is_raised_at_the_next_edge_and_nowhere_else(edge: str) -> None:
    """Ticks of the sampler see it, and leave the block alone until an edge comes."""
    with Bench() as bench:
        reached = []
        with pytest.raises(BudgetExceeded), tracked(bench, "100 J") as run:
            if edge == "closing":
                with run.span("epoch"):
                    bench.run(2.0, ticks=2)
                    reached.append("after ticks")
                reached.append("never")
            bench.run(2.0, ticks=2)
            reached.append("after ticks")
            if edge == "check":
                run.check()
            else:
                with run.span("epoch"):
                    reached.append("never")
            reached.append("never")
    assert reached == ["after ticks"]
    assert [record.status for record in bench.records] == ["budget"]


def test_spans_stay_whole_when_an_opening_is_refused() -> None:
    """What was open before is open after, and nothing else is."""
    with Bench() as bench:
        with tracked(bench, "100 J", name="outer") as run:
            bench.run(2.0)
            with pytest.raises(BudgetExceeded), run.span("refused"):
                pass
            assert carbontrack.current_span() is run
            with run.span("saving"):  # who has been told may go on
                bench.clock.advance(1.0)
            with pytest.raises(BudgetExceeded):  # and is told again when asking
                run.check()
        assert carbontrack.current_span() is None
        assert run.record.status == "budget"
        assert bench.sampler.leaves == 0


def test_an_inner_budget_and_an_outer_one_both_hold() -> None:
    """The nearer one answers `check`; the outer one raises as well."""
    with Bench() as bench, tracked(bench, "1 kJ", name="run") as run:
        with pytest.raises(BudgetExceeded, match="epoch is over"):
            with track("epoch", tracker=bench.tracker, budget="50 J", on_exceed="raise") as epoch:
                bench.clock.advance(1.0)
        assert epoch.record.status == "budget"
        assert run.check().outcome == "within"
        with run.span("next") as child:
            bench.clock.advance(9.5)
            with pytest.raises(BudgetExceeded, match="run is over"):
                child.check()


def test_each_thread_is_told_once() -> None:
    """Two workers inside of one budget both stop."""
    told = []
    with Bench() as bench, tracked(bench, "100 J") as run:
        bench.run(2.0)

        def work() -> None:
            try:
                with run.span("work"):
                    told.append("ran")
            except BudgetExceeded:
                told.append("stopped")

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
            thread.join()
        work_again = pytest.raises(BudgetExceeded)
        with work_again:
            run.check()
    assert told == ["stopped", "stopped"]


def test_a_block_that_fails_keeps_its_own_error() -> None:
    """Nothing of ours is raised over what is on its way."""
    with Bench() as bench, pytest.raises(KeyError) as caught, tracked(bench, "1 J") as run:
        bench.clock.advance(1.0)
        raise KeyError("mine")
    assert caught.value.__context__ is None
    assert run.record.status == "error"


def test_a_function_is_called_once_at_an_edge_with_the_verdict() -> None:
    """In the thread of the program; what it raises is the program's own."""
    found: list[tuple[str, str]] = []

    class StopTrainingError(Exception):
        pass

    def stop(verdict: Any) -> None:
        found.append((verdict.text, threading.current_thread().name))
        raise StopTrainingError

    with Bench() as bench:
        with pytest.raises(StopTrainingError), tracked(bench, "100 J", stop) as run:
            bench.run(2.0, ticks=2)
            assert found == []
            with run.span("epoch"):
                pass
    assert found == [("over budget: 200 J of 100 J", threading.main_thread().name)]
    assert run.record.status == "error"


def test_a_function_is_called_where_a_block_fails_too(caplog: pytest.LogCaptureFixture) -> None:
    """It hears of the budget; its own failure does not hide the block's."""
    found = []

    def stop(verdict: Any) -> None:
        found.append(verdict)
        raise ValueError("mine")

    with Bench() as bench, pytest.raises(KeyError), tracked(bench, "1 J", stop):
        bench.clock.advance(1.0)
        raise KeyError
    assert len(found) == 1
    assert "on_exceed failed" in caplog.text


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "carbontrack"]


def test_80_percent_and_the_limit_are_said_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """By the tick that sees them first."""
    with Bench() as bench, caplog.at_level(logging.WARNING):
        with tracked(bench, "100 J", "warn"):
            bench.run(0.79)
            assert said(caplog) == []
            bench.run(0.02)
            bench.run(0.1, ticks=3)
            assert said(caplog) == ["train has used 81 % of its budget: 81.0 J of 100 J"]
            bench.run(0.2, ticks=5)
    assert said(caplog)[1:] == ["train is over budget: 103 J of 100 J"]


@pytest.mark.parametrize("off", [{"relative_uncertainty": 0.5}, {"low": 0.5, "high": 4.0}])
def test_an_estimate_above_the_limit_is_said_before_it_is_sure(
    caplog: pytest.LogCaptureFixture, off: dict[str, float]
) -> None:
    """With a low end of half the estimate, 100 J are surely passed at 200 J and more."""
    meter = FakeMeter(watts=100.0, **off)  # type: ignore[arg-type]
    with Bench([meter]) as bench, caplog.at_level(logging.WARNING):
        with pytest.raises(BudgetExceeded), tracked(bench, "100 J") as run:
            bench.run(1.9)
            assert run.check().outcome == "inconclusive"
            bench.run(0.2)
            run.check()
    assert said(caplog) == [
        "train is possibly over budget: 190 J of 100 J",
        "train is over budget: 210 J of 100 J",
    ]


def test_a_decorated_function_stops_too() -> None:
    """At the end of the call, plain or a coroutine, as method or function; one row each."""
    with Bench() as bench:

        class Model:
            @tracked(bench, "100 J", name="fit")
            def fit(self, seconds: float) -> float:
                bench.clock.advance(seconds)
                return seconds

        @tracked(bench, "100 J", name="afit")
        async def afit(seconds: float) -> float:
            bench.clock.advance(seconds)
            return seconds

        assert Model().fit(0.5) == 0.5
        assert asyncio.run(afit(0.5)) == 0.5
        with pytest.raises(BudgetExceeded, match=r"^fit is over"):
            Model().fit(2.0)
        with pytest.raises(BudgetExceeded, match=r"^afit is over"):
            asyncio.run(afit(2.0))
    assert [(row.name, row.status) for row in bench.records] == [
        ("fit", "ok"),
        ("afit", "ok"),
        ("fit", "budget"),
        ("afit", "budget"),
    ]


def test_short_calls_are_judged_by_their_mean(caplog: pytest.LogCaptureFixture) -> None:
    """The budget is a call's; a row that sums many is not blamed for being many."""
    with Bench() as bench, caplog.at_level(logging.WARNING):

        @track("f", tracker=bench.tracker, budget="20 J", window_s=100.0)
        def function(seconds: float) -> None:
            bench.clock.advance(seconds)

        for _ in range(10):
            function(0.1)
        bench.run(200.0)
        for _ in range(10):
            function(0.3)
    assert [(row.calls, row.status) for row in bench.records] == [(10, "ok"), (10, "budget")]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"budget": "5 g", "on_exceed": "explode"}, "'warn', 'raise' or callable"),
        ({"on_exceed": "raise"}, "needs a budget"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(given: Any, named: str) -> None:
    """An argument that would do nothing is a mistake."""
    with pytest.raises(ConfigError, match=named):
        track("a", output=None, **given)


def test_a_generator_cannot_be_stopped() -> None:
    """Its body and its consumer take turns; the error says what to do instead."""
    with Bench() as bench, pytest.raises(ConfigError, match="inside it"):

        @tracked(bench, "1 J")
        def items() -> Any:
            yield 1


def test_without_a_budget_check_says_nothing() -> None:
    """There is nothing to be over."""
    with Bench() as bench, track("a", tracker=bench.tracker) as run:
        assert run.check() is None


def test_switched_off_nothing_is_raised() -> None:
    """Unknown use is over no budget."""
    with track("a", disable=True, budget="0 J", on_exceed="raise") as run, run.span("child"):
        run.check()
    assert run.record.status == "disabled"


def test_the_error_survives_a_pickle() -> None:
    """A pool's worker sends it to its parent."""
    verdict = Budget("1 J").limit
    error = pickle.loads(pickle.dumps(BudgetExceeded("text", verdict)))
    assert (str(error), error.verdict) == ("text", verdict)


def test_a_guard_costs_a_span_inside_no_look_each_time() -> None:
    """Edges that follow quickly share a look: to look is dearer than a short span."""
    looks = []

    class Counting(Budget):
        def check(self, record: Any) -> Any:
            looks.append(record)
            return super().check(record)

    with Bench() as bench:
        run = bench.tracker.span("run")
        run.budget_guard = BudgetGuard(Counting("1 kJ"))
        with run:
            for _ in range(250):
                bench.clock.advance(0.001)
                with run.span("short"):
                    pass
            assert len(looks) == 2
