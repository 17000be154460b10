"""A run that is meant to try the frameworks cannot pass without them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "tests" / "frameworks").glob("test_*.py"))
MISSING = """
import pytest
pytest.importorskip("no_such_framework")
"""
SKIPPED = """
import pytest
def test_it():
    "A test that skips itself."
    pytest.skip("no_such_module")
"""


@pytest.mark.parametrize("must_be_there", [False, True])
def test_a_missing_framework_is_a_failure_where_all_must_be_there(
    must_be_there: bool, tmp_path: Path
) -> None:
    """What is skipped is no failure, and is one with TRY_FRAMEWORKS=1."""
    (tmp_path / "test_missing.py").write_text(MISSING)
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    conftest = (ROOT / "tests" / "frameworks" / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environ["TRY_FRAMEWORKS"] = "1" if must_be_there else "0"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", str(tmp_path)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == (1 if must_be_there else 0), done.stdout + done.stderr
    assert ("1 failed, 1 error" if must_be_there else "2 skipped") in done.stdout
    told = [line for line in done.stdout.splitlines() if "this was skipped" in line]
    assert bool(told) is must_be_there
    assert all("no_such" in line for line in told)


def test_tests_with_a_framework_say_so() -> None:
    """Each file is marked `framework`, and skipped where its framework is not installed."""
    assert FILES
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [ast.unparse(node) for node in tree.body]
        assert any(t.startswith("pytestmark = ") and "mark.framework" in t for t in texts), path
        skips = ("pytest.importorskip(", "allow_module_level=True")
        assert any(skip in t for skip in skips for t in texts), path
