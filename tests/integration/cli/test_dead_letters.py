"""`carbontrack sync --dead-letters`: what a server has refused is sent again."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from carbontrack.report.read import iter_records
from carbontrack.sinks.delivery import letters_name, write_dead_letters
from carbontrack.sinks.post import PostResult
from carbontrack.sinks.resend import resend
from carbontrack.system.clock import SystemClock
from carbontrack.testing.receiver import Fault, Receiver
from tests.support.records import a_record
from tests.support.said import said

ROOT = Path(__file__).parents[3]
TOKEN = "secret-7d1f-token"
NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)

PROGRAM = """
import sys
import carbontrack
with carbontrack.auto(region="FR", output=sys.argv[1], http_token=sys.argv[2]) as tracker:
    for number in range(20):
        with tracker.span(f"r{number}"):
            pass
"""


class Picky(Receiver):
    """A server that takes no batch with the third record."""

    def answer(self, headers: Mapping[str, str], body: bytes) -> Fault:
        ids = {record["record_id"] for record in json.loads(body)}
        return Fault(422) if a_record(3).record_id in ids else super().answer(headers, body)


class Hasty(SystemClock):
    """The real clock, on which waits are a hundred times shorter."""

    def wait(self, event, timeout_s):
        return event.wait(None if timeout_s is None else timeout_s / 100)


def run(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "CARBONTRACK_STATE_DIR": str(folder / "state")}
        | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def sync(folder: Path, *options: str, token: str | None = TOKEN):
    """Run the command; its exit code, and what it prints as JSON."""
    environ = {} if token is None else {"CARBONTRACK_HTTP_TOKEN": token}
    done = run("-m", "carbontrack", "sync", "--dead-letters", "--json", *options,
               folder=folder, **environ)  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def letters_in(folder: Path) -> list[Path]:
    return sorted((folder / "state" / "dead-letter").iterdir())


def set_aside(folder: Path, output: str, *numbers: int) -> Path:
    """Records that a server has refused."""
    records = [a_record(number) for number in numbers]
    refused = PostResult("refused", "HTTP 403", 403)
    return write_dead_letters(folder / "state", output, records, refused, now=NOW)


def test_a_wrong_token_is_said_once_and_put_right(tmp_path: Path) -> None:
    """One warning with what to do; then, with the right token, everything arrives."""
    with Receiver(token=TOKEN) as receiver:
        ran = run("-c", PROGRAM, receiver.url, "wrong-1a2b", folder=tmp_path)
        assert ran.returncode == 0
        (sentence,) = said(ran.stderr)
        assert sentence.startswith(f"{receiver.url} rejects records (HTTP 401)")
        assert "check the token (CARBONTRACK_HTTP_TOKEN)" in sentence
        assert "carbontrack sync --dead-letters" in sentence
        assert "wrong-1a2b" not in ran.stderr

        here = ("--url", receiver.url)
        still_wrong = sync(tmp_path, *here, token="wrong-1a2b")
        assert (still_wrong[0], still_wrong[1]["remaining"]) == (1, 20)
        assert still_wrong[1]["files"][0]["trouble"] == "HTTP 401"
        assert receiver.records == []

        code, found = sync(tmp_path, *here)
        assert (code, found["remaining"], found["unreadable"]) == (0, 0, 0)
        assert [file["delivered"] for file in found["files"]] == [20]
        assert {record["name"] for record in receiver.records} == {f"r{n}" for n in range(20)}
    assert letters_in(tmp_path) == []
    assert sync(tmp_path) == (0, {"files": [], "remaining": 0, "unreadable": 0})


def test_what_is_refused_again_stays(tmp_path: Path) -> None:
    """One record that the server does not want stays as it was; the others leave."""
    with Picky() as receiver:
        path = set_aside(tmp_path, receiver.url, 0, 1, 2, 3, 4)
        before = path.read_bytes().splitlines(keepends=True)
        code, found = sync(tmp_path)
        assert receiver.record_ids == {a_record(n).record_id for n in (0, 1, 2, 4)}

    assert (code, found["remaining"], found["files"][0]["delivered"]) == (1, 1, 4)
    assert path.read_bytes() == before[3]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_of_a_record_that_is_there_twice_the_finished_one_is_sent(tmp_path: Path) -> None:
    """Not what was recovered of it, whichever was refused first."""
    recovered = [a_record(number, status="recovered") for number in (0, 1)]
    refused = PostResult("refused", "HTTP 403", 403)
    with Receiver() as receiver:
        set_aside(tmp_path, receiver.url, 0)
        write_dead_letters(tmp_path / "state", receiver.url, recovered, refused, now=NOW)
        set_aside(tmp_path, receiver.url, 1)
        code, found = sync(tmp_path)
        assert (code, found["remaining"]) == (0, 0)
        assert [one["status"] for one in receiver.records] == ["ok", "ok"]
    assert letters_in(tmp_path) == []


def test_lines_that_hold_no_record_stay_and_are_counted(tmp_path: Path) -> None:
    """Whatever an editor or a full disk has made of them."""
    junk = [b"garbage\n", b"{}\n", b'{"record": 5}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"]
    junk.append(b"cut off")
    with Receiver() as receiver:
        path = set_aside(tmp_path, receiver.url, 0, 1)
        path.write_bytes(path.read_bytes() + b"".join(junk))
        code, found = sync(tmp_path)
        assert len(receiver.records) == 2
    assert (code, found["remaining"], found["unreadable"]) == (1, 0, len(junk))
    assert path.read_bytes() == b"".join(junk)

    text = run("-m", "carbontrack", "sync", "--dead-letters", folder=tmp_path)
    assert f"{len(junk)} unreadable, still in {path}" in text.stdout


def test_a_server_that_is_away_costs_nothing(tmp_path: Path) -> None:
    """Its records stay, with the reason; those of another server go."""
    with Receiver() as receiver:
        set_aside(tmp_path, receiver.url, 0)
        gone = set_aside(tmp_path, "http://127.0.0.1:9/records?key=hunter2", 1, 2)
        before = gone.read_bytes()
        found = resend(tmp_path / "state", clock=Hasty())
        assert receiver.record_ids == {a_record(0).record_id}
    assert sorted((one.delivered, one.remaining) for one in found) == [(0, 2), (1, 0)]
    assert gone.read_bytes() == before


def test_only_one_address(tmp_path: Path) -> None:
    """`--url` chooses, also for files of older versions, whose lines do not name theirs."""
    with Receiver() as one, Receiver() as other:
        set_aside(tmp_path, one.url, 0)
        old = set_aside(tmp_path, other.url, 1)
        old.write_bytes(old.read_bytes().replace(b',"output":', b',"was":'))
        assert old.name == letters_name(other.url)

        code, found = sync(tmp_path, "--url", one.url)
        assert (len(one.records), len(other.records)) == (1, 0)
        code, found = sync(tmp_path)
        assert (code, found["files"][0]["output"]) == (1, None)
        assert "give it with --url" in found["files"][0]["trouble"]
        code, found = sync(tmp_path, "--url", other.url)
        assert (code, len(other.records)) == (0, 1)
        assert one.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_the_configured_output_is_an_address_that_is_known(tmp_path: Path) -> None:
    """An older file is matched with the setting `output`, too."""
    with Receiver() as receiver:
        old = set_aside(tmp_path, receiver.url, 1)
        old.write_bytes(old.read_bytes().replace(b',"output":', b',"was":'))
        done = run("-m", "carbontrack", "sync", "--dead-letters", folder=tmp_path,
                   CARBONTRACK_OUTPUT=receiver.url)  # fmt: skip
        assert (done.returncode, done.stdout) == (0, f"{receiver.url}: 1 delivered\n")


def test_a_key_in_an_address_is_not_shown(tmp_path: Path) -> None:
    """The query of a URL is where some servers want their key."""
    with Receiver() as receiver:
        set_aside(tmp_path, f"{receiver.url}?key=hunter2", 1)
        done = run("-m", "carbontrack", "sync", "--dead-letters", folder=tmp_path)
    assert done.stdout == f"{receiver.url}: 1 delivered\n"
    assert done.stderr == ""


def test_records_of_a_file_are_written_to_it(tmp_path: Path) -> None:
    """What could not be written for a week is set aside, too, and is written where it belongs."""
    output = tmp_path / "out" / "runs.csv"
    path = set_aside(tmp_path, str(output), 0, 1)
    assert sync(tmp_path)[0] == 1
    output.parent.mkdir()
    code, found = sync(tmp_path)

    assert (code, found["files"][0]["delivered"]) == (0, 2)
    assert len(list(iter_records(output))) == 2
    assert not path.exists()


def test_what_is_set_aside_meanwhile_is_kept(tmp_path: Path) -> None:
    """Other processes add to the file while it is being sent, and while it is replaced."""
    numbers = range(1000, 1100)

    def add() -> None:
        for number in numbers:
            set_aside(tmp_path, receiver.url, number)

    with Receiver() as receiver:
        set_aside(tmp_path, receiver.url, *range(300))
        thread = threading.Thread(target=add)
        thread.start()
        while thread.is_alive():
            resend(tmp_path / "state")
        thread.join()
        resend(tmp_path / "state")
        assert receiver.record_ids == {a_record(n).record_id for n in (*range(300), *numbers)}
    assert letters_in(tmp_path) == []


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A directory in its place, for example."""
    (tmp_path / "state" / "dead-letter" / "x.ndjson").mkdir(parents=True)
    done = run("-m", "carbontrack", "sync", "--dead-letters", folder=tmp_path)
    assert done.returncode == 1
    assert "x.ndjson" in done.stderr


