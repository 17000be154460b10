"""Reading the one-line files of sysfs and procfs."""

from __future__ import annotations

import os
from pathlib import Path

_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def open_to_read(path: str | Path) -> int:
    """A descriptor that children do not inherit; a FIFO in its place cannot make us wait."""
    return os.open(path, _FLAGS)


def read_text(path: str | Path, size: int = 4096) -> str | None:
    """The beginning of a file without blanks around it; None where it cannot be read."""
    try:
        descriptor = open_to_read(path)
    except OSError:
        return None
    try:
        return os.read(descriptor, size).decode("utf-8", "replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_number(path: str | Path) -> int | None:
    """The whole number in a file; None where there is none."""
    text = read_text(path, 64)
    try:
        return int(text) if text else None
    except ValueError:
        return None
