"""Records to a server, through the journal, without the program ever waiting for the network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from carbontrack.errors import ConfigError, SinkError
from carbontrack.record import Record
from carbontrack.sinks.buffered import BufferedSink
from carbontrack.sinks.delivery import Delivery, OrphanQueue, OwnQueue, Queue
from carbontrack.sinks.journal.journal import Journal, orphans
from carbontrack.sinks.post import Poster, checked_token, checked_url, shown, travels_open
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.forking import PerProcess, holding_forks
from carbontrack.system.log import say_aloud

_EXIT_SHARE = 0.9
"""The share of the exit timeout that is spent waiting; the rest is for the end itself."""


class _Sender:
    """The thread of one process that sends, and what it works with."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finalizer may come back in
        self.wake = threading.Event()
        self.thread: threading.Thread | None = None
        self.delivery: Delivery | None = None
        self.deadline_s: float | None = None
        self.orphans: Iterator[OrphanQueue] = iter(())
        self.adopted: list[OrphanQueue] = []

    def abandon(self) -> None:
        """In a child: close the journals that the parent's thread works off."""
        for queue in self.adopted:
            queue.file.abandon()


class HttpSink(BufferedSink[Record]):
    """Posts records, as a JSON array, to a URL.

    Each record is in the journal before any attempt to send it, and leaves it when the server has
    answered 2xx. A thread sends; the caller only writes to the journal. What is left at the exit,
    which waits `exit_timeout_s` at most, is sent by the next process with the same journal and
    URL, or by `carbontrack sync`. A record can therefore arrive twice, never not at all;
    `record_id` tells a repetition.

    Args:
        url: http or https, without a password in it.
        token: sent as `Authorization: Bearer …`, and never shown.
        timeout_s: the longest wait for a connection, and for an answer.
        batch: the most records in one request.
        exit_timeout_s: how long `close` may wait.
        journal: where records wait; by default in the user's own state directory, whatever the
            settings say, which this floor does not know. `carbontrack.HttpSink` goes by them.
        clock: the time.

    Raises:
        ConfigError: the URL, the token or a number cannot be used.
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
        if token is not None and travels_open(url):
            say_aloud(f"the token for {shown(url)} can be read on its way; use https://")
        _check_above_zero(timeout_s=timeout_s, batch=batch)
        if exit_timeout_s < 0:
            raise ConfigError(f"exit_timeout_s must be 0 or more, not {exit_timeout_s!r}")
        self._timeout_s, self._batch = timeout_s, batch
        self.still_waits = False
        """After `close`: whether something was not delivered, and waits for the next process."""
        self._exit_timeout_s = exit_timeout_s
        self._clock = clock or SystemClock()
        self._owns_journal = journal is None
        self._journal = journal or Journal(self.own_state_dir(), self._clock)
        self._sender = PerProcess(_Sender, abandon=_Sender.abandon)

    @staticmethod
    def own_state_dir() -> Path:
        """Where the journal is, if none is handed in."""
        return default_state_dir()

    @property
    def address(self) -> str:
        """The URL."""
        return self._url

    @property
    def path(self) -> Path:
        """The directory whose journal keeps the records until they are delivered."""
        return self._journal.state_dir

    def __repr__(self) -> str:
        return f"HttpSink({shown(self._url)!r})"

    def write(self, record: Record) -> None:
        """Put the record into the journal and wake the thread that sends; waits for no network.

        Raises:
            SinkError: the journal cannot be written and no more records can wait in memory.
        """
        super().write(record)
        sender = self._sender.get()
        self._start(sender)
        sender.wake.set()

    def hurry(self) -> None:
        """Let the thread begin its last attempts, and wait for nothing; `close` follows.

        Where several sinks come to an end together, each is told so before the first is waited
        for: then all of them take no longer than one.
        """
        sender = self._sender.get()
        with sender.lock:
            if sender.deadline_s is None:
                patience_s = self._exit_timeout_s * _EXIT_SHARE
                sender.deadline_s = self._clock.monotonic_s() + patience_s
            if sender.delivery is not None and not sender.delivery.stop.is_set():
                sender.delivery.last_attempts(sender.deadline_s)
        sender.wake.set()

    def close(self) -> None:
        """Let the thread try for a short while; what is left stays in the journal.

        Raises:
            SinkError: records are left that could not even be put into the journal.
        """
        self.hurry()
        sender = self._sender.get()
        with sender.lock:
            thread, sender.thread = sender.thread, None
            deadline_s, sender.deadline_s = sender.deadline_s, None
        if thread is not None and deadline_s is not None:
            thread.join(max(0.0, deadline_s - self._clock.monotonic_s()))
        try:
            super().close()
            self.still_waits = bool(OwnQueue(self._journal, self._url).take(1))
        finally:
            if self._owns_journal and (thread is None or not thread.is_alive()):
                self._journal.close()

    def _enqueue(self, record: Record) -> None:
        if not self._journal.enqueue(record, self._url):
            raise SinkError("its journal cannot be written")

    def _start(self, sender: _Sender) -> None:
        with sender.lock:
            if sender.thread is not None and sender.thread.is_alive():
                return
            poster = Poster(
                self._url, token=self._token, timeout_s=self._timeout_s, clock=self._clock
            )
            sender.delivery = Delivery(
                poster, state_dir=self._journal.state_dir, batch=self._batch, clock=self._clock
            )
            sender.thread = threading.Thread(
                target=self._work,
                args=(sender, sender.delivery),
                name="carbontrack-http",
                daemon=True,
            )
            try:
                sender.thread.start()
            except RuntimeError:  # the interpreter is shutting down; the next process will send
                sender.thread = None

    def _work(self, sender: _Sender, delivery: Delivery) -> None:
        try:
            with holding_forks():
                import requests  # noqa: F401 - so that no import is under way in a fork's child
            sender.orphans = self._orphans()
            delivery.run(lambda: self._queues(sender), sender.wake)
        finally:
            while sender.adopted:
                sender.adopted.pop().file.close()

    def _queues(self, sender: _Sender) -> Sequence[Queue]:
        for queue in [queue for queue in sender.adopted if not queue.take(1)]:
            sender.adopted.remove(queue)
            queue.file.close()
        if not sender.adopted:  # one at a time, so that the program's descriptors stay free
            sender.adopted += islice(sender.orphans, 1)
        return [OwnQueue(self._journal, self._url), *sender.adopted, self]

    def take(self, limit: int) -> list[Record]:
        """Records that the journal did not take, as on a read-only disk, are sent from memory."""
        return [record for _, record in list(self._buffer.get().entries)[:limit]]

    def settle(self, record_ids: Sequence[str]) -> None:
        """Forget records that were sent from memory."""
        entries = self._buffer.get().entries
        for sent in [entry for entry in list(entries) if entry[0] in record_ids]:
            with suppress(ValueError):  # written to the journal in the meantime
                entries.remove(sent)

    def _orphans(self) -> Iterator[OrphanQueue]:
        """The journals of dead processes in which something waits for our URL."""
        for file in orphans(self._journal.state_dir, self._clock):
            queue = OrphanQueue(file, self._url)
            if queue.take(1):
                yield queue
            else:
                file.close()


def default_state_dir() -> Path:
    """The user's own folder for what must outlive a process."""
    from platformdirs import user_state_path

    return user_state_path("carbontrack", appauthor=False)


def _check_above_zero(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ConfigError(f"{name} must be above 0, not {number!r}")
