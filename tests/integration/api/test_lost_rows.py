"""Rows beyond what the disk, the journal and the memory hold: counted, and told in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.buffered import PENDING_LIMIT
from carbontrack.sinks.journal.journal import SEND, leftover_journals
from tests.support.said import said

ROOT = Path(__file__).parents[3]
ROWS = 3000

FULL = """
import os, resource, sys
import carbontrack

output, rows = sys.argv[1], int(sys.argv[2])
tracker = carbontrack.auto(region="FR", output=output.split(","))
with tracker.span("first"):
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
for number in range(1, rows):
    with tracker.span("block"):
        pass
"""
ENDS = {
    "exit": "",
    "close": "tracker.close()",
    "space again": "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)",
    "raises": "raise SystemExit(3)",
}
BY_HAND = """
import resource, sys
from carbontrack import CsvSink, Tracker
from carbontrack.testing import FakeMeter

tracker = Tracker(meters=[FakeMeter()], sinks=[CsvSink(sys.argv[1])])
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
for number in range(int(sys.argv[2])):
    with tracker.span("block"):
        pass
tracker.close()
"""


def run(code: str, folder: Path, *arguments: object, state: str = "state") -> list[str]:
    """What a program has said on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CARBONTRACK_STATE_DIR": state},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in (0, 3), done.stderr
    return said(done.stderr)


def waiting_in(state: Path) -> set[str]:
    """The ids of the records that the next process will find."""
    found = set()
    for file in leftover_journals(state):
        found |= {key[2] for key in file.keys(SEND)}
        file.abandon()
    return found


def told_of(sentences: list[str]) -> tuple[int, str]:
    """How many rows are told to be lost, in the only line that tells it, and why."""
    lines = [sentence for sentence in sentences if "could not be written and" in sentence]
    assert len(lines) == 1, sentences
    found = re.fullmatch(r"(\d+) records? could not be written and (?:is|are) lost: (.*)", lines[0])
    assert found is not None, lines
    return int(found[1]), found[2]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
@pytest.mark.parametrize("end", ENDS)
def test_a_full_disk_says_how_many_rows_it_has_cost(tmp_path: Path, name: str, end: str) -> None:
    """Every row is in the file or in the number that is told at the exit, with the reason."""
    sentences = run(FULL + ENDS[end], tmp_path, name, ROWS)
    rows = len(list(iter_records(tmp_path / name)))
    lost, why = told_of(sentences) if end != "close" else told_in_two(sentences)

    assert rows + lost == ROWS
    assert rows == (1 + PENDING_LIMIT if end == "space again" else 1)
    assert name in why
    assert "File too large" in why


def told_in_two(sentences: list[str]) -> tuple[int, str]:
    """A tracker that is closed says its part at once; the exit tells all of it."""
    closing = [sentence for sentence in sentences if "): lost" in sentence]
    assert len(closing) == 1
    assert closing[0].startswith(f"{PENDING_LIMIT} records could not be written to")
    return told_of(sentences)


def test_a_tracker_of_ones_own_says_it_too(tmp_path: Path) -> None:
    """What is dropped while it measures, and what its close could not write."""
    lost, why = told_of(run(BY_HAND, tmp_path, "rows.csv", ROWS))
    assert lost == ROWS
    assert "bytes could be written" in why  # of the header, in a file that was not there


def test_each_output_has_its_number(tmp_path: Path) -> None:
    """One line for all, however many outputs there are."""
    lost, why = told_of(run(FULL, tmp_path, "a.csv,b.jsonl", ROWS))
    assert lost == 2 * (ROWS - 1)
    assert sorted(re.findall(r"(\d+) (CsvSink|JsonlSink)", why)) == [
        (str(ROWS - 1), "CsvSink"),
        (str(ROWS - 1), "JsonlSink"),
    ]


def test_nothing_lost_nothing_said(tmp_path: Path) -> None:
    """A disk that had room again before the memory was full."""
    sentences = run(FULL + ENDS["space again"], tmp_path, "rows.csv", 500)
    assert [sentence for sentence in sentences if "lost:" in sentence] == []
    assert len(list(iter_records(tmp_path / "rows.csv"))) == 500


FORKS = (
    FULL
    + """
pid = os.fork()
if pid == 0:
    sys.exit()
os.waitpid(pid, 0)
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_does_not_tell_of_its_parent(tmp_path: Path) -> None:
    """The rows are told once, by the process that has lost them."""
    assert told_of(run(FORKS, tmp_path, "rows.csv", ROWS))[0] == ROWS - 1


WORKER = """
import multiprocessing, resource, sys
import carbontrack

def work(rows):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    tracker = carbontrack.auto(region="FR", output="rows.csv")
    for number in range(rows):
        with tracker.span("block"):
            pass

if __name__ == "__main__":
    worker = multiprocessing.get_context("fork").Process(target=work, args=(int(sys.argv[1]),))
    worker.start()
    worker.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_tells_it_at_its_end(tmp_path: Path) -> None:
    """It runs no `atexit` functions, and is closed by its library."""
    assert told_of(run(WORKER, tmp_path, ROWS))[0] == ROWS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 512 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


MANY = """
import sys
import carbontrack

tracker = carbontrack.auto(region="FR", output=sys.argv[1])
for number in range(int(sys.argv[2])):
    with tracker.span("block"):
        pass
"""


def test_a_small_disk_for_rows_and_journal(small_disk: Path) -> None:
    """Each row is in the file, waits in the journal, or is in the number that is told."""
    state = small_disk / "state"
    sentences = run(MANY, small_disk, "rows.csv", ROWS, state=str(state))
    lost, why = told_of(sentences)
    (small_disk / "rows.csv").rename(small_disk / "kept.csv")  # recovery may go on now
    written = {record.record_id for record in iter_records(small_disk / "kept.csv")}
    waiting = waiting_in(state)

    assert "No space left on device" in why
    assert len(written | waiting) + lost == ROWS
    assert min(len(written), lost) > 0


FULL_JOURNAL = """
import os, shutil, sys
from pathlib import Path
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.journal.journal import Journal
from tests.support.records import a_record

home = Path("out")
home.mkdir()
journal = Journal(Path("state"), size_limit=100_000)
sink = CsvSink(home / "rows.csv", journal=journal)
home.rmdir()
for number in range(int(sys.argv[1])):
    sink.write(a_record(number))
if sys.argv[2] == "again":
    home.mkdir()
sink.close()
journal.close()
"""


@pytest.mark.parametrize("end", ["again", "never"])
def test_a_full_journal_counts_what_it_has_given_up(tmp_path: Path, end: str) -> None:
    """What it gave up and the memory still had is not lost if it could be written in the end."""
    sentences = run(FULL_JOURNAL, tmp_path, ROWS, end)
    lost, why = told_of(sentences)
    waiting = waiting_in(tmp_path / "state")
    place = tmp_path / "out" / "rows.csv"
    written = {record.record_id for record in iter_records(place)} if place.exists() else set()

    assert "was full" in why
    assert (len(written) > 0) is (end == "again")
    assert len(written | waiting) + lost == ROWS
