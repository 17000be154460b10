"""What the tests of the report's formats share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.record import Record
from carbontrack.sinks.csv_file import HEADER, record_line


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Write records, ask for a format, and give back what was printed."""

    def asked(form: str, *records: Record, more: tuple[str, ...] = (), code: int = 0) -> str:
        path = tmp_path / "runs.csv"
        path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
        assert main(["report", str(path), "--format", form, *more]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return asked
