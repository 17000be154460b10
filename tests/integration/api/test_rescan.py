"""Meters that appear while a program runs, with the sampler's own thread and real detection."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from carbontrack.testing import Zone, build_powercap
from tests.support.nvml import UUIDS, State, run_script

ROOT = Path(__file__).parents[3]
ZONES = """[Zone("package-0", "intel-rapl:0"), Zone("dram", "intel-rapl:0:0")]"""

PROGRAM = """
import json, os, sys, threading, time
from pathlib import Path
import carbontrack
from carbontrack.testing import Zone, build_powercap

def until(holds, what):
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError(what)

def meters(): return [meter.id for meter in sampler.meters]
def look_again(): sampler._rescan.due_s = float("-inf")
folder = Path(sys.argv[1])
tracker = carbontrack.auto(sysfs_path=str(folder), output=None, gpu_ids=(), interval_s=0.1,
                           region="FR", state_dir=str(folder / "state"))
sampler = tracker.session.sampler
"""


def run(script, folder, *, through=()):
    """Run a program in a process of its own; return what it prints as JSON."""
    done = subprocess.run(
        [*through, sys.executable, "-W", "error", "-c", PROGRAM + textwrap.dedent(script), folder],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_zones_that_are_loaded_while_a_block_is_open_are_taken_in(tmp_path):
    """A thread makes them; the block ends with them, and the next one has nothing else."""
    found = run(
        f"""
        with tracker.span("first") as first:
            until(lambda: getattr(sampler._rescan, '_noted', None), "no look")
            before = meters()
            maker = threading.Thread(target=build_powercap, args=(folder, {ZONES}))
            maker.start(); maker.join()
            time.sleep(0.5)
            unasked = meters()
            look_again()
            until(lambda: "rapl:package-0" in meters(), "not taken in")
        with tracker.span("second") as second:
            time.sleep(0.05)
        print(json.dumps([before, unasked, first.record.meters, second.record.meters,
                          first.record.coverage]))
        """,
        tmp_path,
    )
    before, unasked, first, second, coverage = found
    assert before == unasked == ["model:cpu", "model:ram"], "not within a minute of the last look"
    assert first.split(";")[:2] == ["model:cpu", "model:ram"]
    assert set(second.split(";")) <= {"rapl:package-0", "rapl:dram-0"}
    assert coverage == pytest.approx(1.0, abs=0.02)


def test_the_first_span_after_a_while_looks_again(tmp_path):
    """No work while nothing is open; a block of a fifth of a second is long enough for a look."""
    found = run(
        f"""
        with tracker.span("first"):
            until(lambda: getattr(sampler._rescan, '_noted', None), "no look")
        build_powercap(folder, {ZONES})
        look_again()
        time.sleep(0.5)
        asleep = meters()
        with tracker.span("second"):
            time.sleep(0.2)
        until(lambda: "rapl:package-0" in meters(), "not taken in")
        with tracker.span("third") as third:
            time.sleep(0.05)
        print(json.dumps([asleep, third.record.meters]))
        """,
        tmp_path,
    )
    asleep, third = found
    assert asleep == ["model:cpu", "model:ram"]
    assert set(third.split(";")) <= {"rapl:package-0", "rapl:dram-0"}


PLAIN_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def open_folder():
    """A folder that any user may look into, unlike those of a test runner."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_a_right_that_is_granted_later_is_taken_in(open_folder):
    """A plain user, whom an administrator lets read the counters while the program runs."""
    tree = build_powercap(open_folder, [Zone("package-0", "intel-rapl:0")])
    counter = tree.directory("package-0") / "energy_uj"
    counter.chmod(0)
    flag = open_folder / "flag"

    def grant():
        while not flag.exists():
            time.sleep(0.01)
        counter.chmod(0o444)
        flag.unlink()

    administrator = threading.Thread(target=grant, daemon=True)
    administrator.start()
    before, after = run(
        """
        flag = folder / "flag"
        with tracker.span("first") as first:
            until(lambda: getattr(sampler._rescan, '_noted', None), "no look")
            before = meters()
            flag.write_text("closed")
            until(lambda: not flag.exists(), "no right")
            look_again()
            until(lambda: "rapl:package-0" in meters(), "not taken in")
        print(json.dumps([before, meters()]))
        """,
        open_folder,
        through=PLAIN_USER if os.geteuid() == 0 else (),
    )
    administrator.join(30.0)
    assert before == ["model:cpu", "model:ram"]
    assert sorted(after) == ["model:ram", "rapl:package-0"]


BOARDS = """
from functools import partial
from pathlib import Path
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.signs import signs
from carbontrack.sampling.rescan import Rescan
from carbontrack.testing import FakeClock
from carbontrack.tracking.tracker import Tracker
host = Host(busy_s=lambda: 0.0, sysfs=Path(os.devnull), procfs=Path(os.devnull))
one, two = FakeGpu(uuid=UUIDS[0]), FakeGpu(uuid=UUIDS[1])
state.show(one)
clock = FakeClock()
tracker = Tracker(meters=detect(host), clock=clock, interval_s=3600.0)
sampler = tracker.session.sampler
rescan = Rescan(partial(signs, host), partial(detect, host))
def gpus(): return [meter.id for meter in sampler.meters if meter.component == "gpu"]
def second(**used_mj):
    one.energy_mj += used_mj.get("one", 0); two.energy_mj += used_mj.get("two", 0)
    state.show(*boards); clock.advance(1.0); sampler.tick()
"""


@pytest.fixture
def boards(library, tmp_path):
    """Runs a script against the stand-in for NVIDIA's library, which lists one board at first."""
    state = State(tmp_path / "gpus.txt")
    return lambda script: run_script(library, BOARDS + textwrap.dedent(script), state)


@pytest.mark.xdist_group("nvml")
def test_a_board_that_the_driver_lists_later_counts_from_then_on(boards):
    """Its counter stood at something, which is nobody's."""
    found = boards("""
    boards = [one]
    with tracker.span("a") as span:
        rescan.look_now(sampler)
        second(one=300_000)
        boards = [one, two]
        second(one=300_000, two=999_000)
        rescan.look_now(sampler)
        second(one=300_000, two=120_000)
    print(json.dumps([gpus(), span.record.gpu_kwh * 3.6e6, sampler.hardware.gpu_count]))
    """)
    assert found == [[f"nvml:{UUIDS[0]}", f"nvml:{UUIDS[1]}"], pytest.approx(1020.0), 2]


@pytest.mark.xdist_group("nvml")
def test_a_board_that_falls_off_the_bus_and_returns_goes_on(boards):
    """Under its UUID, at whatever its counter stands then."""
    found = boards("""
    boards = [one, two]
    state.show(*boards)
    rescan.look_now(sampler)
    rescan.look_now(sampler)
    with tracker.span("a") as span:
        state.show(one); rescan.look_now(sampler)
        state.show(one, two); rescan.look_now(sampler)
        second(one=100_000, two=100_000)
        two.error = 15
        second(one=100_000)
        boards = [one]
        second(one=100_000); rescan.look_now(sampler)
        two.error, two.energy_mj, boards = 0, 5, [one, two]
        second(one=100_000); rescan.look_now(sampler)
        second(one=100_000, two=70_000)
    print(json.dumps([span.record.gpu_kwh * 3.6e6, span.record.meters.count(UUIDS[1])]))
    """)
    assert found == [pytest.approx(500.0 + 100.0 + 70.0), 1]
