"""Eco2AI; the place is given, so that none is looked up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "eco2ai"
ALSO = ("pandas<3",)  # with pandas 3 its `stop()` fails: Invalid value 'N/A' for dtype 'float64'
IMPORT = "import eco2ai"
WAYS = {"life": "`start()`, `stop()`", "step": "", "call": "`@eco2ai.track`"}


def tracker(interval_s: float = 1.0) -> Any:
    """A tracker with its shortest path."""
    import eco2ai

    return eco2ai.Tracker(
        project_name="x",
        experiment_description="x",
        file_name="x.csv",
        measure_period=interval_s,
        alpha_2_code="FR",
        ignore_warnings=True,
    )


def life() -> None:
    """One tracker from start to stop."""
    made = tracker()
    made.start()
    made.stop()


def decorated(function: Callable[[], None]) -> Callable[[], None]:
    """The function, tracked."""
    import eco2ai

    eco2ai.set_params(alpha_2_code="FR", measure_period=1, file_name="x.csv")
    return eco2ai.track(function)


@contextmanager
def sampling(interval_s: float) -> Iterator[None]:
    """Sample this often."""
    made = tracker(interval_s)
    made.start()
    yield
    made.stop()
