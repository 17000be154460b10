"""The data of the page's charts and tables, as plain values that become JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carbontrack.record import COMPONENTS
from carbontrack.report.totals import Total
from carbontrack.text import visible

if TYPE_CHECKING:
    import pandas as pd

MOST_RUNS = 10_000
"""Runs that a page lists; of more it lists those with the largest emissions, and says so."""
MOST_BARS = 12
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
    *("name", "labels", "status", "region", "basis", "cpu_basis", "gpu_basis", "ram_basis"),
    *("host_id", "meters", "intensity_source", "cpu_model", "gpu_models"),
)


def runs(frame: pd.DataFrame) -> dict[str, Any]:
    """The runs, column by column; columns of text hold indexes into lists of distinct texts."""
    listed = frame
    if len(frame) > MOST_RUNS:
        listed = frame.nlargest(MOST_RUNS, "emissions_g")
    started = listed["started_at"].astype("datetime64[ms]").astype("int64")
    columns: dict[str, Any] = {"started_ms": started.where(started > 0, None).tolist()}
    for name in _NUMBERS:
        columns[name] = [_short(number) for number in listed[name].tolist()]
    texts = {}
    for name in _TEXTS:
        column = listed[name].cat.remove_unused_categories().cat
        texts[name] = [visible(str(text)) for text in column.categories]
        columns[name] = column.codes.tolist()
    return {"count": len(listed), "of": len(frame), "columns": columns, "texts": texts}


def _short(number: float) -> float | None:
    """Six significant digits, which take half the space of seventeen."""
    return None if number != number else float(f"{number:.6g}")  # noqa: PLR0124 - NaN is not itself


def over_time(frame: pd.DataFrame) -> tuple[str, list[dict[str, Any]]]:
    """The name of the step, and the kWh of each component in each step; "building" is the PUE's."""
    import pandas as pd

    known = frame[frame["started_at"].notna() & frame["energy_kwh"].notna()]
    if known.empty:
        return "day", []
    span = known["started_at"].max() - known["started_at"].min()
    days = span.total_seconds() / 86_400.0
    rule, step = next(((r, name) for most, r, name in _STEPS if days <= most), ("MS", "month"))
    kwh = pd.DataFrame({name: known[f"{name}_kwh"].fillna(0.0) for name in COMPONENTS})
    kwh["building"] = (known["energy_kwh"] - kwh.sum(axis=1)).clip(lower=0.0)
    kwh.index = pd.DatetimeIndex(known["started_at"])
    sums = kwh.resample(rule, label="left", closed="left").sum()
    sums = sums.loc[:, sums.sum() > sums.to_numpy().sum() * 1e-9]
    return step, [
        {"at": int(at.timestamp() * 1000), "part": str(part), "kwh": float(kwh)}
        for at, row in sums.iterrows()
        for part, kwh in row.items()
    ]


def bars(groups: list[Total]) -> list[dict[str, Any]]:
    """The largest groups, and all others as one, with their intervals.

    The others have no interval: it would not be the sum of the groups' ends.
    """
    known = [group for group in groups if group.emissions_g is not None]
    drawn = [
        {
            "key": "(unknown)" if group.key is None else visible(group.key),
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
        found[name] = (grams / kwh).where(kwh > 0.0, found[name])
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
