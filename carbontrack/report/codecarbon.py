"""Rows of CodeCarbon's files, releases 1 to 3, read as rows of records.

These files have no uncertainty intervals and do not say whether energy was measured or modelled, so
the basis stays unknown. A 0 may mean "not known" and is left out. Times are local without a time
zone, and are read as times of this machine. Rows of one run are cumulative, so the last row is the
run's total; rows of its tasks are nested in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from functools import lru_cache

from carbontrack.errors import UnknownRegion
from carbontrack.grid import names
from carbontrack.record import NUMBER_COLUMNS
from carbontrack.report.spreadsheet import number_text

NEEDED = frozenset({"timestamp", "duration", "emissions", "energy_consumed"})
"""The columns that every release writes, in addition to the name of a project or a task."""
MARK = "energy_consumed"
SOURCE = "CodeCarbon"
G_PER_KG = 1000.0
_SAME = {
    "duration": "duration_s",
    "energy_consumed": "energy_kwh",
    "water_consumed": "water_l",
    "cloud_provider": "cloud_provider",
    "cloud_region": "cloud_region",
    "os": "os",
    "python_version": "python",
    "cpu_model": "cpu_model",
    "cpu_count": "cpu_threads",
    "gpu_model": "gpu_models",
    "gpu_count": "gpu_count",
    "ram_total_size": "ram_gib",
    "tracking_mode": "scope",
    "pue": "pue",
}
"""Columns with the same meaning and unit: theirs, and ours."""
_NOT_ZERO = ("energy_kwh", "water_l", "gpu_count", "cpu_threads", "ram_gib", "pue")
_OURS = "carbontrack "
"""The start of the version in rows that carbontrack wrote."""


def is_header(cells: Iterable[str]) -> bool:
    """Whether these are the columns of a CodeCarbon file, in any order."""
    found = {*cells}
    return found >= NEEDED and not found.isdisjoint(("project_name", "task_name"))


def row_of(row: Mapping[str, str]) -> dict[str, str]:
    """The row as a row of a record; a cell that is not a number or a time stays as it is."""
    task, run_id = row.get("task_name", ""), row.get("run_id", "")
    run_id = run_id or f"{row['timestamp']} {row.get('project_name', '')}"
    own_id = f"codecarbon:{run_id}"
    found = {
        ours: number_text(row[theirs]) if ours in NUMBER_COLUMNS else row[theirs]
        for theirs, ours in _SAME.items()
        if row.get(theirs)
    }
    version = row.get("codecarbon_version", "")
    found |= {
        "record_id": f"{own_id}:{task}" if task else own_id,
        "run_id": run_id,
        "name": task or row.get("project_name") or SOURCE,
        **_times(row["timestamp"], row["duration"]),
        **_energies(row),
        **_place(row.get("country_iso_code", ""), row.get("region", "")),
        "labels": _labels(row, version),
        "carbontrack": version.removeprefix(_OURS) if version.startswith(_OURS) else "",
    }
    if task:
        found |= {"parent_id": own_id, "parent_holds": "true"}
    for name in _NOT_ZERO:
        if _number(found.get(name)) == 0.0:
            del found[name]
    return found


def _energies(row: Mapping[str, str]) -> dict[str, str]:
    """Emissions and carbon intensity, and the components before PUE, where they are known."""
    found = {}
    energy_kwh, kg = _number(row["energy_consumed"]), _number(row["emissions"])
    if kg is None:
        found["emissions_g"] = row["emissions"]
    elif energy_kwh:
        found["emissions_g"] = repr(kg * G_PER_KG)
        found["intensity_g_per_kwh"] = repr(kg * G_PER_KG / energy_kwh)
        found["intensity_source"] = SOURCE
    pue = _number(row.get("pue")) or 1.0
    for part in ("cpu", "gpu", "ram"):
        cell = row.get(f"{part}_energy", "")
        kwh = _number(cell)
        if kwh or (cell and kwh is None):
            found[f"{part}_kwh"] = cell if kwh is None else repr(kwh / pue)
    return found


def _times(timestamp: str, duration: str) -> dict[str, str]:
    """When the run started and ended."""
    try:
        ended_at = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
        ended_at = ended_at.astimezone(timezone.utc)
        started_at = ended_at - timedelta(seconds=_number(duration) or 0.0)
    except (ValueError, OverflowError):
        return {"started_at": timestamp, "ended_at": timestamp}
    return {"started_at": _text(started_at), "ended_at": _text(ended_at)}


def _text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@lru_cache(maxsize=256)
def _place(country: str, part: str) -> dict[str, str]:
    """The region of a country and one of its parts, by names or codes."""
    if not country:
        return {}
    try:
        code = names.normalise(country)
    except UnknownRegion:
        return {"region": country}
    return {"region": (names.part_of(code, part) if part else None) or code}


def _labels(row: Mapping[str, str], version: str) -> str:
    import json

    tool = version if version.startswith(_OURS) else f"{SOURCE} {version}".strip()
    said = {"tool": tool, "experiment_id": row.get("experiment_id"), "task": row.get("task_name")}
    if row.get("task_name"):
        said["project"] = row.get("project_name")
    return json.dumps({name: text for name, text in said.items() if text}, ensure_ascii=False)


def _number(cell: str | None) -> float | None:
    try:
        return float(number_text(cell or ""))
    except ValueError:
        return None
