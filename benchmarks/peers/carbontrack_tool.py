"""carbontrack, with its default settings; nothing is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "."
IMPORT = "import carbontrack"
WAYS = {"life": "`auto()`, a span, `close()`", "step": "`run.span()`", "call": "`@track`"}


def life() -> None:
    """One tracker from start to stop."""
    import carbontrack

    tracker = carbontrack.auto(region="FR", output=None)
    with tracker.span("x"):
        pass
    tracker.close()


def decorated(function: Callable[[], None]) -> Callable[[], None]:
    """The function, tracked."""
    import carbontrack

    return carbontrack.track(region="FR", output=None)(function)


@contextmanager
def session() -> Iterator[Callable[[], None]]:
    """Yield what opens and closes one span."""
    import carbontrack

    with carbontrack.track(region="FR", output=None) as run:

        def step() -> None:
            with run.span("x"):
                pass

        yield step


@contextmanager
def sampling(interval_s: float) -> Iterator[None]:
    """Sample this often."""
    import carbontrack

    with carbontrack.track(region="FR", output=None, interval_s=interval_s):
        yield


@contextmanager
def windows() -> Iterator[tuple[Callable[[], Any], Callable[[Any], float]]]:
    """Yield what opens a window, and what closes it and returns the package's joules."""
    import carbontrack

    with carbontrack.track(region="FR", output=None, scope="machine", idle="proportional") as run:
        yield (
            lambda: run.span("x").open(),
            lambda span: span.close() or span.record.cpu_kwh * 3.6e6,
        )
