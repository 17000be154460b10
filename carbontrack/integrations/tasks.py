"""Tasks: spans that a framework's hooks open and end concurrently, in threads and worker processes.

An episode is one run at a time. If a framework has many open at once, such as the candidates of
a search, each task has a key.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from carbontrack.api.track import current_span, track
from carbontrack.record import Record
from carbontrack.tracking.span import Span


class _Task(NamedTuple):
    """A span, the key of the task around it, and the exception that was being handled."""

    span: Span
    around: Hashable | None
    handled: BaseException | None


class Tasks:
    """The open tasks of one callback.

    A pickled or copied one, as in a worker process, has nothing open. It counts only its process,
    because others count the rest of the machine, and has no budget, which belongs to the whole run.
    It measures nothing if a tracker was given, which cannot be sent, or if `spans` is "roots".

    Args:
        settings: the arguments of `track`. The default of `spans` is "all", and inside an open
            block that of the block.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(self, **settings: Any) -> None:
        track(**{"name": "task", **settings})  # raises
        self._settings = settings
        self._open: dict[Hashable, _Task] = {}
        self._last: Span | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in self._settings.items() if k not in ("budget", "on_exceed")}
        is_off = "tracker" in kept or kept.get("spans") == "roots"
        settings = {"disable": True} if is_off else {**kept, "scope": "process"}
        return {"_settings": settings, "_open": {}, "_last": None}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._open

    @property
    def record(self) -> Record | None:
        """The record of the last finished task without an enclosing one; None before."""
        return None if self._last is None else self._last.record

    def begin(
        self,
        key: Hashable,
        name: str,
        labels: Mapping[str, Any],
        around: Hashable | None = None,
    ) -> None:
        """Open the span of a task.

        Args:
            key: identifies it among the open tasks.
            name: the name in its record.
            labels: labels of its record, in addition to those of the settings.
            around: the key of the parent task, whichever thread started that. If the parent is not
                open here, the task is treated as by `track`: in a worker process, as a root.
        """
        labels = {**labels, **(self._settings.get("labels") or {})}
        outer = self._open.get(around)
        if outer is None:
            has_spans = current_span() is not None or "tracker" in self._settings
            given = self._settings if has_spans else {"spans": "all", **self._settings}
            span = track(**{**given, "name": name, "labels": labels}).open()
        else:
            span = outer.span.span(name, labels=labels).open()
        self._open[key] = _Task(span, around if outer else None, sys.exc_info()[1])

    def end(self, key: Hashable) -> None:
        """End a task, after the tasks that are open inside it.

        As failed if an exception propagates.

        If there is no such task, nothing is done. As at the end of a `with` block, only what a
        budget was asked to raise is raised.
        """
        task = self._open.pop(key, None)
        if task is None:
            return
        try:
            for inner in [k for k, one in list(self._open.items()) if one.around == key]:
                self.end(inner)
        finally:
            if task.around is None:
                self._last = task.span
            raised = sys.exc_info()[1]
            task.span.leave(None if raised is task.handled else raised)
