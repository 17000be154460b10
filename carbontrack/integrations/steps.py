"""A request of a server that goes on in steps, and ends once, with its name.

Its CPU seconds are those of the threads that run its steps, while they do: what other requests use
at the same time is theirs. While it is the only one of its process it has all of the process's,
as the threads that a numerical library computes with work for nobody else then.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from types import coroutine
from typing import Any, ClassVar, TypeVar

from carbontrack.api.named_calls import NamedCalls, ThreadCpu, outcome_of
from carbontrack.record import Status
from carbontrack.system.clock import process_cpu_s

T = TypeVar("T")


class CountedRequest:
    """A request that is being counted; it begins at once."""

    _under_way: ClassVar[set[CountedRequest]] = set()
    _lone: ClassVar[CountedRequest | None] = None

    def __init__(self, calls: NamedCalls) -> None:
        self._outcome: tuple[Status, str | None] = ("ok", None)
        self._steps: tuple[float, ThreadCpu | None] = (0.0, None)
        """The CPU seconds of the steps before, and of the one that runs now."""
        self._alone_since_s: float | None = None
        self._more_s = 0.0
        """CPU seconds of other threads, while it was alone."""
        self._call: Any = calls.begin(None if _is_greenlet() else self._cpu_s, is_outermost=True)
        self._join()

    def _join(self) -> None:
        everyone = CountedRequest._under_way
        everyone.add(self)
        lone, CountedRequest._lone = CountedRequest._lone, self
        self._alone_since_s = process_cpu_s()
        if lone is not None:
            lone._share()
        if len(everyone) > 1:  # after that, as another thread may just have come
            self._share()

    def _share(self) -> None:
        since_s = self._alone_since_s
        if since_s is not None:
            self._more_s = max(0.0, process_cpu_s() - since_s - self._own_cpu_s())
            self._alone_since_s = None

    def _own_cpu_s(self) -> float:
        before_s, running = self._steps
        return before_s if running is None else before_s + running()

    def _cpu_s(self) -> float:
        since_s = self._alone_since_s
        return self._own_cpu_s() + self._more_s if since_s is None else process_cpu_s() - since_s

    def step(self, function: Callable[..., T], *args: Any) -> T:
        """Run a part of the request in this thread; what it returns or raises is handed on."""
        before_s, _ = self._steps
        cpu_s = ThreadCpu()
        self._steps = before_s, cpu_s
        try:
            return function(*args)
        except (StopIteration, StopAsyncIteration):
            raise
        except BaseException as error:
            self._outcome = outcome_of(error)
            raise
        finally:
            self._steps = before_s + cpu_s(), None

    @coroutine
    def drive(self, awaitable: Awaitable[T]) -> Generator[Any, Any, T]:
        """Await something, as `await` does (PEP 380 says how); it goes on in steps."""
        body = awaitable.__await__()
        step: Callable[[], Any] = partial(next, body)
        while True:
            try:
                item = self.step(step)
            except StopIteration as stop:
                result: T = stop.value
                return result
            except BaseException:
                del step  # it may refer to the error, whose traceback refers to this frame
                raise
            try:
                sent = yield item
            except BaseException as error:
                step = partial(body.throw, error)
            else:
                step = partial(next, body) if sent is None else partial(body.send, sent)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._call is None

    def end(self, name: str, failure: str | None = None) -> None:
        """It has ended; a second call does nothing.

        Args:
            name: what it is counted as.
            failure: what the server answers, where that is an error of its own.
        """
        call, self._call = self._call, None
        if call is None:
            return
        if failure is not None and self._outcome[0] == "ok":
            self._outcome = "error", failure
        used_s = self._cpu_s()
        # what it takes to count the request is not its own
        self._alone_since_s, self._more_s, self._steps = None, 0.0, (used_s, None)
        call.end_as(name, *self._outcome)
        CountedRequest._under_way.discard(self)
        if CountedRequest._lone is self:
            CountedRequest._lone = None


def _is_greenlet() -> bool:
    """Whether others run in this thread meanwhile, as under gevent and eventlet."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and greenlet.getcurrent().parent is not None
