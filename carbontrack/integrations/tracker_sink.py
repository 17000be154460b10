"""What the sinks of experiment trackers share: which records they take, and sums over a run.

A tracker's run is one more place where finished records go. It gets sums over the records of this
process, under the names of `metrics_of`. Only rank 0 of a world reports.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import SimpleQueue

from carbontrack.errors import SinkError
from carbontrack.integrations.metrics import PREFIX, facts_of, metrics_of
from carbontrack.record import Record
from carbontrack.system.forking import OwnThread
from carbontrack.system.interrupts import attempt, reentrant_lock
from carbontrack.system.log import LOGGER
from carbontrack.units import JOULES_PER_KWH

CLOSE_S = 2.0
"""The longest wait for a tracker at the end of the program."""


class TrackerSink(ABC):
    """A sink that gives sums and facts to a tracker's run, and never starts one.

    Attributes:
        takes_recovered: whether records of killed processes are taken: where the run is named.
    """

    takes_recovered = False

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._sums: dict[str, float] | None = None
        self._step = 0
        self._has_warned = False
        self._lock = reentrant_lock()  # several threads may end blocks; no writer is for several

    @abstractmethod
    def report(self, numbers: dict[str, float], facts: dict[str, str], step: int) -> None:
        """Give numbers and facts to the run, quickly; `step` counts what was reported."""

    def write(self, record: Record) -> None:
        """Add a finished record to the sums, and report them."""
        if self._is_ours(record):
            with self._lock:
                self._sums = _added(self._sums, metrics_of(record, ""))
                self._step += 1
                self.report(_named(self._sums), facts_of(record), self._step)

    def log(self, record: Record, step: int | None = None) -> None:
        """Report what an open span has used so far: `sink.log(span.snapshot(), step=epoch)`.

        Its numbers are added to those of the records before it, for this once.
        """
        if self._is_ours(record):
            with self._lock:
                self._step = self._step + 1 if step is None else max(self._step, step)
                self.report(_named(_added(self._sums, metrics_of(record, ""))), {}, self._step)

    def close(self) -> None:  # noqa: B027 - there may be nothing to be done
        """Nothing is held, where a subclass does not say otherwise."""

    def warn_once(self, text: str) -> None:
        """Say why nothing is reported."""
        if not self._has_warned:
            self._has_warned = True
            LOGGER.warning("%s", text)

    def _is_ours(self, record: Record) -> bool:
        """Whether the run has a part in this record, which is in no other one of this process."""
        is_inner = (record.parent_id or "").startswith(f"{record.run_id}-")
        if record.rank or is_inner or os.getpid() != self._pid:
            return False
        return record.pid == self._pid or (self.takes_recovered and record.status == "recovered")


def _added(sums: dict[str, float] | None, more: dict[str, float]) -> dict[str, float]:
    """The sums of what all records know; the sum with something unknown is unknown."""
    if sums is None:
        return more
    return {name: sums[name] + more[name] for name in sums if name in more and name != "power_w"}


def _named(sums: dict[str, float]) -> dict[str, float]:
    found = {PREFIX + name: number for name, number in sums.items()}
    if "energy_kwh" in sums and sums.get("duration_s"):
        found[f"{PREFIX}power_w"] = sums["energy_kwh"] * JOULES_PER_KWH / sums["duration_s"]
    return found


class Background:
    """Calls functions in a thread of its own, one after the other; it starts with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: OwnThread | None = None
        self._left = 0

    def do(self, act: Callable[[], object]) -> None:
        """Have this done soon."""
        self._left += 1
        self._waiting.put(act)
        if self._thread is None:
            self._thread = OwnThread(self._run, self._name)
            self._thread.start()

    def close(self) -> None:
        """Wait for what is left, two seconds at most.

        Raises:
            SinkError: something has not been done by then, and will not be.
        """
        self._waiting.put(None)
        thread = self._thread
        if thread is not None:
            thread.join(CLOSE_S)
            if thread.is_alive():
                reason = f"{self._name} has not taken {self._left} records within {CLOSE_S:g} s"
                raise SinkError(reason, reason=reason, lost_records=self._left)

    def _run(self) -> None:
        while (act := self._waiting.get()) is not None:
            _, error = attempt(act)
            if error is not None:
                LOGGER.warning("%s did not take a record: %r", self._name, error)
            self._left -= 1
