"""Tests with large frameworks; see `tests.support.frameworks`."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.frameworks import failed_if_skipped


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Whether a file is skipped as a whole."""
    report = yield
    failed_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Whether a test is skipped."""
    report = yield
    failed_if_skipped(report)
    return report
