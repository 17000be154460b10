"""What holds for all tests: surroundings that are nobody's own, and no deadlines on examples."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest
from hypothesis import settings

from tests.support import surroundings

_found = dict(os.environ)
surroundings.clean()  # before anything of the package is imported

# How long one example takes says how busy the machine is, and nothing about the code.
settings.register_profile("carbontrack", deadline=None)
settings.load_profile("carbontrack")


def pytest_configure(config: pytest.Config) -> None:
    """Start anew where the interpreter was misled, and end what tests leave behind."""
    from tests.support.leftovers import Leftovers

    if surroundings.is_misled(_found) and not hasattr(config, "workerinput"):
        config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
        again = {name: _found[name] for name in ("PYTEST_ADDOPTS",) if name in _found}
        command = [sys.executable, "-m", "pytest", *map(str, config.invocation_params.args)]
        surroundings.forget()
        os.execve(command[0], command, surroundings.kept(_found) | again | {"PYTHONUTF8": "1"})
    config.pluginmanager.register(Leftovers(config), "leftovers")


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
