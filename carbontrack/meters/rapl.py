"""RAPL counters through the kernel's powercap tree: a disjoint set of zones, and how one is read.

Layout and meaning: the kernel's Documentation/power/powercap/powercap.rst. The tree shows every
zone twice, nested in its parent and flat in class/powercap, so zones are identified by the name of
their directory: "intel-rapl:1" is a top-level zone, "intel-rapl:1:0" its child. The boundary is
package + dram: package contains core, uncore and an integrated GPU, and not dram, although dram is
nested in it; psys contains all of them; intel-rapl-mmio is a second register of the same package.

A zone is read through a descriptor that stays open. Zones that show the same counter are one meter.
A component is measured by all of its zones or by none (all_or_none.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import pread
from pathlib import Path

from carbontrack.errors import MeterError, MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Counter
from carbontrack.meters.meter import Meter, Refusal, open_to_read, read_number, read_text
from carbontrack.record import Basis, Component
from carbontrack.system.interrupts import pass_on
from carbontrack.values import NamedTuple

RESOLUTION_S = 0.001
"""RAPL counters change about once a millisecond, with jitter (Haehnel et al. 2012)."""
MOVES_WITHIN_S = 0.5
"""Five hundred times that: a processor that is asleep draws more than 0.1 W, so that a counter in
units of 61 uJ moves at each refresh, whatever the load."""
STALE_S = 0.05
"""A file whose value has not changed for so long is checked for having been replaced."""
_CLOSED = -1
"""No descriptor: a read of it fails, and is done by the path."""
RELATIVE_UNCERTAINTY = 0.07
"""Half-width for package and dram, within the boundary package + dram.

