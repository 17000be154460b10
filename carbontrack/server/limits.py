"""The limits of requests: sizes, times, memory, and each project's records a minute.

Every part of this package refuses with `Refused`; `app` turns it into a response.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil

from carbontrack.system.clock import Clock, SystemClock
from carbontrack.values import NamedTuple

LONGEST_RETRY_AFTER_S = 600.0
"""Senders wait no longer, whatever the server asks for."""


class Limits(NamedTuple):
    """The limits of one server; the defaults fit two cores and 2 GiB of memory.

    Attributes:
        records, body_bytes: the most in one request; more is 413.
        held_bytes: of all bodies that are being read, or whose rows wait for the store; of one
            project's three quarters of that.
        queued_rows: rows that wait for the store.
        group_rows: rows that are committed together.
        head_s: for the line and the headers of a request, from the opening of its connection or
            the answer before.
        body_s: for the body of a request, from its headers to its last byte.
        request_s: for all of a request, its answer included.
        idle_s: how long a connection is kept without a request; longer than senders keep theirs.
        stop_s: for requests in progress when the server is asked to stop; unanswered ones are then
            refused.
        last_s: after that, for the store's remaining work; then the process ends.
        connections: open at a time; those beyond are closed at once.
        retry_after_s: the least and the most that a busy server asks a sender to wait; at random,
            so that senders that were refused together do not come back together.
        report_rows: records that one report may read.
        waiting_reports: reports that wait, or are being made; one is made at a time.
        token_s: how long a token and a project's settings are remembered, so how late a
            revocation takes effect.
        retention_every_s: between two looks for records that are older than their project keeps.
    """

    records: int = 1_000
    body_bytes: int = 4 << 20
    held_bytes: int = 256 << 20
    queued_rows: int = 50_000
    group_rows: int = 5_000
    head_s: float = 10.0
    body_s: float = 30.0
    request_s: float = 120.0
    idle_s: float = 30.0
    stop_s: float = 60.0
    last_s: float = 10.0
    connections: int = 4_000
    retry_after_s: tuple[float, float] = (5.0, 60.0)
    report_rows: int = 2_000_000
    waiting_reports: int = 8
    token_s: float = 5.0
    retention_every_s: float = 3600.0


class Refused(Exception):  # noqa: N818 - states what happened; it becomes an answer
    """A request that is answered with an error.

    Attributes:
        status: of the answer.
        reason: for the sender; never the text of a token.
        headers: of the answer.
        record: the place of the record in the request that is at fault, from 0; None for others.
        wait_s: the least time that the sender has to wait before a retry; the response then has a
            Retry-After.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        headers: Mapping[str, str] | None = None,
        record: int | None = None,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})
        self.record = record
        self.wait_s = wait_s


class RetryAfter:
    """How long senders are asked to wait, at random between two ends."""

    def __init__(self, ends_s: tuple[float, float], rng: random.Random | None = None) -> None:
        self._least_s, self._most_s = ends_s
        self._rng = rng or random.Random()  # noqa: S311 - spreads senders, and is no secret

    def seconds(self, at_least_s: float = 0.0) -> int:
        """Whole seconds, as the header has them; spread as widely behind a longer wait."""
        first_s = max(self._least_s, at_least_s)
        spread_s = self._rng.uniform(0.0, max(0.0, self._most_s - self._least_s))
        return ceil(min(LONGEST_RETRY_AFTER_S, first_s + spread_s))


class HeldBytes:
    """The memory that bodies, and the rows made of them, may take together.

    One project may take three quarters of it, and any may have one body: otherwise a sender with
    slow bodies could block all others, whatever its quota.
    """

    def __init__(self, most: int) -> None:
        self.now = 0
        self._most = most
        self._most_of_one = most * 3 // 4
        self._of: dict[str, int] = {}

    @contextmanager
    def taken(self, project: str, count: int) -> Iterator[None]:
        """Hold so many bytes for a project in the block.

        Raises:
            Refused: there is no memory left at the moment.
        """
        own = self._of.get(project, 0)
        if self.now + count > self._most or (own and own + count > self._most_of_one):
            raise Refused(429, "the server cannot hold more records at the moment", wait_s=0.0)
        self._add(project, count)
        try:
            yield
        finally:
            self._add(project, -count)

    def _add(self, project: str, count: int) -> None:
        self.now += count
        self._of[project] = self._of.get(project, 0) + count
        if not self._of[project]:
            del self._of[project]


class Quotas:
    """The records that each project may still send now: a bucket that fills evenly.

    A bucket holds the records of a minute. A request is taken while there is anything in the
    bucket, and may leave it below empty, so that a quota smaller than a batch lets batches through.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._levels: dict[str, tuple[float, float]] = {}

    def check(self, project: str, per_minute: int | None) -> None:
        """Check whether the project may send now.

        Raises:
            Refused: it may not; the response has the time when it may.
        """
        if per_minute is None:
            return
        level, per_s = self._level(project, per_minute), per_minute / 60.0
        if level <= 0.0:
            wait_s = LONGEST_RETRY_AFTER_S if per_s <= 0.0 else -level / per_s
            raise Refused(
                429, f"project {project} may send {per_minute:,} records a minute", wait_s=wait_s
            )

    def take(self, project: str, records: int, per_minute: int | None) -> None:
        """Take so many records out of the bucket; a negative number puts them back."""
        if per_minute is not None:
            level = min(self._level(project, per_minute) - records, float(per_minute))
            self._levels[project] = level, self._clock.monotonic_s()

    def _level(self, project: str, per_minute: int) -> float:
        now_s = self._clock.monotonic_s()
        level, at_s = self._levels.get(project, (float(per_minute), now_s))
        return min(float(per_minute), level + (now_s - at_s) * per_minute / 60.0)
