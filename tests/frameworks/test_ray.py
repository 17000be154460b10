"""Ray: rows of workers, tasks and actors' calls, of those that fail and those that are killed."""

from __future__ import annotations

import json
import os
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

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("ray")]
pytest.importorskip("ray")

PROGRAM = Path(__file__).with_name("ray_program.py")


class Ran(NamedTuple):
    """What the program said, and its rows after `carbontrack recover`."""

    said: dict[str, Any]
    rows: Sequence[Record]

    def named(self, name: str) -> list[Record]:
        return [row for row in self.rows if row.name == name]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run of the program; it takes a while."""
    folder = tmp_path_factory.mktemp("ray")
    environ = {**os.environ, **own_seconds.install(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    recover = [sys.executable, "-m", "carbontrack", "recover"]
    subprocess.run(recover, cwd=folder, env=environ, check=True, timeout=60, capture_output=True)
    rows = counted_once(iter_records(folder / "rows.csv"))
    return Ran(json.loads(done.stdout.splitlines()[-1]), rows)


def joules(row: Record) -> float:
    return (row.energy_kwh or 0.0) * 3.6e6


def test_each_worker_is_one_row_that_holds_its_tasks(ran: Ran) -> None:
    """Also one that ran nothing: its start has used energy as well."""
    workers = {row.record_id: row for row in ran.named("ray worker")}
    assert {int(pid) for pid in ran.said["used_s"]} <= {row.pid for row in workers.values()}
    tasks = [row for row in ran.rows if row.task_id is not None and row.name != "inside"]
    assert len(tasks) == 3 + 2 + 2 + 1 + 2
    for row in tasks:
        assert row.parent_holds
        assert row.pid == workers[str(row.parent_id)].pid
    assert all(row.labels == {"cluster": "test"} for row in workers.values())


def test_rows_have_the_ids_of_ray(ran: Ran) -> None:
    """A task's, a node's, and an actor's, in a thread of Ray's as well; what is inside has them."""
    tasks = ran.named("work")
    assert len({row.task_id for row in tasks}) == 3
    assert {row.attempt for row in tasks} == {0}
    assert {row.task_id for row in ran.named("inside")} == {row.task_id for row in tasks}
    for name in ("Actor.method", "Concurrent.method"):
        (call,) = ran.named(name)
        assert call.task_id
        assert call.labels["ray_actor"]
        assert call.labels["ray_node"] == tasks[0].labels["ray_node"]
    assert all("ray_actor" not in row.labels for row in tasks)


def test_attempts_are_told_apart(ran: Ran) -> None:
    """One that failed, and one whose worker was killed, in rows of their own."""
    for name, first in (("fails_once", "error"), ("killed_once", "recovered")):
        rows = {row.attempt: row for row in ran.named(name)}
        assert [rows[0].status, rows[1].status] == [first, "ok"]
        assert rows[0].task_id == rows[1].task_id
        assert joules(rows[0]) > 0.0
    failed = [row for row in ran.named("fails_once") if row.attempt == 0]
    assert failed[0].error == "ValueError: the first attempt"


def test_all_rows_have_the_job_that_setup_has_made(ran: Ran) -> None:
    """The driver's too, which nobody has given one."""
    assert {row.job_id for row in ran.rows} == {ran.said["job_id"]}
    assert len(ran.named("driver")) == 1


def test_the_rows_add_up_to_what_the_workers_have_used(ran: Ran) -> None:
    """By their own CPU seconds, at a known power, from their first line of ours on."""
    for row in ran.named("work"):
        assert joules(row) == pytest.approx(0.3 * own_seconds.WATTS, rel=0.2)
    (generated,) = ran.named("yields")
    assert joules(generated) >= 0.15 * own_seconds.WATTS
    for worker in ran.named("ray worker"):
        inside = sum(joules(row) for row in ran.rows if row.parent_id == worker.record_id)
        assert inside <= joules(worker) * 1.001
        used_s = ran.said["used_s"].get(str(worker.pid))
        if used_s is not None:  # what came before the hook is Ray's start
            assert joules(worker) <= 1.25 * used_s * own_seconds.WATTS


def test_setup_keeps_what_the_user_has_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own environment and job; a second hook, which Ray would not call, is an error."""
    from carbontrack.integrations.ray import setup

    monkeypatch.setenv("CARBONTRACK_JOB_ID", "nightly")
    given = setup({"pip": ["a"], "env_vars": {"OF_THE_USER": "1"}}, output=None)
    assert given["pip"] == ["a"]
    assert given["env_vars"] == {"OF_THE_USER": "1", "CARBONTRACK_JOB_ID": "nightly"}
    with pytest.raises(ConfigError, match="worker_process_setup_hook"):
        setup({"worker_process_setup_hook": "theirs.hook"})
    with pytest.raises(ConfigError, match="region"):
        setup(regoin="FR")


def test_a_tracked_function_is_itself_where_nothing_is_measured() -> None:
    """In the driver, and in a worker without the hook: its name, what it returns and raises."""
    from carbontrack.integrations.ray import tracked

    same = tracked(len)
    assert same.__name__ == "len"
    assert same([1, 2]) == 2
    with pytest.raises(TypeError, match="has no len"):
        same(1)