From public wall-meter data: 318 runs of an i9-13900K with an RTX 4090 (Fischer 2025, arXiv
2509.22092). After one affine fit of software readings (RAPL and NVML) to the meter, which takes
out power supply, board and fans, a mean absolute error of 5.6 % is left; for normal errors that is
a standard deviation of 5.6 % / 0.8 = 7 %. Mainboard, fans, disks and the supply's own loss are
outside the boundary and outside this interval: at the wall a joule read here costs 1.17 J (Jay et
al., CCGrid 2023, slope over servers of one kind; it differs between machines).
"""


class RaplZone:
    """A package or a dram domain.

    A read is one pread of a dozen digits. A file that replaces the open one, or a zone that
    vanishes and returns, is found again by its path.
    """

    basis: Basis = "measured"
    resolution_s = RESOLUTION_S
    relative_uncertainty = RELATIVE_UNCERTAINTY
    moves_within_s = MOVES_WITHIN_S
    nominal_w: float | None = None

    def __init__(
        self,
        id: str,  # noqa: A002 - the protocol's name
        component: Component,
        path: Path,
        *,
        range_j: float | None,
        cap_w: Callable[[], float],
        open_file: Callable[[Path], int] = open_to_read,
    ) -> None:
        self.id = id
        self.component: Component = component
        self._path = path
        self._open_file = open_file
        self._cap_w = cap_w
        self.counter = Counter(range_j, cap_w())
        self.fault_counts: Mapping[str, int] = self.counter.fault_counts
        """Resets and impossible steps that were dropped."""
        self._descriptor = open_file(path)
        self._closed = False
        self.read_uj()

    @property
    def max_period_s(self) -> float | None:
        """0.4 of the time in which the counter can wrap."""
        return self.counter.max_period_s

    def read_uj(self) -> int:
        """The counter's value, in microjoules.

        A read that fails, or shows no number, is repeated once, at once and by the path: at the end
        of a span there is no later one, and the span's last energy would go to the span around it.

        Raises:
            MeterReadError: the zone cannot be read now, or holds no number.
        """
        try:
            return int(pread(self._descriptor, 32, 0))
        except (OSError, ValueError) as error:
            pass_on(error)
            return self._read_by_path()

    def _read_by_path(self) -> int:
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        try:
            descriptor = self._open_file(self._path)
            # only now: if the path is out of reach, the open file may still answer later
            self._release()
            self._descriptor = descriptor
            text = pread(descriptor, 32, 0)
            raw_uj = int(text)
        except OSError as error:
            pass_on(error)
            raise MeterReadError(f"{self._path}: {error.strerror}") from error
        except ValueError as error:
            pass_on(error)
            raise MeterReadError(f"{self._path} contains no number: {text.strip()!r}") from error
        return raw_uj

    def read_joules(self, now_s: float) -> float:
        """Joules since the meter was opened."""
        try:  # as in `read_uj`; a call would cost as much as the rest, as would one of `advance`
            raw_j = int(pread(self._descriptor, 32, 0)) * 1e-6
        except (OSError, ValueError) as error:
            pass_on(error)
            raw_j = self._read_by_path() * 1e-6
        counter = self.counter
        last_j, since_s = counter.last_j, now_s - counter.at_s
        if 0.0 <= raw_j - last_j <= counter.cap_w * since_s < counter.plain_j:
            if raw_j > last_j:
                counter.last_j, counter.at_s = raw_j, now_s
                return counter.base_j + raw_j
            if since_s < STALE_S:
                return counter.base_j + raw_j
        return self._judge(raw_j, now_s)

    def _judge(self, raw_j: float, now_s: float) -> float:
        """Count a value that is no plain step, or has not changed for a while."""
        counter = self.counter
        if raw_j == counter.last_j and now_s - counter.at_s >= STALE_S and self._is_replaced():
            raw_j = self._read_by_path() * 1e-6
        try:
            return counter.advance(raw_j, now_s)
        except MeterReadError:
            return self._count_again(raw_j, now_s)

    def _count_again(self, raw_j: float, now_s: float) -> float:
        # the limits may have been raised since the meter was opened; or the file was just being
        # written, or has been replaced
        counter = self.counter
        counter.cap_w = max(counter.cap_w, self._cap_w())
        with suppress(MeterReadError):  # then what the open file shows is judged again
            raw_j = self._read_by_path() * 1e-6
        return counter.advance(raw_j, now_s)

    def close(self) -> None:
        """Close the descriptor for good."""
        self._closed = True
        self._release()

    def rest(self) -> None:
        """Close the descriptor until the next read, while nothing is measured.

        Not that of a file which only root may read: a program may give up its rights meanwhile.
        """
        if self._descriptor != _CLOSED and not _is_root_only(self._descriptor):
            self._release()

    def _is_replaced(self) -> bool:
        """Whether another file has the path now.

        The kernel's counters change every millisecond; one that stands still may be that of a file
        which is at this path no more.
        """
        opened = os.fstat(self._descriptor)
        try:  # inode and device: a mount may hide the open file
            return opened[1:3] != os.stat(self._path)[1:3]  # noqa: PTH116 - no object
        except OSError as error:
            pass_on(error)
            return not opened.st_nlink  # else the path is out of reach, and the file not deleted

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor != _CLOSED:
            os.close(descriptor)


def _is_root_only(descriptor: int) -> bool:
    return os.geteuid() == 0 and not os.fstat(descriptor).st_mode & 0o044


def differ(one: RaplZone, other: RaplZone) -> bool:
    """Whether two zones demonstrably show different counters.

    They do when three times in a row the second's value does not lie between two readings of the
    first's; a wrap in between can explain that once. A failed read proves nothing.

    Multi-die AMD parts show the socket's counter once for each die. Where dies have counters of
    their own (Intel CLX-AP) the values differ, so values decide, not names.
    """
    for _ in range(3):
        try:
            before_uj, other_uj, after_uj = one.read_uj(), other.read_uj(), one.read_uj()
        except MeterReadError:
            return False
        if before_uj <= other_uj <= after_uj:
            return False
    return True


class MirroredZones:
    """Zones that showed equal values when they were opened, as one meter.

    As long as they stay equal they are one counter, and one of them is counted. Every zone still
    keeps a count of its own: when they turn out to differ, as those of two sockets after a boot
    may, the meter becomes the sum of all from the beginning, and no energy is lost.
    """

    basis: Basis = "measured"
    resolution_s = RESOLUTION_S
    relative_uncertainty = RELATIVE_UNCERTAINTY
    moves_within_s = MOVES_WITHIN_S
    nominal_w: float | None = None

    def __init__(self, zones: Sequence[RaplZone]) -> None:
        self.zones = tuple(zones)
        self.id = zones[0].id
        self.component: Component = zones[0].component
        self.mirrored = True
        """False once the zones have been seen to differ."""
        self._total_j = 0.0

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Of the zones that are counted."""
        if self.mirrored:
            return self.zones[0].fault_counts
        counts: dict[str, int] = {}
        for zone in self.zones:
            for code, times in zone.fault_counts.items():
                counts[code] = counts.get(code, 0) + times
        return counts

    @property
    def max_period_s(self) -> float | None:
        """Of the zone that wraps soonest."""
        periods_s = (zone.max_period_s for zone in self.zones)
        return min((period_s for period_s in periods_s if period_s), default=None)

    def read_joules(self, now_s: float) -> float:
        """Joules of the one counter, or of all zones together."""
        counts_j: list[float] = []
        error: MeterError | None = None
        for zone in self.zones:
            try:
                counts_j.append(zone.read_joules(now_s))
            except MeterError as failure:
                if zone is self.zones[0]:
                    raise
                error = failure
        if self.mirrored and error is None:
            # compared only when all reads succeeded: an invalid value in one is no difference
            self.mirrored = not any(differ(self.zones[0], zone) for zone in self.zones[1:])
        if error is not None and not self.mirrored:
            raise error
        self._total_j = max(self._total_j, counts_j[0] if self.mirrored else sum(counts_j))
        return self._total_j

    def rest(self) -> None:
        """Close the descriptors until the next read."""
        for zone in self.zones:
            zone.rest()

    def close(self) -> None:
        """Close every zone."""
        for zone in self.zones:
            zone.close()


