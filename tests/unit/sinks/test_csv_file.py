"""The CSV sink: one header, whole rows, and a clear no before anything starts."""

from __future__ import annotations

import csv
import os
import stat
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError, SinkError
from carbontrack.record import COLUMNS
from carbontrack.report.read import iter_records
from carbontrack.sinks import buffered
from carbontrack.sinks.csv_file import HEADER, CsvSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.journal.recovery import recover
from tests.support.records import HOSTILE, a_record

GOLDEN = Path(__file__).parents[2] / "golden"
HOSTILE_NAME = '=1+1, "x"\nsecond line 🌍'


def test_the_file_is_the_golden_one(tmp_path: Path) -> None:
    """Header and row of schema 2 are, byte for byte, what they were when it was released."""
    sink = CsvSink(tmp_path / "runs.csv")
    sink.write(a_record(name=HOSTILE_NAME, gpu_kwh=None, parent_holds=True, attempt=1))

    assert (tmp_path / "runs.csv").read_bytes() == (GOLDEN / "schema-2.csv").read_bytes()


def test_a_file_of_schema_1_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    """New rows go beside it, since they have more columns; its own are read as before."""
    old = tmp_path / "runs.csv"
    old.write_bytes((GOLDEN / "schema-1.csv").read_bytes())
    with pytest.warns(UserWarning, match="other columns"):
        CsvSink(old).write(a_record(2))

    assert old.read_bytes() == (GOLDEN / "schema-1.csv").read_bytes()
    assert list(iter_records(old)) == [a_record(schema=1, name=HOSTILE_NAME, gpu_kwh=None)]
    assert list(iter_records(tmp_path / "runs.schema-2.csv")) == [a_record(2)]


def test_a_spreadsheet_finds_nothing_to_calculate(tmp_path: Path) -> None:
    """No text cell begins with a sign that starts a formula, for the whole hostile corpus."""
    sink = CsvSink(tmp_path / "runs.csv")
    for number, text in enumerate(HOSTILE):
        sink.write(a_record(number, name=text, error=text, cpu_model=text, region=text))
    with (tmp_path / "runs.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]

    assert len(cells) == len(COLUMNS) * (len(HOSTILE) + 1)
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []


def test_negative_numbers_stay_numbers(tmp_path: Path) -> None:
    """Only text is marked; a negative number in a number's column is written as it is."""
    CsvSink(tmp_path / "runs.csv").write(a_record(energy_low_kwh=-1e-7))

    assert next(iter_records(tmp_path / "runs.csv")).energy_low_kwh == -1e-7
    assert b",-1e-07," in (tmp_path / "runs.csv").read_bytes()


@pytest.mark.parametrize(("text", "written"), [("a\0b", "a\\x00b"), ("x\udcff", "x\\udcff")])
def test_what_no_text_file_can_hold_is_escaped(tmp_path: Path, text: str, written: str) -> None:
    """NUL and lone surrogates are written as escapes, and the file stays readable UTF-8."""
    CsvSink(tmp_path / "runs.csv").write(a_record(name=text))

    assert next(iter_records(tmp_path / "runs.csv")).name == written
    assert (tmp_path / "runs.csv").read_text(encoding="utf-8").isprintable() is False


def test_the_file_follows_the_umask(tmp_path: Path) -> None:
    """The output is the user's own file, readable for whom the user's umask says."""
    before = os.umask(0o027)
    try:
        CsvSink(tmp_path / "runs.csv").write(a_record())
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "runs.csv").stat().st_mode) == 0o640


def test_nothing_is_created_before_the_first_record(tmp_path: Path) -> None:
    """A sink that is never written to leaves no file."""
    CsvSink(tmp_path / "runs.csv").close()

    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_gets_the_header(tmp_path: Path) -> None:
    """A file that `touch` or a temporary-file library made is used as if it were new."""
    (tmp_path / "runs.csv").touch()
    CsvSink(tmp_path / "runs.csv").write(a_record())

    assert (tmp_path / "runs.csv").read_bytes().startswith(HEADER)
    assert list(iter_records(tmp_path / "runs.csv")) == [a_record()]


def test_a_header_that_a_full_disk_cut_off_is_completed(tmp_path: Path) -> None:
    """The rest of a torn header is written before the first row."""
    (tmp_path / "runs.csv").write_bytes(HEADER[:100])
    CsvSink(tmp_path / "runs.csv").write(a_record())

    assert (tmp_path / "runs.csv").read_bytes().startswith(HEADER)
    assert list(iter_records(tmp_path / "runs.csv")) == [a_record()]


