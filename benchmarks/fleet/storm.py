"""Processes with one record each that end together, replayed: a connection for each of them.

One loop over non-blocking sockets begins those whose time has come and takes answers in turns, at
about 0.1 ms of CPU time a process. Where that is too much for the second in which they are to end,
`begun_within_s` says how long it took.
"""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from client import AGAIN, Address, Posted, note, retry_after_s

AT_ONCE = 20
"""Processes that begin before answers are looked at again."""


@dataclass
class Process:
    """One process at its end: it tries until its patience is over."""

    body: bytes
    ends_s: float
    socket: socket.socket | None = None
    begun_s: float = 0.0
    answer: bytearray = field(default_factory=bytearray)


class Storm:
    """The replay.

    Attributes:
        found: what came of all tries.
        left: the bodies that were not delivered before their process ended.
        begun_within_s: from the begin of the first to that of the last.
    """

    def __init__(
        self, address: Address, batches: Sequence[bytes], *, within_s: float, patience_s: float
    ) -> None:
        self.found = Posted()
        self.left: list[bytes] = []
        self.begun_within_s = 0.0
        self._address, self._patience_s = address, patience_s
        self._chance = random.Random(21)
        times = sorted((self._chance.uniform(0.0, within_s) for _ in batches), reverse=True)
        self._due = list(zip(times, batches, strict=True))
        """When each begins, after the start; the next one is the last."""
        self._again: list[tuple[float, Process]] = []
        self._open: dict[int, Process] = {}
        self._poll = selectors.DefaultSelector()

    def run(self) -> None:
        """Until every process has ended."""
        start_s = first_s = time.monotonic()
        while self._due or self._again or self._open:
            for _ in range(AT_ONCE):
                if not self._due or time.monotonic() < start_s + self._due[-1][0]:
                    break
                _, body = self._due.pop()
                now_s = time.monotonic()
                self.begun_within_s = now_s - first_s
                self._begin(Process(body, now_s + self._patience_s))
            self._take_answers(0.0 if self._due else 0.01)
            self._look_at_the_clock()
        self._poll.close()

    def _begin(self, process: Process) -> None:
        """Open a connection; the request goes out once it is there."""
        process.begun_s, process.answer = time.monotonic(), bytearray()
        made = process.socket = socket.socket()
        made.settimeout(0)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open[made.fileno()] = process
        made.connect_ex((self._address.host, self._address.port))
        self._poll.register(made, selectors.EVENT_WRITE, process)

    def _take_answers(self, wait_s: float) -> None:
        for key, events in self._poll.select(wait_s):
            process: Process = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    self._send(process)
                else:
                    self._receive(process)
            except BlockingIOError:
                continue
            except OSError:
                self._ended(process, 0, None)

    def _send(self, process: Process) -> None:
        assert process.socket is not None
        request = self._address.request(process.body, keep=False)
        if process.socket.send(request) < len(request):
            raise ConnectionError("a request of one record fits into the buffer of a socket")
        self._poll.modify(process.socket, selectors.EVENT_READ, process)

    def _receive(self, process: Process) -> None:
        assert process.socket is not None
        part = process.socket.recv(4096)
        process.answer += part
        if b"\r\n\r\n" in process.answer:
            head = bytes(process.answer).lower()
            self._ended(process, int(head.split(b" ", 2)[1]), retry_after_s(head))
        elif not part:
            self._ended(process, 0, None)

    def _ended(self, process: Process, status: int, after_s: float | None) -> None:
        """A try has ended: done, or once more later."""
        now_s = time.monotonic()
        self._close(process)
        note(self.found, status, now_s - process.begun_s, process.body)
        if status in (0, *AGAIN):
            wait_s = self._chance.uniform(0.0, after_s or 0.2)
            self._again.append((now_s + wait_s, process))

    def _look_at_the_clock(self) -> None:
        now_s = time.monotonic()
        late = [process for process in self._open.values() if process.ends_s < now_s]
        for process in late:
            self._close(process)
        self._give_up(late)
        self._give_up(process for _, process in self._again if process.ends_s < now_s)
        waiting = [pair for pair in self._again if pair[1].ends_s >= now_s]
        self._again = [pair for pair in waiting if pair[0] > now_s]
        for at_s, process in waiting:
            if at_s <= now_s:
                self._begin(process)

    def _give_up(self, processes: Iterable[Process]) -> None:
        self.left += [process.body for process in processes]

    def _close(self, process: Process) -> None:
        if process.socket is not None:
            self._open.pop(process.socket.fileno(), None)
            with suppress(KeyError, ValueError):
                self._poll.unregister(process.socket)
            process.socket.close()
            process.socket = None
