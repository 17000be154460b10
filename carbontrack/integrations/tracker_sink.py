"""The common part of the sinks for experiment trackers: which records count, and sums over a run.

A run of a tracker receives sums over the records of this process that end while the run is active,
under the names of `metrics_of`. Only rank 0 reports.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from carbontrack.errors import SinkError
from carbontrack.integrations.metrics import PREFIX, facts_of, metrics_of
from carbontrack.record import Record
from carbontrack.system.forking import OwnThread, PerProcess
from carbontrack.system.interrupts import attempt, reentrant_lock, suppressed
from carbontrack.system.log import LOGGER, OnceLog
from carbontrack.units import JOULES_PER_KWH

CLOSE_S = 2.0
"""The longest wait for a tracker at the end of the program."""
_MOST_RUNS = 1000
"""The most runs whose sums are kept."""
_LAST_RECORDS = 100
"""The most record ids kept per run, to recognise records that another sink added already."""
_MOST_WAITING = 1000
"""The most reports that wait for a tracker.

Older ones are dropped, because the newest contains their sums.
"""
_RECOVERED = (
    "the record of a killed process is not reported to an experiment tracker, because another run "
    "may be active by now; it is in the other outputs"
)
Run = TypeVar("Run")


class _Sums:
    """The sums of the records that were reported to one run."""

    numbers: dict[str, float] | None = None
    step = 0

    def __init__(self) -> None:
        self.records: deque[str] = deque(maxlen=_LAST_RECORDS)
        """The ids of the last records that it includes."""

    def with_record(self, record: Record, *, is_final: bool) -> dict[str, float]:
        """The sums including this record; a final record stays in the sums."""
        if record.record_id in self.records and self.numbers is not None:
            return self.numbers
        numbers = _added(self.numbers, metrics_of(record, ""))
        if is_final:
            self.numbers = numbers
            self.records.append(record.record_id)
        return numbers


class RunSums:
    """The sums of all runs. Several threads may end blocks at the same time."""

    def __init__(self) -> None:
        self.lock = reentrant_lock()
        self._sums: dict[Hashable, _Sums] = {}

    def of(self, key: Hashable) -> _Sums:
        """The sums of one run; the lock must be held."""
        found = self._sums.setdefault(key, _Sums())
        while len(self._sums) > _MOST_RUNS:
            del self._sums[next(iter(self._sums))]
        return found


_OF_PROCESS = PerProcess(RunSums)


def sums_of_process() -> RunSums:
    """The sums shared by the sinks of all trackers of this process."""
    return _OF_PROCESS.get()


class TrackerSink(ABC, Generic[Run]):
    """A sink that reports sums and facts to a tracker's run, and never starts a run.

    Attributes:
        takes_recovered: whether records of killed processes are accepted, which needs a named run.
        counts_steps: whether each report gets a new step if the user gives none.

    Args:
        sums: sums shared with other sinks that report to the same run, such as that of `track` with
            other settings. None: separate sums.
    """

    takes_recovered = False
    counts_steps = True
    hint = "no run is active where a block ends, so nothing is reported"
    """The message that is logged once if no run is active."""

    def __init__(self, sums: RunSums | None = None) -> None:
        self._pid = os.getpid()
        self._sums = sums or RunSums()
        self._log = OnceLog()

    @abstractmethod
    def find_run(self) -> tuple[str, Run] | None:
        """The id of the active run, and the object that `report` needs; None: no run is active."""

    @abstractmethod
    def report(self, run: Run, numbers: dict[str, float], facts: dict[str, str], step: int) -> None:
        """Send numbers and facts to the run without blocking; `step` never decreases."""

    def write(self, record: Record) -> None:
        """Add a finished record to the sums of the active run, and report the sums."""
        self._take(record, facts_of(record), step=None, is_final=True)

    def log(self, record: Record, step: int | None = None) -> None:
        """Report an open span's values so far: `sink.log(span.snapshot(), step=epoch)`.

        The report is the sum of this record and of the finished ones; the stored sums do not
        change.
        """
        self._take(record, {}, step=step, is_final=False)

    def close(self) -> None:
        """Wait until the reports are written, in the process that made the sink."""
        if os.getpid() == self._pid:
            self.finish()

    def finish(self) -> None:
        """Write pending reports, and close what the sink has opened."""

    def _take(
        self, record: Record, facts: dict[str, str], *, step: int | None, is_final: bool
    ) -> None:
        if not self._is_ours(record):
            if record.status == "recovered" and not record.rank:
                self._log.say(_RECOVERED)
            return
        with self._sums.lock:
            found = self.find_run()
            if found is None:
                self._log.say(self.hint)
                return
            key, run = found
            sums = self._sums.of((type(self), key))
            numbers = sums.with_record(record, is_final=is_final)
            sums.step = sums.step + self.counts_steps if step is None else max(sums.step, step)
            self.report(run, _named(numbers), facts, sums.step)

    def _is_ours(self, record: Record) -> bool:
        """Whether this record counts for the run and is in no other record of this process."""
        is_inner = (record.parent_id or "").startswith(f"{record.run_id}-")
        if record.rank or is_inner or os.getpid() != self._pid:
            return False
        return record.pid == self._pid or (self.takes_recovered and record.status == "recovered")


def _added(sums: dict[str, float] | None, more: dict[str, float]) -> dict[str, float]:
    """The sums over all records; a sum with an unknown term is unknown."""
    if sums is None:
        return more
    return {name: sums[name] + more[name] for name in sums if name in more}


def _named(sums: dict[str, float]) -> dict[str, float]:
    """The sums by their full names, with the mean power."""
    found = {PREFIX + name: number for name, number in sums.items() if name != "power_w"}
    if "energy_kwh" in sums and sums.get("duration_s"):
        found[f"{PREFIX}power_w"] = sums["energy_kwh"] * JOULES_PER_KWH / sums["duration_s"]
    return found


class Background:
    """Calls functions one after the other in a separate thread, which starts with the first call.

    Args:
        name: the name of the service, for messages.
        wait_s: the longest wait at the end.
        most: the most functions that wait; beyond it, the oldest are dropped.
    """

    def __init__(self, name: str, wait_s: float = CLOSE_S, most: int = _MOST_WAITING) -> None:
        self._name, self._wait_s, self._most = name, wait_s, most
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: OwnThread | None = None
        self._given = self._done = 0
        self._log = OnceLog()

    def do(self, act: Callable[[], object]) -> None:
        """Queue a function; called by one thread at a time."""
        self._given += 1
        self._waiting.put(act)
        if self._waiting.qsize() > self._most:
            self._drop_oldest()
        if self._thread is None or not self._thread.is_alive():
            self._thread = OwnThread(self._run, "carbontrack-tracker")
            self._thread.start()

    def close(self) -> None:
        """Wait a limited time for the remaining functions.

        Raises:
            SinkError: some functions were not called in time and will not be.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._waiting.put(None)
        thread.join(self._wait_s)
        if thread.is_alive():
            left = self._given - self._done
            reason = f"{self._name} did not respond within {self._wait_s:g} s"
            raise SinkError(f"{reason}; {left} reports are lost", reason=reason, lost_records=left)

    def _drop_oldest(self) -> None:
        with suppressed(Empty):
            self._waiting.get_nowait()
            many = f"of more than {self._most} reports that wait, the oldest are discarded"
            self._log.say(f"{self._name} is slow: {many}")

    def _run(self) -> None:
        while (act := self._waiting.get()) is not None:
            _, error = attempt(act)
            if error is not None:
                LOGGER.warning("%s did not accept a report: %r", self._name, error)
            self._done += 1
