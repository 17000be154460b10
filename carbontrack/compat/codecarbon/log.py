"""The logger `codecarbon`, as `codecarbon.external.logger` has it: its level and its preamble."""

from __future__ import annotations

import logging

from carbontrack.system.log import LastResort


class _LastResort(LastResort):
    speaker = "codecarbon"


LOGGER = logging.getLogger("codecarbon")
if not any(isinstance(handler, LastResort) for handler in LOGGER.handlers):
    LOGGER.addHandler(_LastResort())
_LEVELS = ("NOTSET", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL")
_said: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning, once in this process."""
    if message not in _said and LOGGER.isEnabledFor(logging.WARNING):
        _said.add(message)
        LOGGER.warning("%s", message)


def set_level(level: int | str | None) -> None:
    """Set the level that the tracker was given; there are few messages of "info" and below here."""
    if isinstance(level, str) and level.strip().isdigit():
        level = int(level)
    if isinstance(level, int):
        LOGGER.setLevel(level)
    elif isinstance(level, str) and level.strip().upper() in _LEVELS:
        LOGGER.setLevel(level.strip().upper())
    elif level is not None:
        LOGGER.error("log_level=%r is not a log level and is ignored", level)


class _Preamble(logging.Filter):
    """Puts a text before each message."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if self.text:
            record.msg, record.args = f"[{self.text}] {record.getMessage()}", ()
        return True


_preamble = _Preamble()
LOGGER.addFilter(_preamble)


def set_preamble(text: str | None) -> None:
    """Set the text before each message; the last tracker's applies to all, as in CodeCarbon."""
    _preamble.text = str(text or "")
