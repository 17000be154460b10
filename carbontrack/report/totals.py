"""Sums of records by group, with the interval of each sum.

The rule and its derivation are in docs/explanation/adding-up-intervals.md. In short: half-widths of
errors that are the same in all records add up, those of independent errors combine as the root of
the sum of squares, and the models' errors on different processors share a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.interval import Interval, product
from carbontrack.meters import nvml, rapl
from carbontrack.meters.cpu_power import UNKNOWN_W_PER_THREAD
from carbontrack.meters.gpu_power import gpu_share
from carbontrack.meters.load_curve import SINCE_2010
from carbontrack.meters.ram_model import W_PER_GIB
from carbontrack.meters.wall_model import wall_share
from carbontrack.record import BASES, COMPONENTS
from carbontrack.report.uncounted import UNMEASURED_GPU, uncounted_codes
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

UNKNOWN_SHARE = 0.01
"""A sum has no interval when records without one make up more than this share of it."""

SUMMED = (
    *("duration_s", "calls", "cpu_kwh", "gpu_kwh", "ram_kwh", "other_kwh", "energy_kwh"),
    *("emissions_g", "water_l", "embodied_g", "abiotic_kg_sb", "market_emissions_g"),
)


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
            left of it is energy of which no record says so.
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


def keys_of(frame: pd.DataFrame, by: str) -> Any:
    """The key of each record: by name, region, day (UTC), host, job, or label:K.

    Raises:
        ConfigError: there is no such grouping.
    """
    import pandas as pd

    if by in ("name", "region"):
        return frame[by]
    if by in ("host", "job"):
        return frame[f"{by}_id"]
    if by == "day":
        days = frame["started_at"].to_numpy().astype("datetime64[D]")
        codes, found = pd.factorize(days, sort=True)
        texts = pd.Index([str(day)[:10] for day in found], dtype=object)
        return pd.Series(pd.Categorical.from_codes(codes, categories=texts), index=frame.index)
    if by.startswith("label:") and by != "label:":
        labels = frame["labels"].cat
        texts = [_label(text, by.removeprefix("label:")) for text in labels.categories]
        codes, known = pd.factorize(pd.Series(texts, dtype=object))
        own = pd.Series([*codes, -1], dtype="int32").to_numpy()[labels.codes.to_numpy()]
        cells = pd.Categorical.from_codes(own, categories=pd.Index(known, dtype=object))
        return pd.Series(cells, index=frame.index)
    raise ConfigError(f"cannot group by {by!r}; ways are name, region, day, host, job, label:KEY")


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
    groups = _Groups(frame, by)
    found = list(_totals(frame, groups))
    if by == "day":
        return sorted(found, key=lambda total: total.key or "")
    return sorted(found, key=lambda total: (-(total.emissions_g or 0.0), total.key or ""))


class _Groups:
    """The group of each record, as a number, and sums by group; numpy's, for millions of rows.

    Attributes:
        keys: what the records of each group have in common; the last is for those without a key.
    """

    def __init__(self, frame: pd.DataFrame, by: str | None) -> None:
        import numpy as np

        self.keys: list[str | None] = [None]
        self._codes = np.zeros(len(frame), dtype="int64")
        if by is not None:
            column = keys_of(frame, by)
            self.keys = [*map(str, column.cat.categories), None]
            self._codes = _codes(column) % len(self.keys)  # -1 is the last

    def count(self, rows: Any = slice(None)) -> Any:
        """How many of the rows are in each group."""
        import numpy as np

        return np.bincount(self._codes[rows], minlength=len(self.keys))

    def sum(self, column: Any, rows: Any = slice(None)) -> Any:
        """The sum over the rows of each group; unknown counts as 0."""
        import numpy as np

        weights = np.nan_to_num(column[rows])
        return np.bincount(self._codes[rows], weights=weights, minlength=len(self.keys))

    def known_sum(self, column: Any) -> Any:
        """As `sum`, but nan where nothing is known."""
        import numpy as np

        known = self.count(~np.isnan(column))
        return np.where(known > 0, self.sum(column), np.nan)

    def within(self, units: Any) -> _Units:
        """The units, such as hosts, of each group; `units` is a number for each row."""
        import pandas as pd

        count = int(units.max()) + 2  # -1, for none, is one too
        pairs, found = pd.factorize(self._codes * count + units + 1)
        return _Units(pairs, found // count, len(self.keys))


def _codes(column: Any) -> Any:
    """The numbers of a categorical column's cells; pandas keeps them in as few bits as it can."""
    return column.cat.codes.to_numpy().astype("int64")