@pytest.mark.parametrize("foreign", [b"timestamp,project_name,run_id\n1,2,3\n", b"schema,x\n"])
def test_a_file_with_other_columns_is_left_alone(tmp_path: Path, foreign: bytes) -> None:
    """Rows under another header go to a new file beside it, and that is said once."""
    place = tmp_path / "emissions.csv"
    place.write_bytes(foreign)
    with pytest.warns(UserWarning, match=r"other columns.*emissions\.schema-2\.csv"):
        sink = CsvSink(place)
    sink.write(a_record())

    assert place.read_bytes() == foreign
    assert sink.path == tmp_path / "emissions.schema-2.csv"
    assert list(iter_records(sink.path)) == [a_record()]


def test_a_warning_turned_error_stops_nobody(tmp_path: Path) -> None:
    """Where warnings are errors, the notice about the new name is in the log only."""
    (tmp_path / "emissions.csv").write_bytes(b"x,y\n")
    sink = CsvSink(tmp_path / "emissions.csv")  # this suite turns warnings into errors

    assert sink.path.name == "emissions.schema-2.csv"


def test_the_next_name_beside_is_used_when_that_too_is_foreign(tmp_path: Path) -> None:
    """Names beside the output are tried in order until one is free or has our header."""
    (tmp_path / "emissions.csv").write_bytes(b"x,y\n")
    (tmp_path / "emissions.schema-2.csv").write_bytes(b"z\n")
    CsvSink(tmp_path / "emissions.csv").write(a_record(1))
    CsvSink(tmp_path / "emissions.csv").write(a_record(2))

    assert len(list(iter_records(tmp_path / "emissions.schema-2-2.csv"))) == 2


def test_a_file_replaced_while_running_is_noticed(tmp_path: Path) -> None:
    """When another program puts its own table in our place, later rows go beside it."""
    place = tmp_path / "runs.csv"
    sink = CsvSink(place)
    sink.write(a_record(1))
    place.unlink()
    place.write_bytes(b"a,b\n" + b"1,2\n" * 1000)
    sink.write(a_record(2))

    assert place.read_bytes() == b"a,b\n" + b"1,2\n" * 1000
    assert list(iter_records(tmp_path / "runs.schema-2.csv")) == [a_record(2)]


def test_a_deleted_file_is_made_again(tmp_path: Path) -> None:
    """A log rotation or a cleaning user costs no later record: the file comes back, with header."""
    sink = CsvSink(tmp_path / "runs.csv")
    sink.write(a_record(1))
    (tmp_path / "runs.csv").unlink()
    sink.write(a_record(2))

    assert list(iter_records(tmp_path / "runs.csv")) == [a_record(2)]


def test_a_spreadsheets_own_copy_is_continued(tmp_path: Path) -> None:
    """A byte order mark and CRLF, as a spreadsheet saves them, do not make the header foreign."""
    place = tmp_path / "runs.csv"
    CsvSink(place).write(a_record(1))
    place.write_bytes(b"\xef\xbb\xbf" + place.read_bytes().replace(b"\n", b"\r\n"))
    CsvSink(place).write(a_record(2))

    assert [r.record_id for r in iter_records(place)] == [
        a_record(1).record_id,
        a_record(2).record_id,
    ]


def test_a_torn_last_line_does_not_spoil_the_next_row(tmp_path: Path) -> None:
    """After somebody's short write, the next row starts on a line of its own."""
    place = tmp_path / "runs.csv"
    CsvSink(place).write(a_record(1))
    whole = place.read_bytes()
    place.write_bytes(whole + b'1,run-7f3a:9,run-7f3a,,"torn, in')
    CsvSink(place).write(a_record(2))
    skipped: list[str] = []

    assert [r.record_id for r in iter_records(place, on_skip=skipped.append)] == [
        "run-7f3a:1",
        "run-7f3a:2",
    ]
    assert len(skipped) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "absent" / "runs.csv", r"does not exist.*mkdir -p"),
        (lambda p: p, r"is a directory.*emissions\.csv"),
        (lambda p: p / "file" / "runs.csv", "is not a directory"),
        (lambda p: p / ("n" * 300 + ".csv"), "name is too long"),
        (lambda p: "", "not a file name"),
        (lambda p: "a\0b.csv", "not a file name"),
        (lambda p: "/dev/null", "not a regular file"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, make, words: str) -> None:
    """Construction says what is wrong with the output, why, and what to do."""
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=words):
        CsvSink(make(tmp_path))


