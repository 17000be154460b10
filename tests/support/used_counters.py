"""A powercap tree whose counters move by themselves, as those of a machine do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from carbontrack.testing import Powercap


@contextmanager
def used(tree: Powercap, **watts: float) -> Iterator[None]:
    """Let zones use energy meanwhile; each by its name, with "_" for "-"."""
    ended = threading.Event()

    def use_energy() -> None:
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