class _Units(NamedTuple):
    """The units of all groups: the unit of each row, the group of each unit, how many groups."""

    of_rows: Any
    groups: Any
    size: int

    def sum_of_squares(self, column: Any, rows: Any) -> Any:
        """For each group, the squares of its units' sums, added up."""
        import numpy as np

        weights = np.nan_to_num(column[rows])
        sums = np.bincount(self.of_rows[rows], weights=weights, minlength=len(self.groups))
        return np.bincount(self.groups, weights=sums**2, minlength=self.size)


def _totals(frame: pd.DataFrame, groups: _Groups) -> Iterator[Total]:
    """The sum of each group that has records."""
    runs = groups.count()
    known_runs = groups.count(frame["energy_kwh"].notna().to_numpy())
    sums = {name: groups.known_sum(frame[name].to_numpy()) for name in SUMMED}
    others = _shares(frame, groups) | _making_ends(frame, groups)
    others["market_share"] = _market_share(frame, groups)
    ends = _Ends(frame, groups)
    for index, key in enumerate(groups.keys):
        if runs[index] == 0:
            continue
        known = {name: _known(column[index]) for name, column in sums.items()}
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

    def __init__(self, frame: pd.DataFrame, groups: _Groups) -> None:
        import numpy as np

        best = frame["energy_kwh"].to_numpy()
        low, high = (frame[f"energy_{end}_kwh"].to_numpy() for end in ("low", "high"))
        below, above = best - low, high - best
        lacks = _lacks(frame, UNMEASURED_GPU)
        sure_above = np.where(lacks, 0.0, above)
        self._half_widths = _half_widths(frame, groups, {"below": below, "above": sure_above})
        # what no meter counted is no error that another record could make up for
        self._half_widths["above", "kwh"] += groups.sum(above, lacks)
        above_g = above * frame["intensity_g_per_kwh"].to_numpy()
        self._half_widths["above", "g"] += groups.sum(above_g, lacks)
        unsure = np.isnan(below) | np.isnan(above)
        self._without = {"kwh": groups.sum(best, unsure)}
        self._grid_g = {}
        for end in ("low", "high"):
            end_g_per_kwh = frame[f"intensity_{end}_g_per_kwh"].to_numpy()
            unsure = unsure | np.isnan(end_g_per_kwh)
            self._grid_g[end] = groups.known_sum(best * end_g_per_kwh)
        self._without["g"] = groups.sum(frame["emissions_g"].to_numpy(), unsure)
        self._highest_g = groups.sum(high * frame["intensity_high_g_per_kwh"].to_numpy())

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


def _half_widths(
    frame: pd.DataFrame, groups: _Groups, widths: dict[str, Any]
) -> dict[tuple[str, str], Any]:
    """The half-width of each group's sum by side, "below" or "above", and unit, "kwh" or "g".

    `widths` has those of the records, by side. Each is split among the components of its record.
    """
    import numpy as np

    g_per_kwh = frame["intensity_g_per_kwh"].to_numpy()
    kinds = list(_kinds(frame, groups))
    found: dict[tuple[str, str], Any] = {}
    for side, width in widths.items():
        weights = {name: _weight(frame, name, side) for name in COMPONENTS}
        norm = np.sqrt(sum(weight**2 for weight in weights.values()))
        squares = {"kwh": np.zeros(len(groups.keys)), "g": np.zeros(len(groups.keys))}
        for name, weight in weights.items():
            alone = 1.0 if name == "other" else 0.0  # nothing to split by: all of it is one kind
            share = np.divide(weight, norm, out=np.full_like(norm, alone), where=norm > 0.0)
            for unit, part in (("kwh", width * share), ("g", width * share * g_per_kwh)):
                for kind in kinds:
                    if kind.component == name:
                        squares[unit] += _square(kind, groups, part)
        found |= {(side, unit): np.sqrt(square) for unit, square in squares.items()}
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


