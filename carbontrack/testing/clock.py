"""A clock that advances only when a test advances it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

_POLL_S = 0.005
"""The interval, in real time, at which a waiting thread checks its event."""
_GUARD_S = 5.0
"""Real seconds after which `advance` stops waiting for a thread that does not wait again."""


@dataclass(eq=False, slots=True)
class _Waiter:
    thread: threading.Thread
    event: threading.Event
    deadline_s: float


class FakeClock:
    """A `carbontrack.system.clock.Clock` that a test sets.

    `advance` steps through the deadlines of the threads that are in `wait`: each of them wakes
    exactly at its deadline, and waits again or ends before time advances further. A test of a
    background thread is therefore exact and never sleeps. `advance` also waits for a thread that
    was just started if its attribute `clock` is this clock, as with carbontrack's threads; for any
    other thread call `until_waiting` first.
    """

    is_stepped = True
    """This clock may stand still while the process works; with any other clock that is a fault."""

    def __init__(self, start_s: float = 1000.0, now: datetime | None = None) -> None:
        self._monotonic_s = start_s
        self._wall = now or datetime(2026, 1, 1, tzinfo=timezone.utc)
        self._suspended_s = 0.0
        self._changed = threading.Condition()
        self._waiters: list[_Waiter] = []
        self._released: dict[threading.Thread, bool] = {}
        """Threads that left `wait` and have not returned to it.

        True if a deadline released them.
        """

    def monotonic_s(self) -> float:
        """Seconds, moved by `advance`."""
        return self._monotonic_s

    def suspended_s(self) -> float:
        """Seconds slept, moved by `suspend`."""
        return self._suspended_s

    def now_utc(self) -> datetime:
        """The wall clock, moved by `advance`, `suspend`, `set_wall` and `step_wall`."""
        return self._wall

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait for the event or, in fake time, for the end of the timeout."""
        thread = threading.current_thread()
        with self._changed:
            self._released.pop(thread, None)
            forever = timeout_s is None
            deadline_s = float("inf") if forever else self._monotonic_s + (timeout_s or 0.0)
            waiter = _Waiter(thread, event, deadline_s)
            self._waiters.append(waiter)
            self._changed.notify_all()
            if hasattr(event, "then"):  # that of a sampler
                event.then = self._notify
            while not event.is_set() and self._monotonic_s < deadline_s:
                self._changed.wait(_POLL_S)
            self._waiters.remove(waiter)
            self._released[thread] = not event.is_set()
            self._changed.notify_all()
        return event.is_set()

    def until_waiting(self, threads: int = 1) -> None:
        """Return when at least this many threads are in `wait`.

        Raises:
            TimeoutError: they are not within five real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiters) >= threads, _GUARD_S):
                raise TimeoutError(f"{len(self._waiters)} of {threads} threads wait on the clock")

    def advance(self, seconds: float) -> None:
        """Move monotonic and wall time on, waking each waiting thread at its own deadline.

        Raises:
            ValueError: the step is negative.
            TimeoutError: a thread that was woken did not wait again within five real seconds.
        """
        if seconds < 0.0:
            raise ValueError(f"monotonic time does not go back: {seconds!r}")
        with self._changed:
            target_s = self._monotonic_s + seconds
            self._settle()
            while True:
                next_s = min((w.deadline_s for w in self._waiters), default=target_s)
                if next_s > target_s:
                    break
                self._move_to(next_s)
                if not any(w.deadline_s <= next_s for w in self._waiters):
                    break
                self._settle()
            self._move_to(target_s)

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: the wall clock advances, the monotonic clock does not."""
        self._suspended_s += seconds
        self.step_wall(seconds)

    def set_wall(self, now: datetime) -> None:
        """Set the wall clock, as an administrator or NTP does; nothing else changes."""
        self._wall = now

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock forwards or backwards; nothing else changes."""
        self._wall += timedelta(seconds=seconds)

    def _move_to(self, at_s: float) -> None:
        self._wall += timedelta(seconds=at_s - self._monotonic_s)
        self._monotonic_s = at_s
        self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _settle(self) -> None:
        """Wait until every thread that was woken waits again, or has ended."""
        if self._changed.wait_for(self._all_back, _GUARD_S):
            return
        late = [thread.name for thread, by_deadline in self._released.items() if by_deadline]
        self._released.clear()
        if late:
            raise TimeoutError(f"woken at their deadline and not waiting again: {', '.join(late)}")

    def _all_back(self) -> bool:
        me = threading.current_thread()
        # a thread that has ended, or that exists only in the parent of a fork, will not wait again
        self._waiters = [w for w in self._waiters if w.thread.is_alive()]
        for thread in [t for t in self._released if t is me or not t.is_alive()]:
            del self._released[thread]
        waiting = {waiter.thread for waiter in self._waiters}
        if any(
            t not in waiting for t in threading.enumerate() if getattr(t, "clock", None) is self
        ):
            return False
        due = [w for w in self._waiters if w.event.is_set() or w.deadline_s <= self._monotonic_s]
        return not due and not self._released
