"""Trackers with nothing open hold nothing: no descriptors, no threads, no memory that grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it counts in procfs")

PRELUDE = """
import contextvars, gc, json, os, sys, threading, time
import carbontrack

def open_files():
    return len(os.listdir("/proc/self/fd"))

def settled(count, most, wait_s=50.0):
    end_s, found = time.monotonic() + wait_s, count()
    while found > most and time.monotonic() < end_s:
        time.sleep(0.05)
        found = count()
    return found
"""


def run(folder: Path, program: str, **environ: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program],
        cwd=folder,
        env={**os.environ, "CARBONTRACK_STATE_DIR": str(folder / "state"), **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stderr == ""
    found: dict[str, object] = json.loads(done.stdout)
    return found


def ids_in(path: Path) -> list[str]:
    return [record.record_id for record in iter_records(path)]


IDLE = """
before = open_files()
@carbontrack.track("work", region="FR", output={output!r}, window_s=0.5)
def work():
    pass
with carbontrack.track("block", region="FR", output={output!r}):
    inside = open_files()
work()
print(json.dumps({{"before": before, "inside": inside, "after": settled(open_files, before)}}))
"""


@pytest.mark.parametrize("output", ["rows.csv", "rows.jsonl", "rows.db"])
def test_an_idle_tracker_holds_no_descriptor(tmp_path: Path, output: str) -> None:
    """Its journal's file, its meters' and its database's are open only while something is."""
    found = run(tmp_path, IDLE.format(output=output))
    assert found["inside"] > found["before"]  # type: ignore[operator]
    assert found["after"] == found["before"]


MANY = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
for number in range(150):
    with carbontrack.track("fit", region="FR", output=f"{number % 3}-{number:04}." + sys.argv[-1]):
        pass
    open("/etc/hostname").close()
print(json.dumps({"open": open_files()}))
"""


@pytest.mark.parametrize("kind", ["csv", "db"])
def test_many_settings_leave_the_programs_descriptors_alone(tmp_path: Path, kind: str) -> None:
    """More settings than a process may open files, one after the other: each has its row."""
    run(tmp_path, MANY.replace("sys.argv[-1]", repr(kind)))
    rows = [record_id for path in sorted(tmp_path.glob(f"*.{kind}")) for record_id in ids_in(path)]
    assert len(rows) == len(set(rows)) == 150


GROWTH = """
import tracemalloc
tracemalloc.start()
def some(first, last):
    for number in range(first, last):
        with carbontrack.track(
            "fit", region="FR", output="rows.csv", cpu_tdp_w=20.0 + number % 200 + number / 1e5
        ):
            pass
def memory():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
before = open_files()
some(0, 270)
files = settled(open_files, before)
first = memory(), threading.active_count(), files
some(270, 400)
files = settled(open_files, files)
threads = settled(threading.active_count, first[1])
print(json.dumps({"first": first, "last": [memory(), threads, files]}))
"""


def test_different_settings_cost_no_growing_number_of_anything(tmp_path: Path) -> None:
    """Each of them has meters of its own: after many more there is what there was."""
    found = run(tmp_path, GROWTH)
    memory, threads, files = found["first"]  # type: ignore[misc]
    later_memory, later_threads, later_files = found["last"]  # type: ignore[misc]
    assert len(ids_in(tmp_path / "rows.csv")) == 400
    assert later_threads <= threads + 2
    assert later_files <= files
    assert later_memory - memory <= 130 * 512


DROPPED = """
def tracked(number):
    tracker = carbontrack.auto(region="FR", output="rows.csv", intensity_g_per_kwh=number)
    with tracker.span("closed"):
        pass
    contextvars.copy_context().run(tracker.span("open").open)  # nobody will close it
    return threading.active_count(), open_files()

before = threading.active_count(), open_files()
most = max(tracked(number) for number in range(20))
with carbontrack.auto(region="FR", output="rows.csv").span("kept"):  # only the span refers to it
    gc.collect()
gc.collect()
after = settled(threading.active_count, before[0]), settled(open_files, before[1])
print(json.dumps({"before": before, "most": most, "after": after}))
os._exit(0)  # what is written is written by now
"""


def test_a_dropped_tracker_is_closed_with_its_last_reference(tmp_path: Path) -> None:
    """Its open block is written as interrupted, its descriptors are given back."""
    found = run(tmp_path, DROPPED)
    rows = list(iter_records(tmp_path / "rows.csv"))
    assert [row.status for row in rows if row.name == "open"] == ["interrupted"] * 20
    assert [row.status for row in rows if row.name == "closed"] == ["ok"] * 20
    assert [row.status for row in rows if row.name == "kept"] == ["ok"]
    assert found["most"] > found["before"]  # type: ignore[operator]
    assert found["after"] == found["before"]
