"""Servers to post to, each a process of its own whose CPU time is read from outside."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


class Server:
    """A receiver of records in a process of its own.

    Attributes:
        url: where records are posted.
        token: what they are posted with; None where none is needed.
    """

    def __init__(self, command: list[str], url: str, folder: Path) -> None:
        self.url = url
        self.token: str | None = None
        self._command = command
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._cpu_before_s = 0.0

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=ROOT)
        host, port = self.url.split("/")[2].split(":")
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self._process.poll() is None:
            with closing(socket.socket()) as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.05)
        raise SystemExit(f"the server did not start:\n{self._log.read_text()}")

    def cpu_s(self) -> float:
        """CPU seconds of all that was started so far, children included."""
        return self._cpu_before_s + self._cpu_now_s()

    def _cpu_now_s(self) -> float:
        if self._process is None or self._process.poll() is not None:
            return 0.0
        process = psutil.Process(self._process.pid)
        times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
        return sum(one.user + one.system for one in times)

    def rss_bytes(self) -> int:
        """Its memory now."""
        assert self._process is not None
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        assert self._process is not None
        self._cpu_before_s += self._cpu_now_s()
        self._process.send_signal(number)
        code = self._process.wait(timeout=120)
        self._process = None
        return code


@contextmanager
def started(kind: str, folder: Path, store: str | None) -> Iterator[Server]:
    """A server: `serve`, the receiver of a team, or `receiver`, that of the tests."""
    port = _free_port()
    if kind == "receiver":
        command = [sys.executable, "-m", "carbontrack.testing.receiver", "--port", str(port)]
        server = Server(command, f"http://127.0.0.1:{port}/v1/records", folder)
    else:
        where = ["--store", store or str(folder / "team.db")]
        base = [sys.executable, "-m", "carbontrack", "serve", *where]
        made = subprocess.run(
            [*base, "--new-token", "fleet"], capture_output=True, text=True, check=True, cwd=ROOT
        )
        server = Server([*base, "--port", str(port)], f"http://127.0.0.1:{port}/v1/records", folder)
        server.token = next(word for word in made.stdout.split() if word.startswith("ct_"))
    server.start()
    try:
        yield server
    finally:
        if server._process is not None:
            server.end()


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stored(folder: Path, store: str | None) -> tuple[int, int] | None:
    """Rows in the store, and distinct ids of them; None where there is none to look into."""
    query = "SELECT count(*), count(DISTINCT record_id) FROM records WHERE record_id LIKE 'fleet%'"
    if store is not None and store.startswith("postgresql"):
        import psycopg

        with psycopg.connect(store) as connection:
            rows, ids = connection.execute(query).fetchone() or (0, 0)
        return rows, ids
    path = Path(store) if store else folder / "team.db"
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        rows, ids = connection.execute(query).fetchone()
    return rows, ids


def enough_files(count: int) -> int:
    """Raise the limit of open files; how many connections are possible."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(count, hard - 100)


def load() -> str:
    """The load average, which says how far the figures can be trusted."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
