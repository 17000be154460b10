"""What holds for all tests: no deadlines on examples, and a state folder that is nobody's own."""

from __future__ import annotations

import os
import re
import tempfile
from typing import Any

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


_GROUP = re.compile(r'xdist_group\((?:name=)?"(\w+)"')


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a group on one worker, under `--dist loadgroup`.

    The scheduler of pytest-xdist 3.8 finds the groups in the ids of the tests, where pytest 9.2
    does not put them any more. Here a file that names a group is in it as a whole.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    groups: dict[str, str] = {}

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file not in groups:
                found = _GROUP.search((config.rootpath / file).read_text(encoding="utf-8"))
                groups[file] = "" if found is None else found.group(1)
            return groups[file] or nodeid

    return Groups(config, log)
