"""What holds for all tests: no deadlines on examples, and a state folder that is nobody's own."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is, and nothing about the code.
settings.register_profile("carbontrack", deadline=None)
settings.load_profile("carbontrack")

# Whoever runs the tests may have journals of killed runs, and a configuration; neither is ours.
_home = tempfile.TemporaryDirectory(prefix="carbontrack-tests-")
for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
    os.environ[name] = _home.name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means here: one more worker than processors, as many tests mostly wait."""
    return (os.cpu_count() or 1) + 1
