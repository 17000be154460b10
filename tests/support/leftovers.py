"""Processes that a test leaves behind: none outlives a failed test, or the run.

A plugin of pytest. What a test starts is found as a descendant of this process, by a variable that
processes inherit, or by its working folder below that of the tests: one that was started twice over
is nobody's descendant, and one with an environment of its own has no variable.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.surroundings import TOKEN

PATIENCE_S = 60.0
"""The longest wait for the end of what was killed."""


class Leftovers:
    """Ends what the tests of one process leave behind."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        worker = getattr(config, "workerinput", {}).get("workerid")
        self.is_controller = worker is None and config.getoption("dist", "no") != "no"
        self.token = os.urandom(8).hex()
        if worker is not None:  # by the controller's own, which ends what a killed worker leaves
            self.token = f"{os.environ.get(TOKEN, self.token).partition('/')[0]}/{worker}"
        self._failed = False
        os.environ[TOKEN] = self.token

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Note when the test itself begins: what was there before may serve later tests."""
        self._begun_s, self._earlier = _now_s(), _children()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        """Note whether any phase of the test has failed."""
        report: pytest.TestReport = yield  # type: ignore[assignment]
        self._failed = self._failed or report.failed
        return report  # type: ignore[return-value]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        """After the last phase of a test that has failed, end what it has started."""
        self._failed, self._begun_s, self._earlier = False, float("inf"), frozenset[int]()
        has_begun = yield
        if self._failed:
            end_all(self._found() - self._earlier_ones())
        return has_begun

    def pytest_unconfigure(self) -> None:
        """End what is left; after the workers, where there are any."""
        end_all(self._found())

    def _earlier_ones(self) -> Set[psutil.Process]:
        """What was there before the test itself began: children, theirs, and whatever is older."""
        earlier = {found for found in self._found() if _began_s(found) < self._begun_s}
        for pid in self._earlier:
            with suppress(psutil.Error):
                child = psutil.Process(pid)
                earlier |= {child, *child.children(recursive=True)}
        return earlier

    def _found(self) -> Set[psutil.Process]:
        """The processes that the tests of this process have started, and that still live."""
        if self.is_controller:
            mine = f"{self.token}/"
            return {found for found in _others() if _token_of(found).startswith(mine)}
        folder = getattr(getattr(self._config, "_tmp_path_factory", None), "_basetemp", None)
        mine = set(psutil.Process().children(recursive=True))
        return {
            found
            for found in _others()
            if found in mine or _token_of(found) == self.token or _is_in(found, folder)
        }


_STEP_S = 0.02
"""The start of a process is known in steps of a hundredth of a second."""


def _now_s() -> float:
    """Now, as `_began_s` counts."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return psutil.boot_time() + time.clock_gettime(time.CLOCK_BOOTTIME) - _STEP_S
    return time.time() - _STEP_S


def _began_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return process.create_time()
    return float("-inf")


def _children() -> frozenset[int]:
    """The children of this process, where the kernel lists them; before each test, so quickly."""
    found = set[str]()
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                found.update((task / "children").read_text().split())
    return frozenset(map(int, found))


def _others() -> Iterator[psutil.Process]:
    me = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return (found for found in psutil.process_iter() if found.pid not in me)


def _token_of(process: psutil.Process) -> str:
    with suppress(psutil.Error, OSError):
        return process.environ().get(TOKEN, "")
    return ""


def _is_in(process: psutil.Process, folder: Path | None) -> bool:
    with suppress(psutil.Error, OSError):
        return folder is not None and Path(process.cwd()).is_relative_to(folder)
    return False


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def end_all(processes: Set[psutil.Process]) -> None:
    """Kill them, and return when they have ended."""
    living = [process for process in processes if _lives(process)]
    for process in living:
        with suppress(psutil.Error):
            process.kill()
    end_s = time.monotonic() + PATIENCE_S
    while any(map(_lives, living)) and time.monotonic() < end_s:
        threading.Event().wait(0.01)
