"""A CSV of as many rows as are asked for, as a year of jobs on some hosts leaves them.

Each row has ids, times and figures of its own. Ten rows belong together: a job, three processes
that it started, whose rows it holds, and six jobs that stand alone, of which some measure the whole
machine, at the same time as others. One row in a hundred was recovered from a checkpoint, and of
these every other one is there a second time, finished.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from carbontrack.record import Record
from carbontrack.sinks.csv_file import HEADER, record_line

DRAWN = 10_000
"""Records that differ in all of their cells; the others repeat their names, labels and figures."""
HOSTS = 40
_BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
_MODELS = ("AMD EPYC 7763 64-Core Processor", "Intel(R) Xeon(R) Platinum 8480+", "AMD EPYC 9654")
_BLOCK = b"########"
"""Stands in a drawn row where the number of its block goes."""
_FRACTION = b".######Z"
"""Stands in a drawn row where a fraction of a second goes."""


def write_rows(path: Path, count: int) -> None:
    """Write so many rows below a header; the same ones each time."""
    lines = [record_line(record.to_row()) for record in drawn(min(count, DRAWN))]
    with path.open("wb") as file:
        file.write(HEADER)
        for block in range(-(-count // len(lines))):
            rows = lines[: count - block * len(lines)]
            text = b"".join(rows).replace(_BLOCK, b"%08x" % block)
            file.write(text.replace(_FRACTION, b".%06dZ" % (block * 7919 % 1_000_000)))


def drawn(count: int) -> list[Record]:
    """Records whose ids and times are completed for each block."""
    chance = random.Random(18)
    records: list[Record] = []
    for first in range(0, count, 10):
        records += _ten(first, chance)
    return records[:count]


def _ten(first: int, chance: random.Random) -> Iterator[Record]:
    host, start = chance.randrange(HOSTS), _BEGIN + timedelta(minutes=first * 5)
    job = _record(first, host, start, 3600.0, chance)
    yield job
    for rank in range(3):
        held = {"parent_id": job.record_id, "parent_holds": True, "rank": rank, "world_size": 3}
        yield _record(first + 1 + rank, host, start, 3000.0, chance, **held)
    for number in range(first + 4, first + 10):
        scope = "machine" if number % 5 == 0 else "process"
        own_host, begun = chance.randrange(HOSTS), start + timedelta(seconds=chance.uniform(0, 3e3))
        status = "recovered" if number % 100 in (8, 9) else "ok"
        is_again = number % 200 == 9
        record = _record(
            number - 1 if is_again else number, own_host, begun, 900.0, chance, scope=scope,
            status="ok" if is_again else status,
        )  # fmt: skip
        yield record


def _record(
    number: int, host: int, start: datetime, about_s: float, chance: random.Random, **more: Any
) -> Record:
    duration_s = about_s * chance.uniform(0.5, 1.0)
    cpu_kwh, ram_kwh = duration_s * 2e-5 * chance.random(), duration_s * 3e-6
    kwh, g_per_kwh = cpu_kwh + ram_kwh, 41.44
    run = f"########{number:024x}"
    return Record(
        record_id=f"{run}-1",
        run_id=run,
        name=f"job {number % 50}, stage {number % 7}",
        labels={"model": f"m{number % 20}", "fold": number % 5},
        started_at=_time(start),
        ended_at=_time(start + timedelta(seconds=duration_s)),
        duration_s=duration_s,
        calls=1,
        cpu_kwh=cpu_kwh,
        ram_kwh=ram_kwh,
        energy_kwh=kwh,
        energy_low_kwh=kwh * 0.6,
        energy_high_kwh=kwh * 1.7,
        emissions_g=kwh * g_per_kwh,
        emissions_low_g=kwh * 0.6 * 24.85,
        emissions_high_g=kwh * 1.7 * 69.1,
        water_l=kwh * 1.9,
        region="FR",
        region_basis="argument",
        intensity_g_per_kwh=g_per_kwh,
        intensity_low_g_per_kwh=24.85,
        intensity_high_g_per_kwh=69.1,
        intensity_source="Ember Yearly Electricity Data (2026), processed by Our World in Data",
        intensity_year=2025,
        pue=1.0,
        basis="modelled",
        cpu_basis=("measured", "modelled")[host % 2],
        ram_basis="modelled",
        meters="model:cpu;model:ram",
        coverage=1.0,
        max_gap_s=chance.random(),
        idle="proportional",
        cpu_share=chance.random(),
        cpu_model=_MODELS[host % 3],
        cpu_threads=128,
        cpu_tdp_w=280.0,
        gpu_count=0,
        ram_gib=503.541,
        host_id=f"{host:016x}",
        pid=1000 + number,
        os="Linux 6.18.44",
        python="3.11.7",
        carbontrack="0.1.0",
        **{"scope": "process", "status": "ok", "missed_reads": 0} | more,
    )


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S") + ".######Z"
