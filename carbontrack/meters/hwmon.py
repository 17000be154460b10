"""Sensors of the kernel's hwmon tree, and a laptop's battery: power and energy as sysfs has them.

hwmon covers AMD sockets, NVIDIA Grace, Jetson modules and AMD boards. Its layout is in the kernel's
Documentation/hwmon/sysfs-interface.rst: energyN_input in microjoules, powerN_average and
powerN_input in microwatts, inN_input in millivolts, currN_input in milliamperes. These sensors are
used only for components that no better meter covers.

`BatteryMeter` is the power of the whole machine, screen included, while a battery is discharged. It
is never chosen automatically, since it overlaps with every other meter; hand it over where it is
wanted: `Tracker(meters=[BatteryMeter.find()])`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from carbontrack.errors import MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Counter, Gauge, Stuck
from carbontrack.meters.meter import Found, Meter, Refusal, read_number, read_text
from carbontrack.record import Basis, Component
from carbontrack.system.clock import process_cpu_s

RELATIVE_UNCERTAINTY = 0.10
"""Half-width, a guess: twice the +-5 % found for NVIDIA's boards (Yang, Adamek and Armour, SC'24),
because no published comparison of these sensors with a wall meter is known."""
GAUGE_PERIOD_S = 0.1
MOVES_WITHIN_S = 5.0
"""A processor or a module always draws some power, so that neither a count stands still nor a power
stays at 0 for so long. A board may: it is switched off when nobody uses it."""
_CAP_W = 2000.0

Read = Callable[[], float | None]


class Sensor:
    """One sensor: a counter of joules, or watts that are integrated."""

    basis: Basis = "measured"
    relative_uncertainty = RELATIVE_UNCERTAINTY
    nominal_w: float | None = None

    def __init__(self, label: str, component: Component, read: Read, *, counts: bool) -> None:
        self.id = f"hwmon:{label}"
        self.component: Component = component
        self.covers = frozenset({component})
        """The components whose energy it contains."""
        self.resolution_s = 0.01 if counts else GAUGE_PERIOD_S
        self.max_period_s = None if counts else GAUGE_PERIOD_S
        is_never_at_rest = component in ("cpu", "ram")
        self.moves_within_s = MOVES_WITHIN_S if is_never_at_rest else None
        self._stuck = Stuck() if is_never_at_rest and not counts else None
        self._count: Counter | Gauge = Counter(None, _CAP_W) if counts else Gauge(_CAP_W)
        self._read: Read | None = read

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Resets, jumps and gaps that were dropped."""
        return self._count.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        value = self.value()
        if value is None:
            raise MeterReadError(f"{self.id} has no value")
        if self._stuck is not None and self._stuck.is_stuck(value, now_s, process_cpu_s()):
            raise MeterReadError(f"{self.id} has shown {value:g} W for long, whatever the load")
        return self._count.advance(value, now_s)

    def value(self) -> float | None:
        """The sensor's value now, in joules or watts; None where it has none."""
        if self._read is None:
            raise MeterGone(f"{self.id} is closed")
        return self._read()

    def close(self) -> None:
        """Stop reading."""
        self._read = None


def hwmon_meters(sysfs: Path, wanted: Collection[Component]) -> Found:
    """Sensors for the wanted components; one may cover more than its own component."""
    meters: list[Meter] = []
    refused: list[Refusal] = []
    covered: set[Component] = set()
    for chip in sorted((sysfs / "class" / "hwmon").glob("hwmon*"), key=lambda path: path.name):
        kind = _KINDS.get(read_text(chip / "name", 64) or "")
        for sensor, covers in kind(chip) if kind is not None else ():
            if isinstance(sensor, Refusal):
                refused.append(sensor)
            elif sensor.component in wanted and _has_value(sensor):
                meters.append(sensor)
                sensor.covers = frozenset(covers)
                covered |= covers
    return Found(tuple(meters), frozenset(covered.intersection(wanted)), tuple(refused))


Offer = tuple[Sensor | Refusal, set[Component]]


def _amd_energy(chip: Path) -> Iterator[Offer]:
    """The module amd_energy: "Esocket0" contains the cores "Ecore000" …, and no memory."""
    for path, label in _labelled(chip, "energy"):
        if label.startswith("Esocket"):
            read = _scaled(path, 1e-6)
            yield Sensor(f"socket-{label[7:]}", "cpu", read, counts=True), {"cpu"}


def _grace(chip: Path) -> Iterator[Offer]:
    """ACPI power meters of Grace: the socket with its memory; the module includes the GPU."""
    label = read_text(chip / "device" / "power1_oem_info") or read_text(chip / "power1_oem_info")
    if label and label.startswith("Grace Power Socket"):
        number = label.rsplit(" ", 1)[-1]
        read = _scaled(chip / "device" / "power1_average", 1e-6)
        if not (chip / "device" / "power1_average").exists():
            read = _scaled(chip / "power1_average", 1e-6)
        yield Sensor(f"grace-{number}", "cpu", read, counts=False), {"cpu", "ram"}
    elif label:
        yield Refusal(f"hwmon:{label}", "it is contained in, or contains, the Grace socket"), set()


