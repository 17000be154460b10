"""Jobs of RQ: each is a block under the name of its function, and no row is lost by `os._exit`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

import carbontrack
from carbontrack.report.read import iter_records
from carbontrack.testing import FakeClock, FakeMeter, MemorySink, build_powercap
from tests.support.used_counters import used

fakeredis = pytest.importorskip("fakeredis", reason="not for this system")
rq = pytest.importorskip("rq", reason="not for this system")

from rq.command import send_stop_job_command  # noqa: E402 - where it is installed

from carbontrack.integrations import rq as ours  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="RQ forks")
WATTS = 100.0
KINDS = [name for name in dir(ours) if name.startswith("Carbontrack")]


def joules(row: carbontrack.Record) -> float:
    return (row.energy_kwh or 0.0) * 3.6e6


def test_the_methods_are_there() -> None:
    """What is overridden, so that a new release that renames it fails here."""
    for method in ("perform_job", "handle_exception", "is_horse"):
        for kind in (rq.Worker, rq.SimpleWorker, rq.worker.SpawnWorker):
            assert hasattr(kind, method), f"RQ's {kind.__name__} has no {method} any more"
    assert all(getattr(ours, kind).__mro__[1] is ours.MeasuredJobs for kind in KINDS)
    has_spawning = hasattr(ours, "CarbontrackSpawnWorker")
    assert has_spawning == (int(rq.__version__.partition(".")[0]) >= 3)


# -- in this process, at a known power -----------------------------------------------------------


class World:
    """A queue in this process, whose jobs advance a clock, and the rows of its worker."""

    def __init__(self, **settings: Any) -> None:
        self.clock, self.sink = FakeClock(), MemorySink()
        tracker = carbontrack.Tracker(
            meters=[FakeMeter(watts=WATTS)], sinks=[self.sink], clock=self.clock, grid=50.0
        )

        class Worker(ours.CarbontrackSimpleWorker):
            carbontrack: ClassVar[dict[str, Any]] = {"tracker": tracker, **settings}

        self.worker_class = Worker
        self.connection = fakeredis.FakeStrictRedis(server=fakeredis.FakeServer())
        self.queue = rq.Queue(connection=self.connection)
        self._jobs = sys.modules["jobs_of_a_test"] = types.ModuleType("jobs_of_a_test")

    def put(self, body: Callable[..., object], *given: object, **options: Any) -> Any:
        """Put a function of this test into the queue, as if it were one of a module."""
        body.__module__, body.__qualname__ = self._jobs.__name__, body.__name__
        setattr(self._jobs, body.__name__, body)
        return self.queue.enqueue(body, *given, **options)

    def work(self) -> list[carbontrack.Record]:
        worker = self.worker_class([self.queue], connection=self.connection)
        worker.work(burst=True)
        assert carbontrack.current_span() is None
        return self.sink.records


@pytest.fixture
def _handlers() -> Iterator[None]:
    """A worker sets handlers of signals in this process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    sys.modules.pop("jobs_of_a_test", None)


@pytest.mark.usefixtures("_handlers")
def test_jobs_have_rows_with_what_they_used_and_how_they_ended() -> None:
    """In the order of the queue; a job that cannot be read, or found, has one as well."""
    world = World(labels={"queue": "default"})

    def fine(seconds: float) -> None:
        with carbontrack.track("inside"):
            world.clock.advance(seconds)

    def failing() -> None:
        world.clock.advance(2.0)
        raise ValueError("no")

    def stuck() -> None:
        world.clock.advance(3.0)
        time.sleep(30.0)

    def again() -> rq.Retry | None:
        world.clock.advance(1.0)
        return rq.Retry(max=1) if len(world.sink.records) < 6 else None

    def over() -> None:
        world.clock.advance(1.0)
        raise carbontrack.BudgetExceeded("5 g are used up")

    world.put(fine, 1.5)
    ended = world.put(failing)
    world.put(stuck, job_timeout=1)
    world.queue.enqueue("jobs_of_a_test.gone")
    unreadable = world.put(fine, 1.0)
    world.connection.hset(unreadable.key, "data", b"no pickle")
    world.put(again)
    world.put(over)
    rows = world.work()
    assert [(row.name.rpartition(".")[2], row.status, row.error) for row in rows] == [
        ("fine", "ok", None),
        ("failing", "error", "ValueError: no"),
        ("stuck", "error", "JobTimeoutException: Task exceeded maximum timeout value (1 seconds)"),
        ("gone", "error", rows[3].error),
        ("unreadable job", "error", rows[4].error),
        ("again", "ok", None),
        ("over", "budget", "5 g are used up"),
        ("again", "ok", None),
    ]
    assert [joules(row) / WATTS for row in rows] == pytest.approx([1.5, 2, 3, 0, 0, 1, 1, 1])
    assert {row.labels["queue"] for row in rows} == {"default"}
    assert all(row.parent_id is None for row in rows)
    assert "ValueError: no" in ended.latest_result().exc_string
    assert "carbontrack" not in ended.latest_result().exc_string.replace(str(Path.cwd()), "")


@pytest.mark.usefixtures("_handlers")
def test_a_job_runs_though_it_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that have become unusable are said, and the job's result is its own."""
    world = World()

    def fine() -> int:
        return 3

    job = world.put(fine)
    world.worker_class.carbontrack = {}
    worker = world.worker_class([world.queue], connection=world.connection)
    monkeypatch.setenv("CARBONTRACK_PUE", "a lot")
    worker.work(burst=True)
    assert job.latest_result().return_value == 3
    assert "CARBONTRACK_PUE" in caplog.text


def test_a_mistake_is_raised_when_the_worker_is_made() -> None:
    """Before it takes any job."""
    world = World(window_s=-1)
    with pytest.raises(carbontrack.ConfigError, match="window_s"):
        world.worker_class([world.queue], connection=world.connection)


