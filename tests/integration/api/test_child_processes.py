"""Tracked processes that a tracked block starts belong to it, and are not added up beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import carbontrack
from carbontrack.report.read import read_records

CHILD = """
import carbontrack
with carbontrack.track("child", output="runs.csv", region="FR"):
    sum(range(100_000))
"""
PARENT = """
import multiprocessing, os, subprocess, sys
import carbontrack
from child import work

def start():
    subprocess.run([sys.executable, "child.py"], check=True)

if __name__ == "__main__":
    start()
    with carbontrack.track("outer", output="runs.csv", region="FR") as run:
        start()
        with run.span("step"):
            start()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.map(work, [1])
        if hasattr(os, "fork") and os.fork() == 0:
            with carbontrack.track("forked", output="runs.csv", region="SE"):
                start()
            os._exit(0)
        os.wait()
    start()
    assert "CARBONTRACK_PARENT_ID" not in os.environ
"""
WORK = """
import carbontrack
def work(n):
    with carbontrack.track("spawned", output="runs.csv", region="FR"):
        return sum(range(100_000))
if __name__ == "__main__":
    with carbontrack.track("child", output="runs.csv", region="FR"):
        sum(range(100_000))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a part of it forks")
def test_children_name_the_block_they_were_started_in(tmp_path: Path) -> None:
    """However they are started; those before and after it name nothing."""
    (tmp_path / "child.py").write_text(WORK)
    (tmp_path / "parent.py").write_text(PARENT)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "parent.py"],
        cwd=tmp_path,
        env={name: text for name, text in environ.items() if not name.startswith("CARBONTRACK_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    records = read_records(tmp_path / "runs.csv")
    ids = dict(zip(records["name"], records["record_id"], strict=True))
    parents = {
        name: list(records["parent_id"][records["name"] == name]) for name in set(records["name"])
    }
    outer = ids["outer"]
    assert parents["outer"] == [None]
    assert parents["spawned"] == parents["forked"] == [outer]
    assert parents["child"] == [None, outer, outer, ids["forked"], None]


DECORATED = """
import subprocess, sys, time
import carbontrack

@carbontrack.track(output="runs.csv", region="FR")
def main(last_s):
    subprocess.run([sys.executable, "child.py"], check=True)
    time.sleep(last_s)

@carbontrack.track(output="runs.csv", region="FR")
def short():
    pass

main(1.3)
main(0.1)
subprocess.run([sys.executable, "child.py"], check=True)
for _ in range(3):
    short()
subprocess.run([sys.executable, "child.py"], check=True)
"""


def test_children_of_a_decorated_function_name_its_run(tmp_path: Path) -> None:
    """The row that its call will be in, which comes later; after its calls, nothing."""
    (tmp_path / "child.py").write_text(WORK)
    (tmp_path / "main.py").write_text(DECORATED)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "main.py"], cwd=tmp_path, env=environ, check=True, timeout=60)

    records = read_records(tmp_path / "runs.csv")
    calls = records[records["name"] == "__main__.main"].sort_values("duration_s")
    short, long = calls.to_dict("records")
    children = records[records["name"] == "child"]
    assert list(children["parent_id"]) == [long["record_id"], short["record_id"], None, None]
    assert list(children["parent_holds"]) == [True, True, None, None]


def test_a_report_counts_them_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The child's row names the block's, so it is in no sum."""
    path = tmp_path / "runs.csv"
    code = CHILD.replace("runs.csv", str(path))
    with carbontrack.track("outer", output=str(path), region="FR"):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    from carbontrack.cli import main

    assert main(["report", str(path), "--format", "json"]) == 0
    assert '"runs": 1' in capsys.readouterr().out
