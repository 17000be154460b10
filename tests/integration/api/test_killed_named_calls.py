"""A process that is killed in the middle of a long request leaves what that has used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

PROGRAM = """
import os, signal, sys, time
from contextvars import Context
from carbontrack.api.named_calls import NamedCalls, ThreadCpu

calls = NamedCalls("(unfinished)", region="FR", output="rows.csv", interval_s=0.1)
first = Context().run(calls.begin, ThreadCpu(), is_outermost=True)
second = Context().run(calls.begin, ThreadCpu(), is_outermost=True)
time.sleep(1.3)
if "ends" in sys.argv:
    first.end_as("GET /first")
    if "both" in sys.argv:
        second.end_as("GET /second")
time.sleep(0.3)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("ends", [(), ("ends",), ("ends", "both")], ids=len)
def test_what_is_under_way_is_recovered_and_what_has_ended_is_not(tmp_path, ends):
    """Each call is in one row, once, whether its end was reached or not."""
    state = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *ends],
        cwd=tmp_path,
        env={**os.environ, "CARBONTRACK_STATE_DIR": str(state)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    recover(state)
    rows = {row.name: row for row in iter_records(tmp_path / "rows.csv")}
    finished = ["GET /first", "GET /second"][: len(ends)]
    assert {name: row.calls for name, row in rows.items() if name in finished} == dict.fromkeys(
        finished, 1
    )
    if len(ends) == 2:
        assert set(rows) == set(finished)
        return
    left = rows["(unfinished)"]
    assert (left.calls, left.status) == (2 - len(finished), "recovered")
    assert left.duration_s == pytest.approx(left.calls * 1.6, rel=0.3)
    assert left.energy_kwh > 0.0