class _Kind(NamedTuple):
    """The rows in which a component has one basis, and what is common to their errors.

    Attributes:
        units: what errs alike in itself; None where all of the kind errs alike.
        common: the share of the variance that all units have in common.
    """

    component: str
    rows: Any
    units: _Units | None = None
    common: float = 1.0


def _kinds(frame: pd.DataFrame, groups: _Groups) -> Iterator[_Kind]:
    """The kinds that a frame has.

    On different processors, the models of processor and memory err apart in part. A GPU's sensor
    has a gain that is fixed for the board and differs between boards (Yang, Adámek, Armour, SC'24),
    so measured GPUs err together on one host and apart on different ones.
    """
    processors = hosts = None
    for component in COMPONENTS:
        for way, rows in _ways(frame, component):
            if way == _BY_MODEL:
                processors = processors or groups.within(_codes(frame["cpu_model"]))
                yield _Kind(component, rows, processors, COMMON)
            elif (component, way) == ("gpu", "measured"):
                hosts = hosts or groups.within(_codes(frame["host_id"]))
                yield _Kind(component, rows, hosts, 0.0)
            else:
                yield _Kind(component, rows)


_BY_MODEL = "by model"


def _ways(frame: pd.DataFrame, component: str) -> Iterator[tuple[str | None, Any]]:
    """The ways in which a component is known, and the rows of each; None where it is not.

    A modelled processor and one of which nothing is known have the same load curve, so both are one
    way; the same holds for memory.
    """
    import numpy as np

    basis = frame[_basis_of(component)]
    texts = [*basis.cat.categories, None]
    if component in ("cpu", "ram"):
        texts = [_BY_MODEL if text in ("modelled", "assumed") else text for text in texts]
    codes = _codes(basis) % len(texts)  # -1, for none, is the last
    for way in dict.fromkeys(texts):
        rows = np.array([text == way for text in texts])[codes]
        if rows.any():
            yield way, rows


class ModelledOn(NamedTuple):
    """How many hosts and kinds of processor there are whose processor or memory is modelled."""

    hosts: int = 0
    processors: int = 0


def modelled_on(frame: pd.DataFrame) -> ModelledOn:
    """The hosts and processors over which the models' errors are combined.

    Hosts that are unknown are not counted; processors without a name count as one.
    """
    import numpy as np

    rows = np.zeros(len(frame), dtype=bool)
    for component in ("cpu", "ram"):
        for way, of_way in _ways(frame, component):
            if way == _BY_MODEL:
                rows |= of_way
    hosts = np.unique(_codes(frame["host_id"])[rows])
    processors = np.unique(_codes(frame["cpu_model"])[rows])
    return ModelledOn(int((hosts >= 0).sum()), len(processors))


def uncounted(frame: pd.DataFrame) -> dict[str, int]:
    """In how many records something was not measured, by the code of the fault."""
    found: dict[str, int] = {}
    for text in frame["faults"].cat.categories:
        for code in uncounted_codes(text):
            found.setdefault(code, int(_lacks(frame, code).sum()))
    return found


def _lacks(frame: pd.DataFrame, code: str) -> Any:
    """Whether each record has this code among its faults."""
    import numpy as np

    column = frame["faults"]
    lack = [code in uncounted_codes(text) for text in column.cat.categories]
    return np.array([*lack, False])[_codes(column)]  # -1, for none, is the last


def _square(kind: _Kind, groups: _Groups, column: Any) -> Any:
    """The square of each group's half-width of one kind."""
    alike = groups.sum(column, kind.rows) ** 2
    if kind.units is None:
        return alike
    apart = kind.units.sum_of_squares(column, kind.rows)
    return kind.common * alike + (1.0 - kind.common) * apart


