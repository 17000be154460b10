"""Delivery of queued records to a server, in batches and with retries.

Records that the server rejects permanently are written to a dead-letter file with the reason.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from carbontrack.record import Record
from carbontrack.sinks.journal.file import JournalFile, is_at, wait_for_lock
from carbontrack.sinks.journal.journal import SEND, Journal, queued
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.sinks.post import NO_TOKEN_WAIT_S, Poster, PostResult
from carbontrack.system.clock import Clock
from carbontrack.system.files import check_own_file, own_folder
from carbontrack.system.log import LOGGER, RateLimitedLog
from carbontrack.system.urls import shown

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0
_LAST_BACKOFF_S = 0.1
"""The first backoff while the process ends."""
_KEEP_ALIVE_S = 15.0
"""How long a connection is kept for the next records."""
_FAILURES_TO_TELL = 3
"""Failures in a row after which a warning is logged; fewer are left to the retries."""
REQUESTS_PER_MINUTE = 120
"""The most requests to one address in any minute, half of them in a row."""
_TOO_MANY = f"more than {REQUESTS_PER_MINUTE} requests a minute are not sent"
_LAST_FAILURES = 3
"""Failures after which a process that ends leaves the rest to the next one."""


class Queue(Protocol):
    """Records that wait for one URL."""

    def peek(self, limit: int) -> list[Record]:
        """The oldest of them, which stay in the queue until they are settled."""
        ...

    def settle(self, record_ids: Sequence[str]) -> None:
        """Remove records that were delivered or became dead letters."""
        ...


class OwnQueue:
    """The records in the journal of this process."""

    def __init__(self, journal: Journal, url: str) -> None:
        self._journal = journal
        self._url = url

    def peek(self, limit: int) -> list[Record]:
        """The oldest records in the journal."""
        return self._journal.queued(self._url, limit)

    def settle(self, record_ids: Sequence[str]) -> None:
        """Remove them from the journal."""
        self._journal.delivered(self._url, record_ids)


class LeftoverQueue:
    """The records in the journal of an ended process, whose lock this process holds.

    `urls`: the addresses that they wait for; those of the first are sent first.
    """

    def __init__(self, file: JournalFile, *urls: str) -> None:
        self.file = file
        self._urls = urls

    def peek(self, limit: int) -> list[Record]:
        """The oldest records in the file."""
        found: list[Record] = []
        for url in self._urls:
            found += queued(self.file, url, limit - len(found))
        return found

    def settle(self, record_ids: Sequence[str]) -> None:
        """Remove them from the file."""
        try:
            self.file.drop([(SEND, url, one) for url in self._urls for one in record_ids])
        except OSError as error:
            LOGGER.warning("%s: %s; these records may arrive twice", self.file.path, error)

    def count(self) -> int:
        """How many records wait, including those that cannot be read."""
        return sum(key[1] in self._urls for key in self.file.keys(SEND))


class RequestRate:
    """How many more requests one address gets for now: those of a minute are limited.

    Attributes:
        is_told: whether it has been logged that requests wait for this.
    """

    def __init__(self) -> None:
        self.is_told = False
        self._most = REQUESTS_PER_MINUTE / 2
        self._per_s = self._most / 60.0
        self._left = self._most
        self._at_s = float("-inf")

    def wait_s(self, now_s: float) -> float:
        """Seconds to wait for the next request; 0.0 counts one that is made now."""
        since_s, self._at_s = now_s - self._at_s, now_s
        self._left = min(self._most, self._left + max(0.0, since_s) * self._per_s)
        if self._left < 1.0:
            return (1.0 - self._left) / self._per_s
        self._left -= 1.0
        return 0.0


_rates: dict[str, RequestRate] = {}


def rate_of(url: str) -> RequestRate:
    """The rate that all of this process's deliveries to an address share."""
    if len(_rates) > _ADDRESSES:
        _rates.clear()
    return _rates.setdefault(url, RequestRate())


_ADDRESSES = 1000


