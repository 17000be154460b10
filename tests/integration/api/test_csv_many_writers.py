"""One CSV file, many writers, and disks that fill up: with real processes and a real kernel."""

from __future__ import annotations

import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.costs import has, system_calls
from tests.support.records import a_record
from tests.support.said import said

ROOT = Path(__file__).parents[3]

WRITER = """
import sys
from carbontrack.sinks.csv_file import CsvSink
from tests.support.records import a_record

place, writer, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names = [f'=writer "{writer}",\\nrow {n}' for n in range(count)]
records = [a_record(writer * count + n, name=names[n]) for n in range(count)]
sink = CsvSink(place)
print("ready", flush=True)
sys.stdin.readline()
for record in records:
    sink.write(record)
sink.close()
"""


def started(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_twenty_processes_write_one_new_file(tmp_path: Path) -> None:
    """Of 20 x 1,000 rows written at once, all 20,000 are there once, under one header."""
    place = tmp_path / "runs.csv"
    writers = [started(place, number, 1000) for number in range(20)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    begun_s = time.perf_counter()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    codes = [writer.wait() for writer in writers]
    elapsed_s = time.perf_counter() - begun_s
    for writer in writers:
        writer.communicate()
    print(f"\n20,000 rows by 20 processes in {elapsed_s:.2f} s: {20_000 / elapsed_s:,.0f} rows/s")
    skipped: list[str] = []
    counts = Counter(record.record_id for record in iter_records(place, on_skip=skipped.append))

    assert codes == [0] * 20
    assert (len(counts), set(counts.values()), skipped) == (20_000, {1}, [])
    assert place.read_bytes().count(HEADER) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


def test_processes_race_for_the_header_of_an_empty_file(tmp_path: Path) -> None:
    """Where the file is there but empty, 8 processes still write one header."""
    for turn in range(5):
        place = tmp_path / f"{turn}.csv"
        place.touch()
        writers = [started(place, number, 5) for number in range(4)]
        for writer in writers:
            writer.communicate("\n")
        assert place.read_bytes().count(HEADER) == 1
        assert len(list(iter_records(place))) == 20


FULL = """
import resource, sys
from carbontrack.sinks.csv_file import CsvSink
from tests.support.records import a_record

sink = CsvSink(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
for number in range(10):
    sink.write(a_record(number))
print(len(sink.pending_ids), flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
sink.write(a_record(10))
print(len(sink.pending_ids))
"""
ROW = len(record_line(a_record().to_row()))


@pytest.mark.parametrize("room", [0, 100, len(HEADER) - 1, len(HEADER) + ROW + 50])
def test_rows_wait_for_room_on_a_full_disk(tmp_path: Path, room: int) -> None:
    """Whether the header, a row or half a row still fitted: when there is room, all rows arrive."""
    place = tmp_path / "runs.csv"
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(place), str(room)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    waited, left = map(int, ran.stdout.split())
    read = list(iter_records(place))

    assert (waited >= 9, left) == (True, 0)
    (sentence,) = said(ran.stderr)  # once, however many rows wait
    assert sentence.startswith(f"cannot write {place}: ")
    assert read == [a_record(number) for number in range(11)]
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


def test_rows_wait_while_there_is_no_descriptor_left(tmp_path: Path) -> None:
    """With every file descriptor in use, rows wait; with one free again, they are written."""
    from carbontrack.sinks.csv_file import CsvSink

    sink = CsvSink(tmp_path / "runs.csv")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        sink.write(a_record(0))
        waiting = sink.pending_ids
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    sink.close()

    assert waiting == ("run-7f3a:0",)
    assert list(iter_records(tmp_path / "runs.csv")) == [a_record(0)]


def rows_by(writers: int, count: int, place: Path) -> list[bytes]:
    """The lines of a file into which so many processes have written so many rows each, at once."""
    begun = [started(place, number, count) for number in range(writers)]
    for writer in begun:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in begun:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.wait() for writer in begun] == [0] * writers
    for writer in begun:
        writer.communicate()
    return place.read_bytes().removesuffix(b"\n").split(b"\n")


@pytest.mark.parametrize("folder", ["disk", "memory"])
def test_a_line_that_is_being_written_is_not_taken_for_a_cut_one(
    tmp_path: Path, folder: str
) -> None:
    """32 processes, 1,000 rows each, two lines a row: none is lost, and none is blank.

    While a line is copied into the file, page by page, others see its beginning without its end.
    """
    place = tmp_path / "runs.csv"
    if folder == "memory":
        if not Path("/dev/shm").is_dir():
            pytest.skip("no file system in memory here")
        place = Path("/dev/shm", f"carbontrack-{tmp_path.name}.csv")
    try:
        lines = rows_by(32, 1000, place)
    finally:
        if folder == "memory":
            place.unlink(missing_ok=True)

    assert sum(line == b"" for line in lines) == 0
    assert len(lines) == 1 + 2 * 32_000


@pytest.mark.parametrize("cut", [1, 100, 290])
def test_a_cut_line_is_still_left_on_its_own(tmp_path: Path, cut: int) -> None:
    """One that stays without an end, as a full disk leaves it, is not continued."""
    from carbontrack.sinks.csv_file import CsvSink

    place = tmp_path / "runs.csv"
    row = record_line(a_record(0).to_row())
    place.write_bytes(HEADER + row + row[:cut])
    for number in (1, 2):
        CsvSink(place).write(a_record(number))
    lines = place.read_bytes().split(b"\n")

    assert [line == row[:cut] for line in lines].count(True) == 1
    assert list(iter_records(place)) == [a_record(number) for number in (0, 1, 2)]
    assert b"" not in lines[:-1]


ROWS = """
from carbontrack.sinks.csv_file import CsvSink
from tests.support.records import a_record
sink = CsvSink("rows.csv")
for number in range({count}): sink.write(a_record(number))
"""


@pytest.mark.skipif(not has("strace"), reason="strace is not installed")
def test_a_row_takes_seven_system_calls(tmp_path: Path) -> None:
    """Open, the header, the end, the last byte, the write, the end again, close: a look at each."""
    few, many = (
        system_calls(ROWS.format(count=count), folder)
        for count, folder in ((100, tmp_path / "few"), (1100, tmp_path / "many"))
        if folder.mkdir() is None
    )
    assert (many - few) / 1000 <= 7.1


TRACED = """
import sys
from carbontrack.sinks.csv_file import CsvSink
from tests.support.records import a_record
sink, record = CsvSink(sys.argv[1]), a_record()
for number in range(int(sys.argv[2])): sink.write(record)
"""


@pytest.mark.skipif(not has("strace"), reason="strace is not installed")
def test_a_row_among_other_writers_takes_no_more_than_a_second_look(tmp_path: Path) -> None:
    """Where it went and what is before it: nobody waits for a lock, or looks again and again."""
    place, counts = tmp_path / "runs.csv", []
    others = [started(place, number, 100_000) for number in range(4)]  # more than they get to
    for other in others:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
    for rows in (100, 1100):
        traced = [
            "strace",
            "-f",
            "-c",
            "-o",
            str(tmp_path / "counts"),
            sys.executable,
            "-c",
            TRACED,
        ]
        subprocess.run([*traced, str(place), str(rows)], cwd=ROOT, check=True)
        calls = (tmp_path / "counts").read_text()
        counts.append(int(calls.splitlines()[-1].split()[2]))
    is_alone = all(other.poll() is not None for other in others)
    for other in others:
        other.kill()
        other.communicate()

    assert not is_alone
    assert (counts[1] - counts[0]) / 1000 <= 9.1
    assert b"\n\n" not in place.read_bytes()


def test_who_sees_a_cut_line_that_another_ends_adds_no_line_of_its_own(tmp_path: Path) -> None:
    """Of all that see it, the first ends it; the others wait for that, and look again."""
    from carbontrack.sinks.csv_file import CsvSink

    place = tmp_path / "runs.csv"
    row = record_line(a_record(0).to_row())
    place.write_bytes(HEADER + row + row[:100])
    writer = threading.Thread(target=CsvSink(place).write, args=(a_record(1),))
    with place.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.2)
        first.write(b"\n" + record_line(a_record(2).to_row()))
        first.flush()
        fcntl.flock(first, fcntl.LOCK_UN)
    writer.join()

    assert b"\n\n" not in place.read_bytes()
    assert list(iter_records(place)) == [a_record(number) for number in (0, 2, 1)]


