"""The ticker: the sampler's thread, which calls `tick` at whole multiples of a period.

It also runs jobs for the main thread. There a signal handler may raise at any line; in this thread
none runs, so a job is always completed.
"""

from __future__ import annotations

import logging
import sys
import threading
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from carbontrack.system.clock import Clock
from carbontrack.system.forking import OwnThread
from carbontrack.system.interrupts import pass_on, reentrant_lock
from carbontrack.system.log import kept_back
from carbontrack.values import NamedTuple

try:
    from _queue import Empty, SimpleQueue  # `queue` imports more, at each start of a process
except ImportError:
    from queue import Empty, SimpleQueue

_JOIN_S = 2.0
"""How long a tick that does not return may delay the program's exit."""
_BEGIN_S, _END_S = 1.0, 5.0
"""How long the main thread waits for its job to begin, then for its end; much longer than both
take. A job that does not begin is done by the main thread itself."""
_ROUNDING = 1e-6
"""The part of a period, after days of uptime, by which its multiples may be off."""
_log = logging.getLogger("carbontrack")


class TickerThread(OwnThread):
    """A thread that exposes the clock it waits on, which a `FakeClock` needs to know."""

    def __init__(self, target: Callable[[], None], clock: Clock) -> None:
        super().__init__(target, "carbontrack-sampler")
        self.clock = clock


class TickEvents(NamedTuple):
    """What a ticker calls: at each deadline, and when no ticks are wanted any more."""

    tick: Callable[[], None]
    sleep: Callable[[], None]


class Wakeup(threading.Event):
    """An event for one waiting thread that may be set at any instruction.

    `threading.Event` has a lock: a handler or a finalizer that sets one just while its thread sets
    it would wait for itself forever. `SimpleQueue.put` may be called again within itself.
    """

    def __init__(self) -> None:
        self._set: SimpleQueue[object] = _queue_of_these_threads()()
        self.nudge: Callable[[object], object] = self._set.put
        """As `set`, with one argument, and in C."""
        self.then: Callable[[], object] | None = None
        """Called when it is set; for a clock that waits in another way, as a `FakeClock` does."""

    def is_set(self) -> bool:
        """Whether it was set since the last `clear`."""
        return not self._set.empty()

    def set(self) -> None:
        """End the wait."""
        self._set.put(None)
        if self.then is not None:
            self.then()

    def clear(self) -> None:
        """Let the next wait last again."""
        with suppress(Empty):
            while True:
                self._set.get_nowait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or `timeout` seconds; True if it is set."""
        try:
            self._set.get(timeout=timeout)
        except Empty:
            return False
        self._set.put(None)
        return True


def _queue_of_these_threads() -> type[SimpleQueue[object]]:
    """Where a library runs threads as greenlets: the queue that lets others run while one waits."""
    return getattr(sys.modules.get("queue"), "SimpleQueue", SimpleQueue)


class _Job:
    """A function that is called once, by the thread that takes it first."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = [do]
        self._ended = allocate_lock()
        self._ended.acquire()
        self._has_ended = False
        self.messages: list[logging.LogRecord] = []

    def run(self) -> None:
        """Run it, unless another thread does."""
        try:
            do = self._do.pop()
        except IndexError:
            return
        try:
            do()
        except Exception:
            _log.exception("a record could not be written")
        finally:
            self._has_ended = True
            self._ended.release()

    def wait(self) -> None:
        """Return when it has been done, by this thread if the other one does not begin."""
        if not self._has_ended and not self._ended.acquire(timeout=_BEGIN_S):
            self.run()
            self._ended.acquire(timeout=_END_S)


