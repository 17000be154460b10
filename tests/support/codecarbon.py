"""What trackers of CodeCarbon leave in the process, taken back after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from carbontrack.compat.codecarbon import log


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    """The logger `codecarbon` has the level, the preamble and the memory that it had."""
    level, said, preamble = log.LOGGER.level, set(log._said), log._preamble.text
    yield
    log.LOGGER.setLevel(level)
    log._said.clear()
    log._said.update(said)
    log.set_preamble(preamble)
