"""Real system calls fail, one after the other, under a measured program that must not notice.

A preloaded library lets the nth open, read, write, lock, … fail that concerns our files, /proc or
the meters' tree; nothing of ours is replaced.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover
from carbontrack.testing import build_powercap
from tests.support.failing_program import NAMES
from tests.support.said import said
from tests.support.used_counters import used

ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support"
ONCE = {
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT, 0),  # 0: half of it
    "open": (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO, errno.ELOOP, errno.EROFS),
    "read": (errno.EIO, errno.ESTALE, errno.ENODATA),
    "stat": (errno.ESTALE, errno.EACCES, errno.EIO),
    "seek": (errno.EIO, errno.ESPIPE),
    "close": (errno.EIO, errno.EDQUOT),
    "lock": (errno.ENOLCK, errno.EOPNOTSUPP, errno.EWOULDBLOCK),
    "rename": (errno.EIO, errno.EROFS, errno.ENOSPC),
    "link": (errno.EIO, errno.EMLINK, errno.EPERM),
    "unlink": (errno.EIO, errno.EBUSY),
}
EVER = {
    "write": (errno.ENOSPC, 0),
    "open": (errno.EMFILE, errno.EACCES, errno.ENOENT),
    "read": (errno.EIO,),
    "stat": (errno.ESTALE,),
    "lock": (errno.EOPNOTSUPP,),
}


def faulted(folder: Path, once_step: int, ever_step: int) -> list[dict[str, Any]]:
    """Run the program alone and with each fault; returns what each run saw."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux")
    shim = folder / "shim.so"
    source = SUPPORT / "failing_calls.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    tree = build_powercap(folder / "sys")
    kinds = [f"{call}:{e}:1:{once_step}" for call, es in ONCE.items() for e in es]
    kinds += [f"{call}:{e}:100000:{ever_step}" for call, es in EVER.items() for e in es]
    with used(tree, package_0=50.0, dram=5.0):
        done = subprocess.run(
            [sys.executable, SUPPORT / "failing_program.py", shim, folder / "runs", *kinds],
            env={
                **os.environ,
                "LD_PRELOAD": str(shim),
                "PYTHONPATH": str(ROOT),
                "CARBONTRACK_SYSFS_PATH": str(folder / "sys"),
            },
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("once_step", "ever_step", "least"),
    [(9, 11, 40), pytest.param(1, 3, 500, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_no_failing_call_is_noticed(
    tmp_path: Path, once_step: int, ever_step: int, least: int
) -> None:
    """Results, exceptions and stderr stay as they are; a single fault costs no row.

    What could not be kept is said, by us and in sentences: no line of it is a traceback.
    """
    alone, *runs = faulted(tmp_path, once_step, ever_step)
    injected: Counter[str] = Counter()
    for run in runs:
        call, _, times, _ = run["fault"]
        assert (run["fault"], run["seen"]) == (run["fault"], alone["seen"])
        assert len(said(run["stderr"])) <= 6, run
        if times == 1:
            injected[call] += run["injected"]
            recover(Path(run["folder"]) / "state")
            for name in ("rows.csv", "rows.jsonl"):
                rows = {r.record_id: r for r in iter_records(Path(run["folder"]) / "out" / name)}
                # an error on closing may mean that the row is lost: then it is written again,
                # under the id by which readers count it once
                names = Counter(row.name for row in rows.values())
                assert (run["fault"], names) == (run["fault"], Counter(NAMES))
                assert {row.calls for row in rows.values() if row.name == "short"} == {6}
        else:
            injected[f"{call}, ever after"] += run["injected"]
    print(dict(injected))
    assert sum(injected.values()) >= least
    # a row is read and written at an offset: the tried program moves in no file
    assert set(ONCE) - {"seek"} <= set(+injected)
