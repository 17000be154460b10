"""Attribution of CPU time on an event loop: the CPU seconds of one coroutine among many.

A coroutine's own CPU time is measured at its steps: from where the loop resumes it to where it
waits again. The rest of the process's CPU seconds is shared evenly:

- what other threads use, among the coroutines under way that have work in a thread (`in_thread`),
  or among all if there are none;
- what the loop's thread uses outside these steps, among the coroutines that also work in other
  tasks (`in_tasks`). If there are none, it is the server's own.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

from carbontrack.system.clock import ThreadCpu, other_thread_cpu_s, process_cpu_s, thread_cpu_s
from carbontrack.system.forking import remember

LONG_STEP_S = 0.001
"""In a step at least this long other threads work for it, such as those of a library for arrays."""
_LITTLE_S = 0.0001
"""Below this, carbontrack's own part is not determined."""


class _Pool:
    """CPU seconds that are shared evenly among the coroutines that take part at the time."""

    __slots__ = ("level_s", "users")

    def __init__(self) -> None:
        self.users = 0
        self.level_s = 0.0
        """The share of a coroutine that took part from the beginning."""

    def level_with(self, used_s: float) -> float:
        """The level after this has been used too."""
        return self.level_s + max(0.0, used_s) / self.users if self.users else self.level_s


class LoopCpu:
    """The CPU seconds of a thread with an event loop, and of the other threads of its process.

    Only that thread changes it; any thread may read it at any time.
    """

    def __init__(self) -> None:
        self.is_stale = False
        """Whether it belongs to the process from which this one was forked."""
        self.clock = ThreadCpu(since_s=0.0)
        self.step_began_s: float | None = None
        self.in_steps_s = 0.0
        self.all, self.in_threads, self.in_tasks = _Pool(), _Pool(), _Pool()
        self.ours: Callable[[], int | None] | None = None
        """Returns the number of the sampler's thread, which works for no coroutine."""
        self._ours: tuple[int | None, float, float] = (None, 0.0, 0.0)
        self._others_s = self._rest_s = 0.0
        self._others_s, self._rest_s = self._new(thread_cpu_s())
        remember(self)

    def forget_parent(self) -> None:
        """In a child process the clocks begin at zero."""
        self.is_stale = True

    def _new(self, own_s: float) -> tuple[float, float]:
        """CPU seconds of other threads, and of this one outside steps, since the last update.

        `own_s` is what this thread has used.
        """
        began_s, in_steps_s = self.step_began_s, self.in_steps_s
        others_s = process_cpu_s() - own_s - self._ours[2] - self._others_s
        if others_s >= _LITTLE_S:
            others_s += self._ours[2] - self._by_us()
        if began_s is not None:
            own_s = min(own_s, began_s)
        return others_s, own_s - in_steps_s - self._rest_s

    def _by_us(self) -> float:
        """CPU seconds that the samplers' threads have used, as far as was observed."""
        thread_id = None if self.ours is None else self.ours()
        if thread_id is None:
            return self._ours[2]
        now_s = other_thread_cpu_s(thread_id) or 0.0
        known, then_s, total_s = self._ours
        total_s += max(0.0, now_s - then_s) if known == thread_id else 0.0
        self._ours = thread_id, now_s, total_s
        return total_s

    @property
    def _for_others(self) -> _Pool:
        return self.in_threads if self.in_threads.users else self.all

    def level(self, pool: _Pool) -> float:
        """The level of a pool now; in any thread."""
        others_s, rest_s = self._new(self.clock())
        if pool is self.in_tasks:
            return pool.level_with(rest_s)
        return pool.level_with(others_s) if pool is self._for_others else pool.level_s

    def update(self) -> None:
        """Share what has been used so far, before a coroutine joins or leaves."""
        others_s, rest_s = self._new(thread_cpu_s())
        for pool, used_s in ((self._for_others, others_s), (self.in_tasks, rest_s)):
            pool.level_s = pool.level_with(used_s)
        self._others_s += others_s
        self._rest_s += rest_s

    def others_in_a_step(self) -> float:
        """CPU seconds of other threads since the last update, for this coroutine only."""
        if self.in_threads.users:
            return 0.0
        others_s, _ = self._new(thread_cpu_s())
        self._others_s += others_s
        return max(0.0, others_s)


class _OfThread(threading.local):
    loop: LoopCpu | None = None


_here = _OfThread()


def _loop_here() -> LoopCpu:
    """The loop of this thread; a forked child has a different one."""
    loop = _here.loop
    if loop is None or loop.is_stale:
        loop = _here.loop = LoopCpu()
    return loop


