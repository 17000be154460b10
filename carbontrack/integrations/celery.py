"""Celery: each task is a call, counted under the name of the task, in every kind of pool.

The thread, process or greenlet that runs a task sends the signals before and after it, so blocks
that the task opens are inside its call. A process of the prefork pool writes its rows when Celery
shuts it down or replaces it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Generator
from functools import cache
from typing import Any

from carbontrack.api.track import track
from carbontrack.integrations.episode import guarded

try:
    from celery import signals
except ImportError as error:
    raise ImportError('Celery is missing: pip install "carbontrack[celery]"') from error


def install(**settings: object) -> None:
    """Count every task that this program runs; a second call replaces the settings of the first.

    A task of 1 s or longer has its own row. Shorter ones are summed, one row per name and window.

    Args:
        settings: the arguments of `carbontrack.track`: region, output, window_s, labels, tracker, …

    Raises:
        ConfigError: a setting cannot be used. Nothing is connected then.
    """
    tasks = _Tasks(settings)
    for signal, hook in ((signals.task_prerun, tasks.begin), (signals.task_postrun, tasks.end)):
        signal.disconnect(dispatch_uid="carbontrack")
        signal.connect(hook, weak=False, dispatch_uid="carbontrack")


class _Tasks:
    def __init__(self, settings: dict[str, Any]) -> None:
        track("task", **settings)  # raises now, and not in a worker
        self._counted = cache(lambda name: track(name, **settings)(_until_resumed))
        self._running: dict[int, Any] = {}  # a call by the id of its request: tasks may be nested

    @guarded
    def begin(self, sender: Any, **_: object) -> None:
        call = self._counted(sender.name)()
        call.send(None)
        self._running[id(sender.request)] = call

    @guarded
    def end(self, sender: Any, state: str | None, retval: Any, **_: object) -> None:
        call = self._running.pop(id(sender.request), None)
        if call is not None:  # None: it began before `install`
            raised = retval if state in ("FAILURE", "RETRY", "REJECTED") else None
            _end(call, raised if state else sys.exc_info()[1])  # what ends the process has no state


async def _until_resumed() -> None:  # decorated, it counts from its first step to its second
    await _suspension()


@types.coroutine
def _suspension() -> Generator[None, None, None]:
    yield


def _end(call: Any, error: BaseException | None) -> None:
    trace = None if error is None else error.__traceback__
    try:
        call.send(None) if error is None else call.throw(error)
    except BaseException as raised:
        if not isinstance(raised, StopIteration) and error not in (raised, raised.__cause__):
            raise
    finally:
        if error is not None:
            error.__traceback__ = trace  # as the program has left it
