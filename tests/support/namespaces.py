"""Real namespaces by unshare(1): programs that run as in a container, with another /proc."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEW_PROC = "mount -t proc proc /proc"


def unshare(*more: str) -> list[str]:
    """A command in mount and pid namespaces of its own, as root there: the shell is process 1."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_root, "--mount", "--pid", "--fork", "--kill-child", *more]


@functools.cache
def refusal() -> str | None:
    """Why no such namespaces can be made here; None where they can."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "there is no unshare(1)"
    command = [*unshare("sh", "-c"), NEW_PROC]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"unshare is not permitted: {done.stderr.strip()}"


needs_namespaces = pytest.mark.skipif(refusal() is not None, reason=str(refusal()))


def environ(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing is ours but what the test says."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "CARBONTRACK_REGION": "FR",
        "CARBONTRACK_GPU_IDS": "none",
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
        **more,
    }


def start(
    program: str, folder: Path, *, before: str = NEW_PROC, through: str = "", **more: str
) -> subprocess.Popen[str]:
    """Start a Python program in namespaces of its own, after what a shell does there.

    `through` is what starts it, such as a command that drops capabilities.
    """
    path = folder / f"program-{os.urandom(4).hex()}.py"
    path.write_text(textwrap.dedent(program))
    return subprocess.Popen(
        [
            *unshare("sh", "-c"),
            f'set -e\n{before}\nexec {through} "$0" "$1"',
            sys.executable,
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environ(folder, **more),
    )


def output(
    program: str, folder: Path, *, before: str = NEW_PROC, through: str = "", **more: str
) -> str:
    """What such a program prints; it must end well and say nothing else."""
    process = start(program, folder, before=before, through=through, **more)
    said, complaint = process.communicate(timeout=100)
    assert (process.returncode, complaint) == (0, ""), complaint
    return said
