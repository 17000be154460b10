"""A saved baseline: what tests used once, on which machine, by which metric."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from carbontrack.budgets.comparison import Comparison, compare
from carbontrack.budgets.metric import Metric
from carbontrack.budgets.reference import RELATIVE_UNCERTAINTY
from carbontrack.budgets.result import TestResult
from carbontrack.errors import ConfigError

SCHEMA = 1
LEAST_RESOLUTIONS = 10.0
"""A figure of fewer resolutions than this may change by 10 % because of the reading alone."""
KIND = "carbontrack baseline"


def fingerprint(cpu_model: str | None = None) -> str:
    """What decides how fast this machine is: processor, its threads, interpreter."""
    model = cpu_model or platform.processor() or platform.machine()
    python = f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}"
    return f"{model} x{os.cpu_count()}, {platform.system()}, {python}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One test in a baseline."""

    metric: str
    pins: str
    machine: str
    rounds_joules: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Entries by test id and metric."""

    entries: Mapping[tuple[str, str], Entry]

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a baseline.

        Raises:
            ConfigError: there is no such file, or it is no baseline.
        """
        try:
            content = json.loads(path.read_bytes())
            entries = _entries(content)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no baseline of carbontrack: {error!r}") from error
        return cls(entries)

    def compare(
        self, result: TestResult, metric: Metric, *, machine: str, resolution_joules: float = 0.0
    ) -> Comparison:
        """How a test stands to its entry; a note where the two cannot be compared."""
        entry = self.entries.get((result.nodeid, metric.name))
        if entry is None:
            others = {name for nodeid, name in self.entries if nodeid == result.nodeid}
            found = f"the baseline is by {', '.join(sorted(others))}" if others else "new"
            return Comparison(note=found)
        if not result.rounds_joules:
            return Comparison(note="nothing measured")
        if entry.pins != result.pins:
            return Comparison(note="the baseline has other pins")
        largest = max(metric.statistic(result.rounds_joules), metric.statistic(entry.rounds_joules))
        if largest < LEAST_RESOLUTIONS * resolution_joules:
            return Comparison(note="too small to compare")
        elsewhere = entry.machine != machine
        if elsewhere and not metric.same_everywhere:
            return Comparison(note="the baseline is another machine's")
        return compare(
            result.rounds_joules,
            entry.rounds_joules,
            statistic=metric.statistic,
            seed=result.nodeid,
            machines_differ_by=RELATIVE_UNCERTAINTY * sqrt(2.0) if elsewhere else 0.0,
        )


def _entries(content: Mapping[str, Any]) -> dict[tuple[str, str], Entry]:
    if content["schema"] != SCHEMA or content["kind"] != KIND:
        raise ValueError(f"schema {content['schema']} is not {SCHEMA}")
    return {(row["nodeid"], row["metric"]): _entry(row) for row in content["tests"]}


def _entry(row: Mapping[str, object]) -> Entry:
    rounds = row["rounds_joules"]
    if not isinstance(rounds, list) or not rounds:
        raise ValueError(f"{row['nodeid']} has no rounds")
    return Entry(
        str(row["metric"]), str(row["pins"]), str(row["machine"]), tuple(map(float, rounds))
    )


def save(path: Path, results: Iterable[TestResult], machine: str) -> None:
    """Write the figures of tests that passed; entries that the file has of others stay."""
    rows: dict[tuple[str, str], dict[str, object]] = {}
    if path.exists():
        for (nodeid, metric), entry in Baseline.load(path).entries.items():
            rows[nodeid, metric] = _row(nodeid, entry)
    for result in results:
        if result.outcome == "passed" and result.rounds_joules:
            entry = Entry(result.metric, result.pins, machine, tuple(result.rounds_joules))
            rows[result.nodeid, result.metric] = _row(result.nodeid, entry)
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "tests": [rows[key] for key in sorted(rows)],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _row(nodeid: str, entry: Entry) -> dict[str, object]:
    return {
        "nodeid": nodeid,
        "metric": entry.metric,
        "pins": entry.pins,
        "machine": entry.machine,
        "rounds_joules": list(entry.rounds_joules),
    }