# -- finding the zones of this machine ---------------------------------------------------------

_CONTROL_TYPES = ("intel-rapl", "intel-rapl-mmio")
"""AMD's counters appear as intel-rapl too. The mmio interface is used only where it is alone."""
_UNUSED = {
    "psys": "it contains package and dram, which are read, so their energy would be counted twice",
    "core": "it is contained in package",
    "uncore": "it is contained in package",
}
_DEFAULT_CAP_W: dict[Component, float] = {"cpu": 1000.0, "ram": 600.0}
"""Where a zone has no limit: twice the largest server part (500 W TDP in 2025), and a socket's 24
DIMMs at 25 W."""
_FLOOR_CAP_W: dict[Component, float] = {"cpu": 50.0, "ram": 200.0}
_LIMIT_MARGIN = 1.5
"""Power limits are averages over a window, which a burst exceeds."""

CURE = """\
# one of these, as root; then open a new session
# permanently: members of the group `power` may read the counters
groupadd -f power && usermod -aG power "$USER"
cat >/etc/udev/rules.d/70-powercap.rules <<'RULE'
SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/sh -c 'chgrp power /sys%p/energy_uj; \
chmod g+r /sys%p/energy_uj'"
RULE
udevadm control --reload && udevadm trigger --subsystem-match=powercap --action=add
# for one service: AmbientCapabilities=CAP_DAC_READ_SEARCH in its systemd unit
# until the next boot, for every user of this machine:
chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"""
"""The counters are root's since kernel 5.10, because fast reading of them can leak secrets
(CVE-2020-8694, "Platypus")."""
CONTAINER_CURE = """\
# Docker hides the counters from containers (GHSA-jq35-85cj-fj4p); mount them under another root:
docker run -v /sys:/host/sys:ro -e CARBONTRACK_SYSFS_PATH=/host/sys ..."""


class ZonePlace(NamedTuple):
    """A zone's directory, the id of its meter, and its component."""

    path: Path
    id: str
    component: Component

    @property
    def package(self) -> str:
        """The number of its package; that of "rapl:package-1-die-0" and of "rapl:dram-1" is 1."""
        return self.id.partition("-")[2].partition("-die-")[0]


