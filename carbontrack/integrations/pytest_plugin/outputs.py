"""The files a run leaves behind: JSON, the benchmark list, CSV records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carbontrack.config.environment import parent_id
from carbontrack.integrations.pytest_plugin.results import TestResult
from carbontrack.integrations.pytest_plugin.session_total import SessionTotal
from carbontrack.record import Record, Status
from carbontrack.system.clock import SystemClock
from carbontrack.system.host import host_id
from carbontrack.system.version import VERSION
from carbontrack.units import kwh_from

SCHEMA = 1


def report(results: Sequence[TestResult], total: SessionTotal, machine: str) -> dict[str, Any]:
    """The whole run: `{"schema": 1, "session": {…}, "tests": [{…}, …]}`."""
    session = total.to_row() | {
        "pins": "; ".join(sorted({result.pins for result in results})),
        "machine": machine,
        "carbontrack": VERSION,
        "finished_at": _now(),
    }
    return {"schema": SCHEMA, "session": session, "tests": [one.to_row() for one in results]}


def benchmark_list(results: Sequence[TestResult]) -> list[dict[str, Any]]:
    """What github-action-benchmark reads as `customSmallerIsBetter`."""
    entries: list[dict[str, Any]] = []
    for result in results:
        if result.outcome != "passed" and result.verdict is None:
            continue
        columns = (
            ("CO2e", "mg", 1e3, "emissions_g", "emissions_low_g", "emissions_high_g"),
            ("energy", "J", 1.0, "energy_joules", "energy_low_joules", "energy_high_joules"),
        )
        for what, unit, factor, column, low_column, high_column in columns:
            figure, low = getattr(result, column), getattr(result, low_column)
            high = getattr(result, high_column)
            if figure is None:
                continue
            entry = {
                "name": f"{result.nodeid} ({what})",
                "unit": unit,
                "value": figure * factor,
                "extra": f"{result.metric}, {result.pins}",
            }
            if low is not None and high is not None:
                entry["range"] = f"± {(high - low) / 2.0 * factor:.3g}"
            entries.append(entry)
    return entries


def write_json(path: Path, content: object) -> None:
    """Write JSON, all of it or nothing: the file appears when it is complete.

    A device or a pipe is written to, and what a link leads to is replaced, not the link.
    """
    import json

    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    # a file's name that is no UTF-8 stands in the text as half a pair, which JSON can escape
    encoded = text.encode("utf-8", errors="backslashreplace")
    special = path.exists() and not path.is_file()
    path = path if special else Path(os.path.realpath(path))
    if special or not os.access(path.parent, os.W_OK):
        path.write_bytes(encoded)
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(encoded)
    part.replace(path)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run's records come from.

    Attributes:
        parent_id: the record that the run began in, such as that of `carbontrack run`, which has
            counted the tests as well; reports do not add up both.
        host_id: the machine's name in records.
    """

    parent_id: str | None
    host_id: str | None

    @classmethod
    def here(cls, host: str | None) -> Origin:
        """As it is now, before a test changes the environment; `host` is what a setting says."""
        return cls(parent_id(), host or host_id())


def append_csv(path: Path, results: Sequence[TestResult], origin: Origin) -> None:
    """Append a record for each test, in carbontrack's own columns, for `carbontrack report`."""
    from carbontrack.sinks.csv_file import CsvSink

    run_id, now = os.urandom(16).hex(), _now()
    sink = CsvSink(path)
    try:
        for number, result in enumerate(results, 1):
            record = _record(result, run_id, number, now)
            sink.write(replace(record, parent_id=origin.parent_id, host_id=origin.host_id))
    finally:
        sink.close()


def _record(result: TestResult, run_id: str, number: int, now: str) -> Record:
    status: Status = "error" if result.outcome == "failed" else "ok"
    labels = {"outcome": result.outcome, "metric": result.metric, "pins": result.pins}
    facts = {"budget": result.budget, "verdict": result.verdict, "change": result.change}
    return Record(
        record_id=f"{run_id}-{number}",
        run_id=run_id,
        name=result.nodeid,
        labels=labels | {name: fact for name, fact in facts.items() if fact is not None},
        status="budget" if result.verdict == "over" else status,
        error=result.reason if result.verdict == "over" else None,
        started_at=result.started_at or now,
        ended_at=result.ended_at or now,
        duration_s=result.duration_s,
        calls=max(1, len(result.rounds_joules)),
        energy_kwh=_kwh(result.energy_joules),
        energy_low_kwh=_kwh(result.energy_low_joules),
        energy_high_kwh=_kwh(result.energy_high_joules),
        emissions_g=result.emissions_g,
        emissions_low_g=result.emissions_low_g,
        emissions_high_g=result.emissions_high_g,
        basis=result.basis,  # type: ignore[arg-type]
        pid=result.pid,
        carbontrack=VERSION,
    )


def _kwh(joules: float | None) -> float | None:
    return None if joules is None else kwh_from(joules)


def _now() -> str:
    return SystemClock.now_utc().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
