"""CodeCarbon's decorators: a function is measured from its call to its end."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from carbontrack.compat.codecarbon.tracker import (
    BaseEmissionsTracker,
    EmissionsTracker,
    OfflineEmissionsTracker,
)

F = TypeVar("F", bound=Callable[..., Any])


def track_emissions(fn: F | None = None, *, offline: bool = False, **parameters: Any) -> Any:
    """Measure each call of a function with a tracker of its own.

    Args:
        fn: the function: plain, a coroutine function or a generator function.
        offline: use `OfflineEmissionsTracker`, which needs `country_iso_code` or a cloud's region.
        parameters: those of the tracker.

    Raises:
        Exception: at the call, if `offline` and no place is given.
    """

    @contextmanager
    def measured() -> Generator[None, None, None]:
        kind = OfflineEmissionsTracker if offline else EmissionsTracker
        if offline and not (parameters.get("country_iso_code") or parameters.get("cloud_region")):
            raise Exception("Needs ISO Code of the Country for Offline mode")  # noqa: TRY002
        with kind(**parameters):
            yield

    return _decorated(fn, measured)


def track_task_emissions(
    fn: F | None = None, tracker: BaseEmissionsTracker | None = None, task_name: str = ""
) -> Any:
    """Measure each call of a function as a task of a tracker.

    Args:
        fn: the function.
        tracker: whose task it is; by default one that is made for the call.
        task_name: the task's name; by default the function's.
    """

    @contextmanager
    def measured() -> Generator[None, None, None]:
        with TaskEmissionsTracker(task_name or getattr(fn, "__name__", ""), tracker):
            yield

    return _decorated(fn, measured)


class TaskEmissionsTracker:
    """A `with` block that is a task of a tracker, by default of one that it makes.

    Args:
        task_name: the task's name.
        tracker: whose task it is.
    """

    def __init__(self, task_name: str, tracker: BaseEmissionsTracker | None = None) -> None:
        self.is_default_tracker = tracker is None
        self.tracker = EmissionsTracker() if tracker is None else tracker
        self.task_name = task_name

    def __enter__(self) -> TaskEmissionsTracker:
        self.tracker.start_task(self.task_name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.tracker.stop_task()
        if self.is_default_tracker:
            self.tracker.stop()


def _decorated(fn: F | None, measured: Callable[[], Any]) -> Any:
    if fn is None:
        return lambda function: _decorated(function, measured)
    function = fn
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with measured():
                return await function(*args, **kwargs)

        return coroutine
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            with measured():
                return (yield from function(*args, **kwargs))

        return generator

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with measured():
            return function(*args, **kwargs)

    return plain
