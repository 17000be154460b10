"""A simulated powercap tree where every tool looks for the real one, in a namespace of its own.

A private mount namespace puts the tree over /sys/class and /sys/devices/virtual for one process,
and a private network namespace leaves it no network. Nothing outside sees either.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
def drawing(tree: Powercap, watts: float = 50.0, refresh_s: float = 0.01) -> Iterator[None]:
    """The counters move meanwhile, as those of a machine that runs do.

    A thread of this process moves them, a hundred times a second, which is seldom enough to take
    next to nothing from what is measured.
    """
    done = threading.Event()

    def move() -> None:
        while not done.wait(refresh_s):
            for zone in tree.zones:
                tree.add_joules(zone, watts * refresh_s)

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
