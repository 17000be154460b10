"""Prometheus: counters of finished work, in one process or in several that share a directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Metric
from prometheus_client.core import CounterMetricFamily

from carbontrack.errors import ConfigError
from carbontrack.integrations.exporters.multi_process import check_scope, is_multi_process
from carbontrack.integrations.exporters.work_sums import WorkSums
from carbontrack.record import Record
from carbontrack.system.forking import holding_forks

WORK = {
    "energy": ("energy_joules", "Energy of finished work by component, before PUE."),
    "energy_best": ("energy_best_joules", "Energy of finished work, all components times PUE."),
    "energy_low": ("energy_low_joules", "Low end of carbontrack_energy_best_joules."),
    "energy_high": ("energy_high_joules", "High end of carbontrack_energy_best_joules."),
    "emissions": ("emissions_grams", "Emissions of finished work, g CO2e."),
    "emissions_low": ("emissions_low_grams", "Low end of carbontrack_emissions_grams."),
    "emissions_high": ("emissions_high_grams", "High end of carbontrack_emissions_grams."),
    "calls": ("calls", "Blocks and calls that have ended."),
    "duration": ("duration_seconds", "Their running time."),
}


class PrometheusSink:
    """Counts finished work by name, also in multi-process mode (PROMETHEUS_MULTIPROC_DIR).

    Several trackers can share it; they do not close it.

    Args:
        registry: exports the counters; None: they are not exported.
        labels: which of your own labels become labels of the counters.

    Raises:
        ConfigError: a label is not valid, or the registry has these counters already.
    """

    def __init__(
        self, registry: CollectorRegistry | None = REGISTRY, labels: Sequence[str] = ()
    ) -> None:
        self._sums, self._counters = WorkSums(labels), dict[str, Counter]()
        self._registry = registry
        for label in self._sums.labels:
            if not label.isidentifier() or not label.isascii() or label in ("name", "component"):
                raise ConfigError(f"labels: {label!r} cannot be a label of these counters")
        try:
            if is_multi_process():
                for key, (name, text) in WORK.items():
                    own = Counter(f"carbontrack_{name}", text, self._labels(key), registry=registry)
                    self._counters[key] = own
            elif registry is not None:
                registry.register(self)
        except ValueError as error:
            raise ConfigError(
                f"PrometheusSink: {error}; one sink is enough for all trackers"
            ) from error

    def exports_to(self, registry: CollectorRegistry, labels: Sequence[str]) -> bool:
        """Whether it is registered there, with these labels."""
        return registry is self._registry and tuple(labels) == self._sums.labels

    def begin_session(self, session: Any) -> None:
        """Accept the records of a tracker, if its scope allows that."""
        check_scope(session.ledger.attribution.scope)
        self._sums.begin_session(session)

    def write(self, record: Record) -> None:
        """Add a finished record."""
        steps = self._sums.add(record)
        if self._counters:
            with holding_forks():  # a child would find the locks of the counters locked
                for key, labels, step in steps:
                    self._counters[key].labels(*labels).inc(step)

    def close(self) -> None:
        """Does nothing: the counters are still to be scraped."""

    def describe(self) -> Iterable[Metric]:
        """The families without samples."""
        return [self._family(key) for key in WORK]

    def collect(self) -> Iterable[Metric]:
        """The families with the sums so far."""
        families = {key: self._family(key) for key in WORK}
        for (key, labels), total in self._sums.rows().items():
            families[key].add_metric(labels, total)
        return list(families.values())

    def _labels(self, key: str) -> tuple[str, ...]:
        return ("name", *self._sums.labels, *(["component"] if key == "energy" else []))

    def _family(self, key: str) -> CounterMetricFamily:
        name, text = WORK[key]
        return CounterMetricFamily(f"carbontrack_{name}", text, labels=self._labels(key))
