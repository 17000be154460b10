"""Documents in formats of others, written from the facts of the records.

BibTeX entries of the sources of the data, Hugging Face model cards, BoAmps reports, and the
Software Carbon Intensity (SCI) of ISO/IEC 21031.
"""

from __future__ import annotations

import json
import re
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.grid import rows
from carbontrack.report.facts import Asked, Facts
from carbontrack.report.tables import latex
from carbontrack.text import visible

_EMBODIED = (
    ("boavizta2021", "Boavizta's bottom-up method for the embodied impacts of hardware", 2021),
    ("teads2021", "Teads EC2 dataset, as used by Cloud Carbon Footprint", 2021),
)
_OF_CARDS = (
    "ademe2026",
    "Life cycle assessments of GPUs for artificial intelligence (ADEME)",
    2026,
)
_SHARE = re.compile(r"; | \(\d[\d.]*%\)| \(the grid of [^)]*\)")
_CARD = ("emissions", "source", "training_type", "geographical_location", "hardware_used")
_TASK = ("taskStage", "taskFamily", "algorithms", "dataset")
_EXAMPLE = (
    '{"task": {"taskStage": "training", "taskFamily": "text classification", '
    '"algorithms": [{"algorithmName": "transformer"}], '
    '"dataset": [{"dataUsage": "input", "dataType": "text"}]}}'
)
_QUALITIES = ((0.10, "high"), (0.25, "medium"), (0.50, "low"))
"""Relative half-widths of an interval at most, and BoAmps' word for that quality."""


def as_bibtex(facts: Facts, _asked: Asked) -> str:
    """An entry for the program and one for each source of intensity, and of embodied emissions."""
    version = facts.versions[0] if facts.versions else None
    entries = [
        _entry(
            "carbontrack",
            "carbontrack: energy and emissions of Python programs, with how each is known",
            None,
            f"Version {version}" if version else "",
            kind="software",
        )
    ]
    years: dict[str, tuple[int | None, list[str]]] = {}
    for row in facts.grids:
        for text in filter(None, _SHARE.split(row["intensity_source"] or "")):
            year = row["intensity_year"]
            _, regions = years.setdefault(text, (None if year is None else int(year), []))
            regions.append(row["region"] or "unknown")
    for number, (text, (year, regions)) in enumerate(sorted(years.items()), 1):
        used = ", ".join(dict.fromkeys(regions))
        data = "" if year is None else f"; data of {year}"
        licence = _licence(text)
        note = f"Carbon intensity of {used}{data}" + (f". {licence}" if licence else "")
        entries.append(_entry(f"intensity{number}", text, _year_of_publication(text), note))
    if facts.summary.total.embodied_g is not None:
        note = "Making the hardware, where no figure of one's own was given"
        has_cards = any(machine.gpus for machine in facts.machines)
        used_for = (*_EMBODIED, _OF_CARDS) if has_cards else _EMBODIED
        entries += [_entry(key, text, year, note) for key, text, year in used_for]
    return "\n".join(entries)


def as_model_card(facts: Facts, asked: Asked) -> str:
    """The `co2_eq_emissions` block of a Hugging Face model card, in YAML.

    Raises:
        ConfigError: the emissions are unknown, or `about` has a field that the block lacks.
    """
    grams = facts.summary.total.emissions_g
    if grams is None:
        raise ConfigError("a model card needs emissions, and these records have none")
    version = facts.versions[0] if facts.versions else ""
    block: dict[str, Any] = {
        "emissions": float(f"{grams:.6g}"),
        "source": f"carbontrack {version}".strip(),
        "training_type": None,
        "geographical_location": "; ".join(facts.places) or None,
        "hardware_used": "; ".join(machine.text for machine in facts.machines) or None,
    }
    unknown = sorted(set(asked.about) - set(_CARD))
    if unknown:
        raise ConfigError(f"--about: a model card has no {unknown[0]!r}, only {', '.join(_CARD)}")
    block |= asked.about
    lines = [f"  {name}: {_yaml(block[name])}" for name in _CARD if block[name] is not None]
    return "\n".join(["co2_eq_emissions:", *lines, ""])


def _yaml(content: object) -> str:
    """JSON is YAML too, but for the pairs of surrogates by which it escapes; ours are YAML's."""
    return visible(json.dumps(content, ensure_ascii=False))


def as_boamps(facts: Facts, asked: Asked) -> str:
    """A BoAmps report in JSON; what no record holds comes from `about`.

    Raises:
        ConfigError: the energy is unknown, or `about` lacks the task.
    """
    _check_task(asked.about.get("task"))
    if facts.computers_kwh is None:
        raise ConfigError("a BoAmps report needs energy, and these records have none")
    report: dict[str, Any] = {
        "task": {},
        "measures": [_measure(facts)],
        "software": _known({"language": "python", "version": _first(facts.pythons)}),
        "infrastructure": _infrastructure(facts),
    }
    if facts.systems:
        report["system"] = {"os": facts.systems[0].split(" ")[0].lower()}
    if len(facts.grids) == 1 and facts.grids[0]["region"]:
        g_per_kwh = facts.grids[0]["g_per_kwh"]
        found = {
            "country": facts.places[0].partition(" (")[0],
            "powerSourceCarbonIntensity": g_per_kwh,
        }
        report["environment"] = _known(found)
    quality = _quality(facts)
    if quality is not None:
        report["quality"] = quality
    return json.dumps(_overridden(report, asked.about), indent=2) + "\n"