def test_a_home_directory_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` stands for the user's home, as in a shell."""
    monkeypatch.setenv("HOME", str(tmp_path))

    assert CsvSink("~/runs.csv").path == tmp_path / "runs.csv"


def test_rows_wait_while_the_directory_is_gone(tmp_path: Path) -> None:
    """A directory that is removed and comes back costs no row, and the order is kept."""
    home = tmp_path / "out"
    home.mkdir()
    sink = CsvSink(home / "runs.csv")
    sink.write(a_record(0))
    (home / "runs.csv").unlink()
    home.rmdir()
    sink.write(a_record(1))
    sink.write(a_record(2))
    waiting = sink.pending_ids
    home.mkdir()
    sink.write(a_record(3))

    assert waiting == ("run-7f3a:1", "run-7f3a:2")
    assert sink.pending_ids == ()
    assert list(iter_records(home / "runs.csv")) == [a_record(n) for n in (1, 2, 3)]


def test_what_is_lost_is_said_by_the_close(tmp_path: Path) -> None:
    """A close that leaves rows unwritten raises with their number."""
    home = tmp_path / "out"
    home.mkdir()
    sink = CsvSink(home / "runs.csv")
    home.rmdir()
    sink.write(a_record(1))

    with pytest.raises(SinkError, match="1 record could not be written"):
        sink.close()


def test_waiting_has_a_limit(tmp_path: Path) -> None:
    """Beyond the limit a write raises, so that the loss can be counted; memory stays bounded."""
    home = tmp_path / "out"
    home.mkdir()
    sink = CsvSink(home / "runs.csv")
    home.rmdir()
    for number in range(buffered.PENDING_LIMIT):
        sink.write(a_record(number))

    with pytest.raises(SinkError, match="1000 records wait"):
        sink.write(a_record(-1))
    assert len(sink.pending_ids) == buffered.PENDING_LIMIT


def test_a_full_disk_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a hundred failures for one reason, the log has one line."""
    home = tmp_path / "out"
    home.mkdir()
    sink = CsvSink(home / "runs.csv")
    home.rmdir()
    for number in range(100):
        sink.write(a_record(number))

    assert len([r for r in caplog.records if "cannot write" in r.message]) == 1


def test_what_waits_outlives_the_process_in_the_journal(tmp_path: Path) -> None:
    """With a journal on another disk, rows that wait at the end are written by `recover`."""
    home = tmp_path / "out"
    home.mkdir()
    journal = Journal(tmp_path / "state")
    sink = CsvSink(home / "runs.csv", journal=journal)
    home.rmdir()
    for number in range(3):
        sink.write(a_record(number))
    sink.close()
    journal.close()
    home.mkdir()
    recovered = recover(tmp_path / "state")

    assert [r.trouble for r in recovered] == [None] * 3
    assert list(iter_records(home / "runs.csv")) == [a_record(number) for number in range(3)]


def test_what_was_written_after_all_is_not_kept(tmp_path: Path) -> None:
    """Rows that went out when the disk had room again are forgotten by the journal."""
    home = tmp_path / "out"
    home.mkdir()
    journal = Journal(tmp_path / "state")
    sink = CsvSink(home / "runs.csv", journal=journal)
    home.rmdir()
    sink.write(a_record(0))
    kept = journal.queued(sink.address, 10)
    home.mkdir()
    sink.write(a_record(1))

    assert kept == [a_record(0)]
    assert journal.queued(sink.address, 10) == []
    assert list(iter_records(home / "runs.csv")) == [a_record(0), a_record(1)]


def test_beyond_the_memory_the_journal_keeps_all(tmp_path: Path) -> None:
    """With a journal, more rows than memory holds can wait, and none is lost."""
    home = tmp_path / "out"
    home.mkdir()
    journal = Journal(tmp_path / "state")
    sink = CsvSink(home / "runs.csv", journal=journal)
    home.rmdir()
    count = buffered.PENDING_LIMIT + 10
    for number in range(count):
        sink.write(a_record(number))
    sink.close()

    assert len(sink.pending_ids) == buffered.PENDING_LIMIT
    assert len(journal.queued(sink.address, 10_000)) == count
