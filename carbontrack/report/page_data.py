"""The data of the page's charts and tables, as plain values that become JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carbontrack.grid.names import name_of
from carbontrack.record import COMPONENTS
from carbontrack.report.totals import Total
from carbontrack.text import cut_to, visible

if TYPE_CHECKING:
    import pandas as pd

MOST_RUNS = 10_000
"""Runs that a page lists; beyond that it lists those with the largest emissions, with a note."""
MOST_BARS = 12
UNKNOWN = "(unknown)"
_MOST_LABELS = 64
"""Labels of a run that a page shows."""
_LONGEST_LABEL = 200
_BARS_ON_A_PHONE = 16
"""Bars of days or weeks above which a phone gets bars of the next longer step."""
_COARSER = {"day": ("week", "W-MON"), "week": ("month", "MS")}
_STEPS = (
    (0.1, "min", "minute"),
    (3.0, "h", "hour"),
    (120.0, "D", "day"),
    (730.0, "W-MON", "week"),
)
"""Days that the data span at most, and the step that is drawn then: pandas' name and ours."""

_NUMBERS = (
    *("duration_s", "cpu_kwh", "gpu_kwh", "ram_kwh", "other_kwh"),
    *("energy_kwh", "energy_low_kwh", "energy_high_kwh"),
    *("emissions_g", "emissions_low_g", "emissions_high_g"),
    *("intensity_g_per_kwh", "pue", "coverage"),
)
_TEXTS = (
    *("name", "status", "region", "basis", "cpu_basis", "gpu_basis", "ram_basis"),
    *("host_id", "meters", "intensity_source", "cpu_model", "gpu_models"),
)


def runs(frame: pd.DataFrame) -> dict[str, Any]:
    """The runs, column by column; columns of text hold indexes into lists of distinct texts.

    `texts["labels"]` has pairs of key and value, and `places` the names of the regions.
    """
    listed = frame
    if len(frame) > MOST_RUNS:
        listed = frame.nlargest(MOST_RUNS, "emissions_g")
    started = listed["started_at"].astype("datetime64[ms]").astype("int64")
    columns: dict[str, Any] = {"started_ms": started.where(started > 0, None).tolist()}
    for name in _NUMBERS:
        columns[name] = [_short(number) for number in listed[name].tolist()]
    texts: dict[str, list[Any]] = {}
    for name in _TEXTS:
        column = listed[name].cat.remove_unused_categories().cat
        texts[name] = [visible(str(text)) for text in column.categories]
        columns[name] = column.codes.tolist()
    labels = listed["labels"].cat.remove_unused_categories().cat
    texts["labels"] = [labels_of(str(text)) for text in labels.categories]
    columns["labels"] = labels.codes.tolist()
    regions = listed["region"].cat.remove_unused_categories().cat.categories
    places = list(places_of(map(str, regions)).values())
    found = {"count": len(listed), "of": len(frame), "columns": columns, "texts": texts}
    return found | {"places": places}


def labels_of(text: str) -> list[list[str]]:
    """The labels in a cell, as visible texts: pairs of key and value."""
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = None
    if not isinstance(labels, dict):
        return [["labels", _label_text(text)]] if text else []
    pairs = list(labels.items())[:_MOST_LABELS]
    return [[_label_text(key), _label_text(value)] for key, value in pairs]


