"""The trackers that are running when a process ends."""

from __future__ import annotations

from typing import Any

import pytest

from carbontrack.compat.codecarbon.running import RUNNING, Running
from tests.unit.compat.simulated import Machine


class Stops:
    """A tracker that notes how often it was stopped; the first time a handler may raise."""

    def __init__(self, running: Running, log: list[Any], error: BaseException | None) -> None:
        self.outcome: Any = None
        self._running, self._log, self._error = running, log, error

    def stop(self) -> None:
        """Stop, or raise once."""
        self._log.append((self, self.outcome))
        error, self._error = self._error, None
        if error is not None:
            raise error
        self._running.discard(self)


def test_all_are_stopped_whatever_a_handler_raises() -> None:
    """The last first; what a handler raised is raised when the rows are written."""
    running, log = Running(), list[Any]()
    first, second = (Stops(running, log, error) for error in (None, KeyboardInterrupt()))
    for one in (first, second):
        running.add(one)
    with pytest.raises(KeyboardInterrupt):
        running.end()
    interrupted = ("interrupted", None)
    assert log == [(second, interrupted), (second, interrupted), (first, interrupted)]
    running.end()
    assert len(log) == 3


def test_in_a_forked_child_none_is_running() -> None:
    """The parent's rows are the parent's."""
    running, log = Running(), list[Any]()
    running.add(Stops(running, log, None))
    running.forget_parent()
    running.end()
    assert log == []


def test_a_tracker_is_running_from_start_to_stop() -> None:
    """It is held no longer than that."""
    machine = Machine()
    tracker = machine.tracker()
    assert id(tracker) not in RUNNING._trackers
    for begin in (tracker.start, tracker.start_task):
        begin()
        assert RUNNING._trackers[id(tracker)] is tracker
        tracker.stop()
        assert id(tracker) not in RUNNING._trackers
