"""Energy of memory from its DIMMs or its installed size, where no counter can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path

from carbontrack.errors import MeterGone
from carbontrack.interval import Interval
from carbontrack.meters.meter import read_number, read_text
from carbontrack.record import Basis, Component
from carbontrack.system.host import own_groups
from carbontrack.system.interrupts import pass_on, suppressed

GIB = 2**30

W_PER_GIB = Interval(0.15, 0.045, 0.60)
"""Watts per GiB installed, where its DIMMs are unknown. Read, in W/GB: 0.048 idle and 0.060 under
load of the processors, the mean of 37 cloud platforms with DDR4 (Tailpipe 2025); 0.13 to 0.25 idle
and 0.24 to 0.36 at a tenth of the load on six cloud hosts, and 0.66 to 1.1 under a memory stress
test (Teads 2021, RAPL); 0.13 to 0.25 by the slope of servers' wall power over their memory, since
2014 (SPECpower_ssj2008). The activity of the memory makes a factor of five, and nothing that is
readable without a counter shows it: the load of the processors hardly does (0.048 to 0.060). The
low end lies just below the lowest mean; the high end covers programs that stream through memory,
but not the stress tests. The best estimate is that of the slopes. The constants of other tools,
0.284 to 0.392, are for busy DIMMs of 8 GB."""
MODULE_W = Interval(1.0, 0.6, 2.0)
MODULE_W_PER_GIB = Interval(0.10, 0.02, 0.45)
"""Watts of one DIMM: a constant, and watts for each GiB on it.

An idle DIMM draws 0.92 to 1.07 W whatever it holds, and under STREAM 0.23 to 0.29 W/GB more (E5-
2690 v3, RAPL; TACC/HPCPerfStats, issue 9). Best: 1 W, and a third of 0.3 W/GB for an activity that
is not known, with which the two models agree for DIMMs of 20 GiB, between the commonest sizes of
servers, 16 and 32. Low: 0.92 W for an idle DIMM of 16 GiB, and less than the 0.048 W/GB of the
37 cloud platforms for one of 32. High: 2 W, which the slopes give for 16 GB, and one and a half
times 0.3 W/GB, since cloud hosts read more than STREAM did (0.45 to 0.72 W/GB under half a memory
stress test)."""
GIVEN_RATIO = sqrt(5.0)
"""A figure that the user gives is for some activity; what the memory does now may differ from it by
a factor of five in all (0.92 W for an idle DIMM, 4.5 W for one under STREAM)."""
_KEPT_BY_KERNEL = 0.1
"""The most of a machine's memory that its kernel keeps for itself, so that it is not shown."""
_NOT_DRAM = ("Non-volatile", "High-bandwidth")
"""Types of modules (edac_mem_types in the kernel) that are not the memory meant here."""
_SERVER_TYPES = ("Registered-", "Load-Reduced-")
"""Types of which the model's readings are. Soldered memory has no modules at all: its driver shows
subchannels of a chip as if they were some (igen6: "Low-Power-DDR4-RAM", eight of 2 GiB)."""
_SERVER_CONTROLLER = " Socket#"
"""In the name of a controller of Intel's servers since Skylake ("Skylake Socket#0 IMC#0"), whose
driver calls all of its modules unbuffered (skx_get_dimm_info in drivers/edac/skx_common.c)."""


class RamModel:
    """Watts per GiB x GiB x time: memory is refreshed whether it is used or not.

    Attributes:
        gib: memory that is powered for us: installed, or allowed by the cgroup of this process.
        w_per_gib: watts per GiB, with the ends of their interval.
        how: where these come from, in a line for people; "" for the size alone.
        low_j, high_j: the joules at the ends of the interval, as of the last read.
        relative_uncertainty: the wider side of the interval, at most 1.
    """

    basis: Basis = "modelled"
    id = "model:ram"
    component: Component = "ram"
    resolution_s = 0.0
    max_period_s: float | None = None

    def __init__(self, gib: float, w_per_gib: Interval = W_PER_GIB, how: str = "") -> None:
        self.gib = gib
        self.w_per_gib = w_per_gib
        self.how = how
        self.low_j = self.high_j = 0.0
        self.fault_counts: Mapping[str, int] = {}
        best, low, high = w_per_gib
        self.relative_uncertainty = min(1.0, max(high - best, best - low) / best) if best else 0.0
        self._powers_w = Interval(*(gib * watts for watts in w_per_gib))
        self._first_s: float | None = None
        self._elapsed_s = 0.0
        self._total_j = 0.0
        self._closed = False

    @property
    def about(self) -> str:
        """Size and power per GiB with its ends, in a line for people."""
        best, low, high = self.w_per_gib
        ends = f"{self.gib:.1f} GiB x {best:.3g} W ({low:.2g} to {high:.2g})"
        return f"{ends}; {self.how}" if self.how else ends

    @property
    def nominal_w(self) -> float:
        """The power, which is constant."""
        return self._powers_w.best

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        if self._first_s is None:
            self._first_s = now_s
        elapsed_s = now_s - self._first_s
        if elapsed_s > self._elapsed_s:
            self._elapsed_s = elapsed_s
            best_w, low_w, high_w = self._powers_w
            self.low_j, self.high_j = low_w * elapsed_s, high_w * elapsed_s
            self._total_j = best_w * elapsed_s
        return self._total_j

    def close(self) -> None:
        """Nothing is open."""
        self._closed = True


