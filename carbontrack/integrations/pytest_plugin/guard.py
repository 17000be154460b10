"""Errors of ours in a hook of pytest: each becomes one warning, and the run goes on.

pytest ends the whole run with an internal error where a hook raises; no test after it runs.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from carbontrack.system.interrupts import pass_on
from carbontrack.text import visible

Result = TypeVar("Result")

_log = logging.getLogger("carbontrack")


class Guard:
    """Takes the plugin's own steps, so that no error of one leaves a hook.

    Args:
        config: of the run, whose summary shows the warnings.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._told: set[tuple[object, ...]] = set()

    def run(self, step: Callable[..., Result], *args: Any, nodeid: str = "") -> Result | None:
        """The result of `step(*args)`; None where it fails.

        Raises:
            pytest.UsageError: what the user asked for is impossible, which he has to know at once.
        """
        try:
            return step(*args)
        except pytest.UsageError:
            raise
        except Exception as error:
            pass_on(error)
            self._tell(error, nodeid)
        return None

    def _tell(self, error: Exception, nodeid: str) -> None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        file, line = (
            ("?", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        )
        kind = (type(error), file, line)
        if kind in self._told:
            return
        self._told.add(kind)
        _log.debug("a hook of the pytest plugin failed", exc_info=error)
        text = visible(
            f"carbontrack could not measure ({type(error).__name__}: {error}, {file}:{line}). "
            "The test itself is not affected; the result of its budget is inconclusive."
        )
        # Recorded and not raised: a run may turn warnings into errors.
        message = warnings.WarningMessage(
            pytest.PytestWarning(text), pytest.PytestWarning, file, line
        )
        kwargs = {"warning_message": message, "when": "runtest", "nodeid": nodeid, "location": None}
        try:
            self._config.hook.pytest_warning_recorded.call_historic(kwargs=kwargs)
        except Exception as failure:
            pass_on(failure)
            _log.exception("a warning could not be shown")


_READ_THE_MACHINE = ("carbontrack.meters", "carbontrack.attribution", "carbontrack.system.host")


def keep_real_files() -> None:
    """Have pyfakefs leave alone what reads the machine: a test fakes the files of the program."""
    fake = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    if fake is not None:
        readers = (one for name, one in sys.modules.items() if name.startswith(_READ_THE_MACHINE))
        fake.Patcher.SKIPMODULES.update(readers)
