"""First use in a world that something else has faked: frozen time, a file system, a zip file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.costs import needs

ROOT = Path(__file__).parents[3]

MEASURE = """
import json
def show(tag, run):
    from datetime import datetime, timezone
    record, now = run.record, datetime.now(timezone.utc)
    ended = datetime.fromisoformat(record.ended_at.replace("Z", "+00:00"))
    started = datetime.fromisoformat(record.started_at.replace("Z", "+00:00"))
    print(json.dumps({
        "tag": tag, "status": record.status, "s": record.duration_s, "kwh": record.energy_kwh,
        "machine": record.machine_kwh, "coverage": record.coverage, "faults": record.faults,
        "year": [started.year, ended.year], "apart_s": (ended - started).total_seconds(),
        "is_datetime": isinstance(started, datetime) and now.tzinfo is not None,
    }))
def block(tag):
    with carbontrack.track(tag, region="FR", output=None) as run:
        sum(range(2_000_000))
    return run
"""
FROZEN = {
    "first use": """
import carbontrack
with {frozen}:
    first = block("first")
later = block("later")
""",
    "import": """
with {frozen}:
    import carbontrack
    first = block("first")
later = block("later")
""",
    "all of it": """
with {frozen}:
    import carbontrack
    first, later = block("first"), block("later")
""",
}
FREEZERS = {
    "freezegun": ("import freezegun", "freezegun.freeze_time('2031-05-01')"),
    "time-machine": ("import time_machine", "time_machine.travel('2031-05-01', tick=False)"),
    "mock": (
        "import time\nfrom unittest import mock",
        "mock.patch.multiple(time, time=lambda: 5.0, monotonic=lambda: 5.0,"
        " perf_counter=lambda: 5.0, process_time=lambda: 5.0)",
    ),
}


FAKED = {
    "first use": ("import carbontrack", "carbontrack.track"),
    "first use of a name": ("from carbontrack import track", "track"),
    "import": ("", "carbontrack.track"),
}


def run(code: str, folder: Path, *, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter with nothing of ours in its environment."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=100,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(path)},
    )


def blocks(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a program has shown of its blocks, by tag."""
    assert (done.returncode, done.stderr) == (0, "")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["tag"]: one for one in shown}


@pytest.mark.parametrize("when", FROZEN)
@pytest.mark.parametrize("freezer", FREEZERS)
def test_frozen_time_is_not_ours(freezer, when, tmp_path):
    """Imported or first used while time is frozen: true times and energy, then and later."""
    if freezer != "mock":
        needs(freezer.replace("-", "_"))
    if freezer == "time-machine" and sys.platform != "linux":
        pytest.skip("elsewhere every wall clock is moved")
    make, frozen = FREEZERS[freezer]
    show = "\nshow('first', first)\nshow('later', later)"
    found = blocks(run(f"{make}\n{MEASURE}{FROZEN[when].format(frozen=frozen)}{show}", tmp_path))
    for one in found.values():
        assert one["s"] > 0.0
        assert one["kwh"] > 0.0
        assert (one["status"], one["coverage"], one["faults"]) == ("ok", 1.0, None)
        assert 2031 not in one["year"]
        assert one["year"][0] > 1970
        assert one["apart_s"] >= 0.0


def test_calls_in_frozen_time_are_counted(tmp_path):
    """A decorated function that is first called while time is frozen; its times add up."""
    needs("freezegun")
    code = f"""
import freezegun
{MEASURE}
with freezegun.freeze_time("2031-05-01"):
    import carbontrack
    @carbontrack.track("f", region="FR", output="rows.jsonl", window_s=0)
    def f():
        return sum(range(1_000_000))
    f()
f()
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["duration_s"] > 0.0 and row["energy_kwh"] > 0.0 for row in rows)
    assert not any(row["started_at"].startswith("2031") for row in rows)


@pytest.mark.parametrize("when", FAKED)
def test_a_faked_file_system_is_not_ours(when, tmp_path):
    """The block runs and has its times and the grid of our own tables; later ones are measured."""
    needs("pyfakefs")
    imports, track = FAKED[when]
    done = run(
        f"""
from pyfakefs.fake_filesystem_unittest import Patcher
{imports}
def work():
    import carbontrack
    with {track}("block", region="FR", output="rows.jsonl") as run:
        sum(range(2_000_000))
    return run.record
with Patcher():
    faked = work()
    with open("rows.jsonl") as file:  # theirs
        assert '"block"' in file.read()
later = work()
for one in (faked, later):
    assert (one.status, one.region, one.intensity_year is None) == ("ok", "FR", False), one
    assert one.duration_s > 0.0
assert faked.energy_kwh is None or faked.energy_kwh > 0.0, faked
assert later.energy_kwh > 0.0 and later.ram_gib, later
assert faked.host_id != later.host_id or not __import__("os").path.exists("/etc/machine-id")
""",
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_the_package_works_in_a_zip_file(tmp_path):
    """Its tables and the parts of its pages are read by whatever imports it."""
    archive = tmp_path / "carbontrack.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((ROOT / "carbontrack").rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                file.write(path, path.relative_to(ROOT))
    code = """
