"""Sums of records by group, with the interval of each sum.

The rule and its derivation are in docs/explanation/adding-up-intervals.md. In short: half-widths of
errors that are the same in all records add up, those of independent errors combine as the root of
the sum of squares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isnan, sqrt
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.record import BASES, COMPONENTS

if TYPE_CHECKING:
    import pandas as pd

USUAL_UNCERTAINTY = {
    "cpu": {"measured": 0.07, "modelled": 0.40, "assumed": 0.75},
    "gpu": {"measured": 0.05, "modelled": 0.40, "assumed": 0.75},
    "ram": {"measured": 0.07, "modelled": 0.50, "assumed": 0.50},
    "other": {"measured": 0.10, "modelled": 0.50, "assumed": 0.75},
}
"""The relative uncertainty that meters of this kind declare. A record's half-width is split among
its components in proportion to their energy times this, so only the ratios matter."""

UNKNOWN_SHARE = 0.01
"""A sum has no interval when records without one make up more than this share of it."""

SUMMED = (
    *("duration_s", "calls", "cpu_kwh", "gpu_kwh", "ram_kwh", "other_kwh", "energy_kwh"),
    *("emissions_g", "water_l", "embodied_g", "market_emissions_g"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum of the records of one group; unknown is None.

    Attributes:
        key: what the group has in common; None where that is unknown.
        runs: records in the group.
        unknown_runs: those whose energy is unknown; they are not part of the sums.
        market_emissions_g: by contract, of the records that have such a figure.
        measured_share, modelled_share, assumed_share: of the energy, by how it is known.
        market_share: the share of the energy that `market_emissions_g` is for.
    """

    key: str | None
    runs: int
    unknown_runs: int
    calls: float | None
    duration_s: float | None
    cpu_kwh: float | None
    gpu_kwh: float | None
    ram_kwh: float | None
    other_kwh: float | None
    energy_kwh: float | None
    energy_low_kwh: float | None
    energy_high_kwh: float | None
    emissions_g: float | None
    emissions_low_g: float | None
    emissions_high_g: float | None
    water_l: float | None
    embodied_g: float | None
    market_emissions_g: float | None
    measured_share: float | None
    modelled_share: float | None
    assumed_share: float | None
    market_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name, for JSON."""
        return asdict(self)


def keys_of(frame: pd.DataFrame, by: str) -> Any:
    """The key of each record: by name, region, day (UTC), host, or label:K.

    Raises:
        ConfigError: there is no such grouping.
    """
    import pandas as pd

    if by in ("name", "region"):
        return frame[by]
    if by == "host":
        return frame["host_id"]
    if by == "day":
        days = frame["started_at"].dt.strftime("%Y-%m-%d").where(frame["started_at"].notna(), None)
        return days.astype("category")
    if by.startswith("label:") and by != "label:":
        labels = frame["labels"].cat
        texts = [_label(text, by.removeprefix("label:")) for text in labels.categories]
        codes, known = pd.factorize(pd.Series(texts, dtype=object))
        own = pd.Series([*codes, -1], dtype="int32").to_numpy()[labels.codes.to_numpy()]
        cells = pd.Categorical.from_codes(own, categories=pd.Index(known, dtype=object))
        return pd.Series(cells, index=frame.index)
    raise ConfigError(f"cannot group by {by!r}; ways are name, region, day, host, label:KEY")


def _label(text: str, key: str) -> str | None:
    import json

    try:
        found = json.loads(text).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None
    if found is None or isinstance(found, str):
        return found
    return json.dumps(found, ensure_ascii=False)


def totals(frame: pd.DataFrame, by: str | None = None) -> list[Total]:
    """The sums of each group, the largest emissions first, days in their order; one sum for None.

    Raises:
        ConfigError: there is no such grouping.
    """
    import pandas as pd

    key: Any = pd.Series(0, index=frame.index) if by is None else keys_of(frame, by)
    if by is not None and key.isna().any():
        key = key.cat.add_categories([_NO_KEY]).fillna(_NO_KEY)
    sums = _partial_sums(frame, key)
    found = [_total(None if by is None or k == _NO_KEY else str(k), part) for k, part in sums]
    if by == "day":
        return sorted(found, key=lambda total: total.key or "")
    return sorted(found, key=lambda total: (-(total.emissions_g or 0.0), total.key or ""))


_NO_KEY = "\0unknown"
_KIND_COLUMNS = ("cpu_basis", "gpu_basis", "ram_basis", "basis")


def _partial_sums(frame: pd.DataFrame, key: Any) -> Iterator[tuple[Any, pd.DataFrame]]:
    """For each key, a small frame: a row for each combination of bases, with all sums."""
    import pandas as pd

    columns = {name: frame[name] for name in SUMMED}
    columns |= dict(_split_widths(frame))
    parts = pd.DataFrame(columns, copy=False)
    parts["runs"] = 1.0
    parts["market_kwh"] = frame["energy_kwh"].where(frame["market_emissions_g"].notna())
    parts["known_runs"] = frame["energy_kwh"].notna().astype("float64")
    kinds = [frame[name].cat.codes.rename(name) for name in _KIND_COLUMNS]
    kinds.append(_boards(frame).rename("boards"))
    summed = parts.groupby([key.rename("key"), *kinds], observed=True, sort=False)
    small = summed.sum(min_count=1).reset_index()
    for name in _KIND_COLUMNS:
        texts = [*frame[name].cat.categories, None]
        small[name] = [texts[code] for code in small[name]]
    yield from small.groupby("key", observed=True, sort=False)


def _boards(frame: pd.DataFrame) -> Any:
    """A number for the host whose GPUs were measured, -1 where none were.

    A GPU's sensor has a gain that is fixed for the board and differs between boards (Yang, Adámek,
    Armour, SC'24), so measured GPUs err together on one host and apart on different ones.
    """
    measured = frame["gpu_basis"] == "measured"
    return frame["host_id"].cat.codes.where(measured, -1)


def _split_widths(frame: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """The half-widths of each record, below and above, split among its components.

    In kWh, and in grams at the record's own intensity.
    """
    import numpy as np

    best = frame["energy_kwh"].to_numpy()
    below = best - frame["energy_low_kwh"].to_numpy()
    above = frame["energy_high_kwh"].to_numpy() - best
    g_per_kwh = frame["intensity_g_per_kwh"].to_numpy()
    weights = {name: _weight(frame, name) for name in COMPONENTS}
    norm = np.sqrt(sum(weight**2 for weight in weights.values()))
    for name, weight in weights.items():
        alone = 1.0 if name == "other" else 0.0  # nothing to split by: all of it is one kind
        share = np.divide(weight, norm, out=np.full_like(norm, alone), where=norm > 0.0)
        for side, width in (("below", below), ("above", above)):
            yield f"{name}_{side}_kwh", width * share
            yield f"{name}_{side}_g", width * share * g_per_kwh
    unsure = np.isnan(below) | np.isnan(above)
    yield "no_interval_kwh", np.where(unsure, best, np.nan)
    for end in ("low", "high"):
        end_g_per_kwh = frame[f"intensity_{end}_g_per_kwh"].to_numpy()
        unsure = unsure | np.isnan(end_g_per_kwh)
        yield f"grid_{end}_g", best * end_g_per_kwh
    yield "no_interval_g", np.where(unsure, frame["emissions_g"].to_numpy(), np.nan)


def _weight(frame: pd.DataFrame, name: str) -> Any:
    """Energy of a component times the usual uncertainty of its basis."""
    import numpy as np

    basis = frame["basis" if name == "other" else f"{name}_basis"].cat
    usual = USUAL_UNCERTAINTY[name]
    by_code = np.array([usual.get(text, 1.0) for text in basis.categories] + [1.0])
    return np.nan_to_num(frame[f"{name}_kwh"].to_numpy()) * by_code[basis.codes.to_numpy()]


def _total(key: str | None, parts: pd.DataFrame) -> Total:
    sums = {name: _sum(parts[name]) for name in SUMMED}
    runs = int(parts["runs"].sum())
    low_kwh, high_kwh = _energy_ends(parts, sums["energy_kwh"])
    low_g, high_g = _emission_ends(parts, sums["emissions_g"])
    return Total(
        key=key,
        runs=runs,
        unknown_runs=runs - int(parts["known_runs"].sum()),
        energy_low_kwh=low_kwh,
        energy_high_kwh=high_kwh,
        emissions_low_g=low_g,
        emissions_high_g=high_g,
        market_share=_market_share(parts, sums),
        **_shares(parts),
        **sums,
    )


def _sum(column: pd.Series[Any]) -> float | None:
    found = float(column.sum(min_count=1))
    return None if isnan(found) else found


def _market_share(parts: pd.DataFrame, sums: Mapping[str, float | None]) -> float | None:
    """The share of the energy of the records with a figure by contract; None where none has one."""
    if sums["market_emissions_g"] is None:
        return None
    whole_kwh = sums["energy_kwh"]
    return (_sum(parts["market_kwh"]) or 0.0) / whole_kwh if whole_kwh else None


def _ends_known(parts: pd.DataFrame, unit: str, best: float | None) -> bool:
    without = _sum(parts[f"no_interval_{unit}"]) or 0.0
    return best is not None and (best == 0.0 or without <= UNKNOWN_SHARE * best)


def _energy_ends(parts: pd.DataFrame, best: float | None) -> tuple[float | None, float | None]:
    if best is None or not _ends_known(parts, "kwh", best):
        return None, None
    below, above = (_combined(parts, side, "kwh") for side in ("below", "above"))
    return max(0.0, best - below), best + above


def _emission_ends(parts: pd.DataFrame, best: float | None) -> tuple[float | None, float | None]:
    """The ends of the energy's interval in grams, times the mean ratio of the grid's ends."""
    if best is None or not _ends_known(parts, "g", best):
        return None, None
    if best == 0.0:
        return 0.0, 0.0
    below, above = (_combined(parts, side, "g") for side in ("below", "above"))
    low_g, high_g = (_sum(parts[f"grid_{end}_g"]) or best for end in ("low", "high"))
    low = max(0.0, best - below) * min(1.0, low_g / best)
    return low, (best + above) * max(1.0, high_g / best)


def _combined(parts: pd.DataFrame, side: str, unit: str) -> float:
    """Linear within a component of one basis, for measured GPUs of one host; else in quadrature."""
    squares = 0.0
    for name in COMPONENTS:
        basis = parts["basis" if name == "other" else f"{name}_basis"]
        kinds = [basis, parts["boards"]] if name == "gpu" else [basis]
        by_kind = parts[f"{name}_{side}_{unit}"].fillna(0.0).groupby(kinds, dropna=False).sum()
        squares += float((by_kind**2).sum())
    return sqrt(squares)


def _shares(parts: pd.DataFrame) -> dict[str, float | None]:
    """The shares of the components' energy that are measured, modelled and assumed."""
    by_basis = dict.fromkeys(BASES, 0.0)
    for name in COMPONENTS:
        basis = parts["basis" if name == "other" else f"{name}_basis"]
        for known in BASES:
            by_basis[known] += float(parts[f"{name}_kwh"][basis == known].fillna(0.0).sum())
    whole = sum(by_basis.values())
    return {f"{b}_share": kwh / whole if whole > 0.0 else None for b, kwh in by_basis.items()}
