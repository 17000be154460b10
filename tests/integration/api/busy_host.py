"""Run by tests: a busy program in a container beside which its host's counter can be read.

`python busy_host.py '{"root": TREE, "threads": 4, "scope": "process"}'`: TREE has a sysfs, and a
procfs if `threads` is not 0, whose stat then shows the program's own work only. Where there is a
RAPL zone, the host draws 150 W, for the work of others. Prints what the block's record says.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

HOST_W = 150.0
TOLD = ("cpu_basis", "ram_basis", "faults", "cpu_tdp_w", "cpu_threads", "cpu_share", "meters",
        "energy_low_kwh", "energy_high_kwh", "energy_kwh", "basis")  # fmt: skip


class World:
    """The files that change while the program runs: /proc/stat and the counter."""

    def __init__(self, root: Path, threads: int) -> None:
        zone = root / "sys/class/powercap/intel-rapl:0/energy_uj"
        self.threads = threads
        self.stat = os.open(root / "proc/stat", os.O_WRONLY | os.O_CREAT) if threads else -1
        self.zone = os.open(zone, os.O_WRONLY) if zone.exists() else -1
        self.counted_j = 100_000.0  # as many digits from beginning to end
        self.at_s = time.monotonic()
        self.write()

    def write(self) -> None:
        """Bring the files up to now, each in one write."""
        now_s = time.monotonic()
        self.counted_j += HOST_W * (now_s - self.at_s)
        self.at_s = now_s
        if self.zone >= 0:
            os.pwrite(self.zone, f"{round(self.counted_j * 1e6)}\n".encode(), 0)
        if self.stat >= 0:
            used = os.times()
            busy = round((used.user + used.system) * 100)
            lines = [f"cpu  {busy:9} 0 0 9 0 0 0 0 0 0"]
            lines += [
                f"cpu{n} {busy if n == 0 else 0:9} 0 0 9 0 0 0 0" for n in range(self.threads)
            ]
            os.pwrite(self.stat, ("\n".join(lines) + "\n").encode(), 0)

    def go_on(self) -> None:
        """Write until the program ends."""
        while True:
            time.sleep(0.01)
            self.write()


def main(root: str, threads: int, scope: str) -> dict[str, Any]:
    """What the record of a busy block says."""
    world = World(Path(root), threads)
    threading.Thread(target=world.go_on, daemon=True).start()
    import carbontrack

    paths = {"sysfs_path": f"{root}/sys"} | ({"procfs_path": f"{root}/proc"} if threads else {})
    with carbontrack.track(
        "t", output=None, region="FR", gpu_ids="none", scope=scope, **paths
    ) as run:
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            sum(range(1000))
    record = run.record
    told = {name: getattr(record, name) for name in TOLD}
    told["cpu_w"] = record.cpu_kwh * 3.6e6 / record.duration_s
    return told


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