def powercap_meters(
    sysfs: Path = Path("/sys"),
    *,
    sockets: Callable[[], int | None] | None = None,
    package_w: float | None = None,
    open_file: Callable[[Path], int] = open_to_read,
) -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    """Open a disjoint set of the machine's RAPL zones, and say which were not used and why.

    A component of which some zones cannot be read is one meter, modelled after those that can.

    Args:
        sysfs: the root of this file system.
        sockets: how many packages this machine has; asked only where there are zones.
        package_w: the power that a package without a limit cannot exceed for long, where known.
        open_file: how to open a zone's counter.
    """
    root = sysfs / "class" / "powercap"
    zones = _zones(root)
    if not zones:
        return (), (_no_zone(sysfs, root),)
    places, refused = _disjoint(zones)
    opened: dict[ZonePlace, RaplZone] = {}
    closed: dict[ZonePlace, Refusal] = {}
    for place in places:
        zone = _open_or_refuse(place, open_file)
        if isinstance(zone, Refusal):
            closed[place] = zone
        else:
            opened[place] = zone
    closed |= _unseen(root, places, sockets() if sockets is not None else None)
    meters = tuple(_merge_mirrors(opened.values()))
    if closed and opened:
        from carbontrack.meters.all_or_none import complete  # few machines are half open

        usual_w = package_w or _DEFAULT_CAP_W["cpu"]
        meters, closed = complete(meters, list(opened), closed, _limit_w, usual_w)
    return meters, (*refused, *closed.values())


def _unseen(
    root: Path, places: Iterable[ZonePlace], packages: int | None
) -> dict[ZonePlace, Refusal]:
    """Packages that this machine has and powercap does not show, as where one was mounted alone."""
    seen = {place.package for place in places if place.component == "cpu"}
    if packages is None or not seen:
        return {}
    reason = f"{root} does not show which one, and this machine has {packages} packages"
    numbers = [str(n) for n in range(packages) if str(n) not in seen][: packages - len(seen)]
    unseen = [ZonePlace(root, f"rapl:package-{number}", "cpu") for number in numbers]
    return {place: Refusal(place.id, reason) for place in unseen}


def _zones(root: Path) -> dict[str, Path]:
    """Every zone once, by the name of its directory, in the order of its numbers."""
    found: dict[str, Path] = {}
    for directory in _walk(root, depth=3):
        if directory.name not in found and (directory / "name").is_file():
            found[directory.name] = directory
    return {name: found[name] for name in sorted(found, key=_numbers)}


def _walk(directory: Path, depth: int) -> Iterator[Path]:
    # Children may be nested only, flat only, or both; links form cycles (subsystem, device), so
    # only names of zones are followed, and only as deep as zones are nested.
    try:
        names = os.listdir(directory)  # noqa: PTH208 - half the cost of iterdir
    except OSError as error:
        pass_on(error)
        return
    for name in names:
        if name.startswith("intel-rapl"):
            if ":" in name:
                yield directory / name
            if depth > 1:
                yield from _walk(directory / name, depth - 1)


def _numbers(name: str) -> tuple[str, list[int]]:
    kind, *numbers = name.split(":")
    return kind, [int(number) if number.isdigit() else 0 for number in numbers]


def _disjoint(zones: dict[str, Path]) -> tuple[list[ZonePlace], list[Refusal]]:
    names = {key: read_text(path / "name", 64) or "" for key, path in zones.items()}
    control = _control_type(names)
    places: list[ZonePlace] = []
    refused: dict[str, Refusal] = {}
    for key, name in names.items():
        kind = name.split("-")[0]
        if not key.startswith(f"{control}:"):
            reason = "it is a second interface to the same package"
            refused.setdefault(key.split(":")[0], Refusal(f"rapl:{key.split(':')[0]}", reason))
        elif kind in ("package", "dram"):
            component: Component = "cpu" if kind == "package" else "ram"
            label = name if kind == "package" else _dram_label(key, names)
            places.append(ZonePlace(zones[key], _unique(f"rapl:{label}", places), component))
        else:
            reason = _UNUSED.get(kind, f"carbontrack does not know a domain called {name!r}")
            refused.setdefault(kind, Refusal(f"rapl:{name}", reason))
    return places, list(refused.values())


def _control_type(names: dict[str, str]) -> str:
    for control in _CONTROL_TYPES:
        packages = (key for key, name in names.items() if name.startswith("package"))
        if any(key.startswith(f"{control}:") for key in packages):
            return control
    return _CONTROL_TYPES[0]


def _dram_label(key: str, names: dict[str, str]) -> str:
    control, socket, *_ = key.split(":")
    parent = names.get(f"{control}:{socket}", "")
    return f"dram-{parent.removeprefix('package-') if parent.startswith('package-') else socket}"


