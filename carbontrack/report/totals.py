"""Sums of records by group, with the interval of each sum.

The rule and its derivation are in docs/explanation/adding-up-intervals.md. In short: half-widths of
errors that are the same in all records add up, those of independent errors combine as the root of
the sum of squares, and the models' errors on different processors share a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError, close_matches, did_you_mean
from carbontrack.interval import Interval, product
from carbontrack.meters import nvml, rapl
from carbontrack.meters.cpu_power import UNKNOWN_W_PER_THREAD
from carbontrack.meters.gpu_power import gpu_share
from carbontrack.meters.load_curve import SINCE_2010
from carbontrack.meters.ram_model import W_PER_GIB
from carbontrack.meters.wall_model import wall_share
from carbontrack.record import BASES, COMPONENTS
from carbontrack.report.making import MAKING_ENDS, making_terms
from carbontrack.report.partial import Groups, PartialSums, Units, codes_of
from carbontrack.report.uncounted import CODES, UNMEASURED_GPU, uncounted_codes
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    import pandas as pd

COMMON = 0.5
"""Share of the variance of a model's error that is the same for all processors.

Between servers tuned for a benchmark and hosts of a cloud it is 0.1 to 0.5 by load where these two
are taken as all there are, and 0.2 to 0.65 where they are taken as a sample of two."""


class Usual(NamedTuple):
    """The half-widths of an interval, below and above, relative to its best estimate."""

    below: float
    above: float


def _usual(interval: Interval) -> Usual:
    return Usual(1.0 - interval.low / interval.best, interval.high / interval.best - 1.0)


def _evenly(half_width: float) -> Usual:
    return Usual(half_width, half_width)


_HALF_LOAD = SINCE_2010.at(0.5)
_REST = Interval(*(max(0.0, wall - _HALF_LOAD.best) for wall in wall_share(0.5)))
USUAL_UNCERTAINTY = {
    "cpu": {
        "measured": _evenly(rapl.RELATIVE_UNCERTAINTY),
        "modelled": _usual(_HALF_LOAD),
        "assumed": _usual(product(_HALF_LOAD, UNKNOWN_W_PER_THREAD)),
    },
    "gpu": {
        "measured": _evenly(nvml.RELATIVE_UNCERTAINTY),
        "modelled": _evenly(0.40),
        "assumed": _usual(gpu_share(0.5)),
    },
    "ram": {
        "measured": _evenly(rapl.RELATIVE_UNCERTAINTY),
        "modelled": _usual(W_PER_GIB),
        "assumed": _usual(W_PER_GIB),
    },
    "other": {
        "measured": _evenly(0.10),
        "modelled": _evenly(0.50),
        "assumed": _usual(_REST),
    },
}
"""The relative half-widths that meters of this kind have, the models at half load. A record's
half-width on a side is split among its components in proportion to their energy times this, so only
the ratios matter."""


class _Apart(NamedTuple):
    """What errs alike in itself, and apart from others: a column, and for which bases.

    Attributes:
        common: the share of the variance that all units have in common.
    """

    unit: str
    bases: tuple[str, ...]
    common: float


_MODEL = _Apart("cpu_model", ("modelled", "assumed"), COMMON)
_APART = {"cpu": _MODEL, "ram": _MODEL, "gpu": _Apart("host_id", ("measured",), 0.0)}
"""By component. On different processors, the models of processor and memory err apart in part. A
GPU's sensor has a gain that is fixed for the board and differs between boards (Yang, Adámek,
Armour, SC'24), so measured GPUs err together on one host and apart on different ones."""
_WIDTHS = [(side, unit) for side in ("below", "above") for unit in ("kwh", "g")]
_ApartSums = Mapping[str, tuple[Groups, Units, Any]]
"""By unit: half-widths, the group of each, and its unit."""
_SLICE_ROWS = 1 << 17
"""Rows whose terms are in memory at once, which are some four hundred bytes of each."""
UNKNOWN_SHARE = 0.01
"""A sum has no interval when records without one make up more than this share of it."""

SUMMED = (
    *("duration_s", "calls", "cpu_kwh", "gpu_kwh", "ram_kwh", "other_kwh", "energy_kwh"),
    *("emissions_g", "water_l", "embodied_g", "abiotic_kg_sb", "market_emissions_g"),
)

