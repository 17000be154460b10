"""A gunicorn with a program of a test, asked over HTTP by several clients at once."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from carbontrack.record import Record
from carbontrack.report.read import iter_records

PATIENCE_S = 60.0


class Gunicorn:
    """A running gunicorn, whose program is `app.py` in `folder`."""

    def __init__(
        self, folder: Path, program: str, options: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        self.folder = folder
        (folder / "app.py").write_text(program)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self._port: int = one.getsockname()[1]
        place = ["--bind", f"127.0.0.1:{self._port}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *place, *options, "app:application"],
            cwd=folder,
            env={**os.environ, "CARBONTRACK_STATE_DIR": str(folder / "state"), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        """Ask for one answer, to the end of the connection; its status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask_all(self, *lanes: Sequence[str]) -> None:
        """Ask for all of these, by a client for each lane; each answer is the path's first part."""

        def ask(lane: Sequence[str]) -> None:
            for path in lane:
                assert self.ask(path) == (200, path.split("/")[1].encode())

        with ThreadPoolExecutor(len(lanes)) as pool:
            list(pool.map(ask, lanes))

    def wait_until_up(self) -> None:
        """Wait until it listens; a connection is kept until a worker takes it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S).close()
            except OSError:
                assert time.monotonic() < deadline_s, "it does not come up"
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.05)
                    raise AssertionError(self.process.communicate()[0]) from None
            else:
                return

    def end(self) -> str:
        """End it as an operator does; returns what it printed."""
        self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=PATIENCE_S)
        return printed

    def rows(self, name: str = "rows.csv") -> list[Record]:
        """The rows that its workers have written."""
        return list(iter_records(self.folder / name))


@contextmanager
def serving(folder: Path, program: str, *options: str, **variables: str) -> Iterator[Gunicorn]:
    """Run it, and let it not outlive the test."""
    server = Gunicorn(folder, program, options, variables)
    try:
        server.wait_until_up()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def check_three_routes(folder: Path, program: str, pattern: str) -> None:
    """Waiting costs no CPU beside those who work, and all pay no more than the process has used.

    Each request is in a row, though workers are recycled meanwhile.
    """
    asked = {"dear": 14, "cheap": 12, "wait": 12}  # as many requests to each of the program's views
    lanes = ["dear"] * 14, ["cheap"] * 12, *[["wait"] * 3] * 4
    options = ("--threads", "8", "--max-requests", "18")
    with serving(folder, program, *options, WHOLE="yes") as server:
        server.ask_all(*([f"/{kind}/{n}" for n, kind in enumerate(lane)] for lane in lanes))
        server.end()
    cpu_kwh: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    rows = server.rows()
    for row in rows:
        assert row.cpu_kwh is not None
        cpu_kwh[row.name] += row.cpu_kwh
        calls[row.name] += row.calls or 1
    assert calls == {pattern.format(kind): number for kind, number in asked.items()}
    assert len({row.pid for row in rows}) > 1
    dear, wait = pattern.format("dear"), pattern.format("wait")
    assert 0.0 < cpu_kwh[wait] / calls[wait] <= 0.05 * cpu_kwh[dear] / calls[dear]
    whole_kwh = sum(row.energy_kwh or 0.0 for row in server.rows("whole.csv"))
    assert 0.0 < sum(row.energy_kwh or 0.0 for row in rows) <= whole_kwh
