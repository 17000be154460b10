"""The contribution of one meter to a record: its energy, its interval, and its basis."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot

from carbontrack.interval import Interval
from carbontrack.meters.meter import Meter
from carbontrack.record import BASES, WHOLE_MACHINE, Basis, Component
from carbontrack.values import NamedTuple

CONTRIBUTES = 0.01
"""A basis counts for the record if it applies to more than this share of the energy."""


class MeterFacts(NamedTuple):
    """The properties of a meter that records depend on.

    Attributes:
        share_uncertainty: the relative uncertainty of our part of the count, independent of the
            sensor's.
        share_is_most: whether our part may be less by that uncertainty, but not more.
        ends: the place of its ends among those of all meters; None if it counts none.
    """

    id: str
    component: Component
    basis: Basis
    resolution_s: float
    relative_uncertainty: float
    is_substitute: bool
    share_uncertainty: float = 0.0
    ends: int | None = None
    share_is_most: bool = False


def facts_of(
    meter: Meter,
    *,
    is_substitute: bool,
    idle_basis: Basis,
    share_uncertainty: float = 0.0,
    ends: int | None = None,
) -> MeterFacts:
    """The properties of a meter whose idle part has the basis `idle_basis`.

    A measured count minus something modelled is modelled.
    """
    basis = meter.basis
    if meter.component in ("cpu", "other"):
        basis = max(basis, idle_basis, key=BASES.index)
    return MeterFacts(
        meter.id,
        meter.component,
        basis,
        meter.resolution_s,
        meter.relative_uncertainty,
        is_substitute,
        share_uncertainty,
        ends,
    )


class Part(NamedTuple):
    """The energy of one meter in a span, with its basis.

    Attributes:
        meter: the meter's properties.
        joules: our share.
        basis: the basis of both energies.
        machine_j: the whole machine's energy in the same time; never less than our share.
        ends_j: our share at the low and the high end, as the meter counted them; None if it does
            not, and has its relative uncertainty.
    """

    meter: MeterFacts
    joules: float
    basis: Basis
    machine_j: float
    ends_j: tuple[float, float] | None = None

    def distances_j(self) -> tuple[float, float]:
        """How far below and above the energy its interval reaches."""
        joules, of_share = self.joules, self.meter.share_uncertainty
        if self.ends_j is None:
            width = self.meter.relative_uncertainty
            if of_share:
                wider = min(1.0, hypot(width, of_share))
                return joules * wider, joules * (width if self.meter.share_is_most else wider)
            return joules * width, joules * width
        # within a second a low count may take a larger step than the best one: never below 0
        below_j, above_j = max(0.0, joules - self.ends_j[0]), max(0.0, self.ends_j[1] - joules)
        if of_share:
            below_j = hypot(below_j, joules * of_share)
            if not self.meter.share_is_most:
                above_j = hypot(above_j, joules * of_share)
        return below_j, above_j


def interval_j(parts: Sequence[Part], length_s: float) -> Interval:
    """The sum of the parts, in joules, with the interval around it.

    Errors of meters of one kind are correlated: the same model, or the same type of sensor, on
    several devices errs in the same direction, so half-widths add up linearly. Errors of different
    kinds are independent and combine in quadrature (JCGM 100:2008, GUM, 5.1.2 and 5.2.2). Each side
    of the interval is combined separately, because a part may reach further above its best estimate
    than below.

    Added to these is the uncertainty of the start and end of a span of `length_s`. A count may be
    one refresh old when it is read, so at most one refresh's energy is missing or in excess: the
    mean power times the meter's resolution, independent from meter to meter.
    """
    joules = 0.0
    below_j: dict[tuple[str, Component], float] = {}
    above_j: dict[tuple[str, Component], float] = {}
    edges_j = []
    for part in parts:
        joules += part.joules
        kind = (part.meter.id.partition(":")[0], part.meter.component)
        part_below_j, part_above_j = part.distances_j()
        below_j[kind] = below_j.get(kind, 0.0) + part_below_j
        above_j[kind] = above_j.get(kind, 0.0) + part_above_j
        if length_s > 0.0:
            edges_j.append(part.joules * min(1.0, part.meter.resolution_s / length_s))
    return Interval(
        joules,
        max(0.0, joules - hypot(*below_j.values(), *edges_j)),
        joules + hypot(*above_j.values(), *edges_j),
    )


def weakest(parts: Sequence[Part]) -> Basis | None:
    """The weakest basis among those of more than 1 % of the energy."""
    bases = {part.basis for part in parts}
    if len(bases) < 2:
        return next(iter(bases), None)
    whole_j = sum(part.joules for part in parts)
    by_basis: dict[Basis, float] = {}
    for part in parts:
        by_basis[part.basis] = by_basis.get(part.basis, 0.0) + part.joules
    counting = [b for b, joules in by_basis.items() if joules > CONTRIBUTES * whole_j]
    return max(counting or by_basis, key=BASES.index, default=None)


def shares_of(parts: Sequence[Part]) -> dict[str, float]:
    """Our share of the energy of each component, and of the machine; none where that is 0."""
    ours: dict[str, float] = {WHOLE_MACHINE: 0.0}
    whole = ours.copy()
    for part in parts:
        for name in (part.meter.component, WHOLE_MACHINE):
            ours[name] = ours.get(name, 0.0) + part.joules
            whole[name] = whole.get(name, 0.0) + part.machine_j
    return {name: ours[name] / all_j for name, all_j in whole.items() if all_j > 0.0}
