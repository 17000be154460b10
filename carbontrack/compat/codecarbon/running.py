"""The trackers that are running, which are stopped at the end of the process."""

from __future__ import annotations

import atexit
from typing import Any, Protocol

from carbontrack.system.forking import at_end_of_worker, remember


class Stoppable(Protocol):
    """A tracker."""

    outcome: Any

    def stop(self) -> float | None:
        """Write its row."""
        ...


class Running:
    """Trackers from start to stop.

    References to them are kept: if a program drops its tracker, as after an exception, its row is
    written at the end. In a forked child none is running. A worker of `multiprocessing` does not
    run `atexit` functions; there they are stopped by its own finalizers.
    """

    def __init__(self) -> None:
        self._trackers: dict[int, Stoppable] = {}
        self._is_registered = False
        remember(self)

    def __len__(self) -> int:
        return len(self._trackers)

    def add(self, tracker: Stoppable) -> None:
        """It has been started."""
        self._trackers[id(tracker)] = tracker
        at_end_of_worker(self)
        if not self._is_registered:
            self._is_registered = True
            atexit.register(self.end)  # after a tracker of carbontrack's was made, so run before

    def discard(self, tracker: Stoppable) -> None:
        """It has been stopped."""
        self._trackers.pop(id(tracker), None)

    def end(self) -> None:
        """The process ends: stop them all, the last first, whatever a signal handler raises."""
        trackers = list(self._trackers.values())
        while trackers:
            tracker = trackers.pop()
            tracker.outcome = ("interrupted", None)
            try:
                tracker.stop()
            except BaseException:
                tracker.stop()  # what it has not done
                self.end()
                raise

    def close(self) -> None:
        """Does nothing."""

    def forget_parent(self) -> None:
        """In a forked child."""
        self._trackers = {}


RUNNING = Running()