def _unique(label: str, places: Iterable[ZonePlace]) -> str:
    taken = {place.id for place in places}
    candidates = (label if number == 1 else f"{label}#{number}" for number in range(1, 1000))
    return next(candidate for candidate in candidates if candidate not in taken)


def _open_or_refuse(place: ZonePlace, open_file: Callable[[Path], int]) -> RaplZone | Refusal:
    try:
        return _open(place, open_file)
    except MeterUnavailable as error:
        return Refusal(place.id, str(error), error.cure)
    except MeterError as error:
        return Refusal(place.id, f"its first reading failed: {error}")


def _open(place: ZonePlace, open_file: Callable[[Path], int]) -> RaplZone:
    range_uj = read_number(place.path / "max_energy_range_uj")
    try:
        return RaplZone(
            place.id,
            place.component,
            place.path / "energy_uj",
            range_j=range_uj * 1e-6 if range_uj and range_uj > 0 else None,
            cap_w=lambda: cap_w(place.path, place.component),
            open_file=open_file,
        )
    except PermissionError as error:
        raise MeterUnavailable(f"{place.path / 'energy_uj'}: permission denied", CURE) from error
    except OSError as error:
        raise MeterUnavailable(f"{place.path / 'energy_uj'}: {error.strerror}") from error


def cap_w(zone: Path, component: Component) -> float:
    """A power the zone cannot exceed: 1.5 times the highest of its limits.

    With a floor of 50 W for packages and 200 W for dram, whose limits come from firmware that does
    not know the DIMMs; 1000 W or 600 W where the zone has no limit.
    """
    highest_w = _highest_w(zone)
    if highest_w is None:
        return _DEFAULT_CAP_W[component]
    return max(_FLOOR_CAP_W[component], _LIMIT_MARGIN * highest_w)


def _limit_w(place: ZonePlace) -> float | None:
    return _highest_w(place.path)


def _highest_w(zone: Path) -> float | None:
    """The highest power limit of a zone; None where it has none."""
    limits_uw = [
        read_number(zone / f"constraint_{number}_{limit}_uw")
        for number in range(3)
        for limit in ("power_limit", "max_power")
    ]
    highest_w = max((limit for limit in limits_uw if limit), default=0) * 1e-6
    return highest_w if highest_w > 0.0 else None


ENERGY_FILTERING = (
    "SGX is enabled on this Intel processor. With recent microcode it then adds random noise to "
    "its energy counters, up to 50 % over short times; sums over minutes remain useful. To avoid "
    "this, disable SGX in the firmware setup if nothing needs it"
)
"""Intel's mitigation of CVE-2020-8694 ("energy filtering"): it comes with SGX, whether that is used
or not. Its effect on a counter cannot be seen from outside, so this is a suspicion only."""


def filtering_suspected(procfs: Path = Path("/proc")) -> bool:
    """Whether noise may be added to the counters: an Intel processor with the flag of SGX."""
    block = (read_text(procfs / "cpuinfo", 8192) or "").split("\n\n")[0]
    fields = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
    named = {name.strip(): text.strip() for name, text in fields.items()}
    return named.get("vendor_id") == "GenuineIntel" and "sgx" in named.get("flags", "").split()


def _merge_mirrors(zones: Iterable[RaplZone]) -> Iterator[Meter]:
    groups: list[list[RaplZone]] = []
    for zone in zones:
        for group in groups:
            if group[0].component == zone.component and not differ(group[0], zone):
                group.append(zone)
                break
        else:
            groups.append([zone])
    for group in groups:
        yield group[0] if len(group) == 1 else MirroredZones(group)


def _no_zone(sysfs: Path, root: Path) -> Refusal:
    # Docker mounts an empty directory over devices/virtual/powercap; class/powercap keeps the links
    if any(path.is_symlink() for path in root.glob("intel-rapl*")):
        return Refusal(
            "rapl", f"the links in {root} point nowhere, as in a container", CONTAINER_CURE
        )
    reason = (
        f"{root} contains no RAPL zone: this is a virtual machine, or the module intel_rapl_msr is "
        "missing"
    )
    cure = "modprobe intel_rapl_msr  # on real hardware; a virtual machine has no energy counters"
    return Refusal("rapl", reason, cure if (sysfs / "module").is_dir() else CONTAINER_CURE)
