"""The no-op span, which CARBONTRACK_DISABLE puts in place of the real one.

It accepts any argument: nothing is checked when measuring is switched off.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from carbontrack.record import Record, Status, unmeasured_record
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.tracking.record_builder import rfc3339
from carbontrack.tracking.span import Span


class NoOpSpan(Span):
    """A span that counts nothing; the status of its record is "disabled"."""

    def __init__(self, name: str, *, labels: Mapping[str, Any] | None = None) -> None:
        self.name = name if isinstance(name, str) else repr(name)
        self.labels = dict(labels) if isinstance(labels, Mapping) else {}
        self._parent = None
        self._at: tuple[str, str] | None = None
        self._is_begun = False

    def span(self, name: str, *, labels: Mapping[str, Any] | None = None) -> Span:
        """A child span that counts nothing either."""
        return NoOpSpan(name, labels=labels)

    @property
    def clock(self) -> Clock:
        """The system clock."""
        return SystemClock()

    @property
    def is_open(self) -> bool:
        """Whether the block is running."""
        return self._is_begun

    @property
    def record(self) -> Record | None:
        """A record without measurements, once the block has ended."""
        if self._at is None or self._is_begun:
            return None
        return unmeasured_record(self.name, self.labels, self._at)

    def snapshot(self) -> Record:
        """A record without measurements."""
        now = _now()
        return self.record or unmeasured_record(
            self.name, self.labels, (self._at[0] if self._at else now, now)
        )

    def open(self) -> NoOpSpan:
        """Keep the start time only."""
        now = _now()
        self._at, self._is_begun = (now, now), True
        return self

    def close(self, status: Status = "ok", error: str | None = None) -> None:  # noqa: ARG002
        """Keep the end time only."""
        if self._is_begun and self._at is not None:
            self._at, self._is_begun = (self._at[0], _now()), False

    def __repr__(self) -> str:
        return f"<NoOpSpan {self.name!r}>"

    def discard(self) -> None:
        """Close; nothing is written in any case."""
        self.close()

    def pause(self) -> None:
        """Does nothing."""

    def resume(self) -> None:
        """Does nothing."""


def _now() -> str:
    """The time, in text; "" once the interpreter shuts down, when most of Python is gone."""
    return "" if sys.is_finalizing() else rfc3339(SystemClock.now_utc())
