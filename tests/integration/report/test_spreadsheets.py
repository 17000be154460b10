"""Files of records that a real LibreOffice opened and saved again."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from carbontrack.cli import main
from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import HOSTILE, a_record

OFFICE = shutil.which("soffice")
pytestmark = [
    pytest.mark.skipif(OFFICE is None, reason="no LibreOffice here: install libreoffice-calc"),
    pytest.mark.xdist_group("office"),  # one profile
]
# separator, quote, character set (UTF-8 or UTF-16), first line, language, quote all, as shown
SAVED = {
    "commas": "44,34,76,1,,1033,false,true,false",
    "semicolons, all quoted": "59,34,76,1,,1031,true,true,false",
    "tabs in UTF-16": "9,34,65535,1,,1033,false,true,false",
}
READ = "44,34,76,1,,1033,false,true"
NUMBERS = ("1e5", "-1", "+1+1")
"""Names that look like numbers, which it writes as such."""


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("office")


def shown(record: Record) -> dict[str, Any]:
    """A record with numbers as precise as a spreadsheet shows them."""
    return {
        name: pytest.approx(cell, rel=1e-9) if isinstance(cell, float) else cell
        for name, cell in asdict(record).items()
    }


@pytest.mark.parametrize("how", SAVED)
def test_what_libreoffice_saves_again_is_read(
    tmp_path: Path, profile: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same records, and the same report."""
    names = [name for name in HOSTILE if name not in NUMBERS and not {*"\r\ufeff"} & {*name}]
    records = [
        a_record(n, name=name, parent_id="run-7f3a:0" if n else None, parent_holds=n % 2 == 1)
        for n, name in enumerate(names)
    ]
    source = tmp_path / "runs.csv"
    source.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    target = tmp_path / "again"
    subprocess.run(
        [
            *(str(OFFICE), "--headless", f"-env:UserInstallation={profile.as_uri()}"),
            *(f"--infilter=CSV:{READ}", "--convert-to"),
            *(f"csv:Text - txt - csv (StarCalc):{SAVED[how]}", "--outdir", str(target)),
            str(source),
        ],
        check=True,
        capture_output=True,
    )
    again = target / "runs.csv"
    assert again.read_bytes() != source.read_bytes()
    assert [asdict(record) for record in iter_records(again)] == list(map(shown, records))
    figures = []
    for path in (source, again):
        assert main(["report", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        figures.append((found["total"]["energy_kwh"], found["nested"], found["skipped_lines"]))
    assert figures[1] == pytest.approx(figures[0])