class CoroutineCpu:
    """Runs a coroutine as awaiting it does, and counts the CPU seconds that it uses itself.

    `await cpu.run(coroutine)`: what it yields and raises, what is sent and thrown into it, and its
    context are the same as without this. Called, from any thread, it returns the seconds so far.

    Args:
        look: called after each step until it returns True.
    """

    __slots__ = (
        "_began_s",
        "_coroutine",
        "_joined_s",
        "_look",
        "_loop",
        "_pool",
        "_tasks_joined_s",
        "own_s",
    )  # fmt: skip

    def __init__(self, look: Callable[[], bool]) -> None:
        self._loop = _loop_here()
        self._look: Callable[[], bool] | None = look
        self._coroutine: Any = None
        self._began_s: float | None = None
        self._pool: _Pool | None = None
        self._joined_s = 0.0
        self._tasks_joined_s: float | None = None
        self.own_s = 0.0

    def __call__(self) -> float:
        """The CPU seconds so far, of this step too."""
        loop, pool, used_s = self._loop, self._pool, self.own_s
        if pool is not None:
            used_s += loop.level(pool) - self._joined_s
        tasks_joined_s, began_s = self._tasks_joined_s, self._began_s
        if tasks_joined_s is not None:
            used_s += loop.level(loop.in_tasks) - tasks_joined_s
        if began_s is not None:
            used_s += max(0.0, loop.clock() - began_s)
        return used_s

    # -- among whom the rest is shared -------------------------------------------------------

    def begin(self, ours: Callable[[], int | None] | None = None) -> None:
        """It starts or continues; `ours` returns the number of a thread of carbontrack."""
        self._loop.ours = ours or self._loop.ours
        self._loop.update()
        self._join(self._loop.all)

    def in_thread(self) -> None:
        """From now on it has work in another thread."""
        self.pause()
        self._join(self._loop.in_threads)

    def in_tasks(self) -> None:
        """From now on it works in other tasks as well."""
        if self._tasks_joined_s is None:
            self._loop.update()
            self._tasks_joined_s = self._loop.in_tasks.level_s
            self._loop.in_tasks.users += 1

    def pause(self) -> None:
        """It waits, and no other thread works for it."""
        self._loop.update()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.users -= 1
            self.own_s += pool.level_s - self._joined_s

    def end(self) -> None:
        """It is over."""
        self.pause()
        self._look = self._coroutine = None  # which may refer to this one
        joined_s, self._tasks_joined_s = self._tasks_joined_s, None
        if joined_s is not None:
            self._loop.in_tasks.users -= 1
            self.own_s += self._loop.in_tasks.level_s - joined_s

    def _join(self, pool: _Pool) -> None:
        self._joined_s = pool.level_s
        pool.users += 1
        self._pool = pool

    # -- the steps ---------------------------------------------------------------------------

    @property
    def is_in_a_step(self) -> bool:
        """Whether the coroutine itself runs, and no other task."""
        return self._began_s is not None

    def run(self, work: Awaitable[None]) -> Awaitable[None]:
        """The object to await instead of the coroutine."""
        if not isinstance(work, Coroutine):  # the steps of a future, say, are not its own
            self.in_tasks()
            return work
        self._coroutine = work
        return self

    def __await__(self) -> Generator[Any, Any, None]:
        return self  # type: ignore[return-value]  # it has all that `await` asks for

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._began_s = self._loop.step_began_s = began_s = thread_cpu_s()
        try:
            return self._coroutine.send(None)
        finally:
            self._stepped(began_s)

    def send(self, value: Any) -> Any:
        """Resume the coroutine with a value."""
        self._began_s = self._loop.step_began_s = began_s = thread_cpu_s()
        try:
            return self._coroutine.send(value)
        finally:
            self._stepped(began_s)

    def throw(self, *raised: Any) -> Any:
        """Resume the coroutine with an exception."""
        self._began_s = self._loop.step_began_s = began_s = thread_cpu_s()
        try:
            return self._coroutine.throw(*raised)
        finally:
            self._stepped(began_s)

    def close(self) -> None:
        """The awaiting code is closed, so close the coroutine too."""
        self._coroutine.close()

    def _stepped(self, began_s: float) -> None:
        loop, used_s = self._loop, thread_cpu_s() - began_s
        self.own_s += used_s
        loop.in_steps_s += used_s
        self._began_s = loop.step_began_s = None
        if used_s >= LONG_STEP_S:
            self.own_s += loop.others_in_a_step()
        if self._look is not None and self._look():
            self._look = None
