"""The server's own metrics, for Prometheus: no label names a project, a token or a record."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from carbontrack.store.base import Added

_COMMIT_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class ServerMetrics:
    """The counts of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "carbontrack_server_requests",
            "Answered requests, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self._records = Counter(
            "carbontrack_server_records",
            "Records: stored, repeated (stored before), refused, or failed (to be sent again).",
            ("result",),
            registry=self.registry,
        )
        for result in ("stored", "repeated", "refused", "failed"):
            self._records.labels(result)
        self._commits = Histogram(
            "carbontrack_server_commit_seconds",
            "Time of a transaction of the store, successful or not.",
            buckets=_COMMIT_S,
            registry=self.registry,
        )
        self._queue = Gauge(
            "carbontrack_server_queue_records",
            "Records that wait for the store.",
            registry=self.registry,
        )
        self._held = Gauge(
            "carbontrack_server_held_bytes",
            "Bytes of the bodies that are being read or whose records wait for the store.",
            registry=self.registry,
        )

    def answered(self, route: str, status: int) -> None:
        """Count a request; `route` is a path of the server's own."""
        self._requests.labels(route, str(status)).inc()

    def committed(self, added: Added | None, seconds: float) -> None:
        """Count a transaction: the rows that it added, or None if it failed."""
        self._commits.observe(seconds)
        if added is not None:
            self.records("stored", added.stored)
            self.records("repeated", added.repeated)

    def records(self, result: str, count: int) -> None:
        """Count records by their outcome."""
        self._records.labels(result).inc(count)

    def text(self, *, queue: int, held: int) -> bytes:
        """All of it in Prometheus' text format."""
        self._queue.set(queue)
        self._held.set(held)
        return generate_latest(self.registry)
