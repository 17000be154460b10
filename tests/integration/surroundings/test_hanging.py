"""A test that hangs is told by name, once, and costs no other test its outcome."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")

ROOT = Path(__file__).parents[3]
CONFTEST = """
import os
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from tests.conftest import pytest_xdist_make_scheduler

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    # a file each: what two workers write at the same time would be mixed up
    file = os.open(f"{os.getpid()}.stacks", os.O_CREAT | os.O_WRONLY)
    os.dup2(file, config.stash[fault_handler_stderr_fd_key])
"""
TESTS = """
import threading, time
import pytest

@pytest.mark.parametrize("number", range(30))
def test_ends(number):
    time.sleep(0.02)

def test_hangs_on_a_lock():
    lock = threading.Lock()
    with lock:
        lock.acquire()

def test_hangs_on_an_event():
    threading.Event().wait()

@pytest.mark.parametrize("number", range(30, 60))
def test_ends_too(number):
    time.sleep(0.02)
"""


@pytest.mark.slow
def test_a_hang_is_told_once_by_name(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """With our own settings, but for the time, and with two workers that hang at the same time."""
    assert float(pytestconfig.getini("faulthandler_timeout")) > 0
    assert pytestconfig.getini("faulthandler_exit_on_timeout") is True
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfaulthandler_timeout = 8\nfaulthandler_exit_on_timeout = true\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "2",
            "--dist",
            "loadgroup",
            "-p",
            "no:cacheprovider",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    told = re.findall(r"^FAILED test_some\.py::(\w+)", done.stdout, re.MULTILINE)
    assert sorted(told) == ["test_hangs_on_a_lock", "test_hangs_on_an_event"], done.stdout
    assert "2 failed, 60 passed" in done.stdout
    assert done.returncode == 1
    # where each was when its time was over
    told = [path.read_text() for path in tmp_path.glob("*.stacks")]
    stacks = sorted(text for text in told if "Timeout (" in text)
    assert len(stacks) == 2, told
    where = [re.findall(r"in (test_hangs_\w+)", text) for text in stacks]
    assert sorted(where) == [["test_hangs_on_a_lock"], ["test_hangs_on_an_event"]], stacks
