"""A powercap tree in a directory, like the kernel's, whose counters are set by a test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RANGE_UJ = 262_143_328_850
"""The usual range: 2^32 steps of 2^-14 J."""
DRAM_RANGE_UJ = 65_712_999_613
"""The usual range of dram on servers: 2^32 steps of 15.3 uJ."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone of the tree.

    Attributes:
        name: the zone's name: "package-0", "dram", "core", "uncore", "psys".
        key: its directory, "intel-rapl:0", or "intel-rapl:0:2" for a child of the first.
        raw_uj: the value of its counter, in microjoules.
        range_uj: the value at which its counter wraps; None: there is no such file.
        limit_w: its long-term power limit; None: there is no constraint, as in AMD's zones.
    """

    name: str
    key: str
    raw_uj: int = 123_456_789_012
    range_uj: int | None = RANGE_UJ
    limit_w: float | None = 200.0


DEFAULT_ZONES = (
    Zone("package-0", "intel-rapl:0"),
    Zone("core", "intel-rapl:0:0", limit_w=None),
    Zone("uncore", "intel-rapl:0:1", limit_w=None),
    Zone("dram", "intel-rapl:0:2", 23_456_789_012, DRAM_RANGE_UJ, limit_w=40.0),
)


class Powercap:
    """A tree built by `build_powercap`; zones are named by their key or by a unique name."""

    def __init__(self, sysfs: Path, zones: Sequence[Zone]) -> None:
        self.sysfs = sysfs
        """The root for carbontrack's `sysfs_path`."""
        self.zones: Mapping[str, Zone] = {zone.key: zone for zone in zones}
        self._raw_uj: dict[str, float] = {zone.key: float(zone.raw_uj) for zone in zones}

    def directory(self, zone: str) -> Path:
        """The zone's real directory."""
        key = self._key(zone)
        control, *numbers = key.split(":")
        nested = [":".join([control, *numbers[:depth]]) for depth in range(1, len(numbers) + 1)]
        return self.sysfs.joinpath("devices", "virtual", "powercap", control, *nested)

    def add_joules(self, zone: str, joules: float) -> None:
        """Add energy to the zone; its counter wraps like a real one."""
        key = self._key(zone)
        range_uj = self.zones[key].range_uj
        raw_uj = self._raw_uj[key] + joules * 1e6
        self.set_raw_uj(key, raw_uj % range_uj if range_uj else raw_uj)

    def raw_uj(self, zone: str) -> int:
        """The value of the counter."""
        return int(self._raw_uj[self._key(zone)])

    def set_raw_uj(self, zone: str, raw_uj: float) -> None:
        """Set the counter, as a reset does."""
        key = self._key(zone)
        self._raw_uj[key] = raw_uj
        self._write(key, b"%d" % int(raw_uj))

    def break_zone(self, zone: str, text: str = "") -> None:
        """Make the zone show an invalid value until `restore` or the next `add_joules`."""
        self._write(self._key(zone), text.encode())

    def remove(self, zone: str) -> None:
        """Remove the zone's counter."""
        (self.directory(zone) / "energy_uj").unlink()

    def restore(self, zone: str) -> None:
        """Restore the zone with the current value of its counter."""
        self.set_raw_uj(zone, self._raw_uj[self._key(zone)])

    def _key(self, zone: str) -> str:
        if zone in self.zones:
            return zone
        keys = [key for key, made in self.zones.items() if made.name == zone]
        if len(keys) != 1:
            raise KeyError(f"{zone!r} names {len(keys)} zones of {', '.join(self.zones)}")
        return keys[0]

    def _write(self, key: str, text: bytes) -> None:
        # One pwrite of a fixed width over the old text: a reader with an open descriptor sees the
        # old count or the new one, never a mixture, and never an empty file.
        path = self.directory(key) / "energy_uj"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            line = text.ljust(19) + b"\n"
            os.pwrite(descriptor, line, 0)
            os.ftruncate(descriptor, len(line))
        finally:
            os.close(descriptor)


def build_powercap(path: Path, zones: Sequence[Zone] | None = None) -> Powercap:
    """Build a tree under `path`, which becomes the root of sysfs.

    As in the kernel, zones are directories in devices/virtual/powercap, children inside their
    parents, and class/powercap contains a link to each of them. Without `zones`: one package with
    core, uncore and dram.
    """
    tree = Powercap(Path(path), DEFAULT_ZONES if zones is None else zones)
    links = tree.sysfs / "class" / "powercap"
    links.mkdir(parents=True, exist_ok=True)
    for zone in sorted(tree.zones.values(), key=lambda zone: zone.key.count(":")):
        directory = tree.directory(zone.key)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in _files(zone).items():
            (directory / name).write_text(f"{text}\n")
        tree.set_raw_uj(zone.key, zone.raw_uj)
        for linked in (zone.key, zone.key.split(":")[0]):
            target = directory if linked == zone.key else _control_directory(tree, linked)
            if not (links / linked).is_symlink():
                (links / linked).symlink_to(os.path.relpath(target, links))
    return tree


def _control_directory(tree: Powercap, control: str) -> Path:
    return tree.sysfs / "devices" / "virtual" / "powercap" / control


def _files(zone: Zone) -> dict[str, object]:
    files: dict[str, object] = {"name": zone.name, "enabled": 0}
    if zone.range_uj is not None:
        files["max_energy_range_uj"] = zone.range_uj
    if zone.limit_w is not None:
        files["constraint_0_name"] = "long_term"
        files["constraint_0_power_limit_uw"] = int(zone.limit_w * 1e6)
        files["constraint_0_max_power_uw"] = int(zone.limit_w * 1e6)
    return files