def ram_model(gib: float, modules_gib: tuple[float, ...], given_w: float | None) -> RamModel:
    """The model of an amount of memory, by the machine's DIMMs where these are known.

    A container is counted its share of the DIMMs, all of which are powered.

    Args:
        gib: memory that this process's container or machine may use.
        modules_gib: sizes of the machine's DIMMs; () where they are unknown.
        given_w: watts per GiB, as the user gave them; None: the model's own.
    """
    if given_w is not None:
        ends = Interval(given_w, given_w / GIVEN_RATIO, given_w * GIVEN_RATIO)
        return RamModel(gib, ends, "watts per GiB as given")
    total_gib = sum(modules_gib)
    if not total_gib:
        return RamModel(gib)
    count = len(modules_gib)
    per_gib = (
        (count * each_w + total_gib * w) / total_gib
        for each_w, w in zip(MODULE_W, MODULE_W_PER_GIB, strict=True)
    )
    how = f"{count} DIMMs, {total_gib:g} GiB in total"
    powered_gib = gib if gib < (1.0 - _KEPT_BY_KERNEL) * total_gib else total_gib
    return RamModel(powered_gib, Interval(*per_gib), how)


def installed_gib(procfs: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> float | None:
    """GiB of memory of this process's container or machine; None where it is unknown."""
    total_bytes = _total_bytes(procfs)
    if total_bytes is None:
        return None
    limits_bytes = [limit for limit in _cgroup_limits(procfs, sysfs) if limit > 0]
    return min([total_bytes, *limits_bytes]) / GIB


def modules_gib(procfs: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> tuple[float, ...]:
    """Sizes of this machine's memory modules; () where they are not told, or not all of them.

    The kernel's EDAC drivers tell them on servers whose memory corrects errors, and anybody may
    read them (Documentation/admin-guide/ras.rst and ABI/testing/sysfs-devices-edac). Registered
    and load-reduced modules only: the memory of clients has other modules or none.
    """
    try:
        controllers = sorted((sysfs / "devices/system/edac/mc").glob("mc[0-9]*"))
    except OSError as error:
        pass_on(error)
        return ()
    sizes_mib: dict[tuple[str, ...], float] = {}
    for controller in controllers:
        for module, size_mib in _parts(controller):
            if module is None:
                return ()
            key = (controller.name, *module)
            sizes_mib[key] = sizes_mib.get(key, 0.0) + size_mib
    found = tuple(size / 1024.0 for size in sizes_mib.values())
    # a driver may see a part of the memory controllers only, or tell an absurd size; memory that
    # is mirrored or spare is not shown, and would pass for another container's
    told, shown, least = sum(found) * GIB, _total_bytes(procfs) or 0, 1.0 - _KEPT_BY_KERNEL
    return found if least * shown <= told and least * told <= shown else ()


_Parts = Iterator[tuple[tuple[str, ...] | None, float]]


def _parts(controller: Path) -> _Parts:
    """Modules or parts of them on one memory controller: which module, and MiB.

    Where the controller does not know modules, as AMD's, there are ranks in place of them. Rows
    2n and 2n + 1 of one channel are on one module, if it has two ranks at most; one of four ranks,
    on rows 0 to 3, counts as two, since nothing that is readable tells it from two. None is a
    module of another type than a server's, or a rank whose place is not told.
    """
    controller_name = read_text(controller / "mc_name", 128) or ""
    modules = sorted(controller.glob("dimm[0-9]*"))
    for part in modules or sorted(controller.glob("rank[0-9]*")):
        size_mib = read_number(part / "size") or 0
        kind = read_text(part / "dimm_mem_type", 64) or ""
        if size_mib > 0 and not kind.startswith(_NOT_DRAM):
            is_servers = kind.startswith(_SERVER_TYPES) or _SERVER_CONTROLLER in controller_name
            place = (part.name,) if modules else _place(part)
            yield place if is_servers else None, float(size_mib)
    if not modules and not any(controller.glob("rank[0-9]*")):
        yield from _rows(controller)


def _place(rank: Path) -> tuple[str, ...] | None:
    """The module of a rank, from a location as in "csrow 3 channel 0"."""
    words = (read_text(rank / "dimm_location", 128) or "").split()
    place = dict(zip(words[::2], words[1::2], strict=False))
    row, channel = place.get("csrow", ""), place.get("channel", "")
    return (str(int(row) // 2), channel) if row.isdigit() and channel else None


def _rows(controller: Path) -> _Parts:
    """The ranks of a kernel before 3.6, which has rows across channels only."""
    for row in sorted(controller.glob("csrow[0-9]*")):
        size_mib = read_number(row / "size_mb") or 0
        channels = sorted(label.name for label in row.glob("ch[0-9]*_dimm_label"))
        number = row.name.removeprefix("csrow")
        is_servers = (read_text(row / "mem_type", 64) or "").startswith(_SERVER_TYPES)
        for channel in channels if number.isdigit() and size_mib > 0 else ():
            place = (str(int(number) // 2), channel) if is_servers else None
            yield place, size_mib / len(channels)


def _total_bytes(procfs: Path) -> int | None:
    first = (read_text(procfs / "meminfo", 128) or "").split("\n", 1)[0].split()
    if len(first) >= 2 and first[0] == "MemTotal:" and first[1].isdigit():
        return int(first[1]) * 1024
    with suppressed(OSError, ValueError, AttributeError):  # a procfs of processes only
        pages = os.sysconf("SC_PHYS_PAGES")  # by sysinfo(2)
        if pages > 0:
            return pages * os.sysconf("SC_PAGE_SIZE")
    with suppressed(Exception):
        import psutil

        return int(psutil.virtual_memory().total)
    return None


def _cgroup_limits(procfs: Path, sysfs: Path) -> list[int]:
    """The memory limits of this process's cgroup and of those above it, both cgroup versions."""
    limits = (
        read_number(directory / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        for directory, version in own_groups(procfs, sysfs, "memory")
    )
    return [limit for limit in limits if limit is not None]
