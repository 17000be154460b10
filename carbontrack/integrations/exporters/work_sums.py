"""Sums of finished work by name, as Prometheus and OpenTelemetry export them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.integrations.exporters.labels import BoundedKeys, Key
from carbontrack.record import COMPONENTS, Record
from carbontrack.system.forking import remember
from carbontrack.system.interrupts import WeakObjects, reentrant_lock
from carbontrack.units import JOULES_PER_KWH

_SUMS: Mapping[str, tuple[str, float]] = {
    "energy_best": ("energy_kwh", JOULES_PER_KWH),
    "energy_low": ("energy_low_kwh", JOULES_PER_KWH),
    "energy_high": ("energy_high_kwh", JOULES_PER_KWH),
    "emissions": ("emissions_g", 1.0),
    "emissions_low": ("emissions_low_g", 1.0),
    "emissions_high": ("emissions_high_g", 1.0),
    "calls": ("calls", 1.0),
    "duration": ("duration_s", 1.0),
}
"""The column of each sum, and its factor; in addition there is "energy" by component."""


class WorkSums:
    """Sums of records by name, by labels to be kept, and by the columns in `facts`.

    Rows that are nested in another row of the same trackers are left out. A forked child starts at
    zero.
    """

    def __init__(self, labels: Sequence[str] = (), facts: Sequence[str] = ()) -> None:
        if isinstance(labels, str) or not all(isinstance(one, str) for one in labels):
            raise ConfigError(f"labels must be a list of names, such as ['model'], not {labels!r}")
        self.labels, self._facts = tuple(labels), tuple(facts)
        self._sessions: WeakObjects[Any] = WeakObjects()
        self.forget_parent()
        remember(self)

    def forget_parent(self) -> None:
        """Start at zero: the earlier sums are the parent's."""
        self._lock, self._keys = reentrant_lock(), BoundedKeys()
        self._sums: dict[tuple[str, Key], float] = {}

    def begin_session(self, session: Any) -> None:
        """The records of this session will come to `add`."""
        self._sessions.add(session)

    def add(self, record: Record) -> list[tuple[str, Key, float]]:
        """Add a record; returns what was added: which sum, its labels, and how much."""
        if record.parent_holds and self._have_run(str(record.parent_id).rpartition("-")[0]):
            return []
        texts = (record.name, *(record.labels.get(label, "") for label in self.labels))
        facts = (getattr(record, fact) or "unknown" for fact in self._facts)
        with self._lock:
            key = self._keys.of(*texts, *facts)
            steps = [(name, key + part, step) for name, part, step in _steps(record)]
            for name, labels, step in steps:
                self._sums[name, labels] = self._sums.get((name, labels), 0.0) + step
        return steps

    def _have_run(self, run_id: str) -> bool:
        return any(run_id in one.run_ids.values() for one in self._sessions.living())

    def rows(self) -> dict[tuple[str, Key], float]:
        """The sums so far, by which sum it is and its labels."""
        with self._lock:
            return dict(self._sums)


def _steps(record: Record) -> Iterator[tuple[str, Key, float]]:
    for component in COMPONENTS:
        kwh = getattr(record, f"{component}_kwh")
        if kwh is not None:  # unknown is no sample, and never 0
            yield "energy", (component,), max(0.0, kwh) * JOULES_PER_KWH
    for name, (column, factor) in _SUMS.items():
        value = getattr(record, column)
        if value is not None:
            yield name, (), max(0.0, value) * factor
