"""A powercap tree whose counters move by themselves, as those of a machine do."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from carbontrack.testing import Powercap


@contextmanager
def used(tree: Powercap, **watts: float) -> Iterator[None]:
    """Let zones use energy meanwhile; each by its name, with "_" for "-"."""
    ended = threading.Event()

    def use_energy() -> None:
        _come_first()
        last_s = time.monotonic()
        while not ended.wait(0.01):
            now_s = time.monotonic()
            for zone, power_w in watts.items():
                tree.add_joules(zone.replace("_", "-"), power_w * (now_s - last_s))
            last_s = now_s

    thread = threading.Thread(target=use_energy)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _come_first() -> None:
    """Have this thread run before what keeps the processors busy, where this user may do that.

    A counter that stands still beside work is rightly not believed, and a real one never waits for
    its turn.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, OSError):
        with suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)
