"""The design power (TDP) of this machine's processors, and how well it is known.

By the part's name, else by its family, else by the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

from carbontrack.meters.cpu_info import CpuFacts, CpuPart, find_part
from carbontrack.record import Basis
from carbontrack.system.files import package_text

FAMILIES = "data/cpu_families.csv"

KNOWN_UNCERTAINTY = 0.40
"""Half-width where the part is known: estimates from TDP miss a wall meter by up to 40 % (Fischer
2025, arXiv 2509.22092: mean errors of -27, -37 and -20 % over 318 runs; for a constant TDP +8, -39
and -29 %)."""
FAMILY_UNCERTAINTY = 0.55
"""Half-width where only the family is known: 0.40, and the spread of watts per thread within a
family, for the middle family -25 to +50 % (cpu_families.csv), so 0.38; in quadrature 0.55."""
UNKNOWN_UNCERTAINTY = 0.75
"""Half-width where nothing is known: 0.40, and the spread of watts per thread over all families,
1.5 to 6.5 W around 4 W, so 0.63; in quadrature 0.75."""
UNKNOWN_W_PER_THREAD = 4.0
"""TDP per hardware thread of an unknown part. Servers since 2018 have a median of 7.8 W per core,
which is 3.9 W per thread with two threads a core; a desktop part of 65 W with 8 cores and 16
threads has 4.1 W (medians over the CPU lists that cpu_tdp.csv is made of)."""


class CpuPower(NamedTuple):
    """The design power of this machine's threads.

    Attributes:
        tdp_w: for all of this machine's threads together.
        share: this machine's threads as a share of one package; 2.0 for two packages.
        basis: "modelled" when the part or its family is known, "assumed" for a default.
        relative_uncertainty: half-width of the interval around energy modelled from it.
        how: one sentence for people.
    """

    tdp_w: float
    share: float | None
    basis: Basis
    relative_uncertainty: float
    how: str


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
        return CpuPower(tdp_w * share, share, "modelled", KNOWN_UNCERTAINTY, how)
    if part is not None and share is not None:
        how = f"{part.name}: {part.tdp_w:g} W x {share:.3g} ({part.source})"
        spread = max(part.tdp_high_w / part.tdp_w - 1.0, 1.0 - part.tdp_low_w / part.tdp_w)
        width = (KNOWN_UNCERTAINTY**2 + spread**2) ** 0.5
        return CpuPower(part.tdp_w * share, share, "modelled", width, how)
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
        vendor, family, models, steppings, name, per_thread_w, _, _, _, source = cells
        if (vendor, family) != (facts.vendor, facts.family):
            continue
        if _within(facts.model, models) and (not steppings or _within(facts.stepping, steppings)):
            watts = float(per_thread_w) * facts.threads
            how = f"{name}: {facts.threads} threads x {per_thread_w} W ({source})"
            return CpuPower(watts, None, "modelled", FAMILY_UNCERTAINTY, how)
    return None


def _within(text: str, wanted: str) -> bool:
    first, _, last = wanted.partition("-")
    if text == first:
        return True
    return text.isdigit() and last.isdigit() and int(first) <= int(text) <= int(last)


def _unknown(facts: CpuFacts) -> CpuPower:
    how = f"unknown processor {facts.name!r}: {facts.threads} threads x {UNKNOWN_W_PER_THREAD} W"
    watts = UNKNOWN_W_PER_THREAD * facts.threads
    return CpuPower(watts, None, "assumed", UNKNOWN_UNCERTAINTY, how)
