"""Prometheus: energy and emissions as metrics of a program, or of all its worker processes."""

from __future__ import annotations

from collections.abc import Sequence

try:
    from prometheus_client import REGISTRY, CollectorRegistry
except ImportError as error:
    raise ImportError(
        'the exporter for Prometheus needs prometheus-client: pip install "carbontrack[prometheus]"'
    ) from error

from carbontrack.api.track import PROVIDER
from carbontrack.integrations.exporters.multi_process import check_scope, is_multi_process
from carbontrack.integrations.exporters.prometheus_collector import CarbontrackCollector
from carbontrack.integrations.exporters.prometheus_sink import PrometheusSink

__all__ = ["CarbontrackCollector", "PrometheusSink", "install"]


def install(registry: CollectorRegistry = REGISTRY, labels: Sequence[str] = ()) -> PrometheusSink:
    """Export everything that `track` and `auto` measure in this process from now on.

    A second call for the same registry and labels does nothing.

    Args:
        registry: exports the metrics.
        labels: which of your own labels become labels of the counters.

    Raises:
        ConfigError: as for `PrometheusSink`; or the scope is "machine" in multi-process mode.
    """
    for known in PROVIDER.common_sinks.sinks:
        if isinstance(known, PrometheusSink) and known.exports_to(registry, labels):
            return known
    check_scope(PROVIDER.load({"output": None}).scope)
    sink = PrometheusSink(registry, labels)
    if not is_multi_process():  # where nobody asks a collector
        registry.register(CarbontrackCollector())
    PROVIDER.common_sinks.add(sink)
    return sink
