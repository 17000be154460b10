"""Time: the only file of the package that imports `time`.

Durations are monotonic, so that a step of the wall clock cannot change them; the wall clock only
dates records.

Tests freeze time: they replace functions in the module `time`, and the class `datetime` wherever it
is an attribute of a module. Neither reaches the functions used here, whenever this file is loaded:
they belong to a private copy of the module `time`.
"""

from __future__ import annotations

import sys
import threading
import time as shared_time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from types import ModuleType
from typing import Any, Protocol

from carbontrack.system.host import online_threads
from carbontrack.system.interrupts import pass_on


def _copy_of(module: ModuleType) -> Any:
    """The module, initialised once more; the module itself where there is no other copy of it."""
    try:
        assert module.__spec__ is not None
        loader: Any = module.__spec__.loader
        made: ModuleType = loader.create_module(module.__spec__)
        loader.exec_module(made)
    except Exception as error:  # PyPy and others
        pass_on(error)
        return module
    return made


time = _copy_of(shared_time)
process_cpu_s: Callable[[], float] = time.process_time
"""CPU seconds, user and system, of all threads of this process; about 0.6 us a call."""
thread_cpu_s: Callable[[], float] = time.thread_time
"""CPU seconds of the calling thread."""
_CPUCLOCK_SCHED = 2
_CPUCLOCK_PER_THREAD = 4
_CLOCK_REALTIME_COARSE = 5
"""The wall clock as of the last timer interrupt, at most 10 ms ago; of Linux only."""
_real_datetime: type[datetime] = next(
    one for one in datetime.__mro__ if one.__module__ == "datetime"
)  # `datetime` may be a frozen subclass of it
_now, _from_timestamp = _real_datetime.now, _real_datetime.fromtimestamp
_utc, _modules = timezone.utc, sys.modules


CpuTime = tuple[float, float | None]
"""An instant, and the CPU seconds that all processors had worked until then; None: unknown."""


def cpu_s_before(at_s: float, noted: CpuTime, now: CpuTime) -> float | None:
    """The CPU seconds at an instant before both, as if worked evenly from there on."""
    noted_s, then_s = noted
    now_s, worked_s = now
    if then_s is None or worked_s is None or now_s <= noted_s:
        return then_s
    return then_s - (worked_s - then_s) / (now_s - noted_s) * max(0.0, noted_s - at_s)


def other_process_cpu_s(pid: int) -> float | None:
    """CPU seconds of another process, ended threads included; None where unknown.

    The clock's number is computed as clock_getcpuclockid(3) does it.
    """
    if sys.platform != "linux":
        return None
    try:
        return float(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED))
    except OSError as error:
        pass_on(error)
        return None


def other_thread_cpu_s(native_id: int) -> float | None:
    """CPU seconds of another thread of this process; None where unknown, or if it has ended."""
    if sys.platform != "linux":
        return None
    try:
        clock = (~native_id << 3) | _CPUCLOCK_PER_THREAD | _CPUCLOCK_SCHED
        return float(time.clock_gettime(clock))
    except OSError as error:
        pass_on(error)
        return None


class ThreadCpu:
    """The CPU seconds of the thread that makes it, from then on or from `since_s`; for any thread.

    On Linux the clock of a thread can be read by others; its number is computed as
    pthread_getcpuclockid(3) does it, which must not be given a thread that has ended. Elsewhere
    others get the CPU seconds of the process in the meantime.
    """

    __slots__ = ("_last_s", "_process_s", "_since_s", "_thread")

    def __init__(self, since_s: float | None = None) -> None:
        self._thread = threading.get_native_id()
        now_s = thread_cpu_s()
        self._since_s = now_s if since_s is None else since_s
        self._last_s = now_s - self._since_s
        self._process_s = process_cpu_s() - self._last_s

    def __call__(self) -> float:
        """The CPU seconds of the thread since then."""
        if threading.get_native_id() == self._thread:
            self._last_s = thread_cpu_s() - self._since_s
            return self._last_s
        now_s = other_thread_cpu_s(self._thread)
        if now_s is not None:
            self._last_s = now_s - self._since_s
        elif sys.platform != "linux":
            return process_cpu_s() - self._process_s
        return self._last_s


