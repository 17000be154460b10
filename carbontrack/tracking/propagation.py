"""Propagation of the parent record's id to child processes, through the environment.

The span that is open when a child process starts counts the child with its process tree. The
child's own records name that span as their parent, so that reports do not add both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from carbontrack.config import environment
from carbontrack.system.forking import remember
from carbontrack.system.log import LOGGER


class Propagator:
    """Propagates the id of the oldest open root span to new child processes.

    Only roots of the main thread are propagated. Programs start their children there, while a
    server's worker threads open and close roots all the time, and changing the environment so often
    is not safe while C libraries read it.

    Args:
        read: returns the parent id that the environment has now, if any.
        write: sets the parent id in the environment, or removes it.
    """

    def __init__(
        self,
        read: Callable[[], str | None] = environment.parent_id,
        write: Callable[[str | None], None] = environment.set_parent_id,
    ) -> None:
        self._read = read
        self._write = write
        self._open: dict[int, str] = {}
        """The record ids of the open roots, the oldest first."""
        self._written: str | None = None
        """The id that we last wrote to the environment."""
        self._before: str | None = None
        """The id that was there before we first wrote one."""
        self._restore_to: str | None = None
        """The id to restore when no root is open any more."""
        self._inherited: str | None = None
        """In a forked child: the root that was open in the parent process."""
        remember(self)

    def original_parent(self, found: str | None) -> str | None:
        """The parent id that this process was started with, whatever we have written since.

        `found` is the id that the environment has now.
        """
        ours = found is not None and found in (self._written, self._inherited)
        return self._before if ours else found

    def extract(self) -> str | None:
        """The parent id for the roots of this process, if any."""
        return self._inherited or self.original_parent(self._read())

    def inject(self, key: int, record_id: str | None) -> None:
        """A root has been opened: new child processes get its record as their parent.

        For a decorated call, which has no record yet, `record_id` is the run's id.
        """
        if record_id is None or threading.current_thread() is not threading.main_thread():
            return
        if not self._open:
            self._restore_to = self._read()
            self._before = self.original_parent(self._restore_to)
            self._set(record_id)
        self._open[key] = record_id

    def withdraw(self, key: int) -> None:
        """The root with this key has ended, in any thread."""
        record_id = self._open.pop(key, None)
        if record_id is not None and record_id == self._written == self._read():
            oldest = list(self._open.values())[
                :1
            ]  # a copy: the main thread may open a root meanwhile
            self._set(oldest[0] if oldest else None)

    def _set(self, record_id: str | None) -> None:
        try:
            self._write(self._restore_to if record_id is None else record_id)
        except Exception:  # a failed write must not stop the program's block
            LOGGER.exception("child processes could not be told which run they belong to")
        else:
            self._written = record_id

    def forget_parent(self) -> None:
        """In a forked child the roots that were open are the parent's; take it as the parent."""
        self._inherited = self._written or self._inherited
        self._written = None
        self._open.clear()
