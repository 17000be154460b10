"""Rows while a run goes on, for outputs that take them with `live_out`."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from carbontrack.compat.codecarbon.log import LOGGER
from carbontrack.compat.codecarbon.outputs import BaseOutput
from carbontrack.compat.codecarbon.run import Run
from carbontrack.system.interrupts import attempt

NEVER = -1


class LiveRows:
    """Calls `live_out` each so many measures: one at the start, one at the end, and in between.

    CodeCarbon measures at these moments. Here they pace the rows alone, as energy comes from
    counters. A thread exists only where an output has a `live_out` of its own.

    Args:
        run: what the rows are of.
        outputs: where they go.
        seconds: the time between two measures.
        each: every how many measures there is a row; -1 for never.
    """

    def __init__(
        self, run: Run, outputs: Sequence[BaseOutput], seconds: float | None, each: int | None
    ) -> None:
        self._run = run
        self._outputs = [one for one in outputs if type(one).live_out is not BaseOutput.live_out]
        self._seconds = 15.0 if seconds is None else float(seconds)
        self._each = NEVER if each is None else int(each)
        self._measures = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """The first measure, and a thread for the others."""
        if not self._outputs or self._each < 1:
            return
        self._measure()
        self._thread = threading.Thread(target=self._go_on, name="codecarbon-live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The last measure."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._done.set()
        thread.join()
        self._measure()

    def _go_on(self) -> None:
        while not self._done.wait(self._seconds):
            self._measure()

    def _measure(self) -> None:
        self._measures += 1
        if self._measures % self._each:
            return
        total, added = self._run.data_and_added()
        for output in self._outputs:
            _, error = attempt(output.live_out, total, added)
            if error is not None:
                LOGGER.error("live_out of %s failed: %s", type(output).__name__, error)
