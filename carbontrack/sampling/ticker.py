"""The core's only thread: it calls at whole multiples of a period, while somebody wants it to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from carbontrack.system.clock import Clock

_JOIN_S = 2.0
"""How long the end of a program may be held up by a tick that does not come back."""
_log = logging.getLogger("carbontrack")


class TickerThread(threading.Thread):
    """A thread that says on which clock it waits; one moved by hand must know whom to expect."""

    def __init__(self, target: Callable[[], None], clock: Clock) -> None:
        super().__init__(target=target, name="carbontrack-sampler", daemon=True)
        self.clock = clock


class Ticker:
    """Calls `tick` at deadlines that do not drift, and sleeps without any while nothing is wanted.

    Args:
        tick: what is to be done; must not raise.
        period_s: the time between two deadlines; asked before each.
        is_wanted: whether there is anything to tick for.
        clock: the time.
    """

    def __init__(
        self,
        tick: Callable[[], None],
        *,
        period_s: Callable[[], float],
        is_wanted: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._tick = tick
        self._period_s = period_s
        self._is_wanted = is_wanted
        self._clock = clock
        self._lock = threading.RLock()  # a finalizer may come back in
        self._kick = threading.Event()
        self._thread: threading.Thread | None = None
        self._dozes = False
        self._closed = False

    def wake(self) -> None:
        """Something is wanted from now on; starts the thread when it is the first time."""
        with self._lock:
            if self._dozes:
                self._kick.set()
            elif self._thread is None and not self._closed:
                self._start()

    def _start(self) -> None:
        thread = TickerThread(self._run, self._clock)
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is going down; span edges still count
            _log.debug("no sampler thread: %s", error)
        else:
            self._thread = thread

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                self._dozes = not self._is_wanted()
            if self._clock.wait(self._kick, None if self._dozes else self._until_next_s()):
                self._kick.clear()
            elif self._is_wanted() and not self._closed:
                self._tick()

    def _until_next_s(self) -> float:
        # Whole multiples of the period on a clock that all processes share: they tick together.
        period_s = self._period_s()
        return period_s - self._clock.monotonic_s() % period_s

    def close(self) -> None:
        """End the thread, and wait for it for a moment."""
        self._closed = True
        self._kick.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join(_JOIN_S)