class Delivery:
    """Posts the records of some queues; `run` is the work of one thread.

    Attributes:
        delivered: how many records the server has accepted.
        refused: how many became dead letters.
        stop: set when the process ends: what can be sent by `deadline_s` is sent.
        deadline_s: when to stop, on the monotonic clock.
        trouble: why an attempt failed the last time, if one has failed.
    """

    def __init__(
        self,
        poster: Poster,
        *,
        state_dir: Path,
        batch: int,
        clock: Clock,
        rng: random.Random | None = None,
        rate: RequestRate | None = None,
    ) -> None:
        self.delivered = self.refused = 0
        self.stop = threading.Event()
        self.deadline_s = float("inf")
        self.trouble: str | None = None
        self._poster = poster
        self._state_dir = state_dir
        self._batch = self._limit = batch
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._rate = rate or RequestRate()
        self._warnings = RateLimitedLog(clock)
        self._failures = 0

    @property
    def url(self) -> str:
        """The address."""
        return self._poster.url

    def run(self, queues: Callable[[], Sequence[Queue]], wake: threading.Event) -> None:
        """Deliver until `stop` is set, sleeping while the queues are empty; never raises."""
        while True:
            is_last_look = self.stop.is_set()
            try:
                result = self.step(queues())
            except Exception as error:
                # only the type: the text might contain the URL's query
                LOGGER.warning("records wait longer: %s", type(error).__name__)
                result = PostResult("later", "an internal error")
            if result is None and not self.stop.is_set():
                if not self._clock.wait(wake, _KEEP_ALIVE_S):
                    self._poster.close()  # an idle program holds no connection
                    self._clock.wait(wake, None)
                wake.clear()
                continue
            # a record may have come, and the end been asked for, after a look that found nothing
            is_over = is_last_look if result is None else not self.wait_after(result)
            if is_over:
                return

    def step(self, queues: Sequence[Queue]) -> PostResult | None:
        """Post a batch from the first queue that is not empty; None if all are empty."""
        for queue in queues:
            if queue.peek(1):
                if not self._await_turn():
                    return PostResult("later", _TOO_MANY, wait_s=0.0)
                records = queue.peek(self._limit)
                result = self._poster.post(records, timeout_s=self._time_left_s())
                return self._settle(queue, records, result)
        return None

    def _await_turn(self) -> bool:
        """Wait until the address may get a request; False if the process ends before."""
        while wait_s := self._rate.wait_s(self._clock.monotonic_s()):
            if not self._rate.is_told:
                self._rate.is_told = True
                LOGGER.warning("%s: %s; records are sent later", shown(self._poster.url), _TOO_MANY)
            if wait_s >= self._time_left_s():
                return False
            self._clock.wait(threading.Event() if self.stop.is_set() else self.stop, wait_s)
        return True

    def wait_after(self, result: PostResult) -> bool:
        """Wait before the next attempt, if the result demands it; False if there is none."""
        if result.verdict != "later":
            self._failures = 0
            return self._time_left_s() > 0
        self._failures += 1
        self.trouble = result.reason
        is_far = result.wait_s is not None and result.wait_s >= NO_TOKEN_WAIT_S
        if (is_far or self._failures >= _FAILURES_TO_TELL) and not self.stop.is_set():
            where = shown(self._poster.url)
            self._warnings.warn("later", f"{where}: {result.reason}; records wait in the journal")
        self._clock.wait(self.stop, self._wait_s(result))
        if not self.stop.is_set():
            return True
        if result.wait_s is not None or self._failures > _LAST_FAILURES:
            return False
        self._clock.wait(threading.Event(), self._jitter(_LAST_BACKOFF_S))
        return self._time_left_s() > 0

    def finish_by(self, deadline_s: float) -> None:
        """Send what can be sent by `deadline_s`, then stop."""
        self.deadline_s = deadline_s
        self._failures = 0
        self.stop.set()

    def _settle(self, queue: Queue, records: list[Record], result: PostResult) -> PostResult:
        ids = [record.record_id for record in records]
        if result.verdict == "delivered":
            queue.settle(ids)
            self.delivered += len(ids)
            self._limit = min(self._batch, self._limit * 2)
        elif result.verdict == "divide" and len(ids) > 1:
            self._limit = len(ids) // 2
        elif result.verdict in ("divide", "refused"):
            return self._refuse(queue, records, result)
        return result

    def _refuse(self, queue: Queue, records: list[Record], result: PostResult) -> PostResult:
        url = self._poster.url
        try:
            now = self._clock.now_utc()
            path = write_dead_letters(self._state_dir, url, records, result, now=now)
        except OSError as error:
            return PostResult(
                "later", f"{result.reason}, and they could not be set aside: {error.strerror}"
            )
        queue.settle([record.record_id for record in records])
        self.refused += len(records)
        self._warnings.warn(
            f"refused {result.status}",
            f"{shown(url)} rejects records ({result.reason}); {self.refused} so far were moved to "
            f"{path}; {_advice(result.status)}, then send them by: carbontrack sync --dead-letters",
        )
        return result

    def _wait_s(self, result: PostResult) -> float:
        backoff_s = FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10)
        own_s = self._jitter(min(LONGEST_BACKOFF_S, backoff_s))
        if result.wait_s is None:
            return own_s
        # a server that asks for no wait, or for one until a time that is over, gets our own
        return max(own_s, result.wait_s + self._jitter(min(1.0, result.wait_s / 10)))

    def _jitter(self, longest_s: float) -> float:
        # full jitter, so that clients that failed at the same time do not retry at the same time
        return self._rng.uniform(0.0, longest_s)

    def _time_left_s(self) -> float:
        return self.deadline_s - self._clock.monotonic_s()


