"""Propagation of the parent record's id to child processes, through the environment.

The span that is open when a child process starts counts the child with its process tree. The
child's own records name that span as their parent, so that reports do not add both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from carbontrack.attribution.process_tree import look_for_children
from carbontrack.config import environment
from carbontrack.system.forking import remember
from carbontrack.system.host import process_identity
from carbontrack.system.log import LOGGER


class Propagator:
    """Propagates the id of the oldest open root span to new child processes.

    Only roots of the main thread are propagated. Programs start their children there, while a
    server's worker threads open and close roots all the time, and changing the environment so often
    is not safe while C libraries read it.

    Args:
        read: returns what the environment says of the parent now, if anything.
        write: writes that to the environment, or removes it.
        identity: returns what identifies this process: boot, pid namespace, pid, start.
        look: raises a ChildProcessError if this process has no child.
    """

    def __init__(
        self,
        read: Callable[[], str | None] = environment.parent_id,
        write: Callable[[str | None], None] = environment.set_parent_id,
        identity: Callable[[], str] = process_identity,
        look: Callable[[], object] = look_for_children,
    ) -> None:
        self._read = read
        self._write = write
        self._find_identity = identity
        self._look_for_children = look
        self._identity: str | None = None
        self._open: dict[int, str] = {}
        """What is said of the open roots, the oldest first."""
        self._said: set[str] = set()
        """Of them, those that have been in the environment."""
        self._written: str | None = None
        """What we last wrote to the environment."""
        self._before: str | None = None
        """What was there before we first wrote."""
        self._restore_to: str | None = None
        """What to restore when no root is open any more."""
        self._inherited: str | None = None
        """In a forked child: what was said of the root that was open in the parent process."""
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

    @property
    def inherited(self) -> str | None:
        """In a forked child: what was said of the root that was open in the parent process."""
        return self._inherited

    @property
    def identity(self) -> str:
        """What identifies this process: boot, pid namespace, pid, start."""
        if self._identity is None:
            self._identity = self._find_identity()
        return self._identity

    def inject(
        self, key: int, record_id: str | None, scope: str = "process", call: str = ""
    ) -> None:
        """A root has been opened: new child processes get its record as their parent.

        Args:
            key: tells it apart from other roots.
            record_id: its record.
            scope: what its tracker counts.
            call: the number of a decorated call, which has no row before its end; "" for a span.
        """
        if record_id is None or threading.current_thread() is not threading.main_thread():
            return
        said = context_text(record_id, self.identity, scope, call)
        if not self._open:
            self._restore_to = self._read()
            self._before = self.original_parent(self._restore_to)
            self._set(said)
        self._open[key] = said

    def withdraw(self, key: int) -> str | None:
        """The root with this key has ended, in any thread.

        Returns what child processes have been told of it; None if there are none.
        """
        said = self._open.pop(key, None)
        if said is None:
            return None
        if said == self._written == self._read():
            # a copy: the main thread may open a root meanwhile
            oldest = list(self._open.values())[:1]
            self._set(oldest[0] if oldest else None)
        if said not in self._said:
            return None
        self._said.discard(said)
        try:
            self._look_for_children()
        except ChildProcessError:
            return None
        except OSError:
            pass
        return said

    def _set(self, said: str | None) -> None:
        try:
            self._write(self._restore_to if said is None else said)
        except Exception:  # a failed write must not stop the program's block
            LOGGER.exception("child processes could not be told which run they belong to")
        else:
            self._written = said
            if said is not None:
                self._said.add(said)

    def forget_parent(self) -> None:
        """In a forked child the roots that were open are the parent's; take it as the parent."""
        self._inherited = self._written or self._inherited
        self._written = self._identity = None
        self._open.clear()
        self._said.clear()


def context_text(record_id: str, identity: str, scope: str, call: str = "") -> str:
    """What is said of a record's span or call to child processes, see `ParentContext`."""
    return f"{record_id}@{identity}:{scope}:{call}" if identity else record_id