import carbontrack, sys
from carbontrack.impact.embodied import embodied_item
from carbontrack.impact.equivalents import equivalents
from carbontrack.impact.hardware import find_gpu
from carbontrack.meters.cpu_info import find_part
from carbontrack.meters.cpu_info import CpuFacts
from carbontrack.meters.cpu_power import cpu_power
from carbontrack.report.label import tasks
from carbontrack.system.files import package_text
with carbontrack.track("zipped", region="aws:eu-west-3", output="rows.csv") as run:
    sum(range(1_000_000))
assert "carbontrack.zip" in carbontrack.__file__
assert run.record.energy_kwh > 0.0 and run.record.emissions_g > 0.0, run.record
assert find_part("Intel(R) Xeon(R) CPU E5-2620 0 @ 2.00GHz") and find_gpu("A100")
assert cpu_power(CpuFacts(name="x", threads=2, siblings=2, vendor="AMD", family="25", model="1"))
assert tasks() and equivalents() and carbontrack.lookup("Deutschland").zone == "DE"
assert "<html" in package_text("report/assets/page.html")
"""
    done = run(code, tmp_path, path=archive)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 2


def test_nobody_else_reads_the_package_s_own_files():
    """Files beside the code are reached in one way only."""
    reading = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "carbontrack").rglob("*.py"))
        if re.search(r"(?<![\"'])__file__", path.read_text())  # quoted it is another module's
    ]
    # the hook runs in any Python, where the package may not be installed
    hook = "carbontrack/compat/codecarbon/hook/sitecustomize.py"
    assert reading == [hook, "carbontrack/system/files.py"]


LATE_PATCH = """
import carbontrack, threading
options = {"region": "FR", "output": "rows.csv", "interval_s": 0.05}
@carbontrack.track("call", **options)
def call(): return 1
with carbontrack.track("before", **options): call()
with carbontrack.track("around", **options) as around:
    threading.Event().wait(0.1)  # the sampler's thread runs
    from gevent import monkey
    monkey.patch_all()
    import gevent
    with around.span("inside"):
        gevent.sleep(0.5)
    ticks_went_on = around.snapshot().max_gap_s
with carbontrack.track("after", **options):
    gevent.joinall([gevent.spawn(call) for _ in range(3)])
call()
left_open = carbontrack.track("left open", **options)
left_open.open()
assert ticks_went_on is not None, ticks_went_on
"""


@pytest.mark.parametrize("used", ["all the time", "never again"])
def test_a_late_patch_of_gevent_breaks_nothing(used, tmp_path):
    """Patched when threads and locks exist: blocks go on, and nothing is printed at the exit."""
    needs("gevent")
    program = LATE_PATCH
    if used == "never again":
        program = LATE_PATCH[: LATE_PATCH.index('with carbontrack.track("around"')]
        program += "from gevent import monkey\nmonkey.patch_all()\n"
    done = run(f"import warnings\nwarnings.simplefilter('ignore')\n{program}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lines = (tmp_path / "rows.csv").read_text().splitlines()[1:]
    names = [line.split(",")[4] for line in lines]
    expected = (
        ["before"] if used == "never again" else ["after", "around", "before", "call", "left open"]
    )
    assert sorted(names) == expected


EARLY_PATCH = """
from gevent import monkey
monkey.patch_all()
import gevent, carbontrack, os
options = {"region": "FR", "output": "rows.csv", "interval_s": 0.1}
@carbontrack.track("call", **options)
def call(): gevent.sleep(0.05)
def work(name):
    beats = []
    def beat():
        while True:
            gevent.sleep(0.01)
            beats.append(1)
    beating = gevent.spawn(beat)
    with carbontrack.track(name, **options) as block:
        gevent.joinall([gevent.spawn(call) for _ in range(3)])
        gevent.sleep(0.5)
    beating.kill()
    assert block.record.duration_s >= 0.5, block.record
    assert len(beats) > 10, beats
work("parent")
child = os.fork()
work("child" if not child else "parent")
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_greenlets_run_while_the_sampler_waits(tmp_path):
    """Patched before the import, the sampler's thread is a greenlet, and must wait as one."""
    needs("gevent")
    done = run(EARLY_PATCH, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lines = (tmp_path / "rows.csv").read_text().splitlines()[1:]
    names = [line.split(",")[4] for line in lines]
    # "call" too: a greenlet begins with no span around it
    assert sorted(set(names)) == ["call", "child", "parent"]


def test_no_thread_of_ours_is_another_kind_of_thread():
    """Each ends in silence after a late patch of gevent; the command line's own may not."""
    others = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "carbontrack").rglob("*.py"))
        if "threading.Thread(" in path.read_text() and path.parent.name not in ("cli", "testing")
    ]
    assert others == []
