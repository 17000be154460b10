"""Which run the records of this process's children belong to: what their environment tells them.

A child process is counted with the tree of the span that is open around its start, so its own
records name that span, and reports do not add up both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from carbontrack.config import environment
from carbontrack.system.forking import remember
from carbontrack.system.log import LOGGER


class Kin:
    """Tells new child processes of the root span that has been open for longest.

    Only roots of the main thread are told of: programs start their children there, while a server's
    worker threads open and close roots all the time, and changing the environment so often is not
    safe beside libraries in C that read it.

    Args:
        found: the record that the environment names now, if any.
        tell: has the environment name another one, or none.
    """

    def __init__(
        self,
        found: Callable[[], str | None] = environment.parent_id,
        tell: Callable[[str | None], None] = environment.tell_children,
    ) -> None:
        self._found = found
        self._tell = tell
        self._open: dict[int, str] = {}
        """The open roots' record ids, the oldest first."""
        self._told: str | None = None
        """What the environment names because of us."""
        self._before: str | None = None
        """What it named before we first changed it."""
        self._put_back: str | None = None
        """What it shall name when no root is open any more."""
        self._inherited: str | None = None
        """In a forked child: the root that was open in the parent."""
        remember(self)

    def outside(self) -> str | None:
        """The record that the start of this program found, whatever we have told since."""
        found = self._found()
        ours = found is not None and found in (self._told, self._inherited)
        return self._before if ours else found

    def parent_id(self) -> str | None:
        """The record that the roots of this process belong to, if any."""
        return self._inherited or self.outside()

    def opened(self, key: int, record_id: str) -> None:
        """A root has been opened."""
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._open:
            self._before = self.outside()
            self._put_back = self._found()
            self._say(record_id)
        self._open[key] = record_id

    def closed(self, key: int) -> None:
        """A root has ended, in whatever thread."""
        record_id = self._open.pop(key, None)
        if record_id is not None and record_id == self._told == self._found():
            oldest = list(self._open.values())[:1]  # a copy: the main thread may open one just now
            self._say(oldest[0] if oldest else None)

    def _say(self, record_id: str | None) -> None:
        try:
            self._tell(self._put_back if record_id is None else record_id)
        except Exception:  # an environment that takes nothing must not stop the program's block
            LOGGER.exception("child processes could not be told which run they belong to")
        else:
            self._told = record_id

    def forget_parent(self) -> None:
        """In a forked child what was open is the parent's, and this process belongs to it."""
        self._inherited = self._told or self._inherited
        self._told = None
        self._open.clear()
