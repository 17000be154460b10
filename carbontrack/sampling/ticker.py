"""The ticker: the sampler's thread, which calls `tick` at whole multiples of a period."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from carbontrack.system.clock import Clock
from carbontrack.system.forking import OwnThread

_JOIN_S = 2.0
"""How long a tick that does not return may delay the program's exit."""
_log = logging.getLogger("carbontrack")


class TickerThread(OwnThread):
    """A thread that exposes the clock it waits on, which a `FakeClock` needs to know."""

    def __init__(self, target: Callable[[], None], clock: Clock) -> None:
        super().__init__(target, "carbontrack-sampler")
        self.clock = clock


class TickEvents(NamedTuple):
    """What a ticker calls: at each deadline, and when no ticks are wanted any more."""

    tick: Callable[[], None]
    sleep: Callable[[], None]


class Ticker:
    """Calls `tick` at deadlines that do not drift, and sleeps while no ticks are wanted.

    Args:
        events: what is called, on the thread; must not raise.
        clock: the time source.
        period_s: returns the time between two deadlines; called before each.
        is_wanted: returns whether ticks are wanted.
    """

    def __init__(
        self,
        events: TickEvents,
        clock: Clock,
        *,
        period_s: Callable[[], float],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._tick, self._on_sleep = events
        self._period_s = period_s
        self._is_wanted = is_wanted
        self._clock = clock
        self._lock = threading.RLock()  # a finalizer may re-enter
        self._kick = threading.Event()
        self._thread: threading.Thread | None = None
        self._dozes = False
        self._closed = False

    def wake(self) -> None:
        """Begin to tick; the first call starts the thread."""
        with self._lock:
            if self._dozes:
                self._kick.set()
            elif self._thread is None and not self._closed:
                self._start()

    def _start(self) -> None:
        thread = TickerThread(self._run, self._clock)
        try:
            thread.start()
        except RuntimeError as error:  # at interpreter exit; span edges still count
            _log.debug("no sampler thread: %s", error)
        else:
            self._thread = thread

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                self._dozes = not self._is_wanted()
            if self._dozes:
                self._on_sleep()
            if self._clock.wait(self._kick, None if self._dozes else self._until_next_s()):
                self._kick.clear()
            elif self._is_wanted() and not self._closed:
                self._tick()

    def _until_next_s(self) -> float:
        # Whole multiples of the period on a clock that all processes share, so they tick together.
        period_s = self._period_s()
        return period_s - self._clock.monotonic_s() % period_s

    def close(self, *, waits: bool = True) -> None:
        """End the thread, and wait for it briefly."""
        self._closed = True
        self._kick.set()
        thread = self._thread if waits else None
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join(_JOIN_S)
