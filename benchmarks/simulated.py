"""A simulated powercap tree where every tool looks for the real one, in a namespace of its own.

A private mount namespace puts the tree over /sys/class and /sys/devices/virtual for one process,
and a private network namespace leaves it no network. Nothing outside sees either.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from carbontrack.testing import Powercap, Zone, build_powercap

PACKAGE = Zone("package-0", "intel-rapl:0", 123_456_789, limit_w=400.0)


def tree_in(folder: Path, zones: Sequence[Zone] = (PACKAGE,)) -> Powercap:
    """Build a tree, with the links to their class that some tools look for."""
    tree = build_powercap(folder, zones)
    devices = folder / "devices" / "virtual" / "powercap"
    for directory in {devices / "intel-rapl", *(tree.directory(zone) for zone in tree.zones)}:
        (directory / "subsystem").symlink_to("/sys/class/powercap")
    return tree


@contextmanager
def drawing(
    tree: Powercap, watts: Mapping[str, float] | None = None, refresh_s: float = 0.01
) -> Iterator[None]:
    """The counters move with the clock meanwhile, as those of a machine that runs do.

    Args:
        tree: whose counters.
        watts: the power of each zone by its key; by default 50 W each.
        refresh_s: how often they move; a hundred times a second takes next to nothing from what is
            measured beside it.
    """
    powers_w = dict.fromkeys(tree.zones, 50.0) if watts is None else watts
    done = threading.Event()

    def move() -> None:
        with suppress(OSError, AttributeError):  # a processor's counter waits for nobody
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        last_s = time.perf_counter()
        while not done.wait(refresh_s):
            now_s = time.perf_counter()
            for zone, power_w in powers_w.items():
                tree.add_joules(zone, power_w * (now_s - last_s))
            last_s = now_s

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def inside(tree: Powercap, command: Sequence[str]) -> list[str]:
    """The command, run where the tree is /sys/class/powercap and there is no network."""
    root = shlex.quote(str(tree.sysfs))
    # devices first: the links of class lead into it
    script = (
        f"mount --bind {root}/devices/virtual /sys/devices/virtual && "
        f"mount --bind {root}/class /sys/class && exec {shlex.join(command)}"
    )
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "--net", "sh", "-c", script]


def works(tree: Powercap) -> bool:
    """Whether this machine lets us make such a namespace."""
    test = inside(tree, ["test", "-r", "/sys/class/powercap/intel-rapl:0/energy_uj"])
    try:
        return subprocess.run(test, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
