"""From short processes to the store: all of it is killed, and each record is there once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from carbontrack.store.factory import open_store
from tests.support.records import a_record
from tests.support.relays import ROOT, RunningRelay, free_port, relay_once
from tests.support.serving import Serving

COUNT = 60
"""How many processes; by hand it was 4,000."""
PROCESSES = """
import os, random, signal, sys, time
from pathlib import Path
from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.system.http import load_requests
from tests.support.records import a_record

state, url, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance, running = random.Random(first), 0

def die_at(step):
    if number % 10 == step:
        os.kill(os.getpid(), signal.SIGKILL)

load_requests()  # once, before the forks
for number in range(first, first + count):
    pid = os.fork()
    if pid == 0:
        journal = Journal(state)
        sink = JournaledHttpSink(url, journal=journal, exit_timeout_s=0.2)
        journal.checkpoint(a_record(number, energy_kwh=0.0), [url])
        os.write(1, b"opened %d\\n" % number)
        die_at(1)
        sink.write(a_record(number))
        os.write(1, b"finished %d\\n" % number)
        die_at(2)
        journal.finished(a_record(number).record_id)
        die_at(3)
        sink.close()
        journal.close()
        os._exit(0)
    running += 1
    if number % 10 == 4:
        time.sleep(chance.uniform(0.0, 0.02))
        os.kill(pid, signal.SIGKILL)
    while running >= (10 if number < first + count - 1 else 1):
        os.wait()
        running -= 1
"""
"""Forks a process for each record, of which some are killed; they say how far they have come."""


class Site:
    """A server on its store, a relay before it, and what becomes of both.

    Attributes:
        url: where processes post.
        kills: how often something was killed.
    """

    def __init__(self, folder: Path, store: str, outage: Callable[[], None] | None) -> None:
        self.folder, self.store, self.state = folder, store, folder / "state"
        self.state.mkdir()
        self.kills = 0
        self._outage = outage
        with open_store(store) as opened:
            self._token = opened.create_token("vision")
        self._ports = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._ports[0]}/v1/records"
        self._to = ("--to", f"http://127.0.0.1:{self._ports[1]}/v1/records")
        self._chance = random.Random(7)
        self._server = self._serve()

    def trouble_while(self, is_busy: Callable[[], bool]) -> None:
        """Kill the relay again and again, the server now and then, and stop the database once."""
        while is_busy() or self.kills < 5:
            with self._relay():
                time.sleep(self._chance.uniform(0.0, 0.6))
                if self.kills == 2 and self._outage is not None:
                    self._outage()
                if self.kills % 2:
                    self._server.kill()
                    self._server = self._serve()
            self.kills += 1

    def send_the_rest(self) -> tuple[int, int]:
        """What a relay does at the end: its exit code, and how many records still wait."""
        code, counts, _ = relay_once(
            self.state, *self._to, "--for", self.url, CARBONTRACK_HTTP_TOKEN=self._token
        )
        return code, counts["waiting"]

    def rows(self) -> list[dict[str, Any]]:
        """What is in the store."""
        with open_store(self.store) as store:
            return [*store.rows("vision")]

    def close(self) -> None:
        if self._server.process.poll() is None:
            self._server.kill()

    def _serve(self) -> Serving:
        options = ("--store", self.store, "--port", str(self._ports[1]))
        return Serving([sys.executable, "-m", "carbontrack", "serve", *options], self.folder)

    @contextmanager
    def _relay(self) -> Iterator[None]:
        listen = ("--listen", f"127.0.0.1:{self._ports[0]}")
        with RunningRelay(self.state, *self._to, *listen, CARBONTRACK_HTTP_TOKEN=self._token):
            yield


def run_processes(site: Site, count: int) -> dict[str, set[str]]:
    """Two programs that fork `count` processes together; the ids, by how far they had come."""
    files = [site.folder / "first.txt", site.folder / "second.txt"]
    programs = []
    for number, path in enumerate(files):
        span = (str(number * (count // 2)), str(count // 2))
        with path.open("wb") as out:
            command = [sys.executable, "-c", PROCESSES, str(site.state), site.url, *span]
            programs.append(
                subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.DEVNULL)
            )
    site.trouble_while(lambda: any(program.poll() is None for program in programs))
    assert [program.wait() for program in programs] == [0, 0]
    found = {"opened": set[str](), "finished": set[str]()}
    for line in (line for path in files for line in path.read_text().splitlines()):
        word, its_number = line.split()
        found[word].add(a_record(int(its_number)).record_id)
    return found


def check(site: Site, count: int) -> None:
    """All arrives, once each, and only what was killed is recovered."""
    try:
        said = run_processes(site, count)
        assert site.send_the_rest() == (0, 0)
        rows = site.rows()
    finally:
        site.close()
    finished = {row["record_id"] for row in rows if row["status"] == "ok"}
    recovered = {row["record_id"] for row in rows if row["status"] == "recovered"}
    print(f"\n{site.kills} kills: {len(finished)} finished, {len(recovered)} recovered")
    assert len(rows) == len({row["record_id"] for row in rows}) == len(finished | recovered)
    assert said["opened"] <= finished | recovered
    assert said["finished"] <= finished
    assert len(finished) >= 0.8 * count
    assert len(recovered) >= 0.1 * count
    assert not [*site.state.glob("journal/*.journal"), *site.state.glob("dead-letter/*")]


def test_each_record_arrives_once_on_sqlite(tmp_path: Path) -> None:
    """Processes, relay and server are killed at random instants."""
    check(Site(tmp_path, str(tmp_path / "team.db"), None), COUNT)


@pytest.mark.xdist_group("postgres")
def test_each_record_arrives_once_on_postgresql(
    tmp_path: Path, postgres: Any, postgres_url: str
) -> None:
    """And the database is away for a while."""

    def outage() -> None:
        postgres.stop()
        time.sleep(0.5)
        postgres.start()

    check(Site(tmp_path, postgres_url, outage), COUNT)
