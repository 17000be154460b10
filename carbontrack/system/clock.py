"""Time: the only file of the package that imports `time`.

Durations are monotonic, so that a step of the wall clock cannot change them; the wall clock only
dates records.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import datetime, timezone
from typing import Protocol

process_cpu_s = time.process_time
"""CPU seconds, user and system, of all threads of this process; about 0.6 us a call."""
_CPUCLOCK_SCHED = 2


def other_process_cpu_s(pid: int) -> float | None:
    """CPU seconds of another process, ended threads included; None where unknown.

    The clock's number is computed as clock_getcpuclockid(3) does it.
    """
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return None


class Clock(Protocol):
    """Time as carbontrack needs it; `carbontrack.testing.FakeClock` is one for tests."""

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

    monotonic_s = staticmethod(time.monotonic)

    @staticmethod
    def suspended_s() -> float:
        """CLOCK_BOOTTIME advances in suspend and CLOCK_MONOTONIC does not (clock_gettime(2))."""
        if not _HAS_BOOTTIME:
            return 0.0
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    @staticmethod
    def now_utc() -> datetime:
        """The wall clock in UTC."""
        return datetime.now(timezone.utc)

    @staticmethod
    def wait(event: threading.Event, timeout_s: float | None) -> bool:
        """Sleep in the event, so that setting it ends the wait at once."""
        return event.wait(timeout_s)


_HAS_BOOTTIME = hasattr(time, "CLOCK_BOOTTIME") and hasattr(time, "CLOCK_MONOTONIC")
