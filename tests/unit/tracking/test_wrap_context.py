"""Open spans in other threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from carbontrack.api.track import current_span
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.context import wrap_context
from carbontrack.tracking.tracker import Tracker


def test_a_wrapped_call_is_inside_the_span_that_was_open():
    """In an executor too, many at once; a bare call there is outside."""
    clock = FakeClock()
    with Tracker(meters=[FakeMeter()], clock=clock) as tracker, ThreadPoolExecutor(4) as executor:
        with tracker.span("outer") as outer:
            wrapped = wrap_context(current_span)
            assert all(f.result() is outer for f in [executor.submit(wrapped) for _ in range(20)])
            assert executor.submit(current_span).result() is None
        assert wrapped() is None  # the span has ended, wherever the call is made


def test_arguments_results_and_names_pass_through():
    """The wrapped function is the function."""

    def double(number: int, *, plus: int = 0) -> int:
        """Twice as much."""
        return 2 * number + plus

    assert wrap_context(double)(4, plus=1) == 9
    assert wrap_context(double).__doc__ == "Twice as much."