SUM_FIGURES = (
    *(*SUMMED, "energy_low_kwh", "energy_high_kwh", "intensity_g_per_kwh"),
    *("intensity_low_g_per_kwh", "intensity_high_g_per_kwh"),
)
SUM_TEXTS = (
    *("basis", "cpu_basis", "gpu_basis", "ram_basis", "cpu_model", "gpu_models", "host_id"),
    "faults",
)
"""The columns that sums need, in addition to that of their key."""
_KEYS = {
    "name": "name",
    "region": "region",
    "host": "host_id",
    "job": "job_id",
    "day": "started_at",
}
"""By way of grouping, the column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum of the records of one group; unknown is None.

    Attributes:
        key: what the group has in common; None where that is unknown.
        runs: records in the group.
        unknown_runs: those whose energy is unknown; they are not part of the sums.
        embodied_g: embodied emissions, never part of `emissions_g`; abiotic_kg_sb: the use of
            scarce minerals and metals by making the same hardware, as kg of antimony.
        market_emissions_g: by contract, of the records that have such a figure.
        measured_share, modelled_share, assumed_share: of the energy, by how it is known; what is
            left of it is energy without that information in any record.
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
    embodied_low_g: float | None
    embodied_high_g: float | None
    abiotic_kg_sb: float | None
    abiotic_low_kg_sb: float | None
    abiotic_high_kg_sb: float | None
    market_emissions_g: float | None
    measured_share: float | None
    modelled_share: float | None
    assumed_share: float | None
    market_share: float | None

    @property
    def unrecorded_share(self) -> float:
        """The share of the energy of which no record says how it is known, as of CodeCarbon's."""
        if self.measured_share is None:
            return 1.0 if self.energy_kwh else 0.0
        known = (self.measured_share, self.modelled_share or 0.0, self.assumed_share or 0.0)
        rest = 1.0 - sum(known)
        return rest if rest > 1e-9 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name, for JSON."""
        return asdict(self)


def key_column(by: str) -> str:
    """The column that a grouping looks at.

    Raises:
        ConfigError: there is no such grouping.
    """
    if by in _KEYS:
        return _KEYS[by]
    if by.startswith("label:") and by != "label:":
        return "labels"
    near = close_matches(by, _KEYS) or ([] if by.startswith("label") else [f"label:{by}"])
    raise ConfigError(
        f"cannot group by {by!r}; ways are name, region, day, host, job, label:KEY"
        f"{did_you_mean(near)}"
    )


def keys_of(frame: pd.DataFrame, by: str) -> Any:
    """The key of each record: by name, region, day (UTC), host, job, or label:K.

    Raises:
        ConfigError: there is no such grouping.
    """
    import pandas as pd

    column = frame[key_column(by)]
    if by == "day":
        days = column.to_numpy().astype("datetime64[D]")
        codes, found = pd.factorize(days, sort=True)
        texts = pd.Index([str(day)[:10] for day in found], dtype=object)
        return pd.Series(pd.Categorical.from_codes(codes, categories=texts), index=frame.index)
    if not by.startswith("label:"):
        return column
    labels = column.cat
    cells = [_label(text, by.removeprefix("label:")) for text in labels.categories]
    codes, known = pd.factorize(pd.Series(cells, dtype=object))
    own = pd.Series([*codes, -1], dtype="int32").to_numpy()[labels.codes.to_numpy()]
    texts = pd.Index(known, dtype=object)
    return pd.Series(pd.Categorical.from_codes(own, categories=texts), index=frame.index)


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
    sums = RecordSums(by)
    sums.add(frame)
    return sums.totals(by)


class RecordSums:
    """The sums of records that come in any number of frames.

    Memory grows with the groups, and in each group with the hosts and processors whose errors are
    distinguished, not with the records.
    """

    def __init__(self, by: str | None = None) -> None:
        """`by` is the grouping whose totals will be asked for, beside the sum of all."""
        self._by = by
        self._kinds = PartialSums()
        self._apart = {apart.unit: PartialSums() for apart in _APART.values()}
        self._modelled = PartialSums()

    def add(self, frame: pd.DataFrame) -> None:
        """Add the records of a frame as `report.frame` makes it.

        Raises:
            ConfigError: there is no such grouping.
        """
        for start in range(0, max(len(frame), 1), _SLICE_ROWS):
            self._add(_with_few_texts(frame.iloc[start : start + _SLICE_ROWS]))

    def _add(self, rows: pd.DataFrame) -> None:
        key = _key_of(rows, self._by)
        bases = {_basis_of(name): rows[_basis_of(name)] for name in COMPONENTS}
        terms = _terms(rows)
        self._kinds.add({"key": key, **bases}, terms)
        for unit, sums in self._apart.items():
            some, widths = _apart_widths(rows, terms, unit)
            sums.add({"key": key[some], unit: rows[unit][some]}, widths)
            if unit == _MODEL.unit:
                on = {name: rows[name][some] for name in ("host_id", "cpu_model")}
                self._modelled.add(on, {"runs": some[some].astype("float64")})

    def totals(self, by: str | None = None) -> list[Total]:
        """As the function `totals`; `by` is the grouping of these sums, or None."""
        sums = self._kinds.joined()
        if not len(sums):
            return []
        groups = Groups(sums["key"], grouped=by is not None)
        apart = {}
        for unit, parts in self._apart.items():
            widths = parts.joined()
            within = groups.of(widths["key"])
            apart[unit] = within, within.units(codes_of(widths[unit])), widths
        found = list(_totals(sums, groups, apart))
        if by == "day":
            return sorted(found, key=lambda total: total.key or "")
        return sorted(found, key=lambda total: (-(total.emissions_g or 0.0), total.key or ""))

    def modelled_on(self) -> ModelledOn:
        """The hosts and processors over which the models' errors are combined.

        Hosts that are unknown are not counted; processors without a name count as one.
        """
        on = self._modelled.joined()
        return ModelledOn(on["host_id"].nunique(), on["cpu_model"].nunique(dropna=False))

    def uncounted(self) -> dict[str, int]:
        """In how many records something was not measured, by the code of the fault."""
        sums = self._kinds.joined()
        runs = {code: int(sums[f"with_{code}"].sum()) for code in CODES}
        return {code: count for code, count in runs.items() if count}


class ModelledOn(NamedTuple):
    """How many hosts and kinds of processor there are whose processor or memory is modelled."""

    hosts: int = 0
    processors: int = 0


# -- of each record: what can be added up ------------------------------------------------------


def _with_few_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, without the texts that none of them has: some look at each text."""
    texts = [str(name) for name in rows if rows[name].dtype == "category"]
    few = {name: rows[name].cat.remove_unused_categories() for name in texts}
    found: pd.DataFrame = rows.assign(**few)
    return found


