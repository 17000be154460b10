"""What a file that carbontrack did not write is: CodeCarbon's, or none that can be read."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from carbontrack.report import codecarbon
from carbontrack.report.spreadsheet import DELIMITERS
from carbontrack.system.interrupts import pass_on
from carbontrack.text import cut_to, visible

_HEADER_BYTES = 8192
_SHOWN = 60


def codecarbon_note(files: Iterable[Path]) -> str | None:
    """A sentence that names the files of CodeCarbon, and what to do; None where there are none."""
    names = [str(path) for path in files if _is_codecarbons(_first_line(path))]
    if not names:
        return None
    have = "has" if len(names) == 1 else "have"
    return (
        f"{', '.join(names)} {have} CodeCarbon's columns: no interval, and not how the energy is "
        "known. Rows that `carbontrack run` and `carbontrack.track` write have both."
    )


def no_records_reason(files: Iterable[Path]) -> str | None:
    """Why files have no records where their first lines tell; None otherwise."""
    for path in files:
        line = _first_line(path) if path.suffix.lower() == ".csv" else None
        if line is None or _is_ours(line):
            continue
        if _is_codecarbons(line):
            return f"{path} is a file of CodeCarbon without rows"
        shown = cut_to(visible(line.strip()), _SHOWN)
        return f"{path} is not a file of carbontrack or CodeCarbon; it begins with {shown!r}"
    return None


def _first_line(path: Path) -> str | None:
    try:
        with path.expanduser().open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except OSError as error:
        pass_on(error)
        return None
    lines = start.decode("utf-8-sig", "replace").splitlines()
    return lines[0] if lines else None


def _is_ours(line: str) -> bool:
    return "record_id" in line and "run_id" in line


def _is_codecarbons(line: str | None) -> bool:
    if line is None or codecarbon.MARK not in line:
        return False
    rows = (list(csv.reader([line], delimiter=mark)) for mark in DELIMITERS)
    return any(codecarbon.is_header(found[0]) for found in rows if found)
