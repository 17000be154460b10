"""A million records: how much time and memory a report takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbontrack.report.frame import IDS, NUMBERS, TEXTS, TIMES
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

pytestmark = pytest.mark.xdist_group("serial")  # CPU time, memory

ROWS = 1_000_000
DRAWN = 20_000
"""Records that differ; the others repeat them with ids of their own."""
MOST_BYTES = 700e6
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


def _usual(number: int) -> dict[str, Any]:
    return {
        "record_id": f"########-{number:012d}",
        "name": f"job, {number % 7}",
        "started_at": f"2026-09-{1 + number % 28:02d}T{number % 24:02d}:00:00.000Z",
        "cpu_kwh": number / 7e6,
        "cpu_basis": "measured",
        "energy_kwh": 0.001,
        "emissions_g": number / 3,
        "intensity_source": _SOURCE,
        "cpu_model": "AMD EPYC 7763 64-Core Processor",
    }


def a_million(path: Path, more: Callable[[int], dict[str, Any]], rows: int = ROWS) -> Path:
    """Write a million rows; `more` has what else is in those that differ, by their number."""
    lines = [record_line(a_record(n, **(_usual(n) | more(n))).to_row()) for n in range(DRAWN)]
    with path.open("wb") as file:
        file.write(HEADER)
        for block in range(rows // DRAWN):
            own = b"%08d" % block
            file.write(b"".join(line.replace(b"########", own) for line in lines))
    return path


def reported(path: Path) -> dict[str, Any]:
    """The report of a file, within the bounds of time and memory."""
    found, memory_bytes, times = report_of(path)
    assert memory_bytes <= MOST_BYTES
    assert times <= MOST_TIMES
    return found


def report_of(path: Path) -> tuple[dict[str, Any], float, float]:
    """The report, the most memory it took, and its time over that of a plain csv reader."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(path)], capture_output=True, text=True, check=True
    )
    memory_bytes, times = (float(part) for part in done.stderr.split()[-2:])
    return json.loads(done.stdout), memory_bytes, times


@pytest.mark.slow
def test_a_million_rows_take_little_time_and_memory(tmp_path: Path) -> None:
    """Within 700 MB, and in at most five times what a plain csv reader needs to split rows."""
    found = reported(a_million(tmp_path / "million.csv", lambda _: {}))
    assert found["total"]["runs"] == ROWS
    assert found["total"]["energy_kwh"] == pytest.approx(ROWS * 0.001)
    assert len(found["groups"]) == 28


def a_rank_or_its_child(number: int) -> dict[str, Any]:
    """Eight ranks of each machine in the same hour; of eighty rows one is held."""
    ids = {"run_id": f"########-{number}", "host_id": f"########-{number // 8}", "rank": number % 8}
    start_h = number // 8 % 23
    times = {"started_at": f"2026-09-{1 + number // 8 % 28:02d}T{start_h:02d}:00:00.000Z"}
    times["ended_at"] = times["started_at"].replace(f"T{start_h:02d}", f"T{start_h + 1:02d}")
    held = {"parent_id": f"########-{number - 1:012d}", "parent_holds": True}
    return ids | times | {"scope": "machine"} | (held if number % 80 == 9 else {})


@pytest.mark.slow
def test_a_million_ranks_take_no_more(tmp_path: Path) -> None:
    """Rows that overlap on 125,000 machines, and some that others hold, keep to the same bounds."""
    found = reported(a_million(tmp_path / "ranks.csv", a_rank_or_its_child))
    assert (found["nested"], found["overlapping"]) == (ROWS // 80, ROWS - ROWS // 80)
    assert found["overlapping_hosts"] == ROWS // 8
    assert found["total"]["energy_kwh"] == pytest.approx(ROWS / 8 * 0.001)


def on_a_fleet(number: int) -> dict[str, Any]:
    """A run on one of 100,000 hosts with forty processors, some of them with GPUs."""
    host = number % (DRAWN // 10)
    gpu = {"gpu_kwh": 0.002, "gpu_basis": "measured"} if number % 3 else {}
    return gpu | {
        "host_id": f"########-{host}",
        "cpu_model": f"processor {host % 40}",
        "cpu_basis": "modelled",
        "energy_low_kwh": 0.0005,
        "energy_high_kwh": 0.002,
    }


def a_job_or_its_child(number: int) -> dict[str, Any]:
    """Of ten rows a job holds three; one row in fifty is the checkpoint of the row before it."""
    job = number - number % 10
    held = {"parent_id": f"########-{job:012d}", "parent_holds": True}
    again = {"record_id": f"########-{number - 1:012d}", "status": "recovered"}
    machine = {"run_id": f"########-{number}", "scope": "machine", "host_id": "one"}
    own = held if 0 < number - job < 4 else machine if number - job == 9 else {}
    return own | (again if number % 50 == 7 else {})


def test_memory_grows_by_one_copy_of_the_columns(tmp_path: Path) -> None:
    """What is left out of the sums takes no second frame beside the first one."""
    columns = len({*IDS, *TIMES, *TEXTS, *NUMBERS, "parent_holds"})
    few, many = 5 * DRAWN, 15 * DRAWN
    peaks = {}
    for rows in (few, many):
        path = a_million(tmp_path / f"{rows}.csv", a_job_or_its_child, rows)
        found, peaks[rows], _ = report_of(path)
        assert found["repeated"] == rows // 50
        assert found["nested"] > 0
        assert found["overlapping"] > 0
    grown_bytes = (peaks[many] - peaks[few]) / (many - few)
    print(f"\n{grown_bytes:.0f} bytes a row for {columns} columns")
    assert grown_bytes <= 1.2 * 8 * columns


@pytest.mark.slow
def test_a_fleet_of_a_hundred_thousand_hosts_takes_no_more(tmp_path: Path) -> None:
    """Their errors are common in part, so each day's sum is narrower than linear."""
    found = reported(a_million(tmp_path / "fleet.csv", on_a_fleet))
    assert (found["modelled_hosts"], found["modelled_processors"]) == (ROWS // 10, 40)
    total = found["total"]
    below = (total["energy_kwh"] - total["energy_low_kwh"]) / (ROWS * 0.0005)
    assert 0.5**0.5 < below < 1.0
