"""Looks at a command's budget while it runs, and ends the command where that was asked for."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from carbontrack.cli.child import Child
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.tracking.budget import BudgetGuard, Verdict
from carbontrack.tracking.span import Span

if TYPE_CHECKING:
    import psutil

GRACE_S = 10.0
"""From SIGTERM to SIGKILL: as long as `docker stop` waits by default."""
_LOOK_S = 0.5
_POLL_S = 0.05


class Bailiff:
    """A thread beside the waiting one, for as long as the command runs.

    Args:
        guard: the budget, with where to say how it stands.
        span: what has been used.
        child: the command.
        ends: whether a budget that is surely exceeded ends the command and its descendants.
        grace_s: time that they have to end themselves, after SIGTERM and before SIGKILL.
        clock: the time.
    """

    def __init__(
        self,
        guard: BudgetGuard,
        span: Span,
        child: Child,
        *,
        ends: bool,
        grace_s: float = GRACE_S,
        clock: Clock | None = None,
    ) -> None:
        self.acted: Verdict | None = None
        """The verdict by which the command was ended."""
        self._guard = guard
        self._child = child
        self._ends = ends
        self._grace_s = grace_s
        self._clock = clock or SystemClock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="carbontrack-budget", daemon=True)
        span.budget_guard = guard

    def __enter__(self) -> Bailiff:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._clock.wait(self._over, _LOOK_S):
            verdict = self._guard.look()
            if verdict is not None and verdict.outcome == "over" and self._ends:
                pid = self._child.running
                if pid is not None and end_tree(pid, grace_s=self._grace_s, clock=self._clock):
                    self.acted = verdict
                return


def end_tree(pid: int, *, grace_s: float, clock: Clock) -> bool:
    """SIGTERM to a process and its descendants, and SIGKILL to those that are left after a while.

    A shell that ends leaves what it has started behind, and that would go on using energy. False if
    the process had ended before.
    """
    import psutil

    try:
        first = psutil.Process(pid)
        if not _lives(first):
            return False
        tree = [first, *first.children(recursive=True)]
    except psutil.Error:
        return False
    for one in tree:
        _signal(one, kill=False)
    deadline_s = clock.monotonic_s() + grace_s
    never = threading.Event()
    while any(map(_lives, tree)) and clock.monotonic_s() < deadline_s:
        clock.wait(never, _POLL_S)
    for one in tree:
        if _lives(one):
            _signal(one, kill=True)
    return True


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, *, kill: bool) -> None:
    import psutil

    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.Error:  # it has ended meanwhile, or is another user's
        return