def as_sci(facts: Facts, asked: Asked) -> str:
    """The Software Carbon Intensity (E x I + M) / R of ISO/IEC 21031:2024, in JSON.

    Raises:
        ConfigError: the emissions or the embodied emissions are unknown, or there are no units.
    """
    total = facts.summary.total
    units = total.calls if asked.units is None else asked.units
    if units is None or not 0.0 < units < float("inf"):
        raise ConfigError(f"SCI is per functional unit; give --units N above 0, not {units!r}")
    if total.energy_kwh is None or total.emissions_g is None or total.unknown_runs:
        raise ConfigError("SCI needs the energy and emissions of every run")
    if total.embodied_g is None or not facts.all_embodied:
        raise ConfigError(
            "SCI needs M, the embodied emissions, and not every record has them; measure with "
            "embodied_g_per_h set, where the machine's parts are in no table"
        )
    embodied_g = total.embodied_g
    ends = (total.emissions_low_g, total.emissions_high_g)
    low, high = (None if g is None else (g + embodied_g) / units for g in ends)
    used = total.energy_kwh
    content = {
        "schema": 1,
        "standard": "ISO/IEC 21031:2024",
        "formula": "(E * I + M) / R",
        "sci_g_per_unit": (total.emissions_g + embodied_g) / units,
        "sci_low_g_per_unit": low,
        "sci_high_g_per_unit": high,
        "unit": asked.unit,
        "e_kwh": used,
        "i_g_per_kwh": total.emissions_g / used if used > 0.0 else None,
        "m_g": embodied_g,
        "m_low_g": total.embodied_low_g,
        "m_high_g": total.embodied_high_g,
        "r_units": units,
        "regions": list(facts.places),
        "boundary": list(facts.scopes),
        "interval_of": "energy and grid; M is a best estimate",
    }
    return json.dumps(content, indent=2) + "\n"


def _entry(key: str, title: str, year: int | None, note: str, *, kind: str = "misc") -> str:
    lines = [f"@{kind}{{{key},", f"  title = {{{{{latex(title)}}}}},"]
    lines += [f"  year = {{{year}}},"] if year is not None else []
    lines += [f"  note = {{{latex(note)}}},"] if note else []
    return "\n".join([*lines, "}", ""])


def _year_of_publication(text: str) -> int | None:
    """The year of publication in the text of a source: "… Data (2026), …"."""
    found = re.search(r"\b(20\d\d)\b", text)
    return int(found.group(1)) if found else None


def _licence(text: str) -> str | None:
    return next((row["licence"] for row in rows.rows("sources") if row["text"] == text), None)


def _check_task(task: object) -> None:
    if not isinstance(task, dict):
        raise ConfigError(f"a BoAmps report needs the task; give --about FILE with {_EXAMPLE}")
    missing = [name for name in _TASK if not task.get(name)]
    if missing:
        raise ConfigError(f"--about: task lacks {', '.join(missing)}; an example: {_EXAMPLE}")
    for name in ("algorithms", "dataset"):
        if not isinstance(task[name], list) or not all(isinstance(i, dict) for i in task[name]):
            raise ConfigError(f"--about: task.{name} must be a list of objects, as in {_EXAMPLE}")
    if any(not {"dataUsage", "dataType"} <= set(item) for item in task["dataset"]):
        raise ConfigError(f"--about: each dataset needs dataUsage and dataType, as in {_EXAMPLE}")


def _measure(facts: Facts) -> dict[str, Any]:
    total = facts.summary.total
    return _known(
        {
            "measurementMethod": "carbontrack",
            "version": _first(facts.versions),
            "cpuTrackingMode": _mode(facts, gpu=False),
            "gpuTrackingMode": _mode(facts, gpu=True),
            "powerConsumption": facts.computers_kwh,
            "measurementDuration": total.duration_s,
            "measurementDateTime": f"{facts.started[0]:%Y-%m-%d %H:%M:%S}"
            if facts.started
            else None,
        }
    )


def _mode(facts: Facts, *, gpu: bool) -> str | None:
    kinds = {meter.partition(":")[0] for meter in facts.meters if meter != "model:ram"}
    of_gpus = {kind for kind in kinds if "nvml" in kind or "gpu" in kind}
    return ", ".join(sorted(of_gpus if gpu else kinds - of_gpus)) or None


def _infrastructure(facts: Facts) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for machine in facts.machines:
        # records do not hold the number of sockets, so a processor counts as one
        parts.append(
            _known({"componentName": machine.cpu, "componentType": "cpu", "nbComponent": 1})
        )
        parts += [
            {"componentName": name, "componentType": "gpu", "nbComponent": count}
            for name, count in machine.gpus
        ]
        if machine.ram_gib is not None:
            size = round(machine.ram_gib * 1.073741824)
            parts.append({"componentType": "ram", "nbComponent": 1, "memorySize": size})
    kind = "publicCloud" if facts.clouds else "other"
    found = {"infraType": kind, "cloudProvider": _first(facts.clouds), "components": parts}
    return _known(found)


def _quality(facts: Facts) -> str | None:
    total = facts.summary.total
    best, low, high = total.energy_kwh, total.energy_low_kwh, total.energy_high_kwh
    if not best or low is None or high is None:
        return None
    off = max(best - low, high - best) / best
    return next((word for most, word in _QUALITIES if off <= most), None)


def _known(found: dict[str, Any]) -> dict[str, Any]:
    return {name: fact for name, fact in found.items() if fact is not None}


def _first(texts: tuple[str, ...]) -> str | None:
    return texts[0] if texts else None


def _overridden(ours: Any, given: Any) -> dict[str, Any]:
    """Our fields, overridden by those given: objects are merged, everything else is replaced."""
    found = dict(ours)
    for name, fact in given.items():
        own = found.get(name)
        both = isinstance(own, dict) and isinstance(fact, dict)
        found[name] = _overridden(own, fact) if both else fact
    return found
