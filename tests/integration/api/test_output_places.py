"""Where rows go when the working directory changes, or goes away, while a program runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from carbontrack.report.read import iter_records
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


def run(code: str, home: Path) -> tuple[str, list[str]]:
    """Run a program whose home, and working directory, is `home`; what it and what we print."""
    for folder in ("a", "b"):
        (home / folder).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
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
    assert [sentence.split(" ")[0] for sentence in sentences] == ["settings", "cannot"]
    assert len(list(iter_records(tmp_path / "rows.csv"))) == 5
