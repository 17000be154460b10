"""`carbontrack sync` and `carbontrack recover`, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.journal import Journal
from carbontrack.testing.receiver import Receiver
from tests.support.records import a_record

ROOT = Path(__file__).parents[3]
TOKEN = "secret-7d1f-token"


def carbontrack(state_dir: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "carbontrack", *args],
        cwd=state_dir,
        env=os.environ
        | {"CARBONTRACK_STATE_DIR": str(state_dir), "PYTHONPATH": str(ROOT)}
        | environ,
        capture_output=True,
        text=True,
        check=False,
    )


WITH_FEW_DESCRIPTORS = """
import os, resource, sys
from carbontrack.cli import main

free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free + int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""


def with_few_descriptors(
    count: int, state_dir: Path, *args: str
) -> subprocess.CompletedProcess[str]:
    """A command in a process that can open only so many files at a time."""
    return subprocess.run(
        [sys.executable, "-c", WITH_FEW_DESCRIPTORS, str(count), *args],
        cwd=state_dir,
        env=os.environ | {"CARBONTRACK_STATE_DIR": str(state_dir), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


needs_limits = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of descriptors")


@needs_limits
def test_more_journals_than_descriptors_are_sent(tmp_path: Path) -> None:
    """Of any number of journals all are sent, one at a time."""
    with Receiver() as receiver:
        for number in range(40):
            journal = Journal(tmp_path)
            journal.enqueue(a_record(number), receiver.url)
            journal.close()
        ran = with_few_descriptors(20, tmp_path, "sync")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"{receiver.url}: 40 delivered\n"
    assert len(receiver.record_ids) == 40
    assert list((tmp_path / "journal").iterdir()) == []


@needs_limits
def test_more_journals_than_descriptors_are_recovered(tmp_path: Path) -> None:
    """Of any number of killed runs all are written, one at a time."""
    for number in range(40):
        journal = Journal(tmp_path)
        journal.checkpoint(a_record(number), [str(tmp_path / "runs.csv")])
        journal.close()
    ran = with_few_descriptors(20, tmp_path, "recover")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(list(iter_records(tmp_path / "runs.csv"))) == 40
    assert list((tmp_path / "journal").iterdir()) == []


@needs_limits
@pytest.mark.parametrize("command", ["sync", "recover"])
def test_a_journal_that_cannot_be_opened_is_not_taken_for_nothing(
    tmp_path: Path, command: str
) -> None:
    """Where there is no descriptor for it, the exit code is 1 and a line says what is left."""
    for number in range(3):
        journal = Journal(tmp_path)
        journal.enqueue(a_record(number), "https://carbon.example/records")
        journal.close()
    ran = with_few_descriptors(1, tmp_path, command)

    assert ran.returncode == 1
    assert "3 journals could not be read, and the records in them are still waiting" in ran.stderr
    assert "Too many open files" in ran.stderr
    assert ran.stdout == {"sync": "nothing could be sent\n"}.get(
        command, "no run could be recovered\n"
    )
    assert len(list((tmp_path / "journal").iterdir())) == 3


def test_sync_finds_what_a_sink_made_by_hand_has_left(tmp_path: Path) -> None:
    """`carbontrack.HttpSink` keeps its journal where the settings say, as `sync` looks there."""
    with Receiver() as receiver:
        url = receiver.url
    writes = (
        "import sys, carbontrack; from tests.support.records import a_record;"
        "sink = carbontrack.HttpSink(sys.argv[1], exit_timeout_s=0.2);"
        "sink.write(a_record()); sink.close(); print(sink.path)"
    )
    wrote = subprocess.run(
        [sys.executable, "-c", writes, url],
        cwd=ROOT,
        env=os.environ | {"CARBONTRACK_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    with Receiver(port=int(url.split(":")[2].split("/")[0])) as receiver:
        ran = carbontrack(tmp_path, "sync")

    assert wrote.stdout == f"{tmp_path}\n"
    assert (ran.returncode, ran.stdout) == (0, f"{url}: 1 delivered\n")
    assert receiver.record_ids == {a_record().record_id}


def test_sync_sends_and_tells(tmp_path: Path) -> None:
    """With the right token all arrives, exit code 0; the token is in no output."""
    with Receiver(token=TOKEN) as receiver:
        journal = Journal(tmp_path)
        for number in range(3):
            journal.enqueue(a_record(number), f"{receiver.url}?key=query-secret")
        journal.close()
        ran = carbontrack(
            tmp_path,
            "sync",
            "--json",
            CARBONTRACK_HTTP_TOKEN=TOKEN,
            CARBONTRACK_OUTPUT=f"{receiver.url}?key=query-secret",
        )
        again = carbontrack(tmp_path, "sync")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == {
        "addresses": [
            {"url": receiver.url, "delivered": 3, "refused": 0, "remaining": 0, "trouble": None}
        ],
        "remaining": 0,
    }
    assert len(receiver.record_ids) == 3
    assert (again.returncode, again.stdout) == (0, "nothing is waiting to be sent\n")


def test_sync_can_be_kept_to_one_address(tmp_path: Path) -> None:
    """What waits for another address is left alone, and goes out when it is asked for."""
    with Receiver() as receiver:
        url = receiver.url
    journal = Journal(tmp_path)
    journal.enqueue(a_record(), url)
    journal.close()
    only_other = carbontrack(tmp_path, "sync", "--url", "http://127.0.0.1:1/")
    with Receiver(port=int(url.split(":")[2].split("/")[0])) as receiver:
        carbontrack(tmp_path, "sync")

    assert only_other.returncode == 0
    assert receiver.record_ids == {a_record().record_id}


def test_recover_writes_and_tells(tmp_path: Path) -> None:
    """What a killed run left is written to its output, told once, and not again."""
    place = tmp_path / "runs.csv"
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(name="night run"), [str(place), "https://carbon.example/x?k=s"])
    journal.close()
    ran = carbontrack(tmp_path, "recover")
    again = carbontrack(tmp_path, "recover")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"written to {place}" in ran.stdout
    assert "waiting for https://carbon.example/x; to send it: carbontrack sync" in ran.stdout
    assert [record.status for record in iter_records(place)] == ["recovered"]
    assert again.stdout == "there is nothing to recover\n"


def test_recover_tells_what_may_be_lost(tmp_path: Path) -> None:
    """After a kill, with the settings that bound it; not of records that were finished."""
    place = tmp_path / "runs.csv"
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(), [str(place)])
    journal.close()
    killed = carbontrack(tmp_path, "recover")
    journal = Journal(tmp_path)
    journal.enqueue(a_record(1), str(place))
    journal.close()
    finished = carbontrack(tmp_path, "recover")

    lost = "What a killed process used after the time shown is lost:"
    assert killed.stdout.splitlines()[1:] == [
        lost,
        "  open blocks: about checkpoint_s at most (10 s by default)",
        "  short calls: about interval_s at most (1 s by default)",
    ]
    assert f"written to {place}" in finished.stdout
    assert lost not in finished.stdout


def test_recover_as_json(tmp_path: Path) -> None:
    """The records are printed whole, with where they went and what went wrong."""
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(1), [str(tmp_path / "absent" / "runs.csv")])
    journal.close()
    ran = carbontrack(tmp_path, "recover", "--json")
    (found,) = json.loads(ran.stdout)

    assert ran.returncode == 1
    assert Record.from_row(found["record"]) == a_record(1, status="recovered")
    assert found["output"] == str(tmp_path / "absent" / "runs.csv")
    assert "does not exist" in found["trouble"]
