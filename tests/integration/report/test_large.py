"""A million records: how much time and memory a report takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

pytestmark = pytest.mark.xdist_group("serial")  # CPU time, memory

ROWS = 1_000_000
DRAWN = 20_000
"""Records that differ; the others repeat them with ids of their own."""
MOST_BYTES = 1 << 30
MOST_TIMES = 5.0
"""CPU seconds of the whole report over those in which Python's csv module only splits the rows."""
_SOURCE = "Ember Yearly Electricity Data (2026), processed by Our World in Data"

REPORT = """
import csv, resource, sys
from time import process_time
from carbontrack.cli import main
code = main(["report", sys.argv[1], "--by", "day", "--json"])
used = resource.getrusage(resource.RUSAGE_SELF)
begin = process_time()
with open(sys.argv[1], newline="", encoding="utf-8") as file:
    rows = sum(1 for _ in csv.reader(file))
print(used.ru_maxrss * 1024, begin / (process_time() - begin), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def million(tmp_path: Path) -> Path:
    lines = [
        record_line(
            a_record(
                n,
                record_id=f"########-{n:012d}",
                name=f"job, {n % 7}",
                started_at=f"2026-09-{1 + n % 28:02d}T{n % 24:02d}:00:00.000Z",
                cpu_kwh=n / 7e6,
                cpu_basis="measured",
                energy_kwh=0.001,
                emissions_g=n / 3,
                intensity_source=_SOURCE,
                cpu_model="AMD EPYC 7763 64-Core Processor",
            ).to_row()
        )
        for n in range(DRAWN)
    ]
    path = tmp_path / "million.csv"
    with path.open("wb") as file:
        file.write(HEADER)
        for block in range(ROWS // DRAWN):
            own = b"%08d" % block
            file.write(b"".join(line.replace(b"########", own, 1) for line in lines))
    return path


@pytest.mark.slow
def test_a_million_rows_take_little_time_and_memory(million: Path) -> None:
    """Within 1 GiB, and in at most five times what a plain csv reader needs to split rows."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(million)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["total"]["runs"] == ROWS
    assert found["total"]["energy_kwh"] == pytest.approx(ROWS * 0.001)
    assert len(found["groups"]) == 28
    memory_bytes, times = (float(part) for part in done.stderr.split()[-2:])
    assert memory_bytes <= MOST_BYTES
    assert times <= MOST_TIMES