# -- work horses ---------------------------------------------------------------------------------

JOBS = """
import os, signal, time
import carbontrack

def short():
    return sum(range(100_000))

@carbontrack.track("later", window_s=0)
def later():
    return 1

def busy(wait_s):
    end_s = time.monotonic() + wait_s
    while time.monotonic() < end_s:
        later()

def failing():
    raise ValueError("no")

def stuck():
    time.sleep(30)

def killed():
    time.sleep(1.2)
    os.kill(os.getpid(), signal.SIGKILL)

def left():
    time.sleep(0.3)
    os._exit(3)
"""


class Connection(socket.socket):
    """Addresses as Redis writes them: a tuple has a blank, at which clients split the answer."""

    def getsockname(self) -> str:
        return "{}:{}".format(*super().getsockname())

    def getpeername(self) -> str:
        return "{}:{}".format(*super().getpeername())


class Server(fakeredis.TcpFakeServer):  # type: ignore[misc,name-defined]
    daemon_threads, block_on_close = True, False

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        return Connection(fileno=connection.detach()), address


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A server of Redis, in a thread of this process."""
    server = Server(("127.0.0.1", 0))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address
    server.shutdown()
    server.server_close()
    thread.join()


class Horses:
    """A worker in a process of its own, that forks or spawns one for each job."""

    def __init__(self, folder: Path, address: tuple[str, int], **settings: str) -> None:
        import redis

        (folder / "jobs.py").write_text(JOBS)
        path = os.pathsep.join([str(folder), *filter(None, sys.path)])
        own = {
            "PYTHONPATH": path,
            "CARBONTRACK_STATE_DIR": str(folder / "state"),
            "CARBONTRACK_OUTPUT": str(folder / "rows.csv"),
            "CARBONTRACK_REGION": "FR",
        }
        self.folder, self.environ = folder, {**os.environ, **own, **settings}
        self.url = f"redis://{address[0]}:{address[1]}"
        self.connection = redis.Redis(*address)
        self.queue = rq.Queue(folder.name, connection=self.connection)

    def start(self, kind: str, *options: str) -> subprocess.Popen[str]:
        command = [
            "-m",
            "rq.cli",
            "worker",
            "-u",
            self.url,
            "-w",
            f"carbontrack.integrations.rq.{kind}",
        ]
        return subprocess.Popen(
            [sys.executable, *command, *options, self.queue.name],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def rows(self) -> list[carbontrack.Record]:
        rows = list(iter_records(self.folder / "rows.csv"))
        assert len({row.record_id for row in rows}) == len(rows)
        return rows

    def recovered(self) -> list[carbontrack.Record]:
        before = self.rows()
        command = [sys.executable, "-m", "carbontrack", "recover"]
        subprocess.run(command, cwd=self.folder, env=self.environ, check=True, timeout=60)
        return self.rows()[len(before) :]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Simple" not in kind])
def test_every_job_of_a_work_horse_is_in_a_row(
    tmp_path: Path, address: tuple[str, int], kind: str
) -> None:
    """However short it is, and however it ends; a horse that is killed leaves a checkpoint."""
    tree = build_powercap(tmp_path / "sys")
    here = Horses(tmp_path, address, CARBONTRACK_SYSFS_PATH=str(tree.sysfs))
    for _ in range(4):
        here.queue.enqueue("jobs.short")
    for name in ("jobs.failing", "jobs.killed", "jobs.left"):
        here.queue.enqueue(name)
    here.queue.enqueue("jobs.stuck", job_timeout=1)
    here.queue.enqueue("jobs.busy", 1.2)
    with used(tree, package_0=20.0, dram=5.0):
        before = tree.raw_uj("package-0") + tree.raw_uj("dram")
        printed, _ = here.start(kind, "--burst").communicate(timeout=100)
        used_j = (tree.raw_uj("package-0") + tree.raw_uj("dram") - before) / 1e6
    rows = [*here.rows(), *here.recovered()]
    assert sorted((row.name, row.status) for row in rows) == [
        ("jobs.busy", "ok"),
        ("jobs.failing", "error"),
        ("jobs.killed", "recovered"),  # by the next work horse
        ("jobs.left", "recovered"),
        *[("jobs.short", "ok")] * 4,
        ("jobs.stuck", "error"),
    ], printed
    found = {row.name: row for row in rows}
    assert found["jobs.failing"].error == "ValueError: no"
    assert (found["jobs.stuck"].error or "").startswith("JobTimeoutException: ")
    assert (found["jobs.busy"].duration_s or 0.0) >= 1.2
    assert {row.basis for row in rows if row.status != "recovered"} == {"measured"}
    assert 0.0 < sum(map(joules, rows)) <= used_j
    assert here.recovered() == []


def test_a_job_that_is_stopped_is_recovered(tmp_path: Path, address: tuple[str, int]) -> None:
    """RQ stops a job by killing its work horse."""
    here = Horses(tmp_path, address)
    job = here.queue.enqueue("jobs.stuck")
    worker = here.start("CarbontrackWorker", "--max-jobs", "1")
    for _ in range(600):
        if job.get_status() == "started":
            break
        time.sleep(0.1)
    time.sleep(0.5)
    send_stop_job_command(here.connection, job.id)
    printed, _ = worker.communicate(timeout=60)
    assert job.get_status() == "stopped", printed
    assert not (tmp_path / "rows.csv").exists()
    command = [sys.executable, "-m", "carbontrack", "recover"]
    subprocess.run(command, cwd=tmp_path, env=here.environ, check=True, timeout=60)
    (row,) = here.rows()
    assert (row.name, row.status) == ("jobs.stuck", "recovered")
