"""What lies in place of a journal: nothing waits for it, or is lost for it, and it is told once."""

from __future__ import annotations

import json
import os
import socket
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.file import encoded, entry_line
from carbontrack.sinks.journal.journal import CALL, FOLDER, RUN, SEND, Journal, leftover_journals
from carbontrack.sinks.journal.names import ASIDE_FOLDER, SetAside
from carbontrack.sinks.journal.open_entries import open_entries
from carbontrack.sinks.journal.open_runs import open_runs
from carbontrack.sinks.journal.recovery import pick_up, recover
from carbontrack.sinks.sync import drain
from tests.support.records import a_record

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the locks of POSIX")
Make = Callable[[Path], object]


def line_of(text: str) -> bytes:
    """A text with its checksum, whether JSON or not."""
    return b"%08x %s\n" % (zlib.crc32(text.encode()), text.encode())


def run_of(**changes: object) -> bytes:
    """An open run of which something is not as it should be."""
    entry = {"record": {"record_id": "r", "run_id": "r", "name": "n", "started_at": "2026"}}
    return entry_line((RUN, "r"), {**entry, "outputs": [], **changes})


def record_with(cell: str) -> bytes:
    """A finished record with a cell of JSON."""
    row = json.dumps({k: v for k, v in a_record(7).to_row().items() if v is not None})
    key = json.dumps([SEND, "/tmp/none.csv", "r"])
    return line_of(f'{{"put": {key}, "record": {row[:-1]}, "energy_kwh": {cell}}}}}')


def whole_run() -> bytes:
    """An open run that could be recovered, if it were ours."""
    return entry_line((RUN, "r"), {"record": dict(a_record(7).to_row()), "outputs": []})


CONTENTS = {
    "text": b"dear diary\n" * 3,
    "text without an end": b"dear diary",
    "zeros of a power failure": b"\0" * 4096,
    "bytes": bytes(range(256)) * 9,
    "other checksums": b"00000000 {}\n",
    "no object": line_of("[1, 2]"),
    "a nested bomb": line_of("[" * 100_000),
    "a nested bomb in an object": line_of('{"put":' + "[" * 100_000),
    "a number of a million digits": line_of('{"put": ' + "9" * 1_000_000 + "}"),
    "another version": encoded({"put": ["span", "x"], "version": 9}),
    "an entry that is none": encoded({"open": ["run", "x"]}),
    "a key of numbers": encoded({"put": [RUN, 3], "record": {}}),
    "a key too short": encoded({"put": [SEND, "/a.csv"], "record": {}}),
    "a key too long": encoded({"put": [CALL, "a", "b"]}),
    "an empty key": encoded({"put": []}),
    "a run without a record": run_of(record=None),
    "a run of a list": run_of(record=[1]),
    "a run of other types": run_of(record={"record_id": {}, "run_id": [], "name": 1}),
    "a run without outputs": run_of(outputs="/tmp/x.csv"),
    "a run with other outputs": entry_line(
        (RUN, "r"), {"record": dict(a_record().to_row()), "outputs": [1]}
    ),
    "an infinite number": record_with("1e999"),
    "a whole number that is none": record_with('1, "calls": 1e999'),
    "labels that are a bomb": record_with('1, "labels": "' + "[" * 100_000 + '"'),
}
KINDS: dict[str, Make] = {
    name: lambda path, content=content: path.write_bytes(content)  # type: ignore[misc]
    for name, content in CONTENTS.items()
} | {
    "a folder": lambda path: path.mkdir(),
    "a full folder": lambda path: (path / "x").mkdir(parents=True),
    "a pipe": os.mkfifo,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a link to nothing": lambda path: path.symlink_to("/nonexistent"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a socket": lambda path: bound(path, Path.cwd()),
    "a huge file": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    "another user's": lambda path: given_away(path, whole_run()),
}


def bound(path: Path, folder: Path) -> None:
    os.chdir(path.parent)  # a socket's name may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(folder)


def given_away(path: Path, content: bytes) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file away")
    path.write_bytes(content)
    os.chown(path, 12345, 12345)


def left_behind(state: Path, output: Path) -> Path:
    """A state folder with the journal of a killed process; its folder of journals."""
    journal = Journal(state)
    journal.checkpoint(a_record(1), [str(output)])
    own = journal._state.get()
    assert own.file is not None
    own.file.abandon()
    return state / FOLDER