def test_a_row_that_continues_a_line_cut_off_just_now_is_written_again(tmp_path: Path) -> None:
    """A writer may be killed within its write, after another has looked and before it writes."""
    from carbontrack.sinks.csv_file import CsvSink
    from carbontrack.sinks.files import written_apart

    place = tmp_path / "runs.csv"
    row = record_line(a_record(0).to_row())
    place.write_bytes(HEADER)
    looked_at = len(HEADER)
    handle = os.open(place, os.O_RDWR | os.O_APPEND)
    try:
        assert written_apart(handle, row, looked_at)
        assert written_apart(handle, row, looked_at)  # others have written, and whole lines
        os.write(handle, row[:100])
        assert not written_apart(handle, row, looked_at)
    finally:
        os.close(handle)
    CsvSink(place).write(a_record(1))

    assert [record.record_id for record in iter_records(place)] == ["run-7f3a:0"] * 2 + [
        "run-7f3a:1"
    ]


SAYS = """
import os, sys
from carbontrack.sinks.csv_file import CsvSink
from tests.support.records import a_record
sink, first = CsvSink(sys.argv[1]), int(sys.argv[2]) * 1_000_000
os.write(1, b"ready\\n")
sys.stdin.readline()
for number in range(first, first + 1_000_000):
    sink.write(a_record(number))
    os.write(1, b"%d\\n" % number)
"""


def test_writers_that_are_killed_among_32_leave_no_blank_line_and_take_no_row(
    tmp_path: Path,
) -> None:
    """What was written is there; of a killed writer at most the row that it was writing is cut."""
    place, chance = tmp_path / "runs.csv", random.Random(32)
    writers = []
    for number in range(32):
        with (tmp_path / f"said-{number}").open("wb") as said_by:
            command = [sys.executable, "-c", SAYS, str(place), str(number)]
            writers.append(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=said_by)
            )
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    while not place.exists():
        time.sleep(0.01)
    for writer in chance.sample(writers, len(writers)):
        time.sleep(chance.uniform(0.0, 0.05))
        writer.kill()
    assert {writer.wait() for writer in writers} == {-signal.SIGKILL}
    for writer in writers:
        writer.communicate()
    skipped: list[str] = []
    found = Counter(record.record_id for record in iter_records(place, on_skip=skipped.append))
    claimed = {
        a_record(int(line)).record_id
        for path in tmp_path.glob("said-*")
        for line in path.read_text().split()
        if line != "ready"
    }

    assert b"\n\n" not in place.read_bytes()
    assert set(found.values()) == {1}
    assert claimed <= set(found)
    assert len(skipped) <= 32