def _label_text(content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return cut_to(visible(text), _LONGEST_LABEL)


def places_of(regions: Iterable[str]) -> dict[str, str]:
    """The name of each region, as a visible text: "France" for "FR".

    Cloud regions keep their code, and so do regions that share a name with another.
    """
    names = {region: name_of(region) for region in regions}
    times = Counter(names.values())
    return {
        region: visible(
            f"{name} ({region})" if name != region and (":" in region or times[name] > 1) else name
        )
        for region, name in names.items()
    }


def with_places(groups: Sequence[Total]) -> list[dict[str, Any]]:
    """As `bars`, of groups whose keys are regions: with their names."""
    names: dict[str | None, str] = {None: UNKNOWN}
    names.update(places_of(group.key for group in groups if group.key is not None))
    return bars(groups, names)


def _short(number: float) -> float | None:
    """Six significant digits, which take half the space of seventeen."""
    return None if number != number else float(f"{number:.6g}")  # noqa: PLR0124 - NaN is not itself


def over_time(frame: pd.DataFrame) -> tuple[str, list[dict[str, Any]]]:
    """The name of the step, and the kWh of each component in each step; "building" is the PUE's."""
    known = frame[frame["started_at"].notna() & frame["energy_kwh"].notna()]
    if known.empty:
        return "day", []
    span = known["started_at"].max() - known["started_at"].min()
    days = span.total_seconds() / 86_400.0
    rule, step = next(((r, name) for most, r, name in _STEPS if days <= most), ("MS", "month"))
    return step, _sums_over_time(known, rule)


def coarser(
    frame: pd.DataFrame, step: str, rows: Sequence[dict[str, Any]]
) -> tuple[str, list[dict[str, Any]]] | None:
    """As `over_time`, by weeks instead of days and months instead of weeks, for a narrow screen.

    None where these rows already fit one.
    """
    if step not in _COARSER or len({row["at"] for row in rows}) <= _BARS_ON_A_PHONE:
        return None
    longer, rule = _COARSER[step]
    known = frame[frame["started_at"].notna() & frame["energy_kwh"].notna()]
    return longer, _sums_over_time(known, rule)


def _sums_over_time(known: pd.DataFrame, rule: str) -> list[dict[str, Any]]:
    """The kWh of each component in each step of pandas' rule."""
    import pandas as pd

    kwh = pd.DataFrame({name: known[f"{name}_kwh"].fillna(0.0) for name in COMPONENTS})
    kwh["building"] = (known["energy_kwh"] - kwh.sum(axis=1)).clip(lower=0.0)
    kwh.index = pd.DatetimeIndex(known["started_at"])
    sums = kwh.resample(rule, label="left", closed="left").sum()
    sums = sums.loc[:, sums.sum() > sums.to_numpy().sum() * 1e-9]
    return [
        {"at": int(at.timestamp() * 1000), "part": str(part), "kwh": float(kwh)}
        for at, row in sums.iterrows()
        for part, kwh in row.items()
    ]


def bars(
    groups: Sequence[Total], names: Mapping[str | None, str] | None = None
) -> list[dict[str, Any]]:
    """The largest groups, and all others as one, with their intervals.

    `names` has the visible name of each key; without it, that is the key.

    The others have no interval: it would not be the sum of the groups' ends.
    """
    known = [group for group in groups if group.emissions_g is not None]
    drawn = [
        {
            "key": _name(group.key) if names is None else names[group.key],
            "g": group.emissions_g,
            "low_g": group.emissions_low_g,
            "high_g": group.emissions_high_g,
            "runs": group.runs,
        }
        for group in known[:MOST_BARS]
    ]
    rest = known[MOST_BARS:]
    if rest:
        grams = sum(group.emissions_g or 0.0 for group in rest)
        name = f"{len(rest)} others"
        count = sum(group.runs for group in rest)
        drawn.append({"key": name, "g": grams, "low_g": None, "high_g": None, "runs": count})
    return drawn


def _name(key: str | None) -> str:
    return UNKNOWN if key is None else visible(key)


def grids(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The grids of the runs: region, how it was found, intensity, source, year.

    Intensities are means weighted by energy, so that energy times intensity gives the grams; where
    no energy is known, means of the runs.
    """
    keys = ["region", "region_basis", "intensity_source", "intensity_year"]
    wanted = frame[[*keys, "energy_kwh"]].copy()
    ends = {end: f"{end}g_per_kwh" for end in ("", "low_", "high_")}
    for end, name in ends.items():
        wanted[name] = frame[f"intensity_{end}g_per_kwh"]
        wanted[f"{name}_kwh"] = wanted["energy_kwh"].where(wanted[name].notna())
        wanted[f"{name}_g"] = wanted["energy_kwh"] * wanted[name]
    by_grid = wanted.groupby(keys, observed=True, dropna=False)
    found = by_grid[list(ends.values())].mean()
    found["runs"] = by_grid.size()
    found["kwh"] = by_grid["energy_kwh"].sum()
    for name in ends.values():
        kwh, grams = by_grid[f"{name}_kwh"].sum(), by_grid[f"{name}_g"].sum()
        # without the noise of the quotient: 329.65000000000003 would be shown as 329.7, and as
        # 329.6 in a report of other runs on the same grid
        found[name] = (grams / kwh).where(kwh > 0.0, found[name]).round(9)
    rows = found.sort_values("kwh", ascending=False).head(50).reset_index()
    return [
        {name: None if cell != cell else cell for name, cell in row.items()}  # noqa: PLR0124 - NaN
        for row in rows.to_dict("records")
    ]


def meters(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The energy of each component by its basis."""
    found = []
    for name in COMPONENTS:
        basis = frame["basis" if name == "other" else f"{name}_basis"]
        by_basis = frame[f"{name}_kwh"].groupby(basis, observed=True).sum()
        found += [
            {"component": name, "basis": str(known), "kwh": float(kwh)}
            for known, kwh in by_basis.items()
            if kwh > 0.0
        ]
    return found
