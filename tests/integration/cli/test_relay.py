"""`carbontrack relay` among real processes: what was handed to it, or left behind, arrives."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from carbontrack.sinks.journal.journal import FOLDER, Journal
from carbontrack.testing.receiver import Fault, Receiver
from tests.support.plain_user import STRANGER, as_stranger, public_folder, public_interpreter
from tests.support.records import a_record
from tests.support.relays import (
    ROOT,
    SENDERS,
    RunningRelay,
    environ_of,
    free_port,
    post,
    relay_once,
    until,
)

TOKEN, CLIENT_TOKEN = "secret-of-the-relay", "secret-of-a-client"

HOLDER = """
import sys
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from tests.support.records import a_record

number, *outputs = sys.argv[2:]
journal = Journal(Path(sys.argv[1]))
record = a_record(int(number), energy_kwh=2.0)
journal.checkpoint(record, outputs)
print("ready", flush=True)
sys.stdin.read()
"""
"""A process with an open run, that ends when its input does, or is killed."""


def id_of(number: int) -> str:
    return a_record(number).record_id


def leave(state: Path, numbers: range, output: str) -> None:
    """Leave records as processes do that had no time to send them: a journal each."""
    for number in numbers:
        journal = Journal(state)
        assert journal.enqueue(a_record(number), output)
        journal.close()


def hold(state: Path, number: int, *outputs: str) -> subprocess.Popen[str]:
    """Start a process with an open run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, state, str(number), *outputs],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def journals_in(state: Path) -> list[str]:
    """The names of the journals; what says that a process has many of them is none."""
    return sorted(path.name for path in (state / FOLDER).glob("*.journal"))


