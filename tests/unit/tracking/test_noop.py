"""Disabled: the same shapes, nothing measured, nothing written, nothing in the way."""

from __future__ import annotations

import logging

import pytest

from carbontrack.api.track import auto, track
from carbontrack.record import NUMBER_COLUMNS
from carbontrack.tracking.tracker import NoOpTracker


def test_a_block_has_a_record_without_numbers():
    """The record exists and says that it is disabled; every figure is unknown."""
    with track("a", disable=True, labels={"n": 1}) as run:
        assert run.record is None
        with run.span("inner") as inner:
            pass
    assert run.record.status == "disabled"
    assert run.record.name == "a"
    assert run.record.labels == {"n": 1}
    assert inner.record.status == "disabled"
    assert {getattr(run.record, name) for name in set(NUMBER_COLUMNS) - {"schema"}} == {None}


def test_a_decorated_function_is_the_function():
    """Decorating costs nothing at all."""

    def work():
        return 1

    assert track(disable=True)(work) is work


def test_exceptions_pass():
    """A disabled block is not in the way of what the program raises."""
    error = ValueError("theirs")
    with pytest.raises(ValueError, match="theirs") as caught, track("a", disable=True):
        raise error
    assert caught.value is error


def test_every_question_to_a_span_is_answered():
    """What can be asked of a span can be asked of a disabled one."""
    span = NoOpTracker().span("a")
    assert not span.is_open
    assert "a" in repr(span)
    with span:
        assert span.is_open
        assert span.snapshot().status == "disabled"
        assert span.parent is None
        assert span.parent_id is None
    assert "a" in repr(span)


def test_a_disabled_tracker_decorates_in_silence(caplog):
    """`tracker=` with a disabled tracker makes the calls and says nothing."""
    with auto(disable=True) as tracker, caplog.at_level(logging.DEBUG):

        @track(tracker=tracker)
        def work():
            return 1

        assert [work() for _ in range(3)] == [1, 1, 1]
        with track("block", tracker=tracker) as block:
            pass
    assert block.record.status == "disabled"
    assert caplog.text == ""


def test_opening_and_closing_by_hand():
    """`open`, `close`, `discard`, `pause` and `resume` do what their names say: nothing much."""
    span = NoOpTracker().span("a").open()
    span.pause()
    span.resume()
    span.close("error", "x")
    span.discard()
    assert span.record.status == "disabled"