def _advice(status: int | None) -> str:
    if status in (401, 403):
        return "check the token (CARBONTRACK_HTTP_TOKEN)"
    if status in (400, 413, 422):
        return "check which records the server accepts"
    return "check the address"


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND
_FLAGS |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

DEAD_LETTER_FOLDER = "dead-letter"
"""The folder of the dead-letter files in the state directory."""


def write_dead_letters(
    state_dir: Path, url: str, records: Sequence[Record], result: PostResult, *, now: datetime
) -> Path:
    """Append the records to the dead-letter file of this URL, which only this user may read.

    Each line of it is a JSON object with `record`, `status`, `reason`, `time` and `output`, which
    is the URL: `carbontrack.sinks.resend` sends it again.

    Raises:
        OSError: they could not all be written.
    """
    path = own_folder(state_dir / DEAD_LETTER_FOLDER) / letters_name(url)
    with locked_letters(path) as handle:
        for record in records:
            letter = {
                "record": record_object(record),
                "status": result.status,
                "reason": result.reason,
                "time": now.isoformat(),
                "output": url,
            }
            line = json_line(letter)
            if os.write(handle, line) != len(line):
                raise OSError(28, "the disk is full", str(path))
    return path


@contextmanager
def locked_letters(path: Path) -> Iterator[int]:
    """A dead-letter file, open and locked: no other process adds to it or replaces it meanwhile.

    Raises:
        OSError: it cannot be opened, or is no regular file of this user.
    """
    while True:
        handle = os.open(path, _FLAGS, 0o600)
        try:
            check_own_file(handle, path)
            wait_for_lock(handle)
            if is_at(handle, path):  # not replaced or removed while we waited
                yield handle
                return
        finally:
            os.close(handle)


def letters_name(url: str) -> str:
    """The name of the dead-letter file of an output."""
    # the name shows the host, but nothing in a URL can become a part of a path
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # the address of a plugin may look like an invalid URL
        host = ""
    host = re.sub(r"[^a-z0-9-]+", "_", host.lower())[:60]
    return f"{host}-{hashlib.sha256(url.encode(errors='backslashreplace')).hexdigest()[:12]}.ndjson"
