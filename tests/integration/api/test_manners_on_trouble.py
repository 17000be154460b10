"""Whatever the machine refuses, the measured program prints what it prints and ends as it ends.

All that is added is a sentence on stderr for each thing that cannot be written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from tests.support.said import said

ROOT = Path(__file__).parents[3]

PROGRAM = """
import os, resource, shutil, sys
from pathlib import Path
import carbontrack

home = Path("out")
home.mkdir()

def limit(kind, amount):
    resource.setrlimit(kind, (amount, resource.getrlimit(kind)[1]))

@carbontrack.track(region="FR", output=str(home / "runs.csv"), window_s=0)
def infer(number):
    print("answer", number)
    return number

tracker = carbontrack.auto(region="FR", output=str(home / "runs.csv"))
infer(0)
with tracker.span("first"):
    pass
{trouble}
for number in range(1, 30):
    with tracker.span("block"):
        infer(number)
{relief}
infer(30)
sys.exit(7)
"""
TROUBLES = {
    "none": ("", ""),
    "full disk": (
        "limit(resource.RLIMIT_FSIZE, 10)",
        "limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)",
    ),
    "removed directory": ("shutil.rmtree(home)", "home.mkdir()"),
    "no descriptors": (
        "soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]; limit(resource.RLIMIT_NOFILE, 3)",
        "limit(resource.RLIMIT_NOFILE, soft)",
    ),
    "no state directory": ("shutil.rmtree('state', ignore_errors=True); open('state', 'w')", ""),
    "a directory in the file's place": (
        "(home / 'runs.csv').unlink(); (home / 'runs.csv').mkdir()",
        "(home / 'runs.csv').rmdir()",
    ),
}
SAID = {
    "none": (),
    "full disk": ("the journal in", "cannot write"),
    "removed directory": ("cannot write",),
    "no descriptors": ("cannot write",),
    "no state directory": ("the journal in",),
    "a directory in the file's place": ("cannot write",),
}
"""How the sentences begin that tell of each trouble."""


def run(folder: Path, trouble: str, **environ: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    before, after = TROUBLES[trouble]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(trouble=before, relief=after)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CARBONTRACK_STATE_DIR": "state"} | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_program_is_the_same_with_and_without_us(tmp_path: Path, trouble: str) -> None:
    """Exit code and output are those of the program alone, and what waited is written later."""
    alone = run(tmp_path / "alone", trouble, CARBONTRACK_DISABLE="1")
    measured = run(tmp_path / "measured", trouble)
    rows = list(iter_records(tmp_path / "measured" / "out" / "runs.csv"))

    if "file's place" not in trouble:  # that trouble itself needs the file
        assert (measured.returncode, measured.stdout) == (alone.returncode, alone.stdout)
    assert measured.returncode == 7
    sentences = said(measured.stderr)
    assert len(sentences) == len(SAID[trouble])
    for sentence, beginning in zip(sentences, SAID[trouble], strict=True):
        assert sentence.startswith(beginning)
    assert len([record for record in rows if record.name == "block"]) == 29
