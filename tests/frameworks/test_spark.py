"""Spark: rows of partitions, of those that fail and are tried again, in workers that are killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.report.read import iter_records
from tests.support import own_seconds
from tests.support.recovered import counted_once

pytestmark = [
    pytest.mark.framework,
    pytest.mark.xdist_group("spark"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java"),
]
pytest.importorskip("pyspark")

PROGRAM = Path(__file__).with_name("spark_program.py")
CALLS = 20


class Ran(NamedTuple):
    """What the program said, and its rows after `carbontrack recover`."""

    said: dict[str, Any]
    rows: Sequence[Record]

    def named(self, name: str) -> list[Record]:
        return [row for row in self.rows if row.name == name]

    def attempts(self, name: str) -> list[tuple[str | None, int | None, str]]:
        """The task, the attempt and the status of all rows of this name."""
        return sorted((row.task_id, row.attempt, row.status) for row in self.named(name))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run of the program; it takes a while."""
    folder = tmp_path_factory.mktemp("spark")
    environ = {**os.environ, **own_seconds.install(folder), "PYSPARK_PYTHON": sys.executable}
    command = [sys.executable, "-W", "ignore", str(PROGRAM)]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr[-5000:]
    recover = [sys.executable, "-m", "carbontrack", "recover"]
    subprocess.run(recover, cwd=folder, env=environ, check=True, timeout=60, capture_output=True)
    rows = counted_once(iter_records(folder / "rows.csv"))
    return Ran(json.loads(done.stdout.splitlines()[-1]), rows)


def joules(row: Record) -> float:
    return (row.energy_kwh or 0.0) * 3.6e6


def test_each_attempt_of_a_partition_is_a_row(ran: Ran) -> None:
    """Two of four fail once: six rows, by application, stage, partition and attempt."""
    stage = f"{ran.said['app']}/0"
    expected = [(f"{stage}/{n}", 0, "error") for n in (0, 1)]
    expected += [(f"{stage}/{n}", 1, "ok") for n in (0, 1)]
    expected += [(f"{stage}/{n}", 0, "ok") for n in (2, 3)]
    assert ran.attempts("work") == sorted(expected)
    assert all(row.labels["l"] == 1 for row in ran.named("work"))
    assert {row.error for row in ran.named("work")} == {None, "ValueError: the first attempt"}


def test_what_is_inside_a_partition_belongs_to_it(ran: Ran) -> None:
    """A block, and a wrapped function that another one draws from."""
    around = {row.record_id: row for row in ran.rows}
    for name, outer in (("inside", "work"), ("first", "second")):
        assert len(ran.named(name)) == len(ran.named(outer)) >= 2
        for row in ran.named(name):
            assert around[str(row.parent_id)].name == outer
            assert around[str(row.parent_id)].task_id == row.task_id
    assert len(ran.named("each")) == 2


def test_decorated_functions_know_their_attempt_without_a_wrapper(ran: Ran) -> None:
    """As the context of Spark's task says, which is read when a row begins."""
    found = Counter((row.attempt, (row.task_id or "").rpartition("/")[2])
                    for row in ran.named("own row"))  # fmt: skip
    assert found == {(0, "0"): 1, (1, "0"): 1, (0, "1"): 1, (1, "1"): 1, (0, "2"): 1, (0, "3"): 1}


def test_killed_workers_lose_the_short_calls_of_their_last_second(ran: Ran) -> None:
    """When the session stops, and when a task fails; what is recovered is there once."""
    least, most = 4 * CALLS, 6 * CALLS + 4
    assert least <= sum(row.calls or 0 for row in ran.named("short")) <= most


def test_all_rows_have_the_job_that_the_driver_has_made(ran: Ran) -> None:
    """In its own rows and in those of its workers, also of decorated functions."""
    assert {row.job_id for row in ran.rows} == {ran.said["job_id"]}
    assert len(ran.named("driver")) == 1


def test_the_rows_add_up_to_what_the_partitions_have_used(ran: Ran) -> None:
    """By their own CPU seconds, at a known power."""
    rows = {(row.task_id or "").rpartition("/")[2] + f"/{row.attempt}": row
            for row in ran.named("work")}  # fmt: skip
    for partition, attempt, used_s in ran.said["used"]:
        used_j = used_s * own_seconds.WATTS
        assert used_j <= joules(rows[f"{partition}/{attempt}"]) <= 1.5 * used_j


def test_wrong_settings_are_said_in_the_driver() -> None:
    """Before anything is sent: a misspelt one, and a tracker, which is of one process."""
    from carbontrack.integrations.spark import tracked

    with pytest.raises(ConfigError, match="region"):
        tracked(iter, regoin="FR")
    with pytest.raises(ConfigError, match="cannot be sent to workers"):
        tracked(iter, tracker=None)
