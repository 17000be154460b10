"""carbontracker; it has no decorator, its unit is the epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "carbontracker"
IMPORT = "import carbontracker.tracker"
WAYS = {"life": "`CarbonTracker()`, an epoch, `stop()`", "step": "`epoch_start()`, `epoch_end()`",
        "call": ""}  # fmt: skip


def tracker(interval_s: float = 1.0) -> Any:
    """A tracker that predicts nothing and says nothing."""
    from carbontracker.tracker import CarbonTracker

    return CarbonTracker(
        epochs=10**9,
        epochs_before_pred=0,
        update_interval=interval_s,
        verbose=0,
        components="cpu",
    )


def life() -> None:
    """One tracker from start to stop."""
    made = tracker()
    made.epoch_start()
    made.epoch_end()
    made.stop()


@contextmanager
def session() -> Iterator[Callable[[], None]]:
    """Yield what opens and closes one epoch."""
    made = tracker()

    def step() -> None:
        made.epoch_start()
        made.epoch_end()

    yield step
    made.stop()


@contextmanager
def sampling(interval_s: float) -> Iterator[None]:
    """Sample this often."""
    made = tracker(interval_s)
    made.epoch_start()
    yield
    made.epoch_end()
    made.stop()
