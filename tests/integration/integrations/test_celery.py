"""Tasks of Celery: each is counted under its name, however it ends, in every kind of pool."""

from __future__ import annotations

import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import carbontrack
from carbontrack.report.read import iter_records
from carbontrack.testing import FakeClock, FakeMeter, MemorySink, build_powercap
from tests.integration.celery_workers import fill, run, serve
from tests.support.used_counters import used

celery = pytest.importorskip("celery", reason="not for this system")

from celery import signals  # noqa: E402 - where it is installed
from celery.exceptions import Ignore, Reject, Retry  # noqa: E402

from carbontrack.integrations.celery import install  # noqa: E402

WATTS = 100.0


class World:
    """An application whose tasks run here and now, at a known power, and the rows of them."""

    def __init__(self, **given: Any) -> None:
        self.clock, self.sink = FakeClock(), MemorySink()
        self.tracker = carbontrack.Tracker(
            meters=[FakeMeter(watts=WATTS)], sinks=[self.sink], clock=self.clock, grid=50.0
        )
        self._app = self.app()
        install(tracker=self.tracker, **given)

    @staticmethod
    def app() -> Any:
        return celery.Celery("here", broker="memory://", set_as_current=False)

    def task(self, body: Callable[..., object], name: str = "work", **options: Any) -> Any:
        return self._app.task(body, name=name, **options)

    def rows(self) -> list[carbontrack.Record]:
        self.tracker.close()
        return self.sink.records


@pytest.fixture(autouse=True)
def _disconnected() -> Iterator[None]:
    yield
    for one in (signals.task_prerun, signals.task_postrun):
        one.disconnect(dispatch_uid="carbontrack")


def nothing() -> None:
    """A task without work."""


def joules(row: carbontrack.Record) -> float:
    return (row.energy_kwh or 0.0) * 3.6e6


def test_the_signals_give_what_is_needed() -> None:
    """The names that the hooks use, so that a new release that renames one fails here."""
    given: dict[str, set[str]] = {}

    def note(signal: Any, sender: Any, **named: Any) -> None:
        given[signal.name] = {*named, *(("request",) if sender.request.id else ())}

    for name in ("task_prerun", "task_postrun"):
        assert hasattr(signals, name), f"Celery has no signal {name} any more"
        getattr(signals, name).connect(note, weak=False, dispatch_uid="carbontrack")
    World.app().task(nothing, name="work").apply()
    for name, needed in (
        ("task_prerun", {"request"}),
        ("task_postrun", {"request", "retval", "state"}),
    ):
        assert needed <= given[name], f"Celery's {name} does not give {needed - given[name]}"


ENDS: dict[str, tuple[Exception | None, str, str | None]] = {
    "success": (None, "ok", None),
    "failure": (ValueError("no"), "error", "ValueError: no"),
    "retry": (Retry(when=3), "error", "Retry: Retry in 3s"),
    "ignored": (Ignore(), "ok", None),
    "rejected": (Reject("why"), "error", "Reject: ('why', False)"),
    "stop iteration": (StopIteration(), "error", "RuntimeError: generator raised StopIteration"),
}


@pytest.mark.parametrize(("raised", "status", "error"), ENDS.values(), ids=ENDS)
def test_a_task_has_the_status_that_it_ends_with(
    raised: Exception | None, status: str, error: str | None
) -> None:
    """A task that is ignored has ended as it wanted; one that is to be tried again has failed."""
    world = World(window_s=0)

    def body() -> None:
        world.clock.advance(2.0)
        if raised is not None:
            raise raised

    world.task(body).apply()
    (row,) = world.rows()
    assert (row.name, row.status, row.error) == ("work", status, error)
    assert joules(row) == pytest.approx(2.0 * WATTS)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_worker_passes(kind: type[BaseException]) -> None:
    """Celery sends the signal on the way, without a state."""
    world = World(window_s=0)
    raised = kind(3)

    def body() -> None:
        raise raised

    with pytest.raises(kind) as caught:
        world.task(body).apply()
    assert caught.value is raised
    (row,) = world.rows()
    assert row.status == {SystemExit: "error", KeyboardInterrupt: "interrupted"}[kind]


def test_an_exception_stays_as_it_was() -> None:
    """The same object, with the traceback and the context that it has without us."""
    seen = []
    for with_us in (False, True):
        world = World()
        if not with_us:
            signals.task_prerun.disconnect(dispatch_uid="carbontrack")

        def body() -> None:
            try:
                {}["a"]
            except KeyError:
                raise ValueError("no") from None

        result = world.task(body).apply()
        frames = [frame.name for frame in traceback.extract_tb(result.result.__traceback__)]
        seen.append((frames, repr(result.result.__context__)))
        world.rows()
    assert seen[0] == seen[1]


