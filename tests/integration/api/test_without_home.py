"""A user without a home directory: where journals are, and where they are not."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STRANGER = 54321
PROGRAM = """
import os, sys
os.setresuid(int(sys.argv[2]), 0, 0)  # in no list of users, and may read what root may
import carbontrack
from carbontrack.sinks.http import JournaledHttpSink
with carbontrack.track("x", region="FR", output="runs.csv") as run:
    journals = sorted(map(str, __import__("pathlib").Path(sys.argv[1]).rglob("*.journal")))
    print(len(journals), JournaledHttpSink.default_state_dir())
"""

pytestmark = pytest.mark.skipif(
    not hasattr(os, "setresuid") or os.geteuid() != 0, reason="runs a program as another user"
)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A temporary folder for all users, and below it a working folder of the user's."""
    folder = Path(tempfile.mkdtemp(prefix="shared-"))
    folder.chmod(0o1777)
    (folder / "work").mkdir()
    (folder / "work").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def run(shared: Path) -> subprocess.CompletedProcess[str]:
    """The program, as a user who is in no list of users."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(shared), str(STRANGER)],
        cwd=shared / "work",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(shared)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_journal_is_in_a_folder_of_the_users_own(shared: Path) -> None:
    """Not in one below the working folder, as a path that begins with "~" would be."""
    done = run(shared)
    folder = shared / f"carbontrack-{STRANGER}"

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"1 {folder}\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in (shared / "work").iterdir()] == ["runs.csv"]


def test_a_link_that_was_planted_there_is_not_followed(shared: Path) -> None:
    """The program runs as it does without; nothing is written where the link leads."""
    target = shared / "work" / "target"
    target.mkdir()
    (shared / f"carbontrack-{STRANGER}").symlink_to(target)
    found = Path("/tmp", f"carbontrack-{STRANGER}")
    existed = found.exists()
    try:
        done = run(shared)
    finally:
        if not existed:
            shutil.rmtree(found, ignore_errors=True)

    assert done.returncode == 0
    assert done.stdout == f"0 {found}\n"
    assert list(target.iterdir()) == []
