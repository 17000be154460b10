"""The design power (TDP) of this machine's processors, and how well it is known.

By the part's name, else by its family, else by the number of threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from carbontrack.interval import Interval, product
from carbontrack.meters.cpu_info import (
    AWS,
    CpuFacts,
    CpuPart,
    find_part,
    packages_by_siblings,
)
from carbontrack.meters.load_curve import SINCE_2010, LoadCurve, curve_of
from carbontrack.record import Basis
from carbontrack.system.files import package_text
from carbontrack.values import NamedTuple

FAMILIES = "data/cpu_families.csv"

UNKNOWN_W_PER_THREAD = Interval(3.5, 1.4, 9.0)
"""TDP per hardware thread of an unknown part: 425 server parts since 2017 have 1.96, 3.75 and 9.38
W (5th, 50th and 95th percentile), families of cloud parts 1.4 to 3.9 W (cpu_families.csv). The low
end is rounded outward; neither end is a percentile."""

Known = Literal["given", "part", "family", "nothing"]

_MAYBE_CORES = 2.0
"""Threads of a virtual processor that may be a thread or a core, at most."""
_SHARED_CORES = Interval(1.0, 0.5, 1.0)
"""Ratio where several guests share the threads (AWS's t types): a judgement, no source is known."""
_CLOUDS = frozenset(
    (AWS, "Google", "Microsoft Corporation", "Alibaba Cloud", "DigitalOcean", "Hetzner", "Scaleway",
     "Tencent Cloud", "Huawei Cloud", "OpenStack Foundation", "Exoscale", "Linode", "Vultr")
)  # fmt: skip
"""Vendors by the firmware of a guest. Not all show the guest which processors share a core."""
_HYPERVISORS = frozenset(
    ("QEMU", "KVM", "Red Hat", "VMware, Inc.", "Xen", "Parallels International GmbH.")
)
_APPLE = "0x61"
_CLIENT = ("client",)
_ONE_SOCKET = ("client", "one-socket server")


class CpuPower(NamedTuple):
    """The design power of this machine's threads.

    Attributes:
        tdp_w: for all of this machine's threads together.
        share: this machine's threads as a share of one package; 2.0 for two packages.
        basis: "modelled" when the part or its family is known, "assumed" for a default.
        curve: power by load as a share of `tdp_w`, with the uncertainty of `tdp_w` in its ends.
        how: one sentence for people.
        known: what the design power is known by.
    """

    tdp_w: float
    share: float | None
    basis: Basis
    curve: LoadCurve
    how: str
    known: Known


@lru_cache(maxsize=8)
def cpu_power(facts: CpuFacts, tdp_w: float | None = None) -> CpuPower:
    """Design power for `facts`; `tdp_w` is a given TDP of one package.

    A virtual machine gets the share of its threads only. A given figure is that of a whole package,
    of which a guest gets its share: by the part's number of threads, or else by watts per thread.
    """
    part = find_part(facts.name)
    share = _share(facts, part)
    year = part.year if part is not None else None
    if tdp_w is not None:
        if share is None and _is_shared_out(facts):
            return _share_of_given(facts, tdp_w)
        share = 1.0 if share is None else share
        how = f"{tdp_w:g} W, as given, x {share:.3g}"
        return CpuPower(tdp_w * share, share, "modelled", _curve(facts, year, share), how, "given")
    if part is not None and share is not None:
        name = f"{part.name}, an equivalent part" if _is_of_twin(facts, part) else part.name
        how = f"{name}: {part.tdp_w:g} W x {share:.3g} ({part.source})"
        watts = Interval(part.tdp_w, part.tdp_low_w, part.tdp_high_w)
        curve = _curve(facts, year, share, watts)
        return CpuPower(part.tdp_w * share, share, "modelled", curve, how, "part")
    by_thread = _by_family(facts) or _unknown(facts)
    # of real hardware the packages are counted, whatever is known of them
    return by_thread if facts.packages is None else by_thread._replace(share=facts.packages)


def is_guest(facts: CpuFacts) -> bool:
    """Whether this is a virtual machine; of ARM only the firmware tells."""
    if facts.is_guest or facts.vendor != "ARM":
        return facts.is_guest
    by_firmware = facts.maker in _CLOUDS or facts.maker in _HYPERVISORS
    return by_firmware and ".metal" not in facts.machine_type


def _is_of_twin(facts: CpuFacts, part: CpuPart) -> bool:
    """Whether the row is that of the same design without "PRO" in its name."""
    return " PRO " in facts.name and " pro " not in part.name


def is_client(model_name: str) -> bool:
    """Whether the part of this name is one of desktops and laptops."""
    return _is_of(_CLIENT, model_name)


def _share(facts: CpuFacts, part: CpuPart | None) -> float | None:
    if facts.is_guest or facts.siblings is None:
        if part is not None and part.threads:
            share = _threads_held(facts) / part.threads
            # a host may promise its guests more threads than it has
            return 1.0 if share > 1.0 and _is_of(_ONE_SOCKET, part.name) else share
        if part is not None and is_client(part.name):
            return 1.0
        return None if facts.is_guest or facts.vendor == "ARM" else 1.0
    if facts.packages is not None:
        return facts.packages
    if facts.threads < facts.siblings:  # a container is shown some threads of a package
        return facts.threads / facts.siblings
    # on bare metal whole packages count, with simultaneous multithreading on or off
    whole = part.threads if part is not None else None
    return float(packages_by_siblings(facts.threads, facts.siblings, facts.cores, whole))


def _is_of(lines: tuple[str, ...], name: str) -> bool:
    from carbontrack.meters.cpu_lines import line_of  # most machines need not ask

    return line_of(name) in lines


def _is_shared_out(facts: CpuFacts) -> bool:
    """Whether other guests may have the rest of the package; those of a client have it all."""
    if facts.vendor == "ARM" and facts.family == _APPLE:
        return False
    return is_guest(facts) and not is_client(facts.name)


def _share_of_given(facts: CpuFacts, tdp_w: float) -> CpuPower:
    """A guest's share of a package of unknown size: its threads by watts per thread.

    The power is that of the family, or of nothing known, and so are its interval and its basis. One
    package is the most, unless the family is that of servers, which have several.
    """
    power = _by_family(facts) or _unknown(facts)
    share = power.tdp_w / tdp_w
    if power.known == "nothing" or _is_of(_ONE_SOCKET, facts.name):
        share = min(1.0, share)
        whole = [end / share for end in SINCE_2010.high]
        power = power._replace(
            curve=power.curve._replace(high=tuple(map(min, power.curve.high, whole)))
        )
    how = f"{tdp_w:g} W, as given, x {share:.3g}, estimated by {power.how}"
    return power._replace(tdp_w=tdp_w * share, share=share, how=how)


def _threads_held(facts: CpuFacts) -> int:
    """The threads of the part that this system's processors keep others from using."""
    return facts.threads * (2 if _has_whole_cores(facts) else 1)


def _has_whole_cores(facts: CpuFacts) -> bool:
    """Whether a guest's virtual processor is a core of two threads, according to its provider.

    AWS's 7a, 8a and hpc types (the former have parts of their own: 9R14, 9R45), Google's t2d: of
    the types with an EPYC 7B13 the others show two threads a core. Cores of ARM have one thread.
    """
    if not facts.is_guest or facts.vendor == "ARM":
        return False
    if "EPYC 7B13" in facts.name:
        return facts.siblings is not None and facts.siblings == facts.cores
    line, generation, attribute = _aws_type(facts)
    is_amd = (attribute, generation) in {("a", "7"), ("a", "8")}
    return is_amd or line == "hpc" or "EPYC 9R14" in facts.name or "EPYC 9R45" in facts.name


def _aws_type(facts: CpuFacts) -> tuple[str, str, str]:
    """Line, generation and maker of the processor of a type: ("m", "7", "i") for "m7i.large".

    The maker is g (Graviton), a (AMD), i (Intel) or "". Empty texts where there is no such type.
    """
    if facts.maker != AWS:
        return "", "", ""
    family = facts.machine_type.partition(".")[0].partition("-")[0]  # "m7i-flex.large": m7i
    stem = family.rstrip("abcdefghijklmnopqrstuvwxyz")
    line = stem.rstrip("0123456789")
    attribute = family[len(stem) : len(stem) + 1]
    return line, stem[len(line) :], attribute if attribute in ("g", "a", "i") else ""


def _curve(
    facts: CpuFacts, year: int | None, share: float | None, watts: Interval | None = None
) -> LoadCurve:
    """The curve of a year, widened by what is uncertain about design power and the guest's part."""
    ratios = []
    if watts is not None and watts.low < watts.high:
        ratios.append(Interval(1.0, watts.low / watts.best, watts.high / watts.best))
    if facts.maker in _CLOUDS:
        hides = facts.siblings is not None and facts.siblings == facts.cores
        most = _MAYBE_CORES if share is None else min(_MAYBE_CORES, 1.0 / share)
        if hides and most > 1.0 and not _has_whole_cores(facts):
            ratios.append(Interval(1.0, 1.0, most))
        if _aws_type(facts)[0] == "t":
            ratios.append(_SHARED_CORES)
    curve = curve_of(year)
    if not ratios:
        return curve
    return curve.widened(ratios[0] if len(ratios) == 1 else product(*ratios))


def _by_family(facts: CpuFacts) -> CpuPower | None:
    """By watts per thread of the processor's family, for names without a model: "AMD EPYC"."""
    line, generation, attribute = _aws_type(facts)
    keys = [] if facts.kinds else [(facts.vendor, facts.family, facts.model)]
    if " (" in facts.name:  # "Intel Core Processor (Haswell, no TSX)"
        inside = facts.name.partition(" (")[2].partition(")")[0].partition(",")[0]
        keys.insert(0, ("QEMU", inside.lower().replace(" ", ""), ""))
    # the last chip that a board is compatible with is its processor, if not a whole family
    keys[:0] = [("DT", chip.partition(",")[2], "") for chip in reversed(facts.board.split())]
    if line in ("c", "m", "r") and attribute:
        keys.append(("EC2", attribute, generation))
    if facts.name.startswith(("VirtualApple", "Virtual Apple")):  # to x86 programs under Rosetta
        keys = [("ARM", _APPLE, "")]
    table = package_text(FAMILIES)
    for vendor, family, model in keys:
        cells = _row(table, vendor, family, model, facts.stepping) if vendor and family else None
        if cells is not None:
            return _of_family(facts, cells)
    return _of_kinds(facts, table) if facts.kinds else None


def _of_kinds(facts: CpuFacts, table: str) -> CpuPower | None:
    """Cores of several kinds, each by its own family; None where one of them is not known."""
    cores = sum(count for _, count in facts.kinds)
    sums, names, year = [0.0, 0.0, 0.0], [], 0
    for model, count in facts.kinds:
        cells = _row(table, facts.vendor, facts.family, model, facts.stepping)
        if cells is None:
            return None
        held = facts.threads * count / cores
        sums = [total + held * float(watts) for total, watts in zip(sums, cells[5:8], strict=True)]
        names.append(f"{held:g} x {cells[4]}")
        year = max(year, int(cells[8]))
    watts = Interval(*sums)
    curve = _curve(facts, year, None, watts)
    return CpuPower(watts.best, None, "modelled", curve, " + ".join(names), "family")


def _row(table: str, vendor: str, family: str, model: str, stepping: str) -> list[str] | None:
    """The first row of a family that has the model and the stepping; empty cells have any."""
    start = f"\n{vendor},{family},"
    at = table.find(start)
    while at >= 0:
        cells = table[at + 1 : table.find("\n", at + 1)].split(",", 10)
        model_fits = not cells[2] or _within(model, cells[2])
        if model_fits and (not cells[3] or _within(stepping, cells[3])):
            return cells
        at = table.find(start, at + 1)
    return None


def _of_family(facts: CpuFacts, cells: list[str]) -> CpuPower:
    name, best_w, low_w, high_w, year, _grade, source = cells[4:]
    held = _threads_held(facts)
    how = f"{name}: {held} threads x {best_w} W ({source})"
    watts = Interval(float(best_w), float(low_w), float(high_w))
    curve = _curve(facts, int(year), None, watts)
    return CpuPower(watts.best * held, None, "modelled", curve, how, "family")


def _within(text: str, wanted: str) -> bool:
    first, _, last = wanted.partition("-")
    if text == first:
        return True
    return text.isdigit() and last.isdigit() and int(first) <= int(text) <= int(last)


def _unknown(facts: CpuFacts) -> CpuPower:
    watts = UNKNOWN_W_PER_THREAD
    how = f"unknown processor {facts.name!r}: {facts.threads} threads x {watts.best} W"
    curve = SINCE_2010.widened(Interval(1.0, watts.low / watts.best, watts.high / watts.best))
    return CpuPower(watts.best * facts.threads, None, "assumed", curve, how, "nothing")
