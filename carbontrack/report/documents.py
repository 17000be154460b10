"""Documents in formats of others, written from the facts of the records.

Hugging Face model cards, BoAmps reports, and the Software Carbon Intensity (SCI) of ISO/IEC 21031.
"""

from __future__ import annotations

import json
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.report import method
from carbontrack.report.facts import Asked, Facts, with_short_texts
from carbontrack.text import visible
from carbontrack.units import format_grams, format_interval, format_joules, joules_from

_CARD = ("emissions", "source", "training_type", "geographical_location", "hardware_used")
_TASK = ("taskStage", "taskFamily", "algorithms", "dataset")
_EXAMPLE = (
    '{"task": {"taskStage": "training", "taskFamily": "text classification", '
    '"algorithms": [{"algorithmName": "transformer"}], '
    '"dataset": [{"dataUsage": "input", "dataType": "text"}]}}'
)
_QUALITIES = ((0.10, "high"), (0.25, "medium"), (0.50, "low"))
"""Relative half-widths of an interval at most, and BoAmps' word for that quality."""


def as_model_card(facts: Facts, asked: Asked) -> str:
    """The `co2_eq_emissions` block of a Hugging Face model card, in YAML.

    Raises:
        ConfigError: the emissions are unknown, or `about` has a field that the block lacks.
    """
    grams = facts.summary.total.emissions_g
    if grams is None:
        raise ConfigError("a model card needs emissions, and these records have none")
    block: dict[str, Any] = {
        "emissions": float(f"{grams:.6g}"),
        "source": _source_of_card(with_short_texts(facts)),
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


def _source_of_card(facts: Facts) -> str:
    """How the emissions are known, in the one field of a card that takes any text."""
    total = facts.summary.total
    low, high = total.emissions_low_g, total.emissions_high_g
    ends = "unknown"
    if low is not None and high is not None:
        ends = format_interval(low, high, format_grams, like=total.emissions_g)
    return "; ".join(
        [
            f"carbontrack {_first(facts.versions) or ''}".strip(),
            f"uncertainty interval {ends}",
            f"energy {_energy(facts)}, {method.basis(facts) or 'of unrecorded basis'}",
            "location-based",
            *method.intensity_texts(facts),
            f"boundary: {method.boundary(facts)}",
            "embodied emissions not included",
        ]
    )


def _energy(facts: Facts) -> str:
    joules = joules_from(facts.summary.total.energy_kwh)
    return "unknown" if joules is None else format_joules(joules)


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
            "powerSourceCarbonIntensity": None if g_per_kwh is None else _without_noise(g_per_kwh),
        }
        report["environment"] = _known(found)
    quality = _quality(facts)
    if quality is not None:
        report["quality"] = quality
    return json.dumps(_overridden(report, asked.about), indent=2) + "\n"


def as_sci(facts: Facts, asked: Asked) -> str:
    """The Software Carbon Intensity ((E x I) + M) per R of ISO/IEC 21031:2024, in JSON.

    Raises:
        ConfigError: the emissions or the embodied emissions are unknown, the latter are given and
            held by the records as well, or there are no units.
    """
    total = facts.summary.total
    units = total.calls if asked.units is None else asked.units
    if units is None or not 0.0 < units < float("inf"):
        raise ConfigError(f"SCI is per functional unit; give --units N above 0, not {units!r}")
    if total.energy_kwh is None or total.emissions_g is None or total.unknown_runs:
        raise ConfigError("SCI needs the energy and emissions of every run")
    embodied = method.embodied_of(facts, asked)
    if embodied.g is None:
        raise ConfigError(
            "SCI needs M, the embodied emissions of the hardware, and not every record has them; "
            "give those attributed to these runs with --embodied-g G, or measure with "
            "embodied_g_per_h set"
        )
    ends = (total.emissions_low_g, total.emissions_high_g)
    low, high = (None if g is None else (g + embodied.g) / units for g in ends)
    content = {
        "schema": 1,
        "standard": "ISO/IEC 21031:2024",
        "formula": "((E * I) + M) per R",
        "sci_g_per_unit": (total.emissions_g + embodied.g) / units,
        "sci_low_g_per_unit": low,
        "sci_high_g_per_unit": high,
        "unit": asked.unit,
        **_sci_terms(facts, embodied),
        "r_units": units,
        "regions": list(facts.places),
        "boundary": list(facts.scopes),
        "boundary_text": method.boundary(facts),
        "not_included": method.not_included(facts),
        "interval_of": "E and I; M enters as its best estimate",
    }
    return json.dumps(content, indent=2) + "\n"


def _sci_terms(facts: Facts, embodied: method.Embodied) -> dict[str, Any]:
    """E, I and M with their intervals, and where each comes from."""
    total = facts.summary.total
    used, emitted = total.energy_kwh or 0.0, total.emissions_g or 0.0
    return {
        "e_kwh": total.energy_kwh,
        "e_low_kwh": total.energy_low_kwh,
        "e_high_kwh": total.energy_high_kwh,
        "e_basis": method.basis(facts),
        "i_g_per_kwh": _without_noise(emitted / used) if used else None,
        "i_method": "location-based",
        "i_sources": method.intensity_texts(facts),
        "m_g": embodied.g,
        "m_low_g": embodied.low_g,
        "m_high_g": embodied.high_g,
        "m_source": embodied.origin,
    }


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


def _without_noise(quotient: float) -> float:
    """A quotient that does not show the last digits of its rounding, such as 41.440000000000005."""
    return float(f"{quotient:.10g}")


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
