"""`carbontrack serve` in a process of its own, and requests to it.

As a program, `python -m tests.support.serving FACTS` serves with other limits than the command's,
or a store that fails as said: FACTS is JSON with `store`, and what `Trouble` and `Limits` name.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from carbontrack.record import Record
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.store.factory import open_store

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
"""For what is to happen, however slow the machine is."""
_LISTENING = re.compile(r"listening on (http://\S+?),")


class Serving:
    """A server that runs.

    Attributes:
        url: where it listens.
        process: the server itself.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.log = folder / f"server-{len([*folder.glob('server-*.log')])}.log"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env=_environ(), stdout=file, stderr=file
            )
        self.url = self._address()

    def said(self) -> str:
        """What it has printed, on both streams."""
        return self.log.read_text(errors="replace")

    def post(
        self, records: Sequence[Record | Mapping[str, Any]], token: str | None = None, **more: Any
    ) -> requests.Response:
        """Post records, and read the answer."""
        return self.post_body(json_line([*map(_object, records)]), token, **more)

    def post_body(
        self, body: bytes, token: str | None = None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Post a body as it is."""
        given = {"Content-Type": "application/json", **bearer(token), **(headers or {})}
        return requests.post(f"{self.url}/v1/records", data=body, headers=given, timeout=PATIENCE_S)

    def get(self, path: str, token: str | None = None, **more: Any) -> requests.Response:
        """Get a path."""
        url = f"{self.url}{path}"
        return requests.get(url, headers=bearer(token), timeout=PATIENCE_S, **more)

    def metric(self, name: str) -> float:
        """One of its own counts; 0 for one that does not exist yet."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def connect(self) -> socket.socket:
        """A connection to it, for requests that no library would send."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return socket.create_connection((host, int(port)), PATIENCE_S)

    def takes_connections(self) -> bool:
        """Whether it still listens."""
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return False
        return True

    def stop(self) -> int:
        """Send SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def _address(self) -> str:
        until_s = time.monotonic() + PATIENCE_S
        while (found := _LISTENING.search(self.said())) is None:
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise OSError(f"it does not serve: {self.said()}")
            _wait(0.02)
        return found[1]


@dataclass(frozen=True)
class Team:
    """A server, the folder of its `team.db`, and tokens of the projects vision and audio."""

    folder: Path
    server: Serving
    send: str
    read: str
    send_b: str
    read_b: str

    def stored(self, project: str = "vision") -> list[dict[str, Any]]:
        """The rows of a project, as they are in the store."""
        return rows_of(self.folder, project)


def rows_of(folder: Path, project: str = "vision") -> list[dict[str, Any]]:
    """The rows of a project in the store `team.db` of a folder."""
    with open_store(str(folder / "team.db")) as store:
        return [*store.rows(project)]


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Whether it holds in the end."""
    give_up_s = time.monotonic() + patience_s
    while not condition() and time.monotonic() < give_up_s:
        _wait(0.02)
    return condition()


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def bearer(token: str | None) -> dict[str, str]:
    """The header of a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def a_post(records: Sequence[Record | Mapping[str, Any]], token: str) -> bytes:
    """A request with records, as bytes."""
    body = json_line([*map(_object, records)])
    head = (
        f"POST /v1/records HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def carbontrack(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "carbontrack", *arguments],
        cwd=folder,
        env=_environ(),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def new_token(project: str, folder: Path, *options: str) -> str:
    """A token of a project, made by the command."""
    done = carbontrack("serve", "--new-token", project, *options, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Serving]:
    """The command `carbontrack serve` on a free port, until the end of the block."""
    command = [sys.executable, "-m", "carbontrack", "serve", "--port", "0", *options]
    yield from _until_ended(Serving(command, folder))


@contextmanager
def serving_with(folder: Path, store: str = "team.db", **facts: Any) -> Iterator[Serving]:
    """A server with limits or troubles of its own, until the end of the block."""
    given = json.dumps({"store": store, **facts})
    command = [sys.executable, "-m", "tests.support.serving", given]
    yield from _until_ended(Serving(command, folder))


def _until_ended(server: Serving) -> Iterator[Serving]:
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


def _object(record: Record | Mapping[str, Any]) -> Mapping[str, Any]:
    return record_object(record) if isinstance(record, Record) else record


def _environ() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Trouble:
    """A store that fails as said, in front of the real one.

    `slow_s` delays each commit, and so does `waits_for`, a file, until it is there; after the
    commit with the number `dies_after`, the process is killed before anybody is told.
    """

    def __init__(
        self,
        store: Any,
        slow_s: float = 0.0,
        dies_after: int | None = None,
        waits_for: str | None = None,
    ) -> None:
        self._store = store
        self._slow_s = slow_s
        self._waits_for = waits_for
        self._dies_after = dies_after
        self._commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def add(self, project: str, rows: Sequence[Any]) -> Any:
        _wait(self._slow_s)
        while self._waits_for is not None and not Path(self._waits_for).exists():
            _wait(0.02)
        added = self._store.add(project, rows)
        self._commits += 1
        if self._commits == self._dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return added


def main(facts: dict[str, Any]) -> None:
    """Serve on a free port of this machine."""
    from carbontrack.server.limits import Limits
    from carbontrack.server.process import listen, serve

    store = open_store(facts.pop("store"))
    limits = Limits(**{name: facts.pop(name) for name in Limits._fields if name in facts})
    serve(
        Trouble(store, **facts),  # type: ignore[arg-type]
        store,
        listen("127.0.0.1", 0),
        limits=limits,
        on_start=lambda address: print(f"listening on {address}, with trouble", flush=True),
    )
    store.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