def test_short_tasks_are_summed_and_long_ones_are_not() -> None:
    """As the calls of a decorated function."""
    world = World()
    work = world.task(world.clock.advance)
    other = world.task(world.clock.advance, "other")
    for _ in range(20):
        work.apply((0.25,))
    for _ in range(3):
        other.apply((0.5,))
    other.apply((4.0,))
    rows = world.rows()
    found = {(row.name, row.calls): joules(row) for row in rows}
    assert len(rows) == 3
    assert found == {
        ("work", 20): pytest.approx(5.0 * WATTS),
        ("other", 3): pytest.approx(1.5 * WATTS),
        ("other", 1): pytest.approx(4.0 * WATTS),
    }


def test_what_a_task_opens_lies_inside_of_it() -> None:
    """Blocks, decorated functions and eager tasks are children, where children have rows."""
    world = World(window_s=0)
    inner = world.task(world.clock.advance, "inner")

    def body() -> str:
        with carbontrack.track("block") as block:
            world.clock.advance(1.0)
        inner.apply((2.0,))
        span = carbontrack.current_span()
        assert span is not None
        assert block.parent is span
        return span.name

    assert world.task(body).apply().result == "work"
    assert carbontrack.current_span() is None
    (row,) = world.rows()
    assert joules(row) == pytest.approx(3.0 * WATTS)


def test_a_task_that_calls_itself_by_the_same_id_ends_each_call() -> None:
    """An eager retry may run inside of the first try, by its id."""
    world = World(window_s=0)

    def body(self: Any, depth: int) -> None:
        world.clock.advance(1.0)
        if depth:
            self.apply((depth - 1,), task_id=self.request.id)
            assert carbontrack.current_span() is not None

    world.task(body, bind=True).apply((2,))
    assert carbontrack.current_span() is None
    (row,) = world.rows()
    assert joules(row) == pytest.approx(3.0 * WATTS)


