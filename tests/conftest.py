"""What holds for all tests: surroundings that are nobody's own, and no deadlines on examples."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
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


def pytest_collection_finish() -> None:
    """The tests themselves are no garbage: what collects need not look at thousands of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def frozen() -> None:
    """For modules of many collections: these look only at what comes after.

    It is never thawed again: that would thaw the collected tests too, and make each later
    collection of this process take a fifth of a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL of the tests' own (`tests.support.postgres`); skips where there is none."""
    pytest.importorskip("psycopg", reason="needs psycopg")
    from tests.support.postgres import PostgresServer, trouble

    reason = trouble()
    if reason is not None:
        pytest.skip(reason)
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres: Any) -> str:
    """A new, empty schema of it."""
    return str(postgres.new_schema())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means here: one more worker than processors, as many tests mostly wait."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `--dist loadgroup`, what `Groups` says."""
    if config.getoption("dist") != "loadgroup":
        return None
    from tests.support.groups import Groups

    return Groups(config, log)