def _shares(frame: pd.DataFrame, groups: _Groups) -> dict[str, Any]:
    """The shares of the components' energy that are measured, modelled and assumed, by group.

    Of the rest it is not recorded; nan where it is of all.
    """
    import numpy as np

    by_basis = {text: np.zeros(len(groups.keys)) for text in BASES}
    for name in COMPONENTS:
        basis = frame[_basis_of(name)].cat
        codes = basis.codes.to_numpy()
        for code, text in enumerate(basis.categories):
            if text in by_basis:
                by_basis[text] += groups.sum(frame[f"{name}_kwh"].to_numpy(), codes == code)
    known = np.sum(list(by_basis.values()), axis=0) > 0.0
    whole = np.sum([groups.sum(frame[f"{name}_kwh"].to_numpy()) for name in COMPONENTS], axis=0)
    unknown = np.full_like(whole, np.nan)
    return {
        f"{text}_share": np.divide(kwh, whole, out=unknown.copy(), where=known)
        for text, kwh in by_basis.items()
    }


def _market_share(frame: pd.DataFrame, groups: _Groups) -> Any:
    """The share of the energy of the records with a figure by contract; nan where none has one."""
    import numpy as np

    kwh = frame["energy_kwh"].to_numpy()
    with_contract = frame["market_emissions_g"].notna().to_numpy()
    whole_kwh = groups.sum(kwh)
    known = (groups.count(with_contract) > 0) & (whole_kwh > 0.0)
    unknown = np.full_like(whole_kwh, np.nan)
    return np.divide(groups.sum(kwh, with_contract), whole_kwh, out=unknown, where=known)


def _making_ends(frame: pd.DataFrame, groups: _Groups) -> dict[str, Any]:
    """The low and high ends of what making the hardware took, by group; nan: too little is known.

    Records have no such ends. They follow from the hardware: each kind's sum times the interval of
    such a machine over its figure. All kinds add up linearly, since they rest on the same sets.
    """
    import numpy as np

    g, kg_sb = (frame[name].to_numpy() for name in ("embodied_g", "abiotic_kg_sb"))
    cards = frame["gpu_models"]
    texts = [*cards.cat.categories, None]
    codes = _codes(cards) % len(texts)  # -1, for none, is the last
    known = ~np.isnan(g) | ~np.isnan(kg_sb)
    by_cards = _spreads(texts, np.unique(codes[known]))[:, codes]
    g_per_kg_sb = np.divide(g, kg_sb, out=np.full_like(g, np.nan), where=kg_sb > 0.0)
    # a figure of the user's own has other ends, and no column says that it is one
    is_tables = (g_per_kg_sb >= by_cards[4]) & (g_per_kg_sb <= by_cards[5])
    g_ends = np.where(is_tables, by_cards[:2], np.nan)
    return {
        "embodied_low_g": _sum_of_ends(groups, g, g_ends[0]),
        "embodied_high_g": _sum_of_ends(groups, g, g_ends[1]),
        "abiotic_low_kg_sb": _sum_of_ends(groups, kg_sb, by_cards[2]),
        "abiotic_high_kg_sb": _sum_of_ends(groups, kg_sb, by_cards[3]),
    }


def _spreads(texts: list[str | None], codes: Any) -> Any:
    """For each text of cards: both ends in CO2e, in Sb eq, and of the ratio of the two figures."""
    import numpy as np

    found = np.full((6, len(texts)), np.nan)
    if len(codes):
        from carbontrack.impact.embodied import g_per_kg_sb_of, spread_of  # many have neither

        for code in codes:
            spread = spread_of(texts[code])
            if spread is not None:
                of_g, of_kg_sb = spread
                ends = (of_g.low, of_g.high, of_kg_sb.low, of_kg_sb.high)
                found[:, code] = (*ends, *g_per_kg_sb_of(texts[code]))
    return found


def _sum_of_ends(groups: _Groups, figure: Any, ratio: Any) -> Any:
    """The sum at one end; nan where figures without ends are more than `UNKNOWN_SHARE` of it."""
    import numpy as np

    without = groups.sum(figure, np.isnan(ratio))
    ends = groups.known_sum(figure * np.where(np.isnan(ratio), 1.0, ratio))
    return np.where(without > UNKNOWN_SHARE * groups.sum(figure), np.nan, ends)
