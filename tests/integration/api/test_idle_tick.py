"""What a tick asks the system for while nothing happens: a count, which no machine changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.costs import has, system_calls

pytestmark = [
    pytest.mark.skipif(not has("strace"), reason="strace is not there, or may not trace here"),
    pytest.mark.xdist_group("serial"),
]

TICKS = """
import subprocess, threading
from pathlib import Path
import carbontrack
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.attribution.usage import UsageReader
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import SystemClock

class Ahead(SystemClock):
    by_s = 0.0
    def monotonic_s(self):
        return SystemClock.monotonic_s() + self.by_s

# no control groups: each level of them that has a limit would be two calls more
clock, usage, end = Ahead(), UsageReader(sysfs=Path.cwd()), threading.Event()
usage.within_limit = True
model = CpuModel(100.0, usage.least_busy_s, 2, own_s=usage.own_cpu_s)
for _ in range({threads}):
    threading.Thread(target=end.wait).start()
children = [subprocess.Popen(["sleep", "300"]) for _ in range({children})]
sampler = Sampler([model], interval_s=3600.0, clock=clock, usage=usage)
tracker = carbontrack.Tracker(
    meters=sampler, grid=50.0, attribution="process", interval_s=3600.0
)
with tracker.span("idle"):
    for _ in range({ticks}):
        clock.by_s += 1.0
        sampler.tick()
end.set()
for child in children:
    child.kill()
    child.wait()
tracker.close()
sampler.close()
"""
FEW, MANY = 20, 320
NO_WAITING = "!futex,%memory"
"""How often threads wait for each other differs from run to run."""


def calls_of_a_tick(folder: Path, *, children: int = 0, threads: int = 0) -> float:
    """The mean of so many ticks: memory is read in each fifth, and surveyed in each sixtieth.

    The least of three: where other programs hold a tick up, facts are old, and are read again.
    """
    found = []
    for _ in range(3):
        codes = [TICKS.format(ticks=n, children=children, threads=threads) for n in (FEW, MANY)]
        few, many = (system_calls(code, folder, kinds=NO_WAITING) for code in codes)
        found.append((many - few) / (MANY - FEW))
    return min(found)


def test_an_idle_tick_reads_each_fact_once(tmp_path: Path) -> None:
    """The machine's load, children, CPU times of the dead and the living; each fifth the memory."""
    alone = calls_of_a_tick(tmp_path)
    assert alone <= 11.0
    threads = 400  # so many that a hundredth of a call for each is more than what runs differ by
    assert calls_of_a_tick(tmp_path, threads=threads) <= alone + 0.01 * threads


def test_each_child_costs_a_tick_two_files(tmp_path: Path) -> None:
    """Its use and its children, opened, read and closed; its size for the survey in each fifth."""
    few, many = (calls_of_a_tick(tmp_path, children=children) for children in (1, 31))
    assert (many - few) / 30 <= 7.0
