"""Reports of many records: `python benchmarks/large_reports.py [ROWS] [--folder FOLDER]`.

Writes a folder of Parquet with that many made-up records (10,000,000), some of them repeated,
recovered, nested or overlapping, and reports on it in a process of its own, by name, by day and by
host. Prints seconds, CPU seconds and the most memory of each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILE_ROWS = 1_000_000

RECORDS = """
SELECT
    md5('record ' || id) AS record_id,
    md5('run ' || (id // 50)) AS run_id,
    CASE WHEN n % 20 = 3 THEN md5('record ' || (id - 1)) END AS parent_id,
    CASE n % 20 WHEN 3 THEN n % 40 = 3 END AS parent_holds,
    'job ' || (n % 200) AS name,
    '{"model": "m' || (n % 50) || '", "fold": ' || (n % 5) || '}' AS labels,
    CASE WHEN n <> id THEN 'recovered' ELSE 'ok' END AS status,
    make_timestamptz((1780000000000 + id * 250) * 1000) AS started_at,
    make_timestamptz((1780000000000 + id * 250 + 200 + n % 3600000) * 1000) AS ended_at,
    (200 + n % 3600000) / 1000.0::DOUBLE AS duration_s,
    1::BIGINT AS calls,
    1e-9 * (1 + hash(n) % 97003)::DOUBLE AS cpu_kwh,
    CASE WHEN n % 3 > 0 THEN 3e-9 * (1 + hash(n + 1) % 89003)::DOUBLE END AS gpu_kwh,
    2e-9 * (1 + hash(n + 2) % 83003)::DOUBLE AS ram_kwh,
    NULL::DOUBLE AS other_kwh,
    coalesce(cpu_kwh, 0) + coalesce(gpu_kwh, 0) + ram_kwh AS energy_kwh,
    energy_kwh * 0.7 AS energy_low_kwh,
    energy_kwh * 1.6 AS energy_high_kwh,
    ['FR', 'DE', 'SE', 'US', 'PL'][1 + n % 5] AS region,
    [56.0, 380.0, 40.0, 390.0, 660.0][1 + n % 5]::DOUBLE AS intensity_g_per_kwh,
    intensity_g_per_kwh * 0.9 AS intensity_low_g_per_kwh,
    intensity_g_per_kwh * 1.1 AS intensity_high_g_per_kwh,
    energy_kwh * intensity_g_per_kwh AS emissions_g,
    energy_kwh * 1.8 AS water_l,
    CASE WHEN n % 7 = 0 THEN energy_kwh * 20 END AS embodied_g,
    1.2::DOUBLE AS pue,
    ['measured', 'modelled', 'assumed'][1 + n % 3] AS basis,
    ['measured', 'modelled', 'assumed'][1 + n % 3] AS cpu_basis,
    CASE WHEN n % 3 > 0 THEN ['measured', 'modelled'][1 + n % 2] END AS gpu_basis,
    'modelled' AS ram_basis,
    CASE WHEN n % 11 = 0 THEN 'gpu_unmeasured:1' END AS faults,
    CASE WHEN n % 50 = 7 THEN 'machine' ELSE 'process' END AS scope,
    'processor ' || (n % 40) AS cpu_model,
    CASE WHEN n % 3 > 0 THEN 'NVIDIA A100-SXM4-80GB' END AS gpu_models,
    'host-' || (n % 1000) AS host_id,
    'RAPL' AS meters,
    '3.11.7' AS python,
    'Linux' AS os
FROM (SELECT n, CASE WHEN n % 100 = 99 THEN n - 1 ELSE n END AS id FROM range(?, ?) t(n))
"""
"""Of 100 records one is the checkpoint of another, five name a parent, and two are of a machine."""
REPORT = """
import resource, sys, time
begun = time.monotonic()
from carbontrack.cli import main
code = main(["report", *sys.argv[1:], "--json"])
used = resource.getrusage(resource.RUSAGE_SELF)
took = time.monotonic() - begun
print(took, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""


def write_folder(folder: Path, rows: int, file_rows: int = FILE_ROWS) -> Path:
    """The folder, with so many records in files of Parquet."""
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(config={"memory_limit": "1GB", "threads": 2})
    for number, begin in enumerate(range(0, rows, file_rows)):
        target = folder / f"part-{number:04d}.parquet"
        copy = f"COPY ({RECORDS}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
        connection.execute(copy, [begin, min(begin + file_rows, rows)])
    connection.close()
    return folder


def report(*arguments: str) -> tuple[dict[str, Any], float, float, int]:
    """The report as JSON; its seconds, CPU seconds, and the most memory, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments], capture_output=True, text=True, check=True
    )
    took_s, cpu_s, peak_bytes = done.stderr.split()[-3:]
    return json.loads(done.stdout), float(took_s), float(cpu_s), int(peak_bytes)


def main() -> None:
    """Write the folder and print what the reports took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where it is, or is kept (a temporary folder)")
    parser.add_argument("--by", nargs="+", default=["name", "day", "host", "label:model"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "records"
        if not folder.exists():
            write_folder(folder, args.rows)
        size_mb = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        print(f"{args.rows:,} records, {size_mb:,.0f} MB of Parquet; load {os.getloadavg()[0]:.1f}")
        for by in args.by:
            found, took_s, cpu_s, peak_bytes = report(str(folder), "--by", by)
            left_out = {name: found[name] for name in ("repeated", "nested", "overlapping")}
            print(
                f"by {by}: {took_s:.1f} s, {cpu_s:.1f} CPU s, {peak_bytes / 1e6:,.0f} MB, "
                f"{len(found['groups'])} groups, {found['total']['runs']:,} added, {left_out}; "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
