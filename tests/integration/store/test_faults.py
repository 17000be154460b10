"""Whatever happens to a store, what it has acknowledged is there: kills, full disks, restarts."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carbontrack.errors import StoreFull, StoreUnavailable
from carbontrack.store.factory import open_store
from carbontrack.store.sqlite import SqliteStore
from tests.support.plain_user import public_folder
from tests.support.stores import a_row, execute

pytestmark = pytest.mark.xdist_group("postgres")

BATCH = 40
WRITER = """
import sys
from carbontrack.store.factory import open_store
from tests.support.plain_user import public_folder
from tests.support.stores import a_row
first, size = int(sys.argv[2]), int(sys.argv[3])
a_row()
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    for batch in range(first, first + 1_000_000):
        store.add("team", [a_row(batch * size + i, calls=batch) for i in range(size)])
        print(batch, flush=True)
"""


def test_a_killed_writer_has_written_what_it_acknowledged(address: str):
    """Killed at many instants: each batch is there as a whole or not at all."""
    acknowledged: set[int] = set()
    chance = random.Random(7)
    for start in range(0, 6_000, 1_000):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, address, str(start), str(BATCH)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        seen = [writer.stdout.readline() for _ in range(chance.randint(0, 3))]
        time.sleep(chance.uniform(0.0, 0.03))
        writer.send_signal(signal.SIGKILL)
        said = [*seen, *writer.communicate(timeout=120)[0].splitlines(keepends=True)]
        acknowledged.update(int(line) for line in said if line.endswith("\n"))
    with open_store(address) as store:
        sizes: dict[int, int] = {}
        for row in store.rows("team", columns=["calls"]):
            sizes[row["calls"]] = sizes.get(row["calls"], 0) + 1
        assert acknowledged
        assert acknowledged <= sizes.keys()
        assert set(sizes.values()) == {BATCH}
        assert store.add("team", [a_row(10**9)]).stored == 1
    if not address.startswith("postgresql"):
        assert execute(address, "PRAGMA integrity_check") == [("ok",)]


def test_a_restart_of_postgresql_is_not_seen(postgres: Any, postgres_url: str):
    """A connection that has gone stale is made anew within the call."""
    with open_store(postgres_url) as store:
        store.add("team", [a_row(1)])
        text = store.create_token("team")
        postgres.stop()
        postgres.start()
        assert store.add("team", [a_row(2)]).stored == 1
        assert store.token(text) is not None
        assert store.count("team") == 2


def test_postgresql_that_is_away_is_said_at_once_and_comes_back(postgres: Any, postgres_url: str):
    """Each call says so while it is away; the first one after that works, with all rows."""
    with open_store(postgres_url) as store:
        store.add("team", [a_row(i) for i in range(5000)])
        reading = store.rows("team")
        next(reading)
        postgres.stop()
        try:
            for call in (
                lambda: store.add("team", [a_row(1)]),
                lambda: store.token(f"ct_{'0' * 12}_{'0' * 48}"),
                lambda: store.create_token("team"),
                lambda: next(iter(store.rows("team"))),
                lambda: list(reading),
                store.check,
                store.apply_retention,
                lambda: open_store(postgres_url),
            ):
                with pytest.raises(StoreUnavailable):
                    call()
        finally:
            postgres.start()
        store.check()
        assert store.add("team", [a_row(1), a_row(10_000)]).stored == 1
        assert store.count("team") == 5001


def test_postgresql_killed_while_many_write(postgres: Any, postgres_url: str):
    """What was acknowledged before, in between and after is there, once."""
    acknowledged: list[int] = []
    refused = threading.Event()
    stopped = threading.Event()

    def write(first: int) -> None:
        number = first
        with open_store(postgres_url) as mine:
            while not stopped.is_set():
                try:
                    mine.add("team", [a_row(number)])
                except StoreUnavailable:
                    refused.set()
                    time.sleep(0.02)
                    continue
                acknowledged.append(number)
                number += 1

    threads = [threading.Thread(target=write, args=(at,)) for at in (10_000, 20_000, 30_000)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            _until_longer(acknowledged)
            refused.clear()
            postgres.stop()
            assert refused.wait(60.0)
            postgres.start()
        _until_longer(acknowledged)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    with open_store(postgres_url) as store:
        found = [int(row["record_id"].partition(":")[2]) for row in store.rows("team")]
    assert len(found) == len(set(found))
    assert {*acknowledged} <= {*found}


def test_a_default_that_does_not_wait_for_the_disk_is_not_taken(postgres: Any, postgres_url: str):
    """Whoever has set `synchronous_commit = off` for the database did not know of receipts."""
    with open_store(f"{postgres_url}%20-csynchronous_commit%3Doff") as store:
        assert store._read("SELECT current_setting('synchronous_commit')", []) == [("on",)]


def test_a_file_that_another_process_holds(tmp_path: Path):
    """It is waited for a while, and said; a short hold is not seen."""
    path = tmp_path / "team.db"
    with SqliteStore(path, busy_timeout_s=0.2) as store:
        store.add("team", [a_row(1)])
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.add("team", [a_row(2)])
        assert store.count("team") == 1, "nobody who reads waits for who writes"
        other.execute("ROLLBACK")
        assert store.add("team", [a_row(2)]).stored == 1
        other.close()


def test_a_file_in_ruins(tmp_path: Path):
    """Pages that are overwritten are said, and end no receiver."""
    path = tmp_path / "team.db"
    with open_store(str(path)) as store:
        store.add("team", [a_row(i) for i in range(2000)])
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with (
        open_store(str(path)) as store,
        pytest.raises(StoreUnavailable, match=r"malformed|corrupt"),
    ):
        list(store.rows("team"))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system with a few MiB, for everybody."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system")
    with public_folder() as folder:
        options = ("-t", "tmpfs", "-o", "size=3m,mode=0777", "tmpfs", str(folder))
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path):
    """Said as such; all that was acknowledged is there, and with room it goes on."""
    path = small_disk / "team.db"
    with open_store(str(path)) as store:
        stored = _fill(store, StoreFull)
        with pytest.raises(StoreFull):
            store.add("team", [a_row(i, name="n" * 9000) for i in range(10**6, 10**6 + 400)])
        assert store.count("team") == stored
        assert sum(1 for _ in store.rows("team")) == stored
        subprocess.run(["mount", "-o", "remount,size=30m", str(small_disk)], check=True)
        assert store.add("team", [a_row(10**7)]).stored == 1
    with open_store(str(path)) as store:
        assert store.count("team") == stored + 1
    assert execute(str(path), "PRAGMA integrity_check") == [("ok",)]


def test_a_full_disk_of_postgresql(postgres: Any, small_disk: Path):
    """Said as such, and the batch is not there."""
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    space = small_disk / "space"
    space.mkdir()
    status = postgres.folder.stat()
    os.chown(space, status.st_uid, status.st_gid)
    postgres.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    try:
        url = postgres.new_schema()
        with open_store(f"{url}%20-cdefault_tablespace%3Dsmall") as store:
            stored = _fill(store, StoreFull)
            assert store.count("team") == stored
            subprocess.run(["mount", "-o", "remount,size=80m", str(small_disk)], check=True)
            assert store.add("team", [a_row(10**7)]).stored == 1
            assert store.count("team") == stored + 1
        postgres.execute(f"DROP SCHEMA {url.rpartition('%3D')[2]} CASCADE")
    finally:
        postgres.execute("DROP TABLESPACE small")


LIMITED = """
import resource, signal, sys
from carbontrack.errors import StoreUnavailable
from carbontrack.store.factory import open_store
from tests.support.plain_user import public_folder
from tests.support.stores import a_row
with open_store(sys.argv[1]) as store:
    store.add("team", [a_row(i) for i in range(100)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    stored = 100
    try:
        for number in range(1000, 10**6, 50):
            stored += store.add("team", [a_row(number + i) for i in range(50)]).stored
    except StoreUnavailable as error:
        print(type(error).__name__, stored, store.count("team"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    print(store.add("team", [a_row(10**7)]).stored)
"""


def test_a_limit_on_the_length_of_files(tmp_path: Path):
    """As a quota does, it refuses writes with another error than a full disk."""
    path = tmp_path / "team.db"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kind, stored, counted, after = done.stdout.split()
    # Python 3.10 does not tell it from a disk that is broken
    assert kind == "StoreFull" if sys.version_info >= (3, 11) else "StoreUnavailable"
    assert (stored, after) == (counted, "1")
    assert execute(str(path), "PRAGMA integrity_check") == [("ok",)]


def _fill(store: Any, kind: type[Exception]) -> int:
    """Add batches until one fails; how many rows were acknowledged."""
    stored = 0
    try:
        for number in range(0, 10**6, 100):
            rows = [a_row(number + i, name=f"{number + i}" * 50) for i in range(100)]
            stored += store.add("team", rows).stored
    except kind:
        return stored
    raise AssertionError("there was room for a million rows")


def _until_longer(acknowledged: list[int]) -> None:
    """Wait until there are some more."""
    enough, late_at_s = len(acknowledged) + 30, time.monotonic() + 60.0
    while len(acknowledged) < enough:
        assert time.monotonic() < late_at_s
        time.sleep(0.01)
