"""Zeus: windows over counters, without a thread and without emissions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "zeus"
IMPORT = "import zeus.monitor"
SAMPLES = False
WAYS = {"life": "`ZeusMonitor()`, a window", "step": "`begin_window()`, `end_window()`", "call": ""}


def monitor() -> Any:
    """A monitor of the CPUs."""
    from zeus.monitor import ZeusMonitor

    return ZeusMonitor(gpu_indices=[], cpu_indices=[0])


def life() -> None:
    """One monitor and one window."""
    made = monitor()
    made.begin_window("x", sync_execution=False)
    made.end_window("x", sync_execution=False)


@contextmanager
def session() -> Iterator[Callable[[], None]]:
    """Yield what opens and closes one window."""
    made = monitor()

    def step() -> None:
        made.begin_window("x", sync_execution=False)
        made.end_window("x", sync_execution=False)

    yield step


@contextmanager
def sampling(interval_s: float) -> Iterator[None]:  # noqa: ARG001 - it has no sampler
    """An open window; nothing is sampled."""
    made = monitor()
    made.begin_window("x", sync_execution=False)
    yield
    made.end_window("x", sync_execution=False)


@contextmanager
def windows() -> Iterator[tuple[Callable[[], Any], Callable[[Any], float]]]:
    """Yield what opens a window, and what closes it and returns the package's joules."""
    made = monitor()
    yield (
        lambda: made.begin_window("x", sync_execution=False),
        lambda _: made.end_window("x", sync_execution=False).cpu_energy[0],
    )
