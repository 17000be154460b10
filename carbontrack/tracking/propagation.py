"""Propagation of the parent record's id to child processes, through the environment.

The span that is open when a child process starts counts the child with its process tree. The
child's own records name that span as their parent, so that reports do not add both.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from carbontrack.config import environment
from carbontrack.system.forking import remember
from carbontrack.system.host import process_identity
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import LOGGER


class Propagator:
    """Propagates the id of the oldest open root span to new child processes.

    Only roots of the main thread are propagated. Programs start their children there, while a
    server's worker threads open and close roots all the time, and changing the environment so often
    is not safe while C libraries read it.

    Args:
        read: returns the environment's current description of the parent, if any.
        write: writes that to the environment, or removes it.
        identity: returns what identifies this process: boot, pid namespace, pid, start.
    """

    def __init__(
        self,
        read: Callable[[], str | None] = environment.parent_id,
        write: Callable[[str | None], None] = environment.set_parent_id,
        identity: Callable[[], str] = process_identity,
    ) -> None:
        self._read = read
        self._write = write
        self._find_identity = identity
        self._identity: str | None = None
        self._open: dict[int, str] = {}
        """The descriptions of the open roots, the oldest first."""
        self._written: str | None = None
        """The last value written to the environment."""
        self._before: str | None = None
        """The value before the first write."""
        self._restore_to: str | None = None
        """The value to restore when no root is open any more."""
        self._inherited: str | None = None
        """In a forked child: the description of the root that was open in the parent process."""
        remember(self)

    def original_parent(self, found: str | None) -> str | None:
        """The parent id that this process was started with, whatever was written since.

        `found` is the id that the environment has now.
        """
        ours = found is not None and found in (self._written, self._inherited)
        return self._before if ours else found

    def extract(self) -> str | None:
        """The parent id for the roots of this process, if any."""
        return self._inherited or self.original_parent(self._read())

    @property
    def inherited(self) -> str | None:
        """In a forked child: the description of the root that was open in the parent process."""
        return self._inherited

    @property
    def identity(self) -> str:
        """The identity of this process: boot, pid namespace, pid, start."""
        if self._identity is None:
            self._identity = self._find_identity()
        return self._identity

    def inject(self, key: int, said: str | None) -> None:
        """A root has been opened: new child processes get it as their parent.

        `key` identifies it among the roots; `said` is its description, see `context_text`.
        """
        if said is None or threading.current_thread() is not threading.main_thread():
            return
        is_first = not self._open
        if is_first:
            self._restore_to = self._read()
            self._before = self.original_parent(self._restore_to)
        self._open[key] = said
        if is_first:
            self._set(said)

    def withdraw(self, key: int) -> None:
        """The root with this key has ended, in any thread; a second call does nothing."""
        said = self._open.get(key)
        if said is not None and said == self._read():
            # a copy: the main thread may open a root meanwhile
            oldest = [one for its, one in list(self._open.items()) if its != key][:1]
            self._set(oldest[0] if oldest else None)
        self._open.pop(key, None)

    def _set(self, said: str | None) -> None:
        self._written = said  # first: what the environment has is either this or older
        try:
            self._write(self._restore_to if said is None else said)
        except Exception as error:  # a failed write must not stop the program's block
            pass_on(error)
            LOGGER.exception("the run id could not be passed to child processes")

    def forget_parent(self) -> None:
        """In a forked child the roots that were open are the parent's; take it as the parent."""
        self._inherited = self._written or self._inherited
        self._written = self._identity = None
        self._open.clear()


def context_text(record_id: str, identity: str, scope: str, state_dir: Path | None) -> str:
    """The description of a record's span or call for child processes, see `ParentContext`.

    Args:
        record_id: the record.
        identity: what identifies this process; "" if it is not known.
        scope: the tracker's scope.
        state_dir: the directory with its journal, if it has one.
    """
    state = "" if state_dir is None else state_token(state_dir)
    return f"{record_id}@{identity}:{scope}:{state}" if identity else record_id


@lru_cache(maxsize=8)  # each root asks for it
def state_token(state_dir: Path) -> str:
    """A token for a state directory, whose name may contain anything, and for the user's own."""
    return f"{zlib.crc32(os.fsencode(os.path.abspath(state_dir))):08x}"  # noqa: PTH100 - a text
