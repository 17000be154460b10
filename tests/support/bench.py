"""A test bench: a tracker with a fake clock and fake meters that a test advances, and a sink."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carbontrack.attribution.memory import LowEnd
from carbontrack.attribution.policy import Usage
from carbontrack.attribution.reservation import Reservation
from carbontrack.attribution.usage import UsageReader
from carbontrack.meters.meter import MeterSet
from carbontrack.record import Record
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker
from carbontrack.units import JOULES_PER_KWH


class Bench:
    """A tracker with access to its clock, meters, sampler and sink.

    Args:
        meters: what it reads; one of 100 W by default.
        clock: what it goes by; one that only a test moves by default.
        tracker: more of the tracker's own parameters.
    """

    def __init__(
        self,
        meters: MeterSet | Sequence[FakeMeter] | None = None,
        *,
        clock: FakeClock | None = None,
        **tracker: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.meter = FakeMeter(watts=100.0)
        self.sink = MemorySink()
        self.tracker = Tracker(
            meters=[self.meter] if meters is None else meters,
            clock=self.clock,
            sinks=[self.sink],
            **({"interval_s": 3600.0} | tracker),
        )

    @property
    def session(self) -> Session:
        """The tracker's session."""
        return self.tracker.session

    @property
    def sampler(self) -> Sampler:
        """The tracker's sampler."""
        return self.session.sampler

    @property
    def records(self) -> list[Record]:
        """The records written so far."""
        return self.sink.records

    def run(self, seconds: float, *, ticks: int = 1) -> None:
        """Let time pass in so many equal steps with a tick after each."""
        for _ in range(ticks):
            self.clock.advance(seconds / ticks)
            self.sampler.tick()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self.tracker.close()


def joules(record: Record | None) -> float:
    """A record's energy in joules, before PUE."""
    assert record is not None
    columns = (record.cpu_kwh, record.gpu_kwh, record.ram_kwh, record.other_kwh)
    known = [column for column in columns if column is not None]
    assert known, "the record knows of no energy at all"
    return sum(known) * JOULES_PER_KWH


class ScriptedUsage(UsageReader):
    """Usage set by a test: the share of one process in the machine's CPU time and memory."""

    needs_survey = False  # type: ignore[assignment]

    def __init__(self, *, ours: float = 0.5, busy: float = 2.0) -> None:
        self.ours = ours
        """Our share of the CPU time."""
        self.busy = busy
        """The number of busy processors."""
        self.ram = (1_000, 4_000)
        self.ram_low_end = LowEnd()
        self.reads = 0
        self._at_s: float | None = None
        self._ours_s = self._all_s = 0.0

    def awaits_survey(self, clock: object) -> bool:
        """Nothing is to be surveyed."""
        return False

    def survey(self, clock: object) -> None:
        """Nothing is to be surveyed."""

    def for_child(self) -> ScriptedUsage:
        """Likewise, from zero."""
        return ScriptedUsage(ours=self.ours, busy=self.busy)

    def reservation(self) -> Reservation:
        """A tenth of the machine's threads, which nobody else works on."""
        reservation = Reservation(Path("/nowhere"), Path("/nowhere"))
        reservation.share, reservation.cpu_s = 0.1, lambda: self._ours_s  # type: ignore[method-assign]
        return reservation

    def machine_busy_s(self) -> float:
        """CPU seconds of the machine."""
        return self._all_s

    def read(self, now_s: float) -> Usage:
        """Usage at this instant."""
        self.reads += 1
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        self._at_s = now_s
        self._all_s += elapsed_s * self.busy
        self._ours_s += elapsed_s * self.busy * self.ours
        return Usage(now_s, self._ours_s, self._all_s, *self.ram)
