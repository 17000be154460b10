"""RAPL through the kernel's powercap tree: which zones there are and which of them are disjoint.

Layout and meaning: the kernel's Documentation/power/powercap/powercap.rst. The tree shows every
zone twice, nested in its parent and flat in class/powercap, so zones are known by their directory's
name: "intel-rapl:1" is a top-level zone, "intel-rapl:1:0" its child. The boundary is package +
dram: package contains core, uncore and an integrated GPU, and not dram, although dram is drawn as a
child; psys contains all of them; intel-rapl-mmio is a second register of the same package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from carbontrack.errors import MeterError, MeterUnavailable
from carbontrack.meters.meter import Meter, Refusal
from carbontrack.meters.rapl_zone import MirroredZones, RaplZone, differ
from carbontrack.meters.text_files import open_to_read, read_number, read_text
from carbontrack.records import Component

_CONTROL_TYPES = ("intel-rapl", "intel-rapl-mmio")
"""AMD's counters appear as intel-rapl too. The mmio twin counts only where it stands alone."""
_UNUSED = {
    "psys": "it contains package and dram, which are read; both would be counted twice",
    "core": "it is contained in package",
    "uncore": "it is contained in package",
}
_DEFAULT_CAP_W: dict[Component, float] = {"cpu": 1000.0, "ram": 600.0}
"""Where a zone names no limit: twice the largest server part (500 W TDP in 2025), and a socket's 24
DIMMs at 25 W."""
_FLOOR_CAP_W: dict[Component, float] = {"cpu": 50.0, "ram": 200.0}
_LIMIT_MARGIN = 1.5
"""Power limits are averages over a window, which a burst exceeds."""

CURE = """\
# one of these, as root; then open a new session
# for good: members of the group `power` may read the counters
groupadd -f power && usermod -aG power "$USER"
cat >/etc/udev/rules.d/70-powercap.rules <<'RULE'
SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/sh -c 'chgrp power /sys%p/energy_uj; \
chmod g+r /sys%p/energy_uj'"
RULE
udevadm control --reload && udevadm trigger --subsystem-match=powercap --action=add
# for one service: AmbientCapabilities=CAP_DAC_READ_SEARCH in its systemd unit
# until the next boot, for everybody on this machine:
chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"""
"""The counters are root's since kernel 5.10, because fast reading of them can leak secrets
(CVE-2020-8694, "Platypus")."""
ENERGY_FILTERING = (
    "SGX is enabled on this Intel processor. With recent microcode it then blurs its energy "
    "counters at random, up to 50 % over short times; sums over minutes stay useful. To be rid of "
    "it: disable SGX in the firmware's set-up, where nothing needs it"
)
"""Intel's mitigation of CVE-2020-8694 ("energy filtering"): it comes with SGX, whether that is used
or not. What it does to a counter cannot be told from the outside, so this is a suspicion."""
CONTAINER_CURE = """\
# Docker hides the counters from containers (GHSA-jq35-85cj-fj4p); show them under another root:
docker run -v /sys:/host/sys:ro -e CARBONTRACK_SYSFS_PATH=/host/sys ..."""


class _Place(NamedTuple):
    """A zone's directory, what it is called, and the id it gets."""

    path: Path
    id: str
    component: Component


def powercap_meters(
    sysfs: Path = Path("/sys"), *, open_file: Callable[[Path], int] = open_to_read
) -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    """Open a disjoint set of the machine's RAPL zones, and say which were not used and why."""
    root = sysfs / "class" / "powercap"
    zones = _zones(root)
    if not zones:
        return (), (_nothing_there(sysfs, root),)
    places, refused = _disjoint(zones)
    opened: list[RaplZone] = []
    for place in places:
        zone = _open_or_refuse(place, open_file)
        if isinstance(zone, Refusal):
            refused.append(zone)
        else:
            opened.append(zone)
    return tuple(_merge_mirrors(opened)), tuple(refused)


def _zones(root: Path) -> dict[str, Path]:
    """Every zone that answers once, by its directory's name, in the order of its numbers."""
    found: dict[str, Path] = {}
    for directory in _walk(root, depth=3):
        if directory.name not in found and (directory / "name").is_file():
            found[directory.name] = directory
    return {name: found[name] for name in sorted(found, key=_numbers)}


def _walk(directory: Path, depth: int) -> Iterator[Path]:
    # Children may be nested only, flat only, or both; links go round in circles (subsystem,
    # device), so only names of zones are followed, and only as deep as zones are nested.
    try:
        names = os.listdir(directory)  # noqa: PTH208 - half the cost of iterdir
    except OSError:
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


def _disjoint(zones: dict[str, Path]) -> tuple[list[_Place], list[Refusal]]:
    names = {key: read_text(path / "name", 64) or "" for key, path in zones.items()}
    control = _control_type(names)
    places: list[_Place] = []
    refused: dict[str, Refusal] = {}
    for key, name in names.items():
        kind = name.split("-")[0]
        if not key.startswith(f"{control}:"):
            reason = "it is a second interface to the same package"
            refused.setdefault(key.split(":")[0], Refusal(f"rapl:{key.split(':')[0]}", reason))
        elif kind in ("package", "dram"):
            component: Component = "cpu" if kind == "package" else "ram"
            label = name if kind == "package" else _dram_label(key, names)
            places.append(_Place(zones[key], _unique(f"rapl:{label}", places), component))
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


def _unique(label: str, places: Iterable[_Place]) -> str:
    taken = {place.id for place in places}
    candidates = (label if number == 1 else f"{label}#{number}" for number in range(1, 1000))
    return next(candidate for candidate in candidates if candidate not in taken)


def _open_or_refuse(place: _Place, open_file: Callable[[Path], int]) -> RaplZone | Refusal:
    try:
        return _open(place, open_file)
    except MeterUnavailable as error:
        return Refusal(place.id, str(error), error.cure)
    except MeterError as error:
        return Refusal(place.id, f"its first reading failed: {error}")


def _open(place: _Place, open_file: Callable[[Path], int]) -> RaplZone:
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
    """A power the zone cannot exceed: 1.5 times the highest limit that it names.

    With a floor of 50 W for packages and 200 W for dram, whose limits come from firmware that does
    not know the DIMMs; 1000 W or 600 W where the zone names no limit.
    """
    limits_uw = [
        read_number(zone / f"constraint_{number}_{limit}_uw")
        for number in range(3)
        for limit in ("power_limit", "max_power")
    ]
    highest_w = max((limit for limit in limits_uw if limit), default=0) * 1e-6
    if highest_w <= 0.0:
        return _DEFAULT_CAP_W[component]
    return max(_FLOOR_CAP_W[component], _LIMIT_MARGIN * highest_w)


def filtering_suspected(procfs: Path = Path("/proc")) -> bool:
    """Whether the counters may be blurred: an Intel processor that tells the flag of SGX."""
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


def _nothing_there(sysfs: Path, root: Path) -> Refusal:
    # Docker covers devices/virtual/powercap by an empty directory and leaves class/powercap's links
    if any(path.is_symlink() for path in root.glob("intel-rapl*")):
        return Refusal(
            "rapl", f"the links in {root} lead nowhere, as in a container", CONTAINER_CURE
        )
    reason = (
        f"{root} holds no RAPL zone: a virtual machine, or the module intel_rapl_msr is missing"
    )
    cure = "modprobe intel_rapl_msr  # on real hardware; a virtual machine has no counters to show"
    return Refusal("rapl", reason, cure if (sysfs / "module").is_dir() else CONTAINER_CURE)
