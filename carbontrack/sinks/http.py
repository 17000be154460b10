"""Records to a server, queued in the journal and sent by a thread in the background."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from carbontrack.errors import ConfigError, SinkError
from carbontrack.record import Record
from carbontrack.sinks.buffered import BufferedSink
from carbontrack.sinks.delivery import Delivery, OwnQueue, Queue, rate_of
from carbontrack.sinks.journal.file import JournalFile
from carbontrack.sinks.journal.journal import LOOK_LIMIT, Journal, leftover_journals
from carbontrack.sinks.outbox import Outbox, collect
from carbontrack.sinks.post import TOO_LATE, Poster, checked_token, checked_url, is_unencrypted
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import folder_without_home
from carbontrack.system.forking import OwnThread, PerProcess
from carbontrack.system.http import load_requests
from carbontrack.system.interrupts import pass_on, reentrant_lock, suppressed
from carbontrack.system.log import LOGGER, warn_user
from carbontrack.system.urls import shown

_EXIT_SHARE = 0.75
"""The share of the exit timeout that is left for sending.

The rest is for closing, and for delays on a busy machine, where waits take longer than requested.
"""


class _Sender:
    """The sending thread of one process, and its state."""

    def __init__(self) -> None:
        self.lock = reentrant_lock()  # reentrant: a finalizer may close the sink meanwhile
        self.wake = threading.Event()
        self.thread: threading.Thread | None = None
        self.delivery: Delivery | None = None
        self.deadline_s: float | None = None
        self.leftovers: Iterator[JournalFile] = iter(())
        self.outbox: Outbox | None = None

    def abandon(self) -> None:
        """In a child: close the leftover records that the parent's thread holds."""
        if self.outbox is not None:
            self.outbox.abandon()


