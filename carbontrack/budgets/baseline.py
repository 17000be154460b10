"""A saved baseline: what tests used, in which processes, on which machine, by which metric."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from carbontrack.budgets.comparison import NEW, TOO_SMALL, Comparison, Processes, compare
from carbontrack.budgets.metric import Metric
from carbontrack.budgets.reference import RELATIVE_UNCERTAINTY
from carbontrack.budgets.result import TestResult
from carbontrack.errors import ConfigError
from carbontrack.meters.cpu_facts import CpuFacts, read_cpu_facts

SCHEMA = 2
LEAST_RESOLUTIONS = 10.0
"""A figure of fewer resolutions than this may change by 10 % because of the reading alone."""
MOST_PROCESSES = 50
"""Processes that are kept of a test; of more, the latest."""
KIND = "carbontrack baseline"

Key = tuple[str, str, str]
"""Test id, metric and machine."""


def fingerprint(cpu: CpuFacts | None = None) -> str:
    """What decides how fast this machine is: processor, its threads, system, interpreter."""
    cpu = read_cpu_facts() if cpu is None else cpu
    name = cpu.name or cpu.vendor or platform.processor() or platform.machine()
    part = ".".join(filter(None, (cpu.family, cpu.model, cpu.stepping)))
    model = f"{name} ({part})" if part else name
    python = f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}"
    return f"{model} x{os.cpu_count()}, {platform.system()}, {python}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One test in a baseline; `rounds_joules` has a tuple for each process."""

    pins: str
    rounds_joules: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Entries by test id, metric and machine."""

    entries: Mapping[Key, Entry]

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a baseline, of this schema or an older one.

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

    @classmethod
    def load_if_there(cls, path: Path | None) -> Baseline:
        """The same; without entries where there is no file yet.

        Raises:
            ConfigError: it is no baseline.
        """
        return cls.load(path) if path is not None and path.exists() else cls({})

    def processes(self, result: TestResult, machine: str) -> Processes:
        """What other processes on the machine measured of a test, by its metric and pins."""
        entry = self.entries.get((result.nodeid, result.metric, machine))
        return entry.rounds_joules if entry is not None and entry.pins == result.pins else ()

    def compare(
        self,
        result: TestResult,
        metric: Metric,
        *,
        machine: str,
        earlier: Processes = (),
        resolution_joules: float = 0.0,
    ) -> Comparison:
        """How a test stands to its entry; a note where the two cannot be compared.

        Args:
            result: what the test used in this process.
            metric: what it was measured by.
            machine: this one.
            earlier: rounds of the same code in other processes, which count as this one's.
            resolution_joules: what cannot be told from zero.
        """
        entry, elsewhere = self._entry(result.nodeid, metric.name, machine)
        if entry is None:
            others = {name for nodeid, name, _ in self.entries if nodeid == result.nodeid}
            found = f"the baseline is by {', '.join(sorted(others))}" if others else NEW
            return Comparison(note=found)
        if not result.rounds_joules:
            return Comparison(note="nothing measured")
        if entry.pins != result.pins:
            return Comparison(note="the baseline has other pins")
        now, then = (*earlier, result.rounds_joules), entry.rounds_joules
        if max(map(metric.statistic, (*now, *then))) < LEAST_RESOLUTIONS * resolution_joules:
            return Comparison(note=TOO_SMALL)
        if elsewhere and not metric.same_everywhere:
            return Comparison(note="the baseline is another machine's")
        return compare(
            now,
            then,
            statistic=metric.statistic,
            seed=result.nodeid,
            spread=metric.spread,
            machines_differ_by=RELATIVE_UNCERTAINTY * sqrt(2.0) if elsewhere else 0.0,
        )

    def _entry(self, nodeid: str, metric: str, machine: str) -> tuple[Entry | None, bool]:
        """A test's entry and whether it is another machine's; this machine's own comes first."""
        own = self.entries.get((nodeid, metric, machine))
        if own is not None:
            return own, False
        others = (e for (n, m, _), e in self.entries.items() if (n, m) == (nodeid, metric))
        return next(others, None), True


def _entries(content: Mapping[str, Any]) -> dict[Key, Entry]:
    schema = content["schema"]
    if schema not in (1, SCHEMA) or content["kind"] != KIND:
        raise ValueError(f"schema {schema} is not {SCHEMA}")
    return {
        (str(row["nodeid"]), str(row["metric"]), str(row["machine"])): _entry(row, schema)
        for row in content["tests"]
    }


def _entry(row: Mapping[str, Any], schema: int) -> Entry:
    processes = [row["rounds_joules"]] if schema == 1 else row["rounds_joules"]
    if not processes or not all(isinstance(rounds, list) and rounds for rounds in processes):
        raise ValueError(f"{row['nodeid']} has no rounds")
    return Entry(str(row["pins"]), tuple(tuple(map(float, rounds)) for rounds in processes))


def save(path: Path, results: Iterable[TestResult], machine: str) -> None:
    """Write the figures of tests that passed; what the file has of others stays."""
    _write(path, results, machine, adds=False)


def add(path: Path, results: Iterable[TestResult], machine: str) -> None:
    """Write the figures of tests that passed beside those of earlier processes."""
    _write(path, results, machine, adds=True)


def _write(path: Path, results: Iterable[TestResult], machine: str, *, adds: bool) -> None:
    before = Baseline.load_if_there(path)
    entries = dict(before.entries)
    for result in results:
        if result.outcome == "passed" and result.rounds_joules:
            kept = before.processes(result, machine) if adds else ()
            processes = (*map(tuple, kept), tuple(result.rounds_joules))[-MOST_PROCESSES:]
            entries[result.nodeid, result.metric, machine] = Entry(result.pins, processes)
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "tests": [_row(key, entries[key]) for key in sorted(entries)],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _row(key: Key, entry: Entry) -> dict[str, object]:
    nodeid, metric, machine = key
    return {
        "nodeid": nodeid,
        "metric": metric,
        "pins": entry.pins,
        "machine": machine,
        "rounds_joules": [list(rounds) for rounds in entry.rounds_joules],
    }
