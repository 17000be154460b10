"""Runs of a framework and forks: each process has its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, os, pickle, sys
import carbontrack
from carbontrack.integrations import stack_watch
from carbontrack.integrations.episode import Episode

episode = Episode(output="runs.csv", region="FR")

def in_child(do):
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writer, json.dumps(do()).encode())
            carbontrack.api.track.PROVIDER.close()
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as said:
        told = said.read()
    os.wait()
    return json.loads(told)

def train():
    episode.begin("train", {"process": "parent"}, loop=train.__code__)
    episode.child("epoch")

    def child():
        told = [episode.is_open, episode.record is None, episode.snapshot() is None]
        episode.end()  # the parent's, in the child: nothing
        episode.begin("train", {"process": "child"}, loop=train.__code__)
        told += [episode.is_open, len([w for w in stack_watch._open if w._is_open()])]
        episode.end()
        return told + [episode.record.labels["process"], current_name()]

    told = in_child(child)
    told += [episode.is_open, current_name()]
    episode.end()
    return told

def current_name():
    span = carbontrack.current_span()
    return None if span is None else span.name

print(json.dumps([train(), len(stack_watch._open), pickle.loads(pickle.dumps(episode)).is_open]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_has_no_run_and_may_begin_its_own(tmp_path: Path) -> None:
    """The parent's run is not the child's, which writes a row for its own; both end once."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told, watches, is_open = json.loads(done.stdout)
    in_child, in_parent = told[:7], told[7:]
    assert in_child == [False, True, True, True, 1, "child", None]
    assert in_parent == [True, "epoch"]
    assert (watches, is_open) == (0, False)
    rows = (tmp_path / "runs.csv").read_text().splitlines()[1:]
    assert sorted('""child""' in row for row in rows) == [False, True]