@pytest.mark.parametrize("name", ["00.journal", "zz.journal"], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_journal_is_set_aside_and_the_others_are_recovered(
    tmp_path: Path, kind: str, name: str
) -> None:
    """Before or after a good one; moved as it is, told once, and never looked at again."""
    place = left_behind(tmp_path / "state", tmp_path / "rows.csv")
    KINDS[kind](place / name)
    before = (place / name).lstat()
    first, second = SetAside(), SetAside()
    recovered = recover(tmp_path / "state", on_set_aside=first)
    again = recover(tmp_path / "state", on_set_aside=second)
    (aside,) = (tmp_path / "state" / ASIDE_FOLDER).iterdir()

    assert [(one.record.record_id, one.trouble) for one in recovered] == [
        (a_record(1).record_id, None)
    ]
    assert [record.record_id for record in iter_records(tmp_path / "rows.csv")] == [
        a_record(1).record_id
    ]
    assert (first.count, second.count, again) == (1, 0, [])
    assert list(place.iterdir()) == []
    assert aside.name == name
    assert aside.lstat().st_ino == before.st_ino


def test_a_start_tells_it_in_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However many there are; with their number, and where they are."""
    place = left_behind(tmp_path / "state", tmp_path / "rows.csv")
    for number in range(20):
        (place / f"{number}.journal").write_bytes(b"garbage\n")
    pick_up(tmp_path / "state")
    pick_up(tmp_path / "state")
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]

    assert len(warnings) == 1
    assert warnings[0].startswith("20 files are not journals that can be read")
    assert str(tmp_path / "state" / ASIDE_FOLDER) in warnings[0]
    assert len(list((tmp_path / "state" / ASIDE_FOLDER).iterdir())) == 20


def test_a_command_tells_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever looks through the journals, also to send what waits in them."""
    place = left_behind(tmp_path / "state", tmp_path / "rows.csv")
    for number in range(20):
        (place / f"{number}.journal").write_bytes(b"garbage\n")
    assert drain(tmp_path / "state") == []
    assert [record.message[:26] for record in caplog.records] == ["20 files are not journals "]


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_can_be_understood_beside_it_is_recovered_first(tmp_path: Path, kind: str) -> None:
    """A journal with one bad line is worked off; then it is set aside, with all that it has."""
    place = left_behind(tmp_path / "state", tmp_path / "rows.csv")
    (path,) = place.iterdir()
    content = path.read_bytes() + CONTENTS[kind]
    path.write_bytes(content)
    aside = SetAside()
    (recovered,) = recover(tmp_path / "state", on_set_aside=aside)
    (moved,) = (tmp_path / "state" / ASIDE_FOLDER).iterdir()

    assert recovered.trouble is None
    assert len(list(iter_records(tmp_path / "rows.csv"))) == 1
    assert aside.count == 1
    assert CONTENTS[kind] in moved.read_bytes()
    assert list(place.iterdir()) == []


def test_a_line_that_a_kill_cut_off_is_no_reason(tmp_path: Path) -> None:
    """Wherever it was cut: such a journal is recovered, and deleted."""
    place = left_behind(tmp_path / "state", tmp_path / "rows.csv")
    (path,) = place.iterdir()
    whole = path.read_bytes()
    for cut in range(1, len(whole), 7):
        path.write_bytes(whole + whole[:cut])
        aside = SetAside()
        recover(tmp_path / "state", on_set_aside=aside)
        assert aside.count == 0
        assert not path.exists()


def test_two_of_one_name_are_both_kept(tmp_path: Path) -> None:
    """What is set aside replaces nothing."""
    place = left_behind(tmp_path / "state", tmp_path / "rows.csv")
    for number in range(3):
        (place / "x.journal").write_bytes(b"garbage %d\n" % number)
        recover(tmp_path / "state", on_set_aside=SetAside())
    assert len(list((tmp_path / "state" / ASIDE_FOLDER).iterdir())) == 3


def test_no_link_is_followed_to_where_they_go(tmp_path: Path) -> None:
    """A link in the folder's place leaves everything where it is, and is told."""
    place = left_behind(tmp_path / "state", tmp_path / "rows.csv")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state" / ASIDE_FOLDER).symlink_to(tmp_path / "elsewhere")
    (place / "x.journal").write_bytes(b"garbage\n")
    unreadable: list[Path] = []
    recover(tmp_path / "state", on_unreadable=lambda path, error: unreadable.append(path))

    assert unreadable == [place / "x.journal"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_readers_of_running_journals_pass_it_over(tmp_path: Path, kind: str) -> None:
    """A child at its start, and `carbontrack top`: neither waits, nor follows, nor fails."""
    place = tmp_path / FOLDER
    place.mkdir(mode=0o700)
    path = place / f"00000000-{os.getpid()}-0.0.journal"
    KINDS[kind](path)
    try:
        found = open_entries(path)
    except OSError:
        assert kind not in CONTENTS
    else:
        assert {entry.pid_namespace for entry in found} <= {""}  # of no process that is known
    runs = open_runs(tmp_path, boot_id="00000000", start_of=lambda _: 0.0)
    assert {run.record.record_id for run in runs} <= {a_record().record_id, a_record(7).record_id}


def test_a_journal_that_is_written_is_never_set_aside(tmp_path: Path) -> None:
    """Whatever is in it: its lock shows that its process runs."""
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(1), [])
    (path,) = (tmp_path / FOLDER).iterdir()
    with path.open("ab") as file:
        file.write(b"garbage\n")
    assert list(leftover_journals(tmp_path)) == []
    assert path.exists()