def test_a_relay_that_is_killed_again_and_again_loses_nothing(tmp_path):
    """Eighty processes write a record each meanwhile; each arrives, once by its record_id."""
    count, chance = 80, random.Random(11)
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/v1/records"
    kills = 0
    with Receiver() as server:
        senders = [
            subprocess.Popen(
                [sys.executable, "-c", SENDERS, tmp_path, endpoint, str(first), str(count // 2)],
                cwd=ROOT,
                stderr=subprocess.DEVNULL,  # each says that its record waits
            )
            for first in (0, count // 2)
        ]
        while kills < 3 or any(sender.poll() is None for sender in senders):
            relay = RunningRelay(tmp_path, "--to", server.url, "--listen", f"127.0.0.1:{port}")
            time.sleep(chance.uniform(0.0, 0.5))
            relay.kill()
            kills += 1
        assert [sender.returncode for sender in senders] == [0, 0]
        code, counts, _ = relay_once(tmp_path, "--to", server.url, "--for", endpoint)

        assert (code, counts["waiting"]) == (0, 0)
        assert server.record_ids == {id_of(number) for number in range(count)}
        assert journals_in(tmp_path) == []


def test_processes_of_one_record_arrive_over_one_connection(tmp_path):
    """The receiver meets the host: hundreds of senders, one connection, few requests."""
    count = 400
    with (
        Receiver() as server,
        RunningRelay(tmp_path, "--to", server.url, "--listen", "127.0.0.1:0") as relay,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = list(pool.map(lambda n: post(relay.url, [a_record(n)])[0], range(count)))
        assert Counter(answers) == {204: count}
        assert until(lambda: len(server.records) >= count)
        assert relay.end() == 0

        assert Counter(one["record_id"] for one in server.records) == Counter(
            id_of(number) for number in range(count)
        )
        assert server.connections == 1
        assert len(server.requests) <= count / 20


def test_a_server_that_is_away_and_one_that_wants_less_get_all_in_the_end(tmp_path):
    """Refused connections, lost answers, 429 and 413: each record arrives, in few requests."""
    leave(tmp_path, range(30), "http://127.0.0.1:8788/v1/records")
    port = free_port()
    faults = [Fault(None, store=True), Fault(429, {"Retry-After": "1"})]
    with RunningRelay(
        tmp_path, "--to", f"http://127.0.0.1:{port}/records", "--listen", "127.0.0.1:0"
    ) as relay:
        for number in range(30, 60):
            assert post(relay.url, [a_record(number)])[0] == 204
        server = Receiver(
            port=port,
            batch_limit=16,
            faults=lambda number: faults[number] if number < len(faults) else None,
        )
        with server:
            assert until(lambda: len(server.record_ids) == 60)
            assert relay.end() == 0
            times = Counter(one["record_id"] for one in server.records)
            assert set(times) == {id_of(number) for number in range(60)}
            assert max(times.values()) <= 2  # those whose answer was lost
            assert len(server.requests) <= len(faults) + 20


def test_killed_writers_are_recovered_and_living_ones_left_alone(tmp_path):
    """A killed run's checkpoint arrives as a recovered row; an open run stays where it is."""
    with Receiver() as server:
        killed, living = hold(tmp_path, 1, server.url), hold(tmp_path, 2, server.url)
        elsewhere = hold(tmp_path, 3, str(tmp_path / "runs.csv"))
        for process in (killed, elsewhere):
            process.kill()
            process.communicate()
        with RunningRelay(tmp_path, "--to", server.url) as relay:
            assert until(lambda: bool(server.records))
            assert relay.end() == 0
            assert [(one["record_id"], one["status"]) for one in server.records] == [
                (id_of(1), "recovered")
            ]
            assert relay.events[-1]["recovered"] == 1
        # a file's run is not for this relay: the next run or `recover` writes it
        assert len(journals_in(tmp_path)) == 2
        assert not (tmp_path / "runs.csv").exists()
        living.communicate("")
        assert relay_once(tmp_path, "--to", server.url)[0] == 0
        assert {one["record_id"] for one in server.records} == {id_of(1), id_of(2)}


def test_once_sends_what_is_left_and_says_whether_it_could(tmp_path):
    """For the epilogue of a batch job: 0 when all has arrived, 1 while something waits."""
    other = "https://other.example/records"
    shared = tmp_path / "shared"
    state = tmp_path / "own"
    state.mkdir()
    with Receiver(token=TOKEN) as server:
        leave(shared, range(250), server.url)
        leave(state, range(250, 260), "http://127.0.0.1:8788/v1/records")
        leave(state, range(260, 261), other)
        code, counts, done = relay_once(
            state, "--to", server.url, "--state-dir", tmp_path / "sh*", CARBONTRACK_HTTP_TOKEN=TOKEN
        )
        assert (code, counts["delivered"], counts["is_complete"]) == (0, 260, True), done.stderr
        assert server.record_ids == {id_of(number) for number in range(260)}
        assert len(server.requests) <= 4
        assert len(journals_in(state)) == 1  # what is for another server
    with Receiver(faults=lambda _: Fault(503, {"Retry-After": "300"})) as busy:
        leave(state, range(300, 301), busy.url)
        code, counts, done = relay_once(state, "--to", busy.url, CARBONTRACK_HTTP_TOKEN=TOKEN)
        assert (code, counts["delivered"], counts["waiting"]) == (1, 0, 1)
        assert TOKEN not in done.stdout + done.stderr


def test_what_has_no_room_is_refused_and_what_was_taken_arrives(tmp_path):
    """A full relay says 503 with Retry-After, keeps what it has, and takes more once it is sent."""
    port = free_port()
    with RunningRelay(
        tmp_path,
        "--to",
        f"http://127.0.0.1:{port}/records",
        "--listen",
        "127.0.0.1:0",
        "--space-mib",
        "1",
    ) as relay:
        taken, batch = set(), 100
        for first in range(0, 10_000, batch):
            records = [a_record(number) for number in range(first, first + batch)]
            status, headers = post(relay.url, records)
            if status != 204:
                break
            taken |= {record.record_id for record in records}
        assert status == 503
        assert int(headers["Retry-After"]) > 0
        used = sum(path.stat().st_size for path in (tmp_path / FOLDER).iterdir())
        assert len(taken) > 500
        assert used <= 2 << 20
        with Receiver(port=port) as server:
            assert until(lambda: server.record_ids >= taken)
            assert until(lambda: post(relay.url, [a_record(20_000)])[0] == 204)
            assert relay.end() == 0, str(relay.events[-1])
            assert server.record_ids == taken | {id_of(20_000)}


def test_a_server_that_hangs_does_not_keep_the_relay_from_ending(tmp_path):
    """SIGTERM ends it within its limit, exit code 1; the next one sends what it had."""
    with Receiver(faults=lambda _: Fault(hang=True)) as server:
        relay = RunningRelay(
            tmp_path, "--to", server.url, "--listen", "127.0.0.1:0", "--finish-s", "0.2"
        )
        assert post(relay.url, [a_record(1)])[0] == 204
        assert until(lambda: bool(server.requests))
        assert relay.end() == 1
        assert relay.events[-1]["waiting"] == 1
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with Receiver(port=port) as server:
        assert relay_once(tmp_path, "--to", server.url)[0] == 0
        assert server.record_ids == {id_of(1)}


def test_tokens_stay_where_they_belong(tmp_path):
    """The server gets the relay's own token, never a client's, and no line shows either."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# one a line\n{CLIENT_TOKEN}\n")
    tokens.chmod(0o600)
    with (
        Receiver(token=TOKEN) as server,
        RunningRelay(
            tmp_path,
            *("--to", server.url, "--listen", "127.0.0.1:0", "--token-file", tokens),
            CARBONTRACK_HTTP_TOKEN=TOKEN,
        ) as relay,
    ):
        assert post(relay.url, [a_record(1)])[0] == 401
        assert post(relay.url, [a_record(1)], Authorization="Bearer wrong")[0] == 401
        bearer = f"Bearer {CLIENT_TOKEN}"
        assert post(relay.url, [a_record(1)], Authorization=bearer)[0] == 204
        assert until(lambda: bool(server.records))
        assert relay.end() == 0
        assert {one.headers["Authorization"] for one in server.requests} == {f"Bearer {TOKEN}"}
        said = relay.errors + json.dumps(relay.events)
        assert TOKEN not in said
        assert CLIENT_TOKEN not in said
    tokens.chmod(0o644)
    code, _, done = relay_once(tmp_path, "--to", server.url, "--token-file", tokens)
    assert (code, "chmod 600" in done.stderr) == (2, True)


def test_columns_of_a_later_version_go_through(tmp_path):
    """A relay that is older than its senders passes on what it does not know."""
    row = json.loads(json.dumps(dict(a_record(1).to_row()))) | {"labels": {"fold": 3}}
    with (
        Receiver() as server,
        RunningRelay(tmp_path, "--to", server.url, "--listen", "127.0.0.1:0") as relay,
    ):
        assert post(relay.url, [row | {"schema": 9, "lunar_kwh": 1.5}])[0] == 204
        assert until(lambda: bool(server.records))
        assert server.records[0] == row | {"schema": 9, "lunar_kwh": 1.5}


def test_a_program_needs_only_the_address(tmp_path):
    """`output=` with the relay's URL is enough; without a relay the next one finds the record."""
    program = (
        "import carbontrack, sys\nwith carbontrack.track(sys.argv[2], output=sys.argv[1]): pass"
    )

    def run(name: str, url: str) -> None:
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, url, name],
            cwd=tmp_path,
            env=environ_of(tmp_path / "state"),
            check=True,
            capture_output=True,
        )

    (tmp_path / "state").mkdir()
    port = free_port()
    address = f"127.0.0.1:{port}"
    with Receiver() as server:
        run("before", f"http://{address}/v1/records")
        with RunningRelay(tmp_path / "state", "--to", server.url, "--listen", address) as relay:
            run("while", relay.url)
            assert until(lambda: len(server.records) >= 2)
            assert relay.end() == 0
        assert sorted(one["name"] for one in server.records) == ["before", "while"]
        assert journals_in(tmp_path / "state") == []


@pytest.mark.skipif(not as_stranger(), reason="only root can become another user")
def test_other_users_may_not_post_unless_they_are_let_in(tmp_path):
    """Without a token a relay takes records of its own user and root, and says 403 to others."""
    program = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "r = u.Request(sys.argv[1], b'[]', {'Content-Type': 'application/json'})\n"
        "try: print(u.urlopen(r).status)\n"
        "except e.HTTPError as error: print(error.code)"
    )

    def status(url: str) -> str:
        command = [*as_stranger(), "/usr/bin/python3", "-I", "-c", program, url]
        return subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout

    with Receiver() as server:
        for options, expected in (((), "403\n"), (("--any-user",), "204\n")):
            with RunningRelay(
                tmp_path, "--to", server.url, "--listen", "127.0.0.1:0", *options
            ) as relay:
                assert status(relay.url) == expected


LEAVER = """
import sys
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from tests.support.records import a_record
journal = Journal(Path(sys.argv[1]))
assert journal.enqueue(a_record(7), sys.argv[2])
journal.close()
"""


def left_by_a_stranger(homes: Path, python: str, url: str, *needs: str) -> Path:
    """The state directory of a user whose program has ended without sending its record."""
    state = homes / "ada" / "carbontrack"
    state.mkdir(parents=True)
    os.chown(state.parent, STRANGER, STRANGER)
    os.chown(state, STRANGER, STRANGER)
    imports = "".join(f"import {name}\n" for name in needs)
    done = subprocess.run(
        [*as_stranger(), python, "-c", imports + LEAVER, state, url],
        cwd="/",
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"another user cannot use this installation: {done.stderr[-200:]}")
    return state


@pytest.mark.skipif(not as_stranger(), reason="only root looks into the folders of others")
def test_root_sends_what_other_users_have_left(tmp_path):
    """Each folder is worked off with its owner's rights, and keeps its owner and its modes."""
    with public_folder() as homes, Receiver() as server:
        python = public_interpreter(homes / "venv")
        state = left_by_a_stranger(homes, python, server.url, "requests")
        code, counts, relayed = relay_once(
            tmp_path,
            *("--to", server.url, "--state-dir", homes / "*" / "carbontrack"),
            python=python,
        )
        assert (code, counts["delivered"]) == (0, 1), relayed.stderr
        assert server.record_ids == {id_of(7)}
        assert journals_in(state) == []
        assert {path.stat().st_uid for path in state.rglob("*")} == {STRANGER}


@pytest.mark.skipif(not as_stranger(), reason="only root looks into the folders of others")
def test_an_owner_who_cannot_load_the_package_is_told_of(tmp_path):
    """The record stays where it is, and the exit code says that something waits."""
    with public_folder() as homes, Receiver() as server:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        (closed / "libraries").symlink_to(Path(str(requests.__file__)).parents[1])
        python = public_interpreter(homes / "venv", closed / "libraries")
        state = left_by_a_stranger(homes, python, server.url)
        code, counts, relayed = relay_once(
            tmp_path,
            *("--to", server.url, "--state-dir", homes / "*" / "carbontrack"),
            python=python,
        )
        assert (code, counts["delivered"]) == (1, 0)
        assert "can its owner import carbontrack?" in relayed.stderr
        assert len(journals_in(state)) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--listen", "0.0.0.0:8788"], "loopback"),
        (["--listen", "127.0.0.1:high"], "port"),
        (["--listen", "127.0.0.1:0", "--once"], "--once"),
        (["--listen", "127.0.0.1:0", "--any-user", "--token-file", "x"], "--token-file"),
        (["--to", "ftp://carbon.example/"], "http"),
        (["--to", "http://127.0.0.1:8788/v1/records", "--listen"], "where this relay listens"),
        (["--space-mib", "0"], "whole number"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_starts(tmp_path, options, told):
    """Exit code 2, with what is wrong."""
    given = options if "--to" in options else ["--to", "http://127.0.0.1:9/records", *options]
    done = subprocess.run(
        [sys.executable, "-m", "carbontrack", "relay", *given],
        cwd=tmp_path,
        env=environ_of(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert told in done.stderr


def test_the_examples_use_options_that_exist():
    """The units of systemd and the epilogue of SLURM in docs/examples/relay."""
    command = [sys.executable, "-m", "carbontrack", "relay", "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    examples = sorted((ROOT / "docs" / "examples" / "relay").iterdir())
    assert len(examples) == 3
    for example in examples:
        text = example.read_text(encoding="utf-8").replace("\\\n", " ")
        line = next(one for one in text.splitlines() if "carbontrack relay" in one)
        options = re.findall(r" (--[a-z-]+)", line.partition("carbontrack relay")[2])
        assert {"--to"} < set(options)
        assert [option for option in options if f"{option} " not in f"{told} "] == []
    epilogue = ROOT / "docs" / "examples" / "relay" / "epilog.sh"
    subprocess.run(["sh", "-n", epilogue], check=True)