class JournaledHttpSink(BufferedSink[Record]):
    """Posts records to a URL; see `carbontrack.HttpSink` for the behaviour and the arguments.

    The one difference: without a `journal`, records wait in the user's state directory, whatever
    the setting `state_dir` is, because sinks do not read settings.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        batch: int = 200,
        exit_timeout_s: float = 2.0,
        journal: Journal | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(lambda record: record, self._enqueue)
        self._url = checked_url(url)
        self._token = checked_token(token)
        if token is not None and is_unencrypted(url):
            warn_user(f"the token for {shown(url)} is sent unencrypted; use https://")
        _check_above_zero(timeout_s=timeout_s, batch=batch)
        if exit_timeout_s < 0:
            raise ConfigError(f"exit_timeout_s must be 0 or more, not {exit_timeout_s!r}")
        self._timeout_s, self._batch = timeout_s, batch
        self._exit_timeout_s = exit_timeout_s
        self._clock = clock or SystemClock()
        self._owns_journal = journal is None
        self._journal = journal or Journal(self.default_state_dir(), self._clock)
        self._sender = PerProcess(_Sender, abandon=_Sender.abandon)

    @staticmethod
    def default_state_dir() -> Path:
        """The directory of the journal, if none is given."""
        from platformdirs import user_state_path

        with suppressed(RuntimeError):  # a user without a home directory
            found = user_state_path("carbontrack", appauthor=False)
            if found.is_absolute():
                return found
        return folder_without_home() or Path(os.devnull, "carbontrack")

    @property
    def address(self) -> str:
        """The URL."""
        return self._url

    @property
    def path(self) -> Path:
        """The state directory, whose journal keeps the records until they are delivered."""
        return self._journal.state_dir

    def __repr__(self) -> str:
        return f"HttpSink({shown(self._url)!r})"

    def write(self, record: Record) -> None:
        """Put the record into the journal and wake the thread that sends; never blocks on a send.

        Raises:
            SinkError: the journal cannot be written and no more records can wait in memory.
        """
        super().write(record)
        sender = self._sender.get()
        self._start(sender)
        sender.wake.set()

    def hurry(self) -> None:
        """Make the thread start its last attempts, without waiting for it; `close` follows.

        Several sinks that are closed together are all hurried first, so that closing them takes
        no longer than closing one.
        """
        sender = self._sender.get()
        with sender.lock:
            if sender.deadline_s is None:
                allowed_s = self._exit_timeout_s * _EXIT_SHARE
                sender.deadline_s = self._clock.monotonic_s() + allowed_s
            if sender.delivery is not None and not sender.delivery.stop.is_set():
                sender.delivery.finish_by(sender.deadline_s)
        sender.wake.set()

    def rest(self) -> None:
        """Close the file of its own journal while nothing is measured and nothing waits."""
        if self._owns_journal:
            self._journal.rest(at_once=True)

    def close(self) -> None:
        """Let the thread send until the exit timeout; the remaining records stay in the journal.

        Raises:
            SinkError: some records could not even be written to the journal.
        """
        self.hurry()
        sender = self._sender.get()
        with sender.lock:
            thread, sender.thread = sender.thread, None
            deadline_s, sender.deadline_s = sender.deadline_s, None
        if thread is not None and deadline_s is not None and not sys.is_finalizing():
            thread.join(max(0.0, deadline_s - self._clock.monotonic_s()))
        try:
            super().close()
            self.still_waits = bool(OwnQueue(self._journal, self._url).peek(1))
            if self.still_waits:
                trouble = sender.delivery and sender.delivery.trouble
                LOGGER.warning(
                    "%s: %s; records wait in the journal: the next run with this output sends "
                    "them, or: carbontrack sync",
                    shown(self._url),
                    trouble or TOO_LATE,
                )
        finally:
            if self._owns_journal and (thread is None or not thread.is_alive()):
                self._journal.close()

    def _enqueue(self, record: Record) -> None:
        if not self._journal.enqueue(record, self._url):
            raise SinkError(f"its journal cannot be written: {self._journal.trouble}")

    def _start(self, sender: _Sender) -> None:
        with sender.lock:
            if sender.thread is not None and sender.thread.is_alive():
                return
            if sys.is_finalizing():  # the next process will send
                return
            poster = Poster(
                self._url, token=self._token, timeout_s=self._timeout_s, clock=self._clock
            )
            sender.delivery = Delivery(
                poster,
                state_dir=self._journal.state_dir,
                batch=self._batch,
                clock=self._clock,
                rate=rate_of(self._url),
            )
            sender.thread = OwnThread(self._work, "carbontrack-http", (sender, sender.delivery))
            try:
                sender.thread.start()
            except RuntimeError as error:  # there can be no more; the next process will send
                sender.thread = None
                pass_on(error)

    def _work(self, sender: _Sender, delivery: Delivery) -> None:
        outbox = sender.outbox = Outbox(self._journal.state_dir, self._url)
        try:
            load_requests()
            sender.leftovers = self._leftovers()
            delivery.run(lambda: self._queues(sender.leftovers, outbox), sender.wake)
        finally:
            outbox.close()

    def _queues(self, leftovers: Iterator[JournalFile], outbox: Outbox) -> Sequence[Queue]:
        own = OwnQueue(self._journal, self._url)
        if not (outbox.queue and outbox.queue.peek(1)):
            outbox.close()
            if not own.peek(1):
                try:
                    collect(outbox, leftovers)
                except OSError as error:
                    pass_on(error)
                    LOGGER.warning(
                        "%s: %s; records of processes that have exited wait longer",
                        self._journal.state_dir,
                        error.strerror or error,
                    )
        return [own, *filter(None, [outbox.queue]), self]

    def peek(self, limit: int) -> list[Record]:
        """The oldest records in memory, which the journal could not store (read-only disk)."""
        return [record for _, record in list(self._buffer.get().entries)[:limit]]

    def settle(self, record_ids: Sequence[str]) -> None:
        """Drop records that were sent from memory."""
        entries = self._buffer.get().entries
        for sent in [entry for entry in list(entries) if entry[0] in record_ids]:
            with suppressed(ValueError):  # written to the journal in the meantime
                entries.remove(sent)

    def _leftovers(self) -> Iterator[JournalFile]:
        """The journals of exited processes, a few at a time, after the started recovery."""
        if self._journal.before_leftovers is not None:
            self._journal.before_leftovers()
        yield from leftover_journals(self._journal.state_dir, self._clock, most=LOOK_LIMIT)


def _check_above_zero(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ConfigError(f"{name} must be above 0, not {number!r}")
