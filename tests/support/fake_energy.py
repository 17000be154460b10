"""Simulated energy that tests use explicitly, and a metric that counts it exactly."""

from __future__ import annotations

from collections.abc import Sequence

from carbontrack.integrations.pytest_plugin.metrics import Round

G_PER_JOULE = 0.001
"""One joule is one milligram, so that "5 mg" and "5 J" are the same budget."""

_used_joules = 0.0


def burn(joules: float) -> None:
    """Use energy."""
    global _used_joules  # noqa: PLW0603 - the world is one
    _used_joules += joules


class FakeMetric:
    """Counts what `burn` used; `width` is the half-width of its interval."""

    name = "reference"
    same_everywhere = True
    spread = 0.0

    def __init__(self, *, width: float = 0.0, resolution_joules: float = 0.0) -> None:
        self.width = width
        self.resolution_joules = resolution_joules
        self.closed = False

    def statistic(self, figures: Sequence[float], /) -> float:
        return min(figures)

    def open(self, name: str) -> FakeWindow:
        return FakeWindow(self)

    def speed_now(self) -> float:
        return 1.0

    def describe(self) -> str:
        return "fake metric"

    def close(self) -> None:
        self.closed = True


class FakeWindow:
    def __init__(self, metric: FakeMetric) -> None:
        self._metric = metric
        self._begun = _used_joules

    def so_far(self) -> Round:
        return Round(
            joules=round(_used_joules - self._begun, 9),  # the sums of all tests so far
            low_ratio=1.0 - self._metric.width,
            high_ratio=1.0 + self._metric.width,
            g_per_joule=G_PER_JOULE,
            resolution_joules=self._metric.resolution_joules,
            basis="modelled",
            duration_s=1.0,
        )

    def close(self) -> Round:
        return self.so_far()

    def child(self, name: str) -> FakeWindow:
        return FakeWindow(self._metric)
