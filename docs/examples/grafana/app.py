"""A program to look at with the dashboards: it works, and serves its metrics, until Ctrl-C.

    pip install "carbontrack[prometheus,opentelemetry]" opentelemetry-exporter-prometheus
    python app.py 9464

The first port has the names of Prometheus, the next one those of OpenTelemetry. A program of yours
needs one of them.
"""

import sys
import time

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

import carbontrack
from carbontrack.integrations import opentelemetry, prometheus

registry = CollectorRegistry()
prometheus.install(registry)
opentelemetry.instrument(MeterProvider([PrometheusMetricReader()]))
port = int(sys.argv[1])
start_http_server(port, addr="127.0.0.1", registry=registry)
start_http_server(port + 1, addr="127.0.0.1", registry=REGISTRY)


@carbontrack.track("infer", output=None)
def infer() -> int:
    """A short call; the calls of ten seconds are summed."""
    return sum(range(100_000))


while True:
    with carbontrack.track("train", output=None):
        time.sleep(0.2)
        sum(range(1_000_000))
    infer()
