"""Real servers around a decorated function: each answered call is in one row, and nothing hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover

pytestmark = [
    pytest.mark.xdist_group("servers"),  # a free port is looked for, then taken
    pytest.mark.skipif(sys.platform == "win32", reason="signals and gunicorn"),
]

APP = """
import os

import carbontrack
from carbontrack.integrations.asgi import CarbontrackMiddleware


@carbontrack.track("infer", region="FR", output="rows.csv")
def infer():
    sum(range(100))
    return str(os.getpid()).encode()


def wsgi(environ, start_response):
    body = infer()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def bare(scope, receive, send):
    assert scope["type"] == "http"  # it knows no lifespan
    body = infer()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def polite(scope, receive, send):
    if scope["type"] == "http":
        await bare(scope, receive, send)
        return
    for word in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{word}"
        await send({"type": f"lifespan.{word}.complete"})



asgi, asgi_polite = CarbontrackMiddleware(bare), CarbontrackMiddleware(polite)
open(f"loaded-{os.getpid()}", "w").close()
"""
GUNICORN = ["gunicorn", "--workers", "2", "--graceful-timeout", "5"]
SERVERS = {
    "gunicorn": [*GUNICORN, "app:wsgi"],
    "gunicorn preload": [*GUNICORN, "--preload", "app:wsgi"],
    "gunicorn threads": [*GUNICORN, "--threads", "4", "app:wsgi"],
    "uvicorn": ["uvicorn", "app:asgi"],
    "uvicorn lifespan": ["uvicorn", "app:asgi_polite"],
    "uvicorn 2 workers": ["uvicorn", "--workers", "2", "app:asgi"],
}
PATIENCE_S = 60.0


class Server:
    """A running server; `answered` counts the calls that it has answered."""

    def __init__(self, folder: Path, command: list[str], app: str = APP, **settings: str) -> None:
        self.folder = folder
        (folder / "app.py").write_text(app)
        self._port = _free_port()
        name, *rest = command
        place = ["--bind", f"127.0.0.1:{self._port}"]
        if name == "uvicorn":
            # nobody reads what it prints before it ends, and a full pipe would stop it
            place = ["--no-access-log", "--port", str(self._port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", name, *place, *rest],
            cwd=folder,
            env={**os.environ, "CARBONTRACK_STATE_DIR": str(folder / "state"), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.answered = 0
        self._importers = 2 if "2" in command and "--preload" not in command else 1

    def ask(self) -> int:
        """Ask for one call, to the end of the connection; returns the worker's process id.

        A worker that has not closed it yet is still sending, and reports a signal as an error.
        """
        with socket.create_connection(("127.0.0.1", self._port), timeout=60.0) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head:
            raise ConnectionError("no answer")
        assert b" 200 " in head.splitlines()[0]
        self.answered += 1
        return int(body)

    def wait_until_up(self) -> None:
        """Ask until an answer comes and every worker has the program.

        A signal that finds a worker importing ends it in the middle of that, as it would any.
        """
        deadline_s = time.monotonic() + PATIENCE_S
        while len(list(self.folder.glob("loaded-*"))) < self._importers:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline_s, "a worker does not come up"
            time.sleep(0.05)
        while True:
            try:
                self.ask()
            except OSError:
                assert self.process.poll() is None, self.process.communicate()[0]
                assert time.monotonic() < deadline_s, "it does not come up"
                time.sleep(0.05)
            else:
                return

    def end(self, number: signal.Signals) -> str:
        """End it with a signal; returns what it printed."""
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=PATIENCE_S)
        return printed

    def calls(self) -> int:
        """How many calls stand in the rows; no row stands there twice."""
        rows = list(iter_records(self.folder / "rows.csv"))
        assert len({row.record_id for row in rows}) == len(rows)
        return sum(row.calls or 0 for row in rows)


@contextmanager
def serving(folder: Path, command: list[str], app: str = APP, **settings: str) -> Iterator[Server]:
    server = Server(folder, command, app, **settings)
    try:
        server.wait_until_up()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("server", SERVERS)
def test_every_answered_call_is_in_one_row(
    tmp_path: Path, server: str, number: signal.Signals
) -> None:
    """However the server is stopped, the rows hold each call that it made, once."""
    with serving(tmp_path, SERVERS[server]) as here:
        for _ in range(50):
            here.ask()
        printed = here.end(number)
    assert "Traceback" not in printed
    assert here.calls() == here.answered
    assert recover(tmp_path / "state") == []


@pytest.mark.parametrize("server", ["gunicorn", "gunicorn preload", "uvicorn 2 workers"])
def test_a_killed_worker_loses_what_came_after_its_last_checkpoint(
    tmp_path: Path, server: str
) -> None:
    """With kill -9 the killed worker's calls come back from its journal; the others' stay whole."""
    settings = {"CARBONTRACK_CHECKPOINT_S": "0.2"}
    with serving(tmp_path, SERVERS[server], **settings) as here:
        for _ in range(50):
            worker = here.ask()
        time.sleep(2.0)  # a checkpoint follows each tick, and that is each 0.2 s
        os.kill(worker, signal.SIGKILL)
        here.wait_until_up()
        for _ in range(20):
            here.ask()
        here.end(signal.SIGTERM)
    recover(tmp_path / "state")
    assert here.calls() == here.answered


def test_without_the_middleware_uvicorn_leaves_a_checkpoint(tmp_path: Path) -> None:
    """A server that dies of its own SIGTERM is like any killed process: its journal is left."""
    settings = {"CARBONTRACK_CHECKPOINT_S": "0.2"}
    with serving(tmp_path, ["uvicorn", "app:bare"], **settings) as here:
        for _ in range(50):
            here.ask()
        time.sleep(2.0)
        here.end(signal.SIGTERM)
        assert here.process.returncode == -signal.SIGTERM
    (recovered,) = recover(tmp_path / "state")
    assert recovered.record.status == "recovered"
    assert here.calls() == here.answered


_ADVICE = "wrap the application: app = carbontrack.integrations.asgi.CarbontrackMiddleware(app)"


@pytest.mark.parametrize(
    ("command", "settings", "count"),
    [
        (["uvicorn", "app:bare"], {}, 1),
        (["uvicorn", "app:asgi"], {}, 0),
        (["uvicorn", "app:bare"], {"CARBONTRACK_FLUSH_ON_SIGNALS": "yes"}, 0),
        ([*GUNICORN, "app:wsgi"], {}, 0),
    ],
    ids=["bare", "middleware", "flush", "gunicorn"],
)
def test_uvicorn_without_the_middleware_is_told_once_what_to_do(
    tmp_path: Path, command: list[str], settings: dict[str, str], count: int
) -> None:
    """When the first sum of calls has been written; not where the last rows are written anyway."""
    app = APP.replace('output="rows.csv"', 'output="rows.csv", window_s=0.5')
    with serving(tmp_path, command, app=app, **settings) as here:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (tmp_path / "rows.csv").exists() or here.calls() < 2:
            assert time.monotonic() < deadline_s, "no row is written"
            here.ask()
        for _ in range(30):
            here.ask()
        printed = here.end(signal.SIGTERM)
    assert printed.count(_ADVICE) == count
