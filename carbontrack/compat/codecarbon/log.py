"""The logger `codecarbon`, as `codecarbon.external.logger` has it."""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("codecarbon")
_said: set[str] = set()


def warn_once(message: str) -> None:
    """Say it, once in this process."""
    if message not in _said:
        _said.add(message)
        LOGGER.warning("%s", message)


def set_level(level: int | str | None) -> None:
    """Set the level that the tracker was given; "info" has nothing to say here."""
    if isinstance(level, str):
        level = logging.getLevelName(level.upper())
    if isinstance(level, int):
        LOGGER.setLevel(level)