trees = st.recursive(
    st.tuples(st.integers(1, 50), st.booleans(), st.just(())),
    lambda inner: st.tuples(st.integers(1, 50), st.booleans(), st.lists(inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(trees, max_size=4), st.sampled_from([0, 10]))
def test_each_joule_is_in_one_row(program: list[Any], window_s: int) -> None:
    """Tasks that run inside of each other and fail: the rows add up to what was used in tasks."""
    world = World(window_s=window_s)

    def body(self: Any, tenths: int, fails: bool, inner: list[Any]) -> None:
        world.clock.advance(tenths / 10)
        for one in inner:
            self.apply(one)
        if fails:
            raise ValueError("no")

    def tenths_of(tree: Any) -> int:
        return int(tree[0]) + sum(map(tenths_of, tree[2]))

    work = world.task(body, bind=True)
    for one in program:
        work.apply(one)
        world.clock.advance(7.0)  # the worker waits, which no task has used
    rows = world.rows()
    assert sum(row.calls or 0 for row in rows) == len(program)
    assert sum(map(joules, rows)) == pytest.approx(sum(map(tenths_of, program)) / 10 * WATTS)
    if window_s == 0:
        assert [row.status == "error" for row in rows] == [tree[1] for tree in program]


def test_the_last_install_holds() -> None:
    """A task is counted once, by the settings of the last call."""
    first, second = World(window_s=0), World(window_s=0, labels={"queue": "b"})
    second.task(second.clock.advance).apply((1.0,))
    assert first.rows() == []
    (row,) = second.rows()
    assert row.labels == {"queue": "b"}


def test_a_mistake_is_raised_where_it_is_made() -> None:
    """And nothing is connected, or disconnected, then."""
    before = list(signals.task_prerun.receivers)
    with pytest.raises(carbontrack.ConfigError, match="region"):
        install(reigon="FR")
    assert signals.task_prerun.receivers == before


def test_a_task_runs_though_it_cannot_be_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Settings that have become unusable are said, and the task's result is its own."""
    World()
    install(output=str(tmp_path / "rows.csv"))
    monkeypatch.setenv("CARBONTRACK_PUE", "a lot")
    assert World.app().task(nothing, name="work").apply().state == "SUCCESS"
    assert "CARBONTRACK_PUE" in caplog.text
    assert carbontrack.current_span() is None


# -- real workers --------------------------------------------------------------------------------

INSTALL = """
import time
from celery.exceptions import Ignore
from carbontrack.integrations.celery import install

install(region="FR", output="rows.csv")

@app.task
def short(n):
    return sum(range(100_000))

@app.task
def long(wait_s):
    end_s = time.monotonic() + wait_s
    while time.monotonic() < end_s:
        sum(range(1000))

@app.task(bind=True, max_retries=1)
def again(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0)

@app.task
def fails():
    raise ValueError("no")

@app.task
def ignored():
    raise Ignore()

@app.task
def around():
    short.apply((1,))
"""
PUT = (
    "[tasks.short.delay(n) for n in range(20)]; tasks.long.delay(1.3); "
    "[one.delay() for one in (tasks.again, tasks.fails, tasks.ignored, tasks.around)]"
)
TRIES = {"short": 20, "long": 1, "again": 2, "fails": 1, "ignored": 1, "around": 1}
POOLS = {
    "prefork": ["-c", "2", "--max-tasks-per-child", "3"],
    "threads": ["-P", "threads", "-c", "4"],
    "solo": ["-P", "solo"],
    "gevent": ["-P", "gevent", "-c", "4"],
}


def rows_of(folder: Path) -> list[carbontrack.Record]:
    rows = list(iter_records(folder / "rows.csv"))
    assert len({row.record_id for row in rows}) == len(rows)
    return rows


@pytest.mark.parametrize("pool", POOLS)
def test_every_try_is_in_a_row_when_a_worker_has_ended_warmly(tmp_path: Path, pool: str) -> None:
    """In every pool: under its name, nothing left to be recovered, and not more than was used."""
    if pool == "gevent":
        pytest.importorskip("gevent", reason="not for this system")
    fill(tmp_path, INSTALL, PUT)
    tree = build_powercap(tmp_path / "sys")
    here = {"CARBONTRACK_SYSFS_PATH": str(tree.sysfs)}
    with used(tree, package_0=20.0, dram=5.0):
        before = tree.raw_uj("package-0") + tree.raw_uj("dram")
        serve(tmp_path, *POOLS[pool], lines=sum(TRIES.values()) + 1, end=signal.SIGTERM, **here)
        used_j = (tree.raw_uj("package-0") + tree.raw_uj("dram") - before) / 1e6
    rows = rows_of(tmp_path)
    calls: Counter[str] = Counter()
    for row in rows:
        calls[row.name.removeprefix("tasks.")] += row.calls or 0
    assert calls == TRIES
    # in less than a few steps of the counters there may be none: that is modelled, and says so
    assert {row.basis for row in rows if (row.duration_s or 0.0) > 0.05} == {"measured"}
    assert 0.0 < sum(map(joules, rows)) <= used_j
    (long,) = (row for row in rows if row.name == "tasks.long")
    assert (long.duration_s or 0.0) >= 1.3  # all of it, also when a tick makes it a row of its own
    failed = {row.name for row in rows if row.status == "error"}
    assert failed == {"tasks.again", "tasks.fails"}
    run(tmp_path, "-m", "carbontrack", "recover")
    assert rows_of(tmp_path) == rows


KILLED = """
import os, signal, time
app.conf.worker_lost_wait = 0.1  # how long the death of a process is waited for to be explained
from carbontrack.integrations.celery import install

install(region="FR", output="rows.csv")

@app.task
def short(n):
    return sum(range(100_000))

@app.task
def killed():
    time.sleep(2.5)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it ends its own process")
def test_what_a_killed_process_has_done_is_recovered(tmp_path: Path) -> None:
    """The tasks before it, and the one that ended it up to its last checkpoint; each once."""
    fill(tmp_path, KILLED, "[tasks.short.delay(n) for n in range(9)]; tasks.killed.delay()")
    serve(tmp_path, "-c", "1", lines=10, end=signal.SIGTERM, CARBONTRACK_CHECKPOINT_S="0.5")
    for _ in range(2):
        run(tmp_path, "-m", "carbontrack", "recover")
    rows = rows_of(tmp_path)
    short = [row for row in rows if row.name == "tasks.short"]
    assert sum(row.calls or 0 for row in short) == 9  # in two rows where a window has ended before
    assert {row.status for row in short} <= {"ok", "recovered"}
    (killed,) = (row for row in rows if row.name == "tasks.killed")
    assert killed.status == "recovered"
    assert (killed.duration_s or 0.0) > 0.0
