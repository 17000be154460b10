"""CodeCarbon's decorators: a function is measured from its call to its end."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from carbontrack.compat.codecarbon.config import ALL, NOT_GIVEN, PLACES, refuse_unknown
from carbontrack.compat.codecarbon.tracker import (
    BaseEmissionsTracker,
    EmissionsTracker,
    OfflineEmissionsTracker,
)
from carbontrack.record import Status
from carbontrack.tracking.counted_call import CountedCall
from carbontrack.tracking.decorate import name_of, wrap

F = TypeVar("F", bound=Callable[..., Any])


class WholeCall(CountedCall):
    """A call from its first step to its end; a generator that waits for its consumer still counts.

    Args:
        block: a tracker, or a task of one, as a `with` block.
    """

    __slots__ = ("_block", "_has_begun")

    def __init__(self, block: BaseEmissionsTracker | TaskEmissionsTracker) -> None:
        self._block = block
        self._has_begun = False

    def resume(self) -> None:
        """The body starts; a second time there is nothing to do."""
        if not self._has_begun:
            self._has_begun = True
            self._block.__enter__()

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended."""
        self.handle = None
        if self._has_begun:
            self._has_begun = False
            if isinstance(self._block, BaseEmissionsTracker):
                self._block.outcome = (status, error)
            self._block.__exit__(None, None, None)

    def drop(self) -> None:
        """Stop counting it, because counting has failed."""
        self.end("error")


def track_emissions(fn: F | None = None, *, offline: Any = False, **parameters: Any) -> Any:
    """Measure each call of a function with a separate tracker.

    Args:
        fn: the function: plain, a coroutine function or a generator function.
        offline: require `country_iso_code` or a cloud's region.
        parameters: those of the trackers.

    Raises:
        TypeError: there is no such parameter.
        Exception: at the call, if `offline` and no place is given.
    """
    given = {name: one for name, one in parameters.items() if one is not NOT_GIVEN}
    refuse_unknown(given, ALL)

    def begin() -> WholeCall:
        place = given.get("country_iso_code") or given.get("cloud_provider")
        if offline and offline is not NOT_GIVEN and not place:
            raise Exception("Needs ISO Code of the Country for Offline mode")  # noqa: TRY002
        kind = OfflineEmissionsTracker if given.keys() & PLACES.keys() else EmissionsTracker
        return WholeCall(kind(**given))

    return _decorated(fn, lambda function: wrap(function, begin))


def track_task_emissions(
    fn: F | None = None, tracker: BaseEmissionsTracker | None = None, task_name: str = ""
) -> Any:
    """Measure each call of a function as a task of a tracker.

    Args:
        fn: the function.
        tracker: the tracker of the task; by default one that is made for the call.
        task_name: the task's name; by default the function's.
    """

    def decorate(function: Any) -> Any:
        name = task_name or getattr(function, "__name__", "") or name_of(function)
        return wrap(function, lambda: WholeCall(TaskEmissionsTracker(name, tracker)))

    return _decorated(fn, decorate)


class TaskEmissionsTracker:
    """A `with` block that is a task of a tracker, by default of one that it makes.

    Args:
        task_name: the task's name.
        tracker: the tracker of the task.
    """

    def __init__(self, task_name: str, tracker: BaseEmissionsTracker | None = None) -> None:
        self.is_default_tracker = tracker is None
        self.tracker = EmissionsTracker() if tracker is None else tracker
        self.task_name = task_name
        self._begun: str | None = None

    def __enter__(self) -> TaskEmissionsTracker:
        self._begun = self.tracker.start_task(self.task_name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._begun is not None:  # not where another task, which goes on, was open
            self.tracker.stop_task(self._begun)
        if self.is_default_tracker:
            self.tracker.stop()


def _decorated(fn: Any, decorate: Callable[[Any], Any]) -> Any:
    return decorate if fn is None else decorate(fn)