def _key_of(frame: pd.DataFrame, by: str | None) -> Any:
    """What the group of each record has in common; nothing where there is one group."""
    import pandas as pd

    if by is not None:
        return keys_of(frame, by)
    return pd.Series(pd.Categorical([None] * len(frame), categories=[]), index=frame.index)


def _terms(frame: pd.DataFrame) -> dict[str, Any]:
    """The numbers of each record that are added up, by name; nan for unknown."""
    import numpy as np

    def only(rows: Any, column: Any) -> Any:
        return np.where(rows, column, np.nan)

    found = {name: frame[name].to_numpy() for name in SUMMED}
    best, g_per_kwh = found["energy_kwh"], frame["intensity_g_per_kwh"].to_numpy()
    low, high = (frame[f"energy_{end}_kwh"].to_numpy() for end in ("low", "high"))
    below, above = best - low, high - best
    lacking = {code: _lacks(frame, code) for code in CODES}
    lacks = lacking[UNMEASURED_GPU]
    found |= {f"with_{code}": rows.astype("float64") for code, rows in lacking.items()}
    found |= {"runs": np.ones(len(frame)), "known_runs": (~np.isnan(best)).astype("float64")}
    found |= _half_widths(frame, "below", below)
    found |= _half_widths(frame, "above", np.where(lacks, 0.0, above))
    found |= {"lacking_kwh": only(lacks, above), "lacking_g": only(lacks, above * g_per_kwh)}
    unsure = np.isnan(below) | np.isnan(above)
    found["without_kwh"] = only(unsure, best)
    for end in ("low", "high"):
        end_g_per_kwh = frame[f"intensity_{end}_g_per_kwh"].to_numpy()
        unsure = unsure | np.isnan(end_g_per_kwh)
        found[f"grid_{end}_g"] = best * end_g_per_kwh
    found["without_g"] = only(unsure, found["emissions_g"])
    found["highest_g"] = high * frame["intensity_high_g_per_kwh"].to_numpy()
    found["contract_kwh"] = only(~np.isnan(found["market_emissions_g"]), best)
    return found | making_terms(frame)


