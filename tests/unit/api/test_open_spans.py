"""A block made by `track(...)` is closed and asked as the span that it opens."""

# ruff: noqa: PT012 - what raises is a block, and where in it is the point

from __future__ import annotations

import threading
from typing import Any

import pytest

from carbontrack import BudgetExceeded, track
from tests.support.bench import Bench


def test_closing_twice_closes_once() -> None:
    """A second `close` does nothing, and neither does one before the opening."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker)
        block.close()
        span = block.open()
        bench.clock.advance(1.0)
        block.close()
        block.close("error", "late")
    (row,) = bench.records
    assert row == span.record
    assert row.status == "ok"


def test_each_close_closes_one() -> None:
    """Opened twice, it takes two to close it; a third finds nothing to do."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker)
        outer, inner = block.open(), block.open()
        block.close()
        assert (outer.is_open, inner.is_open) == (True, False)
        block.close()
        block.close()
        assert not outer.is_open
        assert bench.sampler.leaves == 0


def test_a_block_may_be_closed_from_within() -> None:
    """Leaving a block that is closed already is quiet, and the record ends where it was closed."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker)
        with block as span:
            bench.clock.advance(1.0)
            block.close()
            bench.clock.advance(1.0)
        assert span.record.duration_s == pytest.approx(1.0)  # type: ignore[union-attr]


def test_leaving_a_closed_block_still_acts_on_its_budget() -> None:
    """As with a span: closing judges, and leaving raises."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker, budget="50 J", on_exceed="raise")
        reached = []
        with pytest.raises(BudgetExceeded), block:
            bench.clock.advance(1.0)
            block.close()
            reached.append("closed")
    assert reached == ["closed"]


def test_check_looks_at_the_budget() -> None:
    """`check` of the block says what that of its span says, while it is open and afterwards."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker, budget="150 J")
        assert block.check() is None
        with block as span:
            bench.clock.advance(1.0)
            assert _outcomes(block, span) == ["within", "within"]
            bench.clock.advance(1.0)
            assert _outcomes(block, span) == ["over", "over"]
        assert _outcomes(block, span) == ["over", "over"]


def _outcomes(*checked: Any) -> list[str]:
    return [one.check().outcome for one in checked]


def test_check_raises_where_that_was_asked_for() -> None:
    """With `on_exceed="raise"` the block's own `check` is an edge too."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker, budget="50 J", on_exceed="raise")
        with pytest.raises(BudgetExceeded), block:
            bench.clock.advance(1.0)
            block.check()
            raise AssertionError("never reached")


def test_check_finds_the_span_from_another_thread() -> None:
    """A thread without a span of its own asks about the one that was opened last."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker, budget="50 J")
        found: list[Any] = []
        with block:
            bench.clock.advance(1.0)
            thread = threading.Thread(target=lambda: found.append(block.check()))
            thread.start()
            thread.join()
        assert [verdict.outcome for verdict in found] == ["over"]


def test_without_a_budget_check_says_nothing() -> None:
    """None, as of a span."""
    with Bench() as bench:
        block = track("train", tracker=bench.tracker)
        with block:
            assert block.check() is None
