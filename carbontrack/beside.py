"""What lies beside a file of records, and what it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TIMELINE_SUFFIX: Final = ".timeline.jsonl"
"""The ending of the files of timelines."""


def timeline_path(output: Path) -> Path:
    """The file of the timelines of the records in `output`: runs.csv has runs.timeline.jsonl."""
    return output.with_name(f"{output.stem}{TIMELINE_SUFFIX}")