def _jetson(chip: Path) -> Iterator[Offer]:
    """INA3221 of Jetson modules: VDD_IN is the whole module, with processor, GPU and memory."""
    for path, label in _labelled(chip, "in"):
        if label == "VDD_IN":
            number = path.name.removeprefix("in").removesuffix("_input")
            read = _product(path, chip / f"curr{number}_input")
            yield Sensor("jetson-module", "cpu", read, counts=False), {"cpu", "ram", "gpu"}


def _amdgpu(chip: Path) -> Iterator[Offer]:
    """AMD boards; an integrated GPU is contained in its package (see amdgpu's board_info)."""
    board = (read_text(chip / "device" / "board_info") or "").lower()
    address = read_text(chip / "device" / "unique_id") or chip.resolve().parent.parent.name
    if "cem" not in board and "oam" not in board:
        reason = "no discrete board by its board_info; an integrated GPU is contained in package"
        yield Refusal(f"hwmon:amdgpu-{address}", reason), set()
        return
    for name in ("energy1_input", "power1_average", "power1_input"):
        if (chip / name).exists():
            read, counts = _scaled(chip / name, 1e-6), name.startswith("energy")
            yield Sensor(f"amdgpu-{address}", "gpu", read, counts=counts), {"gpu"}
            return


_KINDS: dict[str, Callable[[Path], Iterator[Offer]]] = {
    "amd_energy": _amd_energy,
    "power_meter": _grace,
    "ina3221": _jetson,
    "amdgpu": _amdgpu,
}


def _labelled(chip: Path, quantity: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(chip.glob(f"{quantity}[0-9]*_label")):
        yield path.with_name(path.name.replace("_label", "_input")), read_text(path, 64) or ""


def _scaled(path: Path, scale: float) -> Read:
    def read() -> float | None:
        number = read_number(path)
        return None if number is None else number * scale

    return read


def _product(millivolts: Path, milliamperes: Path) -> Read:
    def read() -> float | None:
        volts, amperes = read_number(millivolts), read_number(milliamperes)
        return None if volts is None or amperes is None else volts * amperes * 1e-6

    return read


def _has_value(sensor: Sensor) -> bool:
    return sensor.value() is not None


# -- a laptop's battery ------------------------------------------------------------------------

_BATTERY_CAP_W = 300.0


class BatteryMeter:
    """The discharge of one battery, integrated.

    Layout: the kernel's Documentation/ABI/testing/sysfs-class-power: power_now in microwatts, or
    current_now in microamperes and voltage_now in microvolts.
    """

    component: Component = "other"
    basis: Basis = "measured"
    resolution_s = 1.0
    relative_uncertainty = 0.10
    """A guess: no published comparison of fuel gauges with a meter is known."""
    max_period_s = 1.0
    nominal_w: float | None = None

    def __init__(self, folder: Path) -> None:
        self.id = f"battery:{folder.name}"
        self._folder = folder
        self._gauge = Gauge(_BATTERY_CAP_W)
        self._closed = False
        self.nominal_w = self.power_w()

    @classmethod
    def find(cls, sysfs: Path = Path("/sys")) -> BatteryMeter:
        """The first battery that is discharging.

        Raises:
            MeterUnavailable: there is none, or the machine runs on mains power.
        """
        root = sysfs / "class" / "power_supply"
        for folder in sorted(root.glob("*")):
            # mice and pens have batteries too, with the scope "Device"
            is_ours = read_text(folder / "type") == "Battery"
            if is_ours and read_text(folder / "scope") != "Device":
                try:
                    return cls(folder)
                except MeterReadError:
                    continue
        raise MeterUnavailable(f"{root} holds no battery that is discharged", "unplug the charger")

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Gaps too long to be interpolated."""
        return self._gauge.fault_counts

    def power_w(self) -> float:
        """The power drawn from the battery now.

        Raises:
            MeterReadError: it is not discharging, or does not report its power.
        """
        if read_text(self._folder / "status") != "Discharging":
            raise MeterReadError(f"{self.id} is not discharged: the machine runs on mains power")
        microwatts = read_number(self._folder / "power_now")
        if microwatts is not None:
            return abs(microwatts) * 1e-6
        microamperes = read_number(self._folder / "current_now")
        microvolts = read_number(self._folder / "voltage_now")
        if microamperes is None or microvolts is None:
            raise MeterReadError(f"{self.id} does not report its power")
        return abs(microamperes) * microvolts * 1e-12

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        return self._gauge.advance(self.power_w(), now_s)

    def close(self) -> None:
        """Stop reading."""
        self._closed = True
