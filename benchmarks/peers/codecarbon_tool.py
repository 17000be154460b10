"""CodeCarbon in its offline mode; nothing is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "codecarbon"
IMPORT = "import codecarbon"
WAYS = {"life": "`start()`, `stop()`", "step": "`start_task()`, `stop_task()`",
        "call": "`@track_emissions(offline=True)`"}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "country_iso_code": "FRA",
    "measure_power_secs": 1,
    "save_to_file": False,
    "log_level": "critical",
}


def package() -> Any:
    """The package, imported."""
    import codecarbon

    return codecarbon


def tracker(**more: Any) -> Any:
    """A tracker that asks no network."""
    return package().OfflineEmissionsTracker(**(SETTINGS | more))


def life() -> None:
    """One tracker from start to stop."""
    made = tracker()
    made.start()
    made.stop()


def decorated(function: Callable[[], None]) -> Callable[[], None]:
    """The function, tracked."""
    return package().track_emissions(offline=True, **SETTINGS)(function)


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


@contextmanager
def windows() -> Iterator[tuple[Callable[[], Any], Callable[[Any], float]]]:
    """Yield what opens a window, and what closes it and returns the package's joules."""
    made = tracker()
    yield lambda: made.start_task("x"), lambda _: made.stop_task().cpu_energy * 3.6e6
    made.stop()
