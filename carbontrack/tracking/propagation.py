"""Which run the records of child processes belong to, carried to them by the environment.

A child process is counted with the tree of the span that is open around its start, so its own
records name that span, and reports do not add up both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from carbontrack.config import environment
from carbontrack.system.forking import remember
from carbontrack.system.log import LOGGER


class Propagator:
    """Carries the id of the root span that has been open for longest to new child processes.

    Only roots of the main thread are carried: programs start their children there, while a server's
    worker threads open and close roots all the time, and changing the environment so often is not
    safe beside libraries in C that read it.

    Args:
        read: the record that the environment names now, if any.
        write: has the environment name another one, or none.
    """

    def __init__(
        self,
        read: Callable[[], str | None] = environment.parent_id,
        write: Callable[[str | None], None] = environment.tell_children,
    ) -> None:
        self._read = read
        self._write = write
        self._open: dict[int, str] = {}
        """The open roots' record ids, the oldest first."""
        self._written: str | None = None
        """What the environment names because of us."""
        self._before: str | None = None
        """What it named before we first changed it."""
        self._put_back: str | None = None
        """What it shall name when no root is open any more."""
        self._inherited: str | None = None
        """In a forked child: the root that was open in the parent."""
        remember(self)

    def at_start(self, found: str | None) -> str | None:
        """The record that the start of this program found, whatever we have written since.

        `found` is the one that the environment names now.
        """
        ours = found is not None and found in (self._written, self._inherited)
        return self._before if ours else found

    def extract(self) -> str | None:
        """The record that the roots of this process belong to, if any."""
        return self._inherited or self.at_start(self._read())

    def inject(self, key: int, record_id: str | None) -> None:
        """Something has been opened under this key: children belong to its record.

        Of a decorated call, which has no record yet, the record is the run's id.
        """
        if record_id is None or threading.current_thread() is not threading.main_thread():
            return
        if not self._open:
            self._put_back = self._read()
            self._before = self.at_start(self._put_back)
            self._name(record_id)
        self._open[key] = record_id

    def withdraw(self, key: int) -> None:
        """What was injected under this key has ended, in whatever thread."""
        record_id = self._open.pop(key, None)
        if record_id is not None and record_id == self._written == self._read():
            oldest = list(self._open.values())[:1]  # a copy: the main thread may open one just now
            self._name(oldest[0] if oldest else None)

    def _name(self, record_id: str | None) -> None:
        try:
            self._write(self._put_back if record_id is None else record_id)
        except Exception:  # an environment that takes nothing must not stop the program's block
            LOGGER.exception("child processes could not be told which run they belong to")
        else:
            self._written = record_id

    def forget_parent(self) -> None:
        """In a forked child what was open is the parent's, and this process belongs to it."""
        self._inherited = self._written or self._inherited
        self._written = None
        self._open.clear()
