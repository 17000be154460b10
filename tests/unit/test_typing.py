"""The public names have the types that they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_public_surface_is_typed():
    """Decorated functions keep their type, and mistakes in a call are found, under --strict."""
    api = ROOT / "tests" / "typing" / "api.py"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(api)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    mine = [line for line in done.stdout.splitlines() if "tests/typing/api.py" in line]
    assert mine == [], done.stdout
    assert done.returncode in (0, 1), done.stderr
