"""A non-blocking source: the carbon intensity, without letting any source delay a measurement.

A source that is `prompt` answers from memory without a lock and is called wherever its answer is
needed. Any other may wait for a network, or for a lock that the program holds while it opens a
span. It is called in a thread of its own, with none of our locks held, before a span opens or
closes and at every tick; after a brief wait its last answer stays valid until it returns.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime

from carbontrack.grid.intensity import GridIntensity, IntensitySource, is_constant, is_prompt
from carbontrack.system.clock import Clock
from carbontrack.system.forking import OwnThread
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import DeferredLog

JOIN_TIMEOUT_S = 0.05
"""How long a tick, or the start or end of a span, waits for a source that is not prompt."""
FRESH_S = 1.0
"""The age at which an answer is fetched again; a thread costs a tenth of a millisecond."""


class NonblockingSource:
    """A source whose last answer is returned at once; its errors go to the deferred log."""

    def __init__(self, source: IntensitySource | None, deferred_log: DeferredLog) -> None:
        self._source = source
        self._deferred_log = deferred_log
        self._answer: GridIntensity | None = None
        self._asked_s = float("-inf")
        self._thread: threading.Thread | None = None
        self._warned = False
        self._is_prompt = source is not None and is_prompt(source)
        self.changes = source is not None and not is_constant(source)
        """Whether the answer depends on the time."""
        self.waits = source is not None and not self._is_prompt
        """Whether a call of the source may block, so that `refresh` is needed."""

    def now(self, when: datetime) -> GridIntensity | None:
        """The intensity at `when`; for a source that is not prompt, its last answer."""
        if self._is_prompt and (self.changes or self._answer is None):
            self._ask(when)
        return self._answer

    def refresh(self, clock: Clock) -> None:
        """Call a source that is not prompt again; none of our locks may be held."""
        known = self._answer is not None
        if (known and not self.changes) or not self.waits:
            return
        now_s = clock.monotonic_s()
        if known and now_s - self._asked_s < FRESH_S:
            return
        if self._thread is not None and self._thread.is_alive():  # never true after a fork
            if not self._warned:
                self._warned = True
                self._deferred_log.add(logging.WARNING, f"{self._source!r} does not answer")
            return
        self._asked_s, self._warned = now_s, False
        self._thread = OwnThread(self._ask, "carbontrack-grid", (clock.now_utc(),))
        try:
            self._thread.start()
        except RuntimeError as error:  # at interpreter exit, or at the limit of threads
            self._thread = None
            pass_on(error)
        else:
            self._thread.join(JOIN_TIMEOUT_S)

    def _ask(self, when: datetime) -> None:
        assert self._source is not None
        try:
            self._answer = _checked(self._source.at(when), self._source)
        except Exception as error:
            pass_on(error)
            # Third-party code may raise anything; the last answer stays valid.
            self._deferred_log.add(logging.ERROR, "the carbon intensity could not be read", error)


def _checked(answer: object, source: IntensitySource) -> GridIntensity | None:
    if answer is not None and not isinstance(answer, GridIntensity):
        raise TypeError(f"{source!r} answered with {type(answer).__name__}")
    return answer
