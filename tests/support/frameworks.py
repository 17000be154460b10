"""Tests with large frameworks: skipped where one is missing, unless all of them have to be there.

With `TRY_FRAMEWORKS=1` in the environment a test that would be skipped because there is no
such framework fails, so that a run which is meant to try them cannot pass without.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec

import pytest


def all_must_be_there() -> bool:
    """Whether a missing framework is a failure."""
    return os.environ.get("TRY_FRAMEWORKS") == "1"


def require(modules: Iterable[str]) -> None:
    """Skip, or fail, where one of the modules is not installed."""
    missing = [name for name in modules if not is_installed(name)]
    if missing and all_must_be_there():
        pytest.fail(f"TRY_FRAMEWORKS=1, and {', '.join(missing)} is not installed")
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def is_installed(name: str) -> bool:
    """Whether a module is installed; one of an older release may lack what a newer one has."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def failed_if_skipped(report: pytest.CollectReport | pytest.TestReport) -> None:
    """Make a report of something skipped one of a failure, where all frameworks must be there."""
    if report.outcome == "skipped" and not hasattr(report, "wasxfail") and all_must_be_there():
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"TRY_FRAMEWORKS=1, and this was skipped: {reason}"