def test_a_link_among_dead_letters_is_not_followed(tmp_path: Path) -> None:
    """Neither read nor written, where somebody has planted one, nor is a pipe waited for."""
    with Receiver(faults=lambda _: Fault(410)) as receiver:
        path = set_aside(tmp_path, receiver.url, 0)
        elsewhere = tmp_path / "elsewhere"
        path.rename(elsewhere)
        before = elsewhere.read_bytes()
        path.symlink_to(elsewhere)
        os.mkfifo(path.with_name("pipe.ndjson"))
        done = run("-m", "carbontrack", "sync", "--dead-letters", folder=tmp_path)
        assert (done.returncode, receiver.requests) == (1, [])
        assert "2 journals could not be read" in done.stderr

        ran = run("-c", PROGRAM, receiver.url, TOKEN, folder=tmp_path)
        assert ran.returncode == 0
        assert "they could not be set aside" in ran.stderr
    assert elsewhere.read_bytes() == before
    assert len(list((tmp_path / "state" / "journal").iterdir())) == 1


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """What a server refuses stays in the journal then."""
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state" / "dead-letter").symlink_to(tmp_path / "elsewhere")
    with Receiver(faults=lambda _: Fault(410)) as receiver:
        assert run("-c", PROGRAM, receiver.url, TOKEN, folder=tmp_path).returncode == 0
        done = run("-m", "carbontrack", "sync", "--dead-letters", folder=tmp_path)
    assert done.returncode == 1
    assert "it is a link or a file" in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(list((tmp_path / "state" / "journal").iterdir())) == 1
