"""Where rows go when the working directory changes, or goes away, while a program runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover
from tests.support.said import said

MOVES = """
import os
import carbontrack

for folder in ("a", "b", "a"):
    os.chdir(os.path.join(os.environ["HOME"], folder))
    with carbontrack.track(region="FR"):
        pass
"""
VANISHES = """
import os, shutil
import carbontrack

out = os.path.join(os.environ["HOME"], "a", "rows.csv")

def block():
    with carbontrack.track(region="FR", output=out):
        return 7

block()
shutil.rmtree(os.path.dirname(out))
os.mkdir("gone"); os.chdir("gone"); os.rmdir(os.getcwd())
assert block() == 7
print("unharmed")
"""

STARVES = """
import resource
import carbontrack

def block():
    with carbontrack.track("block", region="FR", output="rows.csv"):
        return 7

block()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
seen = [block() for _ in range(3)]
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
print(seen, block())
"""


def run(code: str, home: Path, *arguments: str) -> tuple[str, list[str]]:
    """Run a program whose home, and working directory, is `home`; what it and what we print."""
    for folder in ("a", "b"):
        (home / folder).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=home,
        env={"HOME": str(home), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, said(done.stderr)


def test_the_default_output_follows_the_working_directory(tmp_path: Path):
    """emissions.csv lies where the program stands when the block begins."""
    assert run(MOVES, tmp_path) == ("", [])
    assert len(list(iter_records(tmp_path / "a" / "emissions.csv"))) == 2
    assert len(list(iter_records(tmp_path / "b" / "emissions.csv"))) == 1


def test_a_directory_that_vanishes_does_not_stop_a_program_that_runs(tmp_path: Path):
    """What has worked is not checked again: the next block of a server must not raise."""
    printed, (sentence,) = run(VANISHES, tmp_path)
    assert printed == "unharmed\n"
    assert sentence.startswith(f"cannot write {tmp_path / 'a' / 'rows.csv'}: ")


def test_settings_that_cannot_be_read_again_do_not_stop_a_program_that_runs(tmp_path: Path):
    """Without a free descriptor no file of settings can be looked for; what was found holds."""
    printed, sentences = run(STARVES, tmp_path)
    assert printed == "[7, 7, 7] 7\n"
    # a tracker that has been idle holds no descriptor: then the journal cannot be opened either
    others = [sentence for sentence in sentences if not sentence.startswith("the journal in ")]
    kept, unwritten = others
    assert kept.startswith("the last settings that worked stay in use: ")
    assert unwritten.startswith("cannot ")
    assert len(sentences) - len(others) <= 1
    assert len(list(iter_records(tmp_path / "rows.csv"))) == 5


REMOVED = """
import os, shutil, sys
import carbontrack

output = os.path.join(os.environ["HOME"], "a", sys.argv[1])
tracker = carbontrack.auto(region="FR", output=output)

def block(name):
    with tracker.span(name):
        pass

block("before")
while os.path.isdir(os.path.dirname(output)):  # an idle tracker closes its database meanwhile
    shutil.rmtree(os.path.dirname(output), ignore_errors=True)
block("first"); block("second")
{again}
"""


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.sqlite"])
def test_a_folder_that_is_removed_is_told_and_its_rows_are_recovered(
    tmp_path: Path, name: str
) -> None:
    """One sentence; the records wait in the journal until the folder is back."""
    printed, (sentence,) = run(REMOVED.format(again=""), tmp_path, name)
    assert printed == ""
    assert sentence.startswith(f"cannot write {tmp_path / 'a' / name}: ")
    assert sentence.endswith("kept, and written later or by: carbontrack recover")

    state = tmp_path / ".local" / "state" / "carbontrack"
    assert [found.trouble is None for found in recover(state)] == [False, False]
    (tmp_path / "a").mkdir()
    assert [found.trouble for found in recover(state)] == [None, None]
    assert names_in(tmp_path / "a" / name) == ["first", "second"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.sqlite"])
def test_a_folder_that_is_made_again_gets_what_has_waited(tmp_path: Path, name: str) -> None:
    """With the next record, in order, and nothing is left in the journal."""
    again = "os.mkdir(os.path.dirname(output)); block('third')"
    printed, sentences = run(REMOVED.format(again=again), tmp_path, name)

    assert (printed, len(sentences)) == ("", 1)
    assert names_in(tmp_path / "a" / name) == ["first", "second", "third"]
    assert list((tmp_path / ".local" / "state" / "carbontrack" / "journal").iterdir()) == []


def test_a_folder_that_was_replaced_by_a_file_is_told(tmp_path: Path) -> None:
    """Another thing in the folder's place is no folder either."""
    again = "open(os.path.dirname(output), 'w').close(); block('third')"
    _, (sentence,) = run(REMOVED.format(again=again), tmp_path, "rows.csv")
    assert sentence.startswith("cannot write ")


def names_in(output: Path) -> list[str]:
    return [record.name for record in iter_records(output)]
