"""Tests that fail with processes running: none of these outlives its test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it starts sessions of POSIX")

CONFTEST = """
import pytest
from tests.support.leftovers import Leftovers

def pytest_configure(config):
    config.pluginmanager.register(Leftovers(config), "leftovers")

@pytest.fixture(scope="module")
def server():
    import subprocess, sys
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    yield process
    process.kill()
    process.wait()
"""
TESTS = """
import os, subprocess, sys, time
from pathlib import Path
import psutil
import pytest

PIDS = Path(__file__).parent / "pids"
SLEEP = "import time; time.sleep(3600)"
# a child in a session of its own, which starts a grandchild in another, without any variables
CHILD = '''
import os, subprocess, sys, time
def start(**more):
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], **more).pid
pids = [start(start_new_session=True), start(start_new_session=True, env={})]
if os.fork() == 0:  # nobody's descendant, once its parent has ended
    os.setsid()
    if os.fork() == 0:
        os.write(int(sys.argv[1]), f"{os.getpid()} {' '.join(map(str, pids))}".encode())
        os.close(int(sys.argv[1]))
        time.sleep(3600)
    os._exit(0)
os.close(int(sys.argv[1]))
if sys.argv[2] == "stay":
    time.sleep(3600)
'''

def lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

@pytest.mark.parametrize("child", ["stay", "go"])
def test_in_the_middle(child, server, tmp_path):
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(writer), child], pass_fds=[writer], cwd=tmp_path
    )
    os.close(writer)
    pids = [process.pid] if child == "stay" else []
    with os.fdopen(reader) as end:
        pids += map(int, end.read().split())
    with PIDS.open("a") as file:
        print(*pids, file=file)
    assert all(map(lives, pids)) and len(pids) >= 3
    raise RuntimeError("it fails here")

def test_later(server):
    pids = list(map(int, PIDS.read_text().split()))
    assert len(pids) == 7
    assert [pid for pid in pids if lives(pid)] == []
    assert lives(server.pid)
    PIDS.with_name("last").write_text(str(subprocess.Popen([sys.executable, "-c", SLEEP]).pid))
"""


@pytest.mark.parametrize("options", [[], ["-n", "2", "--dist", "loadfile"]], ids=["alone", "xdist"])
def test_no_process_outlives_a_failed_test(tmp_path: Path, options: list[str]) -> None:
    """A child, its children, one without variables and one that was started twice over are gone.

    What was there before the test stays for the next one; what is left at the end of the run goes.
    """
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(textwrap.dedent(TESTS))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "it fails here" in done.stdout
    last = int((tmp_path / "last").read_text())
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(last).status() == psutil.STATUS_ZOMBIE
