"""perun: one decorated function is one application, with monitors in processes of their own."""

from collections.abc import Callable

REQUIREMENT = "perun"
IMPORT = "import perun"
WAYS = {"life": "a call of `@perun()`", "step": "", "call": "`@perun()`"}


def decorated(function: Callable[[], None], interval_s: float = 1.0) -> Callable[[], None]:
    """The function, tracked."""
    import perun

    return perun.perun(sampling_period=interval_s, app_name="x", rounds=1, warmup_rounds=0)(
        function
    )


def life() -> None:
    """One application from start to stop."""
    decorated(lambda: None)()


def sampled(interval_s: float, body: Callable[[], None]) -> None:
    """Run the body while sampling this often; there is nothing to open and close."""
    decorated(body, interval_s)()
