"""A request of a server that runs in steps and gets its name when it ends.

Its CPU seconds are those of the threads that run its steps, while they do. While it is the only
request of its process, it has the CPU seconds of the whole process, because the threads of a
numerical library then work for no other request.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from carbontrack.api.coroutine_cpu import CoroutineCpu
from carbontrack.api.named_calls import NamedCallHandle, NamedCalls, ThreadCpu, outcome_of
from carbontrack.record import Status
from carbontrack.system.clock import other_thread_cpu_s, process_cpu_s

T = TypeVar("T")


class SteppedRequest:
    """A request that is being counted; counting starts at once."""

    _under_way: ClassVar[set[SteppedRequest]] = set()
    _lone: ClassVar[SteppedRequest | None] = None

    def __init__(self, calls: NamedCalls) -> None:
        self._outcome: tuple[Status, str | None] = ("ok", None)
        self._steps: tuple[float, ThreadCpu | None] = (0.0, None)
        """The CPU seconds of the steps before, and of the one that runs now."""
        self._alone_since_s: float | None = None
        self._more_s = 0.0
        """CPU seconds of other threads, while it was alone."""
        self._ours: Callable[[], int | None] | None = None
        self._call: NamedCallHandle | None = self._begin(calls)

    def _begin(self, calls: NamedCalls) -> NamedCallHandle:
        everyone = SteppedRequest._under_way
        everyone.add(self)  # first: what it takes to begin, of the first one above all, is nobody's
        lone, SteppedRequest._lone = SteppedRequest._lone, None
        if lone is not None:
            lone._share()
        call: Any = calls.begin(None if _is_greenlet() else self._cpu_s, is_outermost=True)
        if call.is_counted and len(everyone) == 1:
            self._ours, SteppedRequest._lone = call.own_thread, self
            self._alone_since_s = self._process_cpu_s()
            if len(everyone) > 1:  # another thread has just come
                self._share()
        return call  # type: ignore[no-any-return]

    def _share(self) -> None:
        since_s = self._alone_since_s
        if since_s is not None:
            self._more_s = max(0.0, self._process_cpu_s() - since_s - self._own_cpu_s())
            self._alone_since_s = None

    def _own_cpu_s(self) -> float:
        before_s, running = self._steps
        return before_s if running is None else before_s + running()

    def _process_cpu_s(self) -> float:
        """The process's CPU seconds without those of the measuring thread."""
        thread_id = None if self._ours is None else self._ours()
        return process_cpu_s() - ((thread_id and other_thread_cpu_s(thread_id)) or 0.0)

    def _cpu_s(self) -> float:
        since_s = self._alone_since_s
        if since_s is None:
            return self._own_cpu_s() + self._more_s
        return self._process_cpu_s() - since_s

    def step(self, function: Callable[..., T], *args: Any) -> T:
        """Run a part of the request in this thread; what it returns or raises is passed on."""
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

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._call is None

    def end(self, name: str, failure: str | None = None) -> None:
        """It has ended; a second call does nothing.

        Args:
            name: the name under which it is counted.
            failure: the response of the server, if it is a server error.
        """
        call, self._call = self._call, None
        if call is None:
            return
        if failure is not None and self._outcome[0] == "ok":
            self._outcome = "error", failure
        self._stop()
        call.end_as(name, *self._outcome)
        self._leave()

    def _stop(self) -> None:
        used_s = self._cpu_s()
        # what it takes to count the request is not its own
        self._alone_since_s, self._more_s, self._steps = None, 0.0, (used_s, None)

    def _leave(self) -> None:
        SteppedRequest._under_way.discard(self)
        if SteppedRequest._lone is self:
            SteppedRequest._lone = None


class LoopRequest(SteppedRequest):
    """A request on an event loop, whose CPU seconds are measured by `CoroutineCpu`.

    Args:
        calls: begins it.
        works_in_thread: whether its handler runs in another thread; None: not known yet.
    """

    def __init__(self, calls: NamedCalls, works_in_thread: Callable[[], bool | None]) -> None:
        self._works_in_thread = works_in_thread
        self._cpu = CoroutineCpu(self._look)
        super().__init__(calls)

    def _begin(self, calls: NamedCalls) -> NamedCallHandle:
        call: Any = calls.begin(self._cpu, is_outermost=True)
        if call.is_counted:
            self._cpu.begin(call.own_thread)
        return call  # type: ignore[no-any-return]

    def _look(self) -> bool:
        found = self._works_in_thread()
        if found:
            self._cpu.in_thread()
        return found is not None

    async def drive(self, work: Awaitable[T]) -> T:
        """Await something; what it returns or raises is passed on."""
        try:
            result: Any = await self._cpu.run(work)  # type: ignore[arg-type,func-returns-value]
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._outcome = outcome_of(error)
            raise
        return result  # type: ignore[no-any-return]

    def step(self, function: Callable[..., T], *args: Any) -> T:
        """Run a part of the request in another thread."""
        try:
            return function(*args)
        except StopIteration:
            raise
        except BaseException as error:
            self._outcome = outcome_of(error)
            raise

    def _stop(self) -> None:
        self._cpu.end()

    def _leave(self) -> None:
        """Nothing to leave."""


def _is_greenlet() -> bool:
    """Whether other requests run in this thread meanwhile, as under gevent and eventlet."""
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and greenlet.getcurrent().parent is not None
