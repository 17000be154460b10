"""Each test leaves the logger `codecarbon` as it found it."""

from __future__ import annotations

from tests.support.codecarbon import logger_as_before

__all__ = ["logger_as_before"]