class Clock(Protocol):
    """The clock interface of carbontrack; `carbontrack.testing.FakeClock` is one for tests."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary instant, never decreasing; stopped in suspend."""
        ...

    def suspended_s(self) -> float:
        """Seconds in suspend since boot; 0 where the system does not report it."""
        ...

    def now_utc(self) -> datetime:
        """The wall clock, with its time zone, UTC."""
        ...

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait until `event` is set or `timeout_s` is over; True if the event is set."""
        ...


class SystemClock:
    """The machine's own clocks.

    `monotonic_s` is CLOCK_MONOTONIC, which all processes of a host share: samplers that tick at
    whole multiples of their interval therefore tick together, and their shares add up.
    """

    monotonic_s: Callable[[], float] = staticmethod(time.monotonic)

    @staticmethod
    def suspended_s() -> float:
        """CLOCK_BOOTTIME advances in suspend and CLOCK_MONOTONIC does not (clock_gettime(2))."""
        return _boot_s() - _monotonic_s()

    @staticmethod
    def now_utc() -> datetime:
        """The wall clock in UTC."""
        return _now_beside_time_machine() if "time_machine" in _modules else _now(_utc)

    @staticmethod
    def wait(event: threading.Event, timeout_s: float | None) -> bool:
        """Sleep in the event, so that setting it ends the wait at once."""
        return event.wait(timeout_s)


def _clock(name: str) -> Callable[[], float]:
    """A clock of the system, by its number's name; where it is missing, one that stands still."""
    has_both = hasattr(time, "CLOCK_BOOTTIME") and hasattr(time, "CLOCK_MONOTONIC")
    return partial(time.clock_gettime, getattr(time, name)) if has_both else float


_boot_s, _monotonic_s = _clock("CLOCK_BOOTTIME"), _clock("CLOCK_MONOTONIC")


def _now_beside_time_machine() -> datetime:
    """The wall clock, where the C functions behind it, and so every copy of them, may be replaced.

    Of the system's clocks, one shows the same time and cannot be moved.
    """
    now = _now(_utc)
    if sys.platform != "linux":
        return now
    real = _from_timestamp(time.clock_gettime(_CLOCK_REALTIME_COARSE), _utc)
    return now if abs((now - real).total_seconds()) < 1.0 else real


STEP_S = 0.05
"""The longest time between two steps of a clock; that of Windows is 1/64 s."""


class ClockCheck:
    """Determines whether a clock that has not advanced went back or stands still.

    Attributes:
        since: a time of the clock, and the CPU seconds of the process then.
    """

    def __init__(self) -> None:
        self.since = (float("nan"), 0.0)

    def fails(self, clock: Clock, at_s: float, now_s: float) -> bool:
        """Whether the clock, which was at `at_s` and is at `now_s`, is wrong.

        It stands still if the process has used more CPU seconds meanwhile than all processors have
        between two steps of it.
        """
        if now_s < at_s:
            return True
        cpu_s = process_cpu_s()
        stood_s = cpu_s - self.since[1] if self.since[0] == at_s else 0.0
        if 0.0 < stood_s <= STEP_S * online_threads():
            return False
        self.since = (at_s, cpu_s)
        # a fake clock moves when a test moves it
        return stood_s > 0.0 and not getattr(clock, "is_stepped", False)


class ShiftedClock:
    """A clock that has gone back, shifted so that its time goes on from where it was."""

    def __init__(self, clock: Clock, by_s: float) -> None:
        self._clock = clock
        self._by_s = by_s
        self.suspended_s = clock.suspended_s
        self.now_utc = clock.now_utc
        self.wait = clock.wait

    def monotonic_s(self) -> float:
        """The other clock's seconds, shifted."""
        return self._clock.monotonic_s() + self._by_s
