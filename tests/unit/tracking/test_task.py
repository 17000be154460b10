"""The task of a framework in the rows of the spans that it opens."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import pytest

from carbontrack.api.track import track
from carbontrack.errors import ConfigError
from carbontrack.tracking.task import RunningTask, in_task
from tests.support.bench import Bench


class TaskContext:
    """As Spark's is in a Python worker."""

    found = None

    @classmethod
    def get(cls):
        """The one of the task that runs; None in a driver."""
        return cls.found

    def stageId(self):
        return 3

    def partitionId(self):
        return 7

    def attemptNumber(self):
        return 1


@pytest.fixture
def spark(monkeypatch):
    """A module of Spark's name is loaded, and its task context is that of a driver."""
    module = ModuleType("pyspark")
    monkeypatch.setattr(TaskContext, "found", None)
    module.TaskContext = TaskContext
    monkeypatch.setitem(sys.modules, "pyspark", module)
    return module


def test_a_root_belongs_to_the_task_that_runs_here():
    """Also the children that have rows; a row of another thread or later does not."""
    task = RunningTask("key-1", 2, "job-9", {"worker": "w1", "n": 1})
    with Bench() as bench:
        bench.session.spans = "all"
        with in_task(task), bench.tracker.span("root", labels={"n": 5}) as run, run.span("child"):
            bench.clock.advance(1.0)
        with bench.tracker.span("after"):
            bench.clock.advance(1.0)
    rows = {record.name: record for record in bench.records}
    for name in ("root", "child"):
        row = rows[name]
        assert (row.task_id, row.attempt, row.job_id) == ("key-1", 2, "job-9")
    assert rows["root"].labels == {"worker": "w1", "n": 5}
    after = rows["after"]
    assert (after.task_id, after.attempt, after.job_id) == (None, None, None)
    assert after.labels == {}


def test_a_child_may_be_a_task_of_its_own():
    """As where a worker has one span, and each of its tasks is a child of it."""
    with Bench() as bench:
        bench.session.spans = "all"
        with bench.tracker.span("worker") as worker:
            child = worker.span("task")
            child.task = RunningTask("a", 0)
            with child:
                bench.clock.advance(1.0)
    rows = {record.name: record for record in bench.records}
    assert (rows["task"].task_id, rows["task"].attempt) == ("a", 0)
    assert rows["worker"].task_id is None


def test_another_thread_is_in_no_task():
    """The context of a thread begins empty."""
    with Bench() as bench, in_task(RunningTask("a")):

        def work():
            with bench.tracker.span("elsewhere"):
                bench.clock.advance(1.0)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert bench.records[0].task_id is None


def test_a_snapshot_has_the_task():
    """A checkpoint too, as that of a worker that is killed."""
    with Bench() as bench, in_task(RunningTask("a", 1)), bench.tracker.span("root") as run:
        assert (run.snapshot().task_id, run.snapshot().attempt) == ("a", 1)
        assert run.first_checkpoint().columns["task_id"] == "a"
        assert run.checkpoint().columns["attempt"] == 1


def test_labels_that_cannot_be_written_are_refused_at_once():
    """Before the task begins."""
    with pytest.raises(ConfigError), in_task(RunningTask("a", labels={"x": "y" * 100_000})):
        pass


def test_spark_is_asked_where_it_is_loaded(spark):
    """In a worker its stage, partition and attempt; in a driver nothing."""
    with Bench() as bench:
        with bench.tracker.span("driver"):
            bench.clock.advance(1.0)
        spark.TaskContext.found = TaskContext()
        with bench.tracker.span("worker"):
            bench.clock.advance(1.0)
    driver, worker = bench.records
    assert driver.task_id is None
    assert (worker.task_id, worker.attempt) == ("3/7", 1)


def test_a_long_call_in_a_worker_of_spark_belongs_to_its_task(spark):
    """A decorated call of a second or longer has a row of its own."""
    spark.TaskContext.found = TaskContext()
    with Bench() as bench:

        @track(tracker=bench.tracker)
        def work():
            bench.clock.advance(2.0)

        work()
    assert (bench.records[0].task_id, bench.records[0].attempt) == ("3/7", 1)


@pytest.mark.parametrize("context", [object(), RuntimeError("no gateway")])
def test_what_a_framework_fails_to_say_is_unknown(spark, context):
    """Nothing of it reaches the program."""

    class Failing:
        @staticmethod
        def get():
            if isinstance(context, Exception):
                raise context
            return context

    spark.TaskContext = Failing
    with Bench() as bench, bench.tracker.span("root"):
        bench.clock.advance(1.0)
    assert bench.records[0].task_id is None


def test_a_framework_that_is_half_imported_is_not_asked(spark):
    """Another thread may be importing it."""
    del spark.TaskContext
    with Bench() as bench, bench.tracker.span("root"):
        bench.clock.advance(1.0)
    assert bench.records[0].task_id is None
