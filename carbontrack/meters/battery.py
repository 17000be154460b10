"""A laptop's battery while it is discharged: the whole machine, screen and all.

It is never chosen by itself, since it overlaps with everything and holds what no program caused.
Hand it over where that is wanted: `Tracker(meters=[BatteryMeter.find()])`.

Layout: the kernel's Documentation/ABI/testing/sysfs-class-power: power_now in microwatts, or
current_now in microamperes and voltage_now in microvolts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from carbontrack.errors import MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Gauge
from carbontrack.meters.text_files import read_number, read_text
from carbontrack.records import Basis, Component

_CAP_W = 300.0


class BatteryMeter:
    """The discharge of one battery, integrated."""

    component: Component = "other"
    basis: Basis = "measured"
    resolution_s = 1.0
    relative_uncertainty = 0.10
    """A guess, and called one: no comparison of fuel gauges with a meter is known to us."""
    max_period_s = 1.0
    nominal_w: float | None = None

    def __init__(self, folder: Path) -> None:
        self.id = f"battery:{folder.name}"
        self._folder = folder
        self._gauge = Gauge(_CAP_W)
        self._closed = False
        self.nominal_w = self.power_w()

    @classmethod
    def find(cls, sysfs: Path = Path("/sys")) -> BatteryMeter:
        """The first battery that is being discharged.

        Raises:
            MeterUnavailable: there is none, or the machine runs on mains power.
        """
        root = sysfs / "class" / "power_supply"
        for folder in sorted(root.glob("*")):
            # mice and pens have batteries too; theirs say scope "Device"
            is_ours = read_text(folder / "type") == "Battery"
            if is_ours and read_text(folder / "scope") != "Device":
                try:
                    return cls(folder)
                except MeterReadError:
                    continue
        raise MeterUnavailable(f"{root} holds no battery that is discharged", "unplug the charger")

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Silences too long to be bridged."""
        return self._gauge.fault_counts

    def power_w(self) -> float:
        """What the battery gives now.

        Raises:
            MeterReadError: it is not discharged, or does not tell its power.
        """
        if read_text(self._folder / "status") != "Discharging":
            raise MeterReadError(f"{self.id} is not discharged: the machine runs on mains power")
        microwatts = read_number(self._folder / "power_now")
        if microwatts is not None:
            return abs(microwatts) * 1e-6
        microamperes = read_number(self._folder / "current_now")
        microvolts = read_number(self._folder / "voltage_now")
        if microamperes is None or microvolts is None:
            raise MeterReadError(f"{self.id} does not tell its power")
        return abs(microamperes) * microvolts * 1e-12

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        return self._gauge.advance(self.power_w(), now_s)

    def close(self) -> None:
        """Read it no more."""
        self._closed = True
