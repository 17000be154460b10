"""Energy by route under real servers and frameworks: names, figures, and a program left alone."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover
from carbontrack.units import JOULES_PER_KWH
from tests.integration.integrations.test_servers import serving

pytestmark = [
    pytest.mark.xdist_group("serial"),  # shares of CPU time
    pytest.mark.skipif(sys.platform == "win32", reason="ends with a signal"),
]

PROGRAM = """
import asyncio, json, socket, time
import uvicorn
from fastapi import FastAPI
from carbontrack import CsvSink, Tracker
from carbontrack.integrations.asgi import CarbontrackMiddleware
from carbontrack.testing import FakeMeter


def tracker(*sinks):
    return Tracker(meters=[FakeMeter(watts=100.0)], attribution="process", grid=50.0, sinks=sinks)


def burn(seconds):
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def note_the_whole():
    session = rows.session
    account = session.ledger.account.at(session.sampler.counts)
    with open("whole.json", "w") as file:
        json.dump({"joules": sum(account.calls_j), "cpu_s": time.process_time()}, file)


app = FastAPI()
asynchronous, threaded = FastAPI(), FastAPI()
for kind in (asynchronous, threaded):
    @kind.get("/wait")
    async def wait():
        await asyncio.sleep(0.3)

    @kind.get("/cheap")
    async def cheap():
        return 1


@asynchronous.get("/dear")
async def dear():
    burn(0.02)


@threaded.get("/dear")
def dear_in_a_thread():
    burn(0.02)


app.mount("/async", asynchronous)
app.mount("/def", threaded)
rows = tracker(CsvSink("rows.csv"))
served = CarbontrackMiddleware(app, routes=True, tracker=rows, close=note_the_whole)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(served, log_level="warning")).run(sockets=[listener])
"""


def ask(port: int, path: str) -> bytes:
    """One request, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60.0) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


def mix(port: int, kind: str) -> dict[str, int]:
    """Ask for what is dear and what is cheap while requests wait; returns how often."""
    asked = dict.fromkeys((f"GET /{kind}/{name}" for name in ("wait", "dear", "cheap")), 0)
    waiting = threading.Event()

    def keep_asking(name: str) -> None:
        while not waiting.wait(0.02):
            ask(port, f"/{kind}/{name}")
            asked[f"GET /{kind}/{name}"] += 1

    def wait(times: int) -> None:
        for _ in range(times):
            ask(port, f"/{kind}/wait")

    busy = [threading.Thread(target=keep_asking, args=(name,)) for name in ("dear", "cheap")]
    idle = [threading.Thread(target=wait, args=(5,)) for _ in range(4)]
    for thread in busy + idle:
        thread.start()
    for thread in idle:
        thread.join()
    waiting.set()
    for thread in busy:
        thread.join()
    return asked | {f"GET /{kind}/wait": 20}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The rows by name after a mix of requests, what the process used, and what it printed."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "program.py").write_text(PROGRAM)
    server = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "CARBONTRACK_STATE_DIR": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for path in ("/nowhere", "/async/nowhere"):
            ask(port, path)
        asked = {"GET (no route)": 2} | mix(port, "async") | mix(port, "def")
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=60.0)
    finally:
        if server.poll() is None:
            server.kill()
            server.communicate()
    rows: dict[str, list] = {}
    for row in iter_records(folder / "rows.csv"):
        rows.setdefault(row.name, []).append(row)
    return rows, asked, json.loads((folder / "whole.json").read_text()), said


def kwh_per_call(rows, name: str) -> float:
    """The CPU's energy for a call of this name."""
    return sum(row.cpu_kwh for row in rows[name]) / sum(row.calls for row in rows[name])


def test_every_request_is_in_a_row_when_the_server_has_ended(served):
    """The lifespan's end writes them, by the templates of their routes; nothing is said."""
    rows, asked, _, said = served
    assert {name: sum(row.calls for row in found) for name, found in rows.items()} == asked
    assert said == ""


@pytest.mark.parametrize("kind", ["async", "def"])
def test_what_waits_has_no_part_of_what_works(served, kind):
    """A request that sleeps while others use the CPU gets at most 5 % of one of theirs."""
    rows, *_ = served
    dear = kwh_per_call(rows, f"GET /{kind}/dear")
    assert kwh_per_call(rows, f"GET /{kind}/wait") <= 0.05 * dear
    assert kwh_per_call(rows, f"GET /{kind}/cheap") <= 0.2 * dear


def test_work_in_a_thread_is_as_dear_as_in_the_loop(served):
    """The same 20 ms of CPU time, in a `def` and in an `async def`."""
    rows, *_ = served
    inline, threaded = (kwh_per_call(rows, f"GET /{kind}/dear") for kind in ("async", "def"))
    assert 0.5 * inline <= threaded <= 2.0 * inline


def test_the_sum_is_at_most_what_the_process_used(served):
    """As the tracker's account has it, for the time in which any request was under way or summed;
    most of it is some request's."""
    rows, _, whole, _ = served
    total_j = sum(row.cpu_kwh for found in rows.values() for row in found) * JOULES_PER_KWH
    assert 0.5 * whole["joules"] <= total_j <= whole["joules"] * (1 + 1e-9)


WORKERS = """
from app import bare
from carbontrack.integrations.asgi import CarbontrackMiddleware

routed = CarbontrackMiddleware(bare, routes=True, region="FR", output="rows.csv")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("uvicorn.workers") is None,
    reason="this release of uvicorn has no worker for gunicorn",
)
def test_workers_of_gunicorn_write_all_their_rows(tmp_path):
    """Forked from one that has made the middleware; decorated functions inside count once."""
    (tmp_path / "routed.py").write_text(WORKERS)
    worker = "uvicorn.workers.UvicornWorker"
    command = ["gunicorn", "--workers", "2", "--preload", "--worker-class", worker, "routed:routed"]
    with serving(tmp_path, command) as here:
        for _ in range(20):
            here.ask()
        here.end(signal.SIGTERM)
    assert here.calls() == here.answered
    rows = list(iter_records(tmp_path / "rows.csv"))
    assert {row.name for row in rows} == {"GET (no route)"}
    assert recover(tmp_path / "state") == []
