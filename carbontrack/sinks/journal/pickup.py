"""Recovery in the background: each start of a program recovers a share, in a separate thread.

The thread waits first, so that short programs are not delayed, and pauses after each journal. Its
share is bounded, so that a directory full of journals costs a program no more than a few: the next
starts take the rest, and `carbontrack recover` takes all. A program that ends earlier waits a
moment for the thread.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from carbontrack.record import Sink, plugin_of
from carbontrack.sinks.journal.journal import LOOK_LIMIT
from carbontrack.system.clock import SystemClock
from carbontrack.system.forking import OwnThread, PerProcess, holding_forks
from carbontrack.system.interrupts import pass_on

DELAY_S = 1.0
"""The delay after the start of a program."""
TAKE_LIMIT = 64
"""The most journals that one start recovers."""
AT_EXIT_S = 0.05
"""How long the end of a program goes on with it, beyond the record that is being written."""
_PAUSE_S = 0.002
_PERIOD_S = 30.0
"""The time after which a further tracker of the program counts as a start."""
_PATIENCE_S = 1.0
"""How long the end of the program waits for an output that does not respond."""


class PickUp:
    """The share of one start, in one state directory."""

    def __init__(self, state_dir: Path, *, is_ours: bool) -> None:
        self._state_dir = state_dir
        self._is_ours = is_ours
        self._go = threading.Event()
        self._never = threading.Event()
        self._end_at_s = float("inf")
        self._thread = OwnThread(self._run, "carbontrack-recovery")
        self.began_at_s = SystemClock.monotonic_s()

    def start(self) -> None:
        """Start the thread, unless there can be none, as at the end of the interpreter."""
        if sys.is_finalizing():  # older interpreters would wait for ever for the thread
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            self._go.set()
            pass_on(error)

    def hasten(self, *, at_exit: bool = False) -> None:
        """Start now, and wait until it is done.

        `at_exit`: only as much as is possible in a moment.
        """
        if at_exit:
            self._end_at_s = SystemClock.monotonic_s() + AT_EXIT_S
        self._go.set()
        is_other = self._thread is not threading.current_thread()
        if is_other and self._thread.is_alive() and not sys.is_finalizing():
            self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        SystemClock.wait(self._go, DELAY_S)
        with holding_forks():
            from carbontrack.sinks.journal import recovery

        open_sink = _loading(recovery.opener(is_ours=self._is_ours))
        recovery.pick_up(self._state_dir, open_sink, most=LOOK_LIMIT, goes_on=self._goes_on)

    def _goes_on(self, count: int) -> bool:
        if count >= TAKE_LIMIT or SystemClock.monotonic_s() >= self._end_at_s:
            return False
        if not self._go.is_set():
            SystemClock.wait(self._never, _PAUSE_S)
        return True


class _PickUps:
    """Those of one process, by state directory."""

    def __init__(self) -> None:
        self.by_folder: dict[Path, PickUp] = {}


_pick_ups = PerProcess(_PickUps)


def pick_up_later(state_dir: Path, *, is_ours: bool) -> None:
    """Start a thread that recovers records of killed processes, unless one has done so recently."""
    state = _pick_ups.get()
    before = state.by_folder.get(state_dir)
    if before is not None and SystemClock.monotonic_s() - before.began_at_s < _PERIOD_S:
        return
    if not state.by_folder:
        atexit.register(_end)
    state.by_folder[state_dir] = pick_up = PickUp(state_dir, is_ours=is_ours)
    pick_up.start()


def hasten(state_dir: Path) -> None:
    """Wait for the started recovery, which puts the records of killed runs into their queues."""
    state = _pick_ups.state
    pick_up = None if state is None else state.by_folder.get(state_dir)
    if pick_up is not None:
        pick_up.hasten()


def _end() -> None:
    state = _pick_ups.state
    for pick_up in list(state.by_folder.values()) if state is not None else ():
        pick_up.hasten(at_exit=True)


def _loading(open_sink: Callable[[str], Sink]) -> Callable[[str], Sink]:
    """As `open_sink`, after what it imports: a fork waits for imports, but not for outputs."""

    def opened(output: str) -> Sink:
        with holding_forks():
            from carbontrack.sinks import csv_file, jsonl  # noqa: F401

            if plugin_of(output) is not None:
                return open_sink(output)
            if not output.endswith((".csv", ".jsonl", ".ndjson")):
                import sqlite3  # noqa: F401

                from carbontrack.sinks import sqlite  # noqa: F401
        return open_sink(output)

    return opened
