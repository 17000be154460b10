"""Workers of a cluster: a process is a row that includes its idle time, and tasks are rows inside.

A `WorkerRow` is made in the program that starts the job, sent to the workers, and started there.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context
from types import SimpleNamespace
from typing import Any, TypeVar

from carbontrack.api.job import RunningTask, join_job
from carbontrack.api.named_calls import outcome_of
from carbontrack.api.track import auto, track
from carbontrack.errors import ConfigError
from carbontrack.system.interrupts import attempt
from carbontrack.system.log import OnceLog
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import Tracker

DEFAULTS: Mapping[str, Any] = {"spans": "all", "checkpoint_s": 1.0}
"""Tasks have rows, and a worker that is killed loses one second instead of ten."""
_ERROR_LENGTH = 200
_log = OnceLog()
_Function = TypeVar("_Function", bound=Callable[..., Any])


class WorkerRow:
    """The row of each worker of a job.

    A pickled one contains the settings and the job, but no open row.

    Args:
        name: the name in the records.
        settings: the arguments of `carbontrack.auto`, over `DEFAULTS`, and `labels`.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        if "tracker" in settings:
            raise ConfigError("a tracker cannot be sent to workers; give its settings instead")
        track(name, **settings)  # raises
        self._name, self._labels = name, settings.pop("labels", None)
        self._settings, self.job_id = {**DEFAULTS, **settings}, join_job()
        self._tracker: Tracker | None = None
        self._span: Span | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_tracker": None, "_span": None}

    def begin(self, *, here: bool) -> None:
        """Open the row of this process; errors are logged.

        Args:
            here: whether everything that runs in this context from now on is nested in it.
        """
        _, error = attempt(self._begin, here=here)
        if error is not None:
            _log.say(f"this {self._name} is not measured: {error}", logging.ERROR, error)

    def _begin(self, *, here: bool) -> None:
        join_job(self.job_id)
        self._tracker = auto(**self._settings)  # one of its own: others keep the job they had
        self._span = span = self._tracker.span(self._name, labels=self._labels)
        if here:
            span.open()
        else:
            Context().run(span.open)

    def end(self) -> None:
        """Close it; a second call does nothing."""
        if self._span is not None and self._tracker is not None:
            self._span.close()
            self._tracker.close()

    @contextmanager
    def task(
        self, find: Callable[..., tuple[str, RunningTask]], *given: Any
    ) -> Iterator[SimpleNamespace]:
        """A block that is a task of this worker: a row inside its row.

        carbontrack raises nothing in it, and nothing is measured if the worker's row is not open.

        Args:
            find: returns the task's name and its other known facts.
            given: its arguments.

        Yields:
            An object that reports how the task ended if it raised nothing: the text of its `error`.
        """
        ending = SimpleNamespace(error=None)
        span, error = attempt(self._open_task, find, *given)
        if error is not None:
            _log.say(f"a task of {self._name!r} is not measured: {error!r}", logging.ERROR, error)
        try:
            yield ending
        except BaseException as raised:
            if span is not None:
                span.close(*outcome_of(raised))
            raise
        if span is not None and ending.error is None:
            span.close()
        elif span is not None:
            span.close("error", " ".join(ending.error.split())[:_ERROR_LENGTH])

    def _open_task(self, find: Callable[..., tuple[str, RunningTask]], *given: Any) -> Span | None:
        if self._span is None or not self._span.is_open:
            return None
        name, task = find(*given)
        span = self._span.span(name)
        span.task = task
        return span.open()


def in_block(function: _Function, block: Callable[[], AbstractContextManager[Any]]) -> _Function:
    """The function, with each of its calls, to the end of its generator, inside a new block."""

    def plain(*args: Any, **kwargs: Any) -> Any:
        with block():
            return function(*args, **kwargs)

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        with block():
            return await function(*args, **kwargs)

    def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with block():
            return (yield from function(*args, **kwargs))

    async def async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        with block():
            async for item in function(*args, **kwargs):
                yield item

    chosen: Any = plain
    if inspect.isasyncgenfunction(function):
        chosen = async_generator
    elif inspect.iscoroutinefunction(function):
        chosen = coroutine
    elif inspect.isgeneratorfunction(function):
        chosen = generator
    wrapped: Any = functools.wraps(function)(chosen)
    return wrapped  # type: ignore[no-any-return]