def _half_widths(frame: pd.DataFrame, side: str, width: Any) -> dict[str, Any]:
    """Each record's half-width on a side, split among its components, in kWh and in grams."""
    import numpy as np

    g_per_kwh = frame["intensity_g_per_kwh"].to_numpy()
    weights = {name: _weight(frame, name, side) for name in COMPONENTS}
    norm = np.sqrt(sum(weight**2 for weight in weights.values()))
    found = {}
    for name, weight in weights.items():
        alone = 1.0 if name == "other" else 0.0  # nothing to split by: all of it is one kind
        share = np.divide(weight, norm, out=np.full_like(norm, alone), where=norm > 0.0)
        found[f"{name}_{side}_kwh"] = width * share
        found[f"{name}_{side}_g"] = width * share * g_per_kwh
    return found


def _weight(frame: pd.DataFrame, name: str, side: str) -> Any:
    """Energy of a component times the usual uncertainty of its basis on a side."""
    import numpy as np

    basis = frame[_basis_of(name)].cat
    usual = USUAL_UNCERTAINTY[name]
    known = [getattr(usual[text], side) if text in usual else 1.0 for text in basis.categories]
    by_code = np.array([*known, 1.0])
    return np.nan_to_num(frame[f"{name}_kwh"].to_numpy()) * by_code[basis.codes.to_numpy()]


def _basis_of(component: str) -> str:
    return "basis" if component == "other" else f"{component}_basis"


def _apart_widths(
    frame: pd.DataFrame, terms: Mapping[str, Any], unit: str
) -> tuple[Any, dict[str, Any]]:
    """The records of which a component errs apart by this unit; and its half-widths in these."""
    import numpy as np

    rows = {
        name: frame[_basis_of(name)].isin(apart.bases).to_numpy(dtype=bool)
        for name, apart in _APART.items()
        if apart.unit == unit
    }
    some = np.any(list(rows.values()), axis=0)
    return some, {
        name: np.where(of_component, terms[name], np.nan)[some]
        for component, of_component in rows.items()
        for name in (f"{component}_{side}_{in_unit}" for side, in_unit in _WIDTHS)
    }


def _lacks(frame: pd.DataFrame, code: str) -> Any:
    """Whether each record has this code among its faults."""
    import numpy as np

    column = frame["faults"]
    lack = [code in uncounted_codes(text) for text in column.cat.categories]
    return np.array([*lack, False])[codes_of(column)]  # -1, for none, is the last


# -- of each group: the rule -------------------------------------------------------------------


def _totals(sums: pd.DataFrame, groups: Groups, apart: _ApartSums) -> Iterator[Total]:
    """The sum of each group that has records."""
    runs, known_runs = groups.sum(sums["runs"]), groups.sum(sums["known_runs"])
    summed = {name: groups.known_sum(sums[name]) for name in SUMMED}
    others = _shares(sums, groups) | _making_ends(sums, groups)
    others["market_share"] = _market_share(sums, groups)
    ends = _Ends(sums, groups, apart)
    for index, key in enumerate(groups.keys):
        if runs[index] == 0:
            continue
        known = {name: _known(column[index]) for name, column in summed.items()}
        energy = ends.energy(index, known["energy_kwh"])
        emissions = ends.emissions(index, known["emissions_g"])
        yield Total(
            key=key,
            runs=int(runs[index]),
            unknown_runs=int(runs[index] - known_runs[index]),
            energy_low_kwh=None if energy is None else energy.low,
            energy_high_kwh=None if energy is None else energy.high,
            emissions_low_g=None if emissions is None else emissions.low,
            emissions_high_g=None if emissions is None else emissions.high,
            **{name: _known(column[index]) for name, column in others.items()},
            **known,
        )


def _known(number: Any) -> float | None:
    return None if isnan(number) else float(number)


