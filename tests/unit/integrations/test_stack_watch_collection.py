"""Looking at the stacks of other threads never starts a garbage collection."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys, threading
from carbontrack.integrations import stack_watch

class Cycle:
    def __init__(self):
        self.me, self.local = self, threading.local()
        self.local.used = True

gc.set_threshold(1)
for is_on in (True, False):
    (gc.enable if is_on else gc.disable)()
    for _ in range(300):
        Cycle()
        assert stack_watch._is_running(threading.get_ident(), sys._getframe().f_code)
        assert gc.isenabled() is is_on
"""


@pytest.mark.slow
def test_a_collection_does_not_hang_the_interpreter() -> None:
    """Python 3.11 would wait for itself; what the program says of collections stays."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
