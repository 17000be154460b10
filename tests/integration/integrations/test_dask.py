"""Dask: rows of workers and tasks, of those that fail and those whose worker is killed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.report.read import iter_records
from tests.support import own_seconds
from tests.support.recovered import counted_once

pytest.importorskip("distributed", reason="not for this system")

from carbontrack.integrations.dask import CarbontrackPlugin
from tests.integration.integrations.dask_program import CALLS

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="it kills with POSIX signals"),
    pytest.mark.xdist_group("dask"),  # one cluster for all of them
]
PROGRAM = Path(__file__).with_name("dask_program.py")


class Ran(NamedTuple):
    """What the program and `carbontrack report` said, and the rows after `carbontrack recover`."""

    said: dict[str, Any]
    report: dict[str, Any]
    rows: Sequence[Record]
    rows_without_plugin: Sequence[Record]

    def task(self, task_id: str) -> list[Record]:
        """The rows of the attempts of a task, without what is inside of them."""
        return [r for r in self.rows if r.task_id == task_id and r.name != "own row"]

    @property
    def workers(self) -> list[Record]:
        return [row for row in self.rows if row.name == "dask worker"]


def call(folder: Path, environ: dict[str, str], *arguments: str) -> str:
    """What Python prints when it is called so."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run of the program; it takes a while."""
    folder = tmp_path_factory.mktemp("dask")
    environ = {**os.environ, **own_seconds.install(folder)}
    told = call(folder, environ, "-W", "ignore", str(PROGRAM))
    call(folder, environ, "-m", "carbontrack", "recover")
    # each counts its own process only, as in scope process; of a machine they would share the time
    rows = (folder / "rows.csv").read_text().replace(",machine,", ",process,")
    (folder / "as_process.csv").write_text(rows)
    report = call(folder, environ, "-m", "carbontrack", "report", "as_process.csv", "--json")
    found = (counted_once(iter_records(folder / n)) for n in ("rows.csv", "emissions.csv"))
    return Ran(json.loads(told), json.loads(report), *found)


def joules(row: Record) -> float:
    return (row.energy_kwh or 0.0) * 3.6e6


def test_a_killed_worker_loses_the_short_calls_of_its_last_second(ran: Ran) -> None:
    """Without the plugin: what was there at a tick is recovered, once."""
    rows = [row for row in ran.rows_without_plugin if row.name == "short"]
    assert CALLS <= sum(row.calls or 0 for row in rows) <= CALLS + 1
    assert {row.status for row in rows} == {"recovered"}


def test_each_worker_is_one_row_that_holds_its_tasks(ran: Ran) -> None:
    """Three, as one was killed: each task is inside the row of the process that ran it."""
    assert sorted(row.status for row in ran.workers) == ["ok", "ok", "recovered"]
    by_id = {row.record_id: row for row in ran.workers}
    tasks = [row for row in ran.rows if row.parent_id in by_id]
    assert {row.name for row in tasks} == {"burn", "coroutine", "once", "killed"}
    for row in tasks:
        assert row.parent_holds
        assert row.pid == by_id[str(row.parent_id)].pid
    assert all(row.labels == {"cluster": "test"} for row in ran.workers)


def test_what_a_task_calls_is_inside_its_row(ran: Ran) -> None:
    """Decorated functions, in the thread of the task or in its coroutine, carry its name too."""
    ids = {row.record_id: row for row in ran.rows}
    inner = [row for row in ran.rows if row.name == "own row"]
    assert len(inner) == 9
    for row in inner:
        around = ids[str(row.parent_id)]
        assert (around.task_id, around.attempt) == (row.task_id, row.attempt)
        assert row.task_id is not None


def test_attempts_are_told_apart(ran: Ran) -> None:
    """One that failed, and one whose worker was killed, in rows of their own."""
    for task_id, first in (("once-1", "error"), ("killed-1", "recovered")):
        rows = {row.attempt: row for row in ran.task(task_id)}
        assert [rows[0].status, rows[1].status] == [first, "ok"]
        assert joules(rows[0]) > 0.0
    assert ran.task("once-1")[0].error == "ValueError('the first attempt')"
    assert {row.attempt for n in range(4) for row in ran.task(f"('burn', {n})")} == {0}


def test_all_rows_have_the_job_that_the_plugin_has_made(ran: Ran) -> None:
    """The driver's too, which nobody has given one."""
    assert {row.job_id for row in ran.rows} == {ran.said["job_id"]}
    assert "driver" in {row.name for row in ran.rows}


def test_the_rows_add_up_to_what_the_workers_have_used(ran: Ran) -> None:
    """By their own CPU seconds, at a known power; the tasks are a part of it."""
    (lived,) = [row for row in ran.workers if row.pid == ran.said["pid"]]
    used_j = ran.said["used_s"] * own_seconds.WATTS
    assert used_j <= joules(lived) <= 1.25 * used_j  # it goes on until the worker is closed
    for worker in ran.workers:
        tasks = [row for row in ran.rows if row.parent_id == worker.record_id]
        assert sum(map(joules, tasks)) <= joules(worker) * 1.001
    roots = [*ran.workers, *(row for row in ran.rows if row.name == "driver")]
    reported_j = ran.report["total"]["energy_kwh"] * 3.6e6
    assert reported_j == pytest.approx(sum(map(joules, roots)), rel=1e-9)
    burnt = [joules(row) for n in range(4) for row in ran.task(f"('burn', {n})")]
    assert len(burnt) == 4
    for used in burnt:
        assert used == pytest.approx(0.3 * own_seconds.WATTS, rel=0.2)


def test_wrong_settings_are_said_before_anything_is_sent() -> None:
    """A misspelt one, and a tracker, which is of one process."""
    with pytest.raises(ConfigError, match="region"):
        CarbontrackPlugin(regoin="FR")
    with pytest.raises(ConfigError, match="cannot be sent to workers"):
        CarbontrackPlugin(tracker=None)


def test_a_plugin_is_sent_as_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the job: nothing that is open goes along."""
    monkeypatch.setenv("CARBONTRACK_JOB_ID", "nightly")
    sent = vars(pickle.loads(pickle.dumps(CarbontrackPlugin(region="FR", output=None)))._row)
    assert sent["job_id"] == "nightly"
    assert sent["_settings"]["region"] == "FR"
    assert sent["_span"] is None
