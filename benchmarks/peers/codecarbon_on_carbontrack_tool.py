"""CodeCarbon's names on carbontrack: the same calls as in codecarbon_tool, another package."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "."
IMPORT = "import carbontrack.compat.codecarbon"
WAYS = {"life": "`start()`, `stop()`", "step": "`start_task()`, `stop_task()`",
        "call": "`@track_emissions(offline=True)`"}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "country_iso_code": "FRA",
    "measure_power_secs": 1,
    "output_methods": [],
    "log_level": "critical",
}


def tracker(**more: Any) -> Any:
    """A tracker that asks no network."""
    from carbontrack.compat import codecarbon

    return codecarbon.OfflineEmissionsTracker(**(SETTINGS | more))


def life() -> None:
    """One tracker from start to stop."""
    made = tracker()
    made.start()
    made.stop()


def decorated(function: Callable[[], None]) -> Callable[[], None]:
    """The function, tracked."""
    from carbontrack.compat import codecarbon

    return codecarbon.track_emissions(offline=True, **SETTINGS)(function)


@contextmanager
def session() -> Iterator[Callable[[], None]]:
    """Yield what opens and closes one task."""
    made = tracker()

    def step() -> None:
        made.start_task("x")
        made.stop_task()

    yield step
    made.stop()


@contextmanager
def sampling(interval_s: float) -> Iterator[None]:
    """Sample this often."""
    made = tracker(measure_power_secs=interval_s)
    made.start()
    yield
    made.stop()
