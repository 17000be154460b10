"""Checks a command's budget while it runs, and ends the command where that was asked for."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.cli.child import Child
from carbontrack.cli.periodic import PeriodicThread
from carbontrack.system.clock import Clock
from carbontrack.system.host import depth_below
from carbontrack.tracking.budget import BudgetGuard, Verdict
from carbontrack.tracking.span import Span

if TYPE_CHECKING:
    import psutil

GRACE_S = 10.0
"""From SIGTERM to SIGKILL: as long as `docker stop` waits by default."""
_CHECK_S = 0.5
_POLL_S = 0.05
_PROCFS = Path("/proc")


class BudgetWatch(PeriodicThread):
    """A thread that checks the budget for as long as the command runs.

    Args:
        guard: the budget, and where to report how much of it is used.
        span: what has been used.
        child: the command.
        terminates: whether a budget that is clearly exceeded ends the command and its descendants.
        grace_s: seconds between SIGTERM and SIGKILL, in which they may end by themselves.
        clock: the time.
    """

    def __init__(
        self,
        guard: BudgetGuard,
        span: Span,
        child: Child,
        *,
        terminates: bool,
        grace_s: float = GRACE_S,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("carbontrack-budget", period_s=_CHECK_S, clock=clock)
        self.terminated_by: Verdict | None = None
        """The verdict by which the command was ended."""
        self._guard = guard
        self._child = child
        self._terminates = terminates
        self._grace_s = grace_s
        span.budget_guard = guard

    def step(self) -> bool:
        """Check the budget; no more after the command was to be ended."""
        verdict = self._guard.evaluate()
        if verdict is None or verdict.outcome != "over" or not self._terminates:
            return True
        pid = self._child.running
        if pid is not None and end_tree(pid, grace_s=self._grace_s, clock=self._clock):
            self.terminated_by = verdict
        return False


def end_tree(pid: int, *, grace_s: float, clock: Clock) -> bool:
    """Send SIGTERM to a process and its descendants, and SIGKILL to those left after `grace_s`.

    A shell that ends leaves its children running, and they would go on using energy. False if the
    process had ended before. Where the processes of our pid namespace cannot be seen, only the
    command itself, a child of ours, is sent them: a number that is read would be somebody else's.
    """
    if sys.platform == "linux" and depth_below(_PROCFS) != 0:
        return _end_child(pid, grace_s=grace_s, clock=clock)
    import psutil

    try:
        first = psutil.Process(pid)
        if not _is_running(first):
            return False
        tree = [first, *first.children(recursive=True)]
    except psutil.Error:
        return False
    for one in tree:
        _signal(one, kill=False)
    deadline_s = clock.monotonic_s() + grace_s
    never = threading.Event()
    while any(map(_is_running, tree)) and clock.monotonic_s() < deadline_s:
        clock.wait(never, _POLL_S)
    for one in tree:
        if _is_running(one):
            _signal(one, kill=True)
    return True


def _end_child(pid: int, *, grace_s: float, clock: Clock) -> bool:
    if not _is_living_child(pid):
        return False
    os.kill(pid, signal.SIGTERM)
    deadline_s, never = clock.monotonic_s() + grace_s, threading.Event()
    while _is_living_child(pid) and clock.monotonic_s() < deadline_s:
        clock.wait(never, _POLL_S)
    if _is_living_child(pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def _is_living_child(pid: int) -> bool:
    """Whether a child of ours runs; one that has ended is left for the caller that waits for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _is_running(process: psutil.Process) -> bool:
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
