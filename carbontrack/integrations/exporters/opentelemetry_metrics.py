"""OpenTelemetry: the metrics of finished work, of the meters and of the grid, for one provider."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from carbontrack.api.live import LiveView, Tracker
from carbontrack.api.track import PROVIDER
from carbontrack.errors import ConfigError
from carbontrack.integrations.exporters.labels import BoundedKeys
from carbontrack.integrations.exporters.opentelemetry_points import GAUGES, METRICS, points
from carbontrack.integrations.exporters.work_sums import WorkSums
from carbontrack.record import Record
from carbontrack.system.forking import remember
from carbontrack.system.interrupts import reentrant_lock
from carbontrack.system.version import VERSION


class MetricsOfProvider:
    """The sink that sums, and the instruments that export the sums; created once for each provider.

    Instruments live as long as their provider. While `is_on` is false they export nothing.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(self, provider: MeterProvider, tracker: Tracker | None) -> None:
        _check(provider, tracker)
        self.is_on, self._tracker = False, tracker
        self._sums, self._names = WorkSums(facts=("basis", "region")), BoundedKeys()
        self._view = LiveView(tracker)
        self.forget_parent()
        remember(self)
        self.begin_session = self._sums.begin_session
        meter = provider.get_meter("carbontrack", VERSION)
        for name, (unit, text) in METRICS.items():
            kind = "gauge" if name in GAUGES else "counter"
            make: Callable[..., object] = getattr(meter, f"create_observable_{kind}")
            make(name, [partial(self._observe, name)], unit=unit, description=text)

    def forget_parent(self) -> None:
        """Make a new lock, and drop the values that were to be exported before the fork."""
        self._lock = reentrant_lock()
        self._points: dict[str, list[Observation]] = {}

    def turn_on(self, tracker: Tracker | None = None) -> None:
        """Accept records from now on; a second call does nothing.

        Raises:
            ConfigError: it already exports another tracker, or all trackers.
        """
        _check(None, tracker)
        if tracker is not None and tracker is not self._tracker:
            raise ConfigError(
                "instrument: this provider already exports another tracker, or all of them"
            )
        self.is_on = True
        if self._tracker is None:
            PROVIDER.common_sinks.add(self)
        else:
            self._view.add_sink(self)

    def turn_off(self) -> None:
        """Accept no more records, and export nothing."""
        self.is_on = False
        PROVIDER.common_sinks.remove(self)
        self._view.remove_sink(self)

    def write(self, record: Record) -> None:
        """Add a finished record."""
        self._sums.add(record)

    def close(self) -> None:
        """Does nothing: the sums are still to be exported."""

    def _observe(self, name: str, _options: CallbackOptions) -> list[Observation]:
        """The observations of an instrument; one reading serves all instruments of a collection."""
        if not self.is_on:
            return []
        with self._lock:  # several readers may collect at once
            if name not in self._points:  # the first of a collection, or another reader's
                self._points = self._all()
            return self._points.pop(name)

    def _all(self) -> dict[str, list[Observation]]:
        found: dict[str, list[Observation]] = {one: [] for one in METRICS}
        for one, value, attributes in points(self._view.look(), self._sums, self._names):
            found[one].append(Observation(value, attributes))
        return found


def _check(provider: MeterProvider | None, tracker: Tracker | None) -> None:
    for wanted, given in (("get_meter", provider), ("span", tracker)):
        if given is not None and not callable(getattr(given, wanted, None)):
            raise ConfigError(f"instrument(meter_provider, tracker) cannot use {given!r}")
