"""Records for tests, and names with characters that break careless file formats."""

from __future__ import annotations

from typing import Any

from carbontrack.record import Record

HOSTILE = [
    "n" * 1000,
    "comma, and, more",
    'a "quoted" word',
    "two\nlines",
    "carriage\rreturn",
    "windows\r\nends",
    "ends in a line feed\n",
    'ends in a quote"',
    '=HYPERLINK("http://127.0.0.1";"click")',
    "+1+1",
    "-1",
    "@SUM(A1)",
    "'already quoted",
    "''",
    "\ttab first",
    "\rreturn first",
    "grün 🌍 日本語 \u202e rtl",
    "  spaces around  ",
    "semi;colon",
    "back\\slash",
    "null",
    "NaN",
    "1e5",
    "../../etc/passwd",
    "record_id",
    "\ufeffbom",
    "\u2028line separator",
    "\x0b\x0c\x1c\x85",
]
"""Names that must be read back unchanged."""


def a_record(number: int = 0, **changes: Any) -> Record:
    """A finished record as a measured run would leave it; `number` makes ids of its own."""
    facts: dict[str, Any] = {
        "record_id": f"run-7f3a:{number}",
        "run_id": "run-7f3a",
        "name": "train",
        "labels": {"fold": 3, "model": "ridge"},
        "started_at": "2026-11-24T03:00:00.000Z",
        "ended_at": "2026-11-24T03:00:01.500Z",
        "duration_s": 1.5,
        "cpu_kwh": 1.25e-05,
        "ram_kwh": 0.1 + 0.2,
        "energy_kwh": 1.5e-05,
        "energy_low_kwh": 1.0e-05,
        "energy_high_kwh": 2.0e-05,
        "emissions_g": 0.00084,
        "region": "FR",
        "region_basis": "argument",
        "intensity_g_per_kwh": 56.0,
        "intensity_source": "test table",
        "intensity_year": 2024,
        "basis": "modelled",
        "meters": "model:cpu;model:ram",
        "missed_reads": 0,
        "scope": "process",
        "pid": 4242,
        "os": "Linux",
    }
    return Record(**(facts | changes))
