"""A thread that does something at intervals while a command runs."""

from __future__ import annotations

import threading
from types import TracebackType

from carbontrack.system.clock import Clock, SystemClock


class PeriodicThread:
    """Calls `step` every `period_s` seconds for as long as the block lasts.

    Args:
        name: of the thread.
        period_s: seconds from the end of a step to the next one.
        clock: the time.
    """

    def __init__(self, name: str, *, period_s: float, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._period_s = period_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def step(self) -> bool:
        """What is done at intervals; False ends it."""
        raise NotImplementedError

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._clock.wait(self._over, self._period_s):
            if not self.step():
                return