class Ticker:
    """Calls `tick` at deadlines that do not drift, and sleeps while no ticks are wanted.

    Args:
        events: what is called, on the thread; must not raise.
        clock: the time source.
        period_s: returns the time between two deadlines; called before each.
        is_wanted: returns whether ticks are wanted.
    """

    def __init__(
        self,
        events: TickEvents,
        clock: Clock,
        *,
        period_s: Callable[[], float],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._tick, self._on_sleep = events
        self._period_s = period_s
        self._is_wanted = is_wanted
        self._clock = clock
        self._lock = reentrant_lock()  # a finalizer may re-enter
        self._kick = Wakeup()
        self._jobs: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self.dozes = True
        """Whether it has to be woken to tick."""
        self._runs = self._closed = False

    @property
    def nudge(self) -> Callable[[object], object]:
        """Ends the thread's wait; in C, so that it may be called at any line."""
        return self._kick.nudge

    @property
    def thread_id(self) -> int | None:
        """The system's number of the thread; None before it is started."""
        return None if self._thread is None else self._thread.native_id

    def wake(self) -> None:
        """Begin to tick; the first call starts the thread."""
        with self._lock:
            if self._thread is not None:
                self._kick.set()
            elif not self._closed and not sys.is_finalizing():
                self._start()

    def _start(self) -> None:
        # Whether it runs is not asked of the thread: a handler that raises in `Thread.is_alive`
        # leaves it marked as ended.
        try:
            self._thread = thread = TickerThread(self._run, self._clock)
            thread.start()
        except BaseException as error:
            self._thread = None  # should it have been started, it ends
            if not isinstance(error, RuntimeError):
                raise
            pass_on(error)
            _log.debug(
                "the sampler thread cannot be started: %s", error
            )  # at interpreter exit; span edges count

    def _run(self) -> None:
        me = threading.current_thread()
        try:
            while not self._closed and self._thread is me:
                self._runs = True
                # Before it asks: what opens something looks here afterwards, and one of the two
                # sees the other.
                self.dozes = True
                self.dozes = dozes = not self._is_wanted()
                if dozes:
                    self._on_sleep()
                is_due = self._is_due_after_jobs(None if dozes else self._next_s())
                if is_due and self._is_wanted() and not self._closed:
                    self._tick()
        finally:  # whatever ends it: nobody waits for a thread that is not there
            self._runs = False
            self._do_jobs()

    def _is_due_after_jobs(self, deadline_s: float | None) -> bool:
        """Do jobs until the deadline; False if something else has ended the wait before."""
        while not self._closed:
            left_s = None if deadline_s is None else deadline_s - self._clock.monotonic_s()
            if left_s is not None and left_s <= 0.0:
                return True
            if not self._clock.wait(self._kick, left_s):
                return True
            self._kick.clear()
            if not self._do_jobs() or deadline_s is None:
                return False  # a job may have opened what is closed before a sleep
        return False

    def _next_s(self) -> float:
        # Whole multiples of the period on a clock that all processes share, so they tick together.
        period_s, now_s = self._period_s(), self._clock.monotonic_s()
        left_s = period_s - now_s % period_s
        # at a multiple that is no binary number, such as 0.3, the rest is that of the rounding
        return now_s + (left_s if left_s > _ROUNDING * period_s else left_s + period_s)

    def _do_jobs(self) -> bool:
        """Run the waiting jobs; returns whether there were any."""
        had_any = bool(self._jobs)
        while self._jobs:
            job = self._jobs.popleft()
            with kept_back(job.messages):
                job.run()
        return had_any

    def do(self, do: Callable[[], None]) -> None:
        """Run a function to its end, whatever signal handlers raise in the meantime.

        In the main thread the ticker's thread does it. What a handler raises while the main thread
        waits for that reaches the program afterwards.
        """
        if not self._runs or self._closed or not _is_main_thread():
            do()
            if self.dozes:  # it has fallen asleep before this, which may have opened a file
                self._kick.set()
            return
        job = _Job(do)
        self._jobs.append(job)
        self._kick.set()
        try:
            job.wait()
        except BaseException:
            job.wait()
            raise
        finally:
            # A handler of the log may want a lock that this thread has.
            for message in job.messages:
                _log.handle(message)

    def close(self, *, waits: bool = True) -> None:
        """End the thread, and wait for it briefly."""
        self._closed = True
        self._kick.set()
        thread = self._thread if waits and not sys.is_finalizing() else None
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)


def _is_main_thread() -> bool:
    return get_ident() == threading.main_thread().ident
