"""OpenTelemetry: energy and emissions as metrics, and as attributes of the spans around blocks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

try:
    from opentelemetry.metrics import MeterProvider, get_meter_provider
except ImportError as error:
    raise ImportError('its API is missing: pip install "carbontrack[opentelemetry]"') from error

from carbontrack.api.live import Tracker, when_closed
from carbontrack.integrations.exporters.opentelemetry_metrics import MetricsOfProvider
from carbontrack.integrations.exporters.opentelemetry_spans import annotate as annotate_span

_INSTRUMENTED: list[tuple[object, MetricsOfProvider]] = []
"""The metrics of each provider; None stands for the global one, which may be set later."""


def instrument(
    meter_provider: MeterProvider | None = None,
    tracker: Tracker | None = None,
    annotate: bool = False,  # noqa: FBT001, FBT002 - a contract
) -> None:
    """Export energy and emissions as metrics; a second call for the same provider does nothing.

    Args:
        meter_provider: exports the metrics. The default is the global one, which may be set later.
        tracker: the tracker whose records and meters to export; by default all of this process.
        annotate: whether blocks of any tracker add their energy and emissions to the OpenTelemetry
            span that is recording when they end.

    Raises:
        ConfigError: an argument cannot be used, or the provider already exports another tracker.
    """
    provider = meter_provider or get_meter_provider()
    keys = [provider, None] if provider is get_meter_provider() else [provider]
    known = [metrics for key, metrics in _INSTRUMENTED if key in keys]
    metrics = known[0] if known else MetricsOfProvider(provider, tracker)
    if not known:
        _INSTRUMENTED.extend((key, metrics) for key in keys)
    metrics.turn_on(tracker)
    if annotate:
        when_closed(annotate_span)


def uninstrument() -> None:
    """Stop exporting and annotating; the instruments remain, without data points."""
    when_closed(None)
    for _, metrics in _INSTRUMENTED:
        metrics.turn_off()


def __getattr__(name: str) -> Any:
    """`CarbontrackInstrumentor`, for programs that have opentelemetry-instrumentation."""
    if name != "CarbontrackInstrumentor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
            BaseInstrumentor,
        )
    except ImportError as error:
        raise ImportError("it needs: pip install opentelemetry-instrumentation") from error

    class CarbontrackInstrumentor(BaseInstrumentor):
        """`instrument` and `uninstrument` in the form of an OpenTelemetry instrumentor."""

        def instrumentation_dependencies(self) -> Collection[str]:
            return ()

        def _instrument(self, **given: Any) -> None:
            names = ("meter_provider", "tracker", "annotate")
            instrument(**{name: given[name] for name in names if name in given})

        def _uninstrument(self, **_: Any) -> None:
            uninstrument()

    globals()[name] = CarbontrackInstrumentor
    return CarbontrackInstrumentor
