"""A thread of its own for calls that may never return, so that nobody waits for them long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from carbontrack.errors import MeterReadError

T = TypeVar("T")


class _Errand:
    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # raised again where it was asked
            self.error = error
        self.done.set()


class Courier:
    """Runs one call after the other elsewhere and waits for each a bounded time.

    While a call hangs, further ones are refused at once; when it returns, its answer is thrown away
    and the courier is free again. The thread starts with the first errand, again in a child process
    after a fork, and never keeps the interpreter alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._owner = 0
        self._errands: SimpleQueue[_Errand | None] = SimpleQueue()
        self._late: _Errand | None = None

    def ask(self, work: Callable[[], T], timeout_s: float) -> T:
        """What `work` returns; what it raises is raised here.

        Raises:
            MeterReadError: it takes longer than `timeout_s`, or an earlier errand still hangs.
        """
        if self._owner != os.getpid():
            self._start()
        if self._late is not None and not self._late.done.is_set():
            raise MeterReadError(f"{self._name} still has not answered an earlier call")
        errand = _Errand(work)
        self._errands.put(errand)
        if not errand.done.wait(timeout_s):
            self._late = errand
            raise MeterReadError(f"{self._name} did not answer within {timeout_s:g} s")
        if errand.error is not None:
            raise errand.error
        result: T = errand.result
        return result

    def close(self) -> None:
        """Let the thread end when its present errand does."""
        if self._owner == os.getpid():
            self._owner = 0
            self._errands.put(None)

    def _start(self) -> None:
        self._owner = os.getpid()
        self._late = None
        errands: SimpleQueue[_Errand | None] = SimpleQueue()
        self._errands = errands
        threading.Thread(
            target=_serve, args=(errands,), name=f"carbontrack-{self._name}", daemon=True
        ).start()


def _serve(errands: SimpleQueue[_Errand | None]) -> None:
    while (errand := errands.get()) is not None:
        errand.run()