class _Ends:
    """The intervals of the sums of all groups."""

    def __init__(self, sums: pd.DataFrame, groups: Groups, apart: _ApartSums) -> None:
        import numpy as np

        squares = {width: np.zeros(len(groups.keys)) for width in _WIDTHS}
        for kind in _kinds(sums):
            for side, unit in _WIDTHS:
                width = f"{kind.component}_{side}_{unit}"
                squares[side, unit] += _square(kind, groups, sums, apart, width)
        self._half_widths = {width: np.sqrt(square) for width, square in squares.items()}
        self._without = {}
        for unit in ("kwh", "g"):
            # what no meter counted is no error that another record could make up for
            self._half_widths["above", unit] += groups.sum(sums[f"lacking_{unit}"])
            self._without[unit] = groups.sum(sums[f"without_{unit}"])
        self._grid_g = {end: groups.known_sum(sums[f"grid_{end}_g"]) for end in ("low", "high")}
        self._highest_g = groups.sum(sums["highest_g"])

    def energy(self, group: int, best: float | None) -> Interval | None:
        """In kWh; None where too little is known."""
        return self._combined(group, best, "kwh")

    def emissions(self, group: int, best: float | None) -> Interval | None:
        """The energy's interval in grams, times the grid's: the mean of its ends by energy."""
        energy = self._combined(group, best, "g")
        if energy is None:
            return None
        if energy.best == 0.0:
            return Interval(0.0, 0.0, float(self._highest_g[group]))
        found = (_known(self._grid_g[end][group]) for end in ("low", "high"))
        low_g, high_g = (energy.best if g is None else g for g in found)
        grid = Interval(1.0, min(1.0, low_g / energy.best), max(1.0, high_g / energy.best))
        return product(energy, grid)

    def _combined(self, group: int, best: float | None, unit: str) -> Interval | None:
        if best is None:
            return None
        if best > 0.0 and self._without[unit][group] > UNKNOWN_SHARE * best:
            return None
        below, above = (float(self._half_widths[s, unit][group]) for s in ("below", "above"))
        return Interval(best, max(0.0, best - below), best + above)


class _Kind(NamedTuple):
    """The rows in which a component has one basis, and what errs apart in it."""

    component: str
    rows: Any
    apart: _Apart | None = None


def _kinds(sums: pd.DataFrame) -> Iterator[_Kind]:
    """The kinds that there are.

    A modelled processor and one of which nothing is known have the same load curve, so both are one
    kind; the same holds for memory.
    """
    import numpy as np

    for component in COMPONENTS:
        basis, apart = sums[_basis_of(component)], _APART.get(component)
        ways: list[Any] = [*basis.cat.categories, None]
        if apart is not None:
            ways = [apart if text in apart.bases else text for text in ways]
        codes = codes_of(basis) % len(ways)  # -1, for none, is the last
        for way in dict.fromkeys(ways):
            rows = np.array([one == way for one in ways])[codes]
            if rows.any():
                yield _Kind(component, rows, apart if way == apart else None)


def _square(kind: _Kind, groups: Groups, sums: pd.DataFrame, apart: _ApartSums, width: str) -> Any:
    """The square of each group's half-width of one kind."""
    alike = groups.sum(sums[width], kind.rows) ** 2
    if kind.apart is None:
        return alike
    of_units, units, widths = apart[kind.apart.unit]
    common = kind.apart.common
    return common * alike + (1.0 - common) * of_units.sum_of_squares(widths[width], units)


def _shares(sums: pd.DataFrame, groups: Groups) -> dict[str, Any]:
    """The shares of the components' energy that are measured, modelled and assumed, by group.

    Of the rest it is not recorded; nan where it is of all.
    """
    import numpy as np

    by_basis = {text: np.zeros(len(groups.keys)) for text in BASES}
    for name in COMPONENTS:
        basis = sums[_basis_of(name)]
        for text in by_basis:
            rows = (basis == text).to_numpy(dtype=bool)
            by_basis[text] += groups.sum(sums[f"{name}_kwh"], rows)
    known = np.sum(list(by_basis.values()), axis=0) > 0.0
    whole = np.sum([groups.sum(sums[f"{name}_kwh"]) for name in COMPONENTS], axis=0)
    unknown = np.full_like(whole, np.nan)
    return {
        f"{text}_share": np.divide(kwh, whole, out=unknown.copy(), where=known)
        for text, kwh in by_basis.items()
    }


def _market_share(sums: pd.DataFrame, groups: Groups) -> Any:
    """The share of the energy of the records with a figure by contract; nan where none has one."""
    import numpy as np

    whole_kwh = groups.sum(sums["energy_kwh"])
    known = ~np.isnan(groups.known_sum(sums["market_emissions_g"])) & (whole_kwh > 0.0)
    unknown = np.full_like(whole_kwh, np.nan)
    return np.divide(groups.sum(sums["contract_kwh"]), whole_kwh, out=unknown, where=known)


def _making_ends(sums: pd.DataFrame, groups: Groups) -> dict[str, Any]:
    """Both ends; nan where figures without ends are more than `UNKNOWN_SHARE` of the sum."""
    import numpy as np

    found = {}
    for name, end in MAKING_ENDS:
        without = groups.sum(sums[f"without_{end}"])
        too_many = without > UNKNOWN_SHARE * groups.sum(sums[name])
        found[end] = np.where(too_many, np.nan, groups.known_sum(sums[end]))
    return found
