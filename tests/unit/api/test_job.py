"""One job's id in the rows of all its processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from carbontrack.api.job import join_job
from carbontrack.api.track import auto
from carbontrack.testing import MemorySink

CHILD = "from carbontrack.api.job import join_job; print(join_job())"


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test sets is gone behind it."""
    monkeypatch.setenv("CARBONTRACK_JOB_ID", "")


def job_of_a_row() -> str | None:
    sink = MemorySink()
    with auto(output=None, region="FR", sinks=[sink]) as tracker, tracker.span("row"):
        pass
    return sink.records[0].job_id


def test_a_process_without_a_job_gets_one_and_keeps_it() -> None:
    """Its rows have it, and so does a process that it starts, which makes none of its own."""
    assert job_of_a_row() is None
    made = join_job()
    assert made
    assert join_job() == job_of_a_row() == made
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == made


def test_the_job_of_a_launcher_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch system's id is the job's, until a worker is sent another."""
    monkeypatch.setenv("PBS_JOBID", "77.head")
    assert join_job() == "77.head"
    assert join_job("nightly") == "nightly"
    assert job_of_a_row() == "nightly"


def test_another_job_is_made_for_each_process() -> None:
    """Ids that are made do not repeat."""
    made = {subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True,
                           check=True).stdout for _ in range(2)}  # fmt: skip
    assert len(made) == 2
