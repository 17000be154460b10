"""The design power (TDP) of this machine's processors, and how well it is known.

By the part's name, else by its family, else by the number of threads.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from carbontrack.interval import Interval
from carbontrack.meters.cpu_info import CpuFacts, CpuPart, find_part
from carbontrack.meters.load_curve import SINCE_2010, LoadCurve, curve_of
from carbontrack.record import Basis
from carbontrack.system.files import package_text

FAMILIES = "data/cpu_families.csv"

UNKNOWN_W_PER_THREAD = Interval(3.5, 1.4, 9.0)
"""TDP per hardware thread of an unknown part: 425 server parts since 2017 have 1.96, 3.75 and 9.38
W (5th, 50th and 95th percentile), families of cloud parts 1.4 to 3.9 W (cpu_families.csv)."""

Known = Literal["given", "part", "family", "nothing"]


class CpuPower(NamedTuple):
    """The design power of this machine's threads.

    Attributes:
        tdp_w: for all of this machine's threads together.
        share: this machine's threads as a share of one package; 2.0 for two packages.
        basis: "modelled" when the part or its family is known, "assumed" for a default.
        curve: power by load as a share of `tdp_w`, with ends as wide as that is uncertain.
        how: one sentence for people.
        known: what the design power is known by.
    """

    tdp_w: float
    share: float | None
    basis: Basis
    curve: LoadCurve
    how: str
    known: Known


def cpu_power(facts: CpuFacts, tdp_w: float | None = None) -> CpuPower:
    """Design power for `facts`; `tdp_w` is a given TDP of one package.

    A virtual machine gets the share of its threads only. A given figure is that of a whole package,
    of which a guest gets its share where the table has the part's number of threads.
    """
    part = find_part(facts.name)
    share = _share(facts, part)
    if tdp_w is not None:
        share = 1.0 if share is None else share
        how = f"{tdp_w:g} W, as given, x {share:.3g}"
        curve = curve_of(part.year if part is not None else None)
        return CpuPower(tdp_w * share, share, "modelled", curve, how, "given")
    if part is not None and share is not None:
        how = f"{part.name}: {part.tdp_w:g} W x {share:.3g} ({part.source})"
        curve = curve_of(part.year).widened(
            _ratio(Interval(part.tdp_w, part.tdp_low_w, part.tdp_high_w))
        )
        return CpuPower(part.tdp_w * share, share, "modelled", curve, how, "part")
    return _by_family(facts) or _unknown(facts)


def _share(facts: CpuFacts, part: CpuPart | None) -> float | None:
    if facts.is_guest or facts.siblings is None:
        if part is not None and part.threads:
            return facts.threads / part.threads
        return None if facts.is_guest or facts.vendor == "ARM" else 1.0
    # on bare metal whole packages count, with simultaneous multithreading on or off
    return max(1.0, float(round(facts.threads / facts.siblings)))


def _by_family(facts: CpuFacts) -> CpuPower | None:
    """By watts per thread of the processor's family, for names without a model: "AMD EPYC"."""
    if not (facts.vendor and facts.family and facts.model):
        return None
    for line in package_text(FAMILIES).splitlines()[1:]:
        cells = line.split(",")
        vendor, family, models, steppings, name, per_thread_w, low_w, high_w, year, source = cells
        if (vendor, family) != (facts.vendor, facts.family):
            continue
        if _within(facts.model, models) and (not steppings or _within(facts.stepping, steppings)):
            watts = Interval(float(per_thread_w), float(low_w), float(high_w))
            curve = curve_of(int(year)).widened(_ratio(watts))
            how = f"{name}: {facts.threads} threads x {per_thread_w} W ({source})"
            return CpuPower(watts.best * facts.threads, None, "modelled", curve, how, "family")
    return None


def _within(text: str, wanted: str) -> bool:
    first, _, last = wanted.partition("-")
    if text == first:
        return True
    return text.isdigit() and last.isdigit() and int(first) <= int(text) <= int(last)


def _unknown(facts: CpuFacts) -> CpuPower:
    watts = UNKNOWN_W_PER_THREAD
    how = f"unknown processor {facts.name!r}: {facts.threads} threads x {watts.best} W"
    curve = SINCE_2010.widened(_ratio(watts))
    return CpuPower(watts.best * facts.threads, None, "assumed", curve, how, "nothing")


def _ratio(watts: Interval) -> Interval:
    return Interval(1.0, watts.low / watts.best, watts.high / watts.best)
