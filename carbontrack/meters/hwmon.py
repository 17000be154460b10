"""Sensors of the kernel's hwmon tree, and a laptop's battery: power and energy as sysfs has them.

hwmon covers AMD sockets, NVIDIA Grace, Jetson modules, Ampere's processors and AMD boards. Its
layout is in the kernel's Documentation/hwmon/sysfs-interface.rst: energyN_input in microjoules,
powerN_average and powerN_input in microwatts, inN_input in millivolts, currN_input in milliamperes.
These sensors are used only for components that no better meter covers. Only a chip's name and its
labels identify a sensor; the number of a chip or of a sensor does not.

`BatteryMeter` is the power of the whole machine, screen included, while a battery is discharged. It
is never chosen automatically, because it overlaps with every other meter; pass it explicitly:
`Tracker(meters=[BatteryMeter.find()])`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from carbontrack.errors import MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Counter, Gauge, Stuck
from carbontrack.meters.meter import Found, Meter, Refusal, read_number, read_text
from carbontrack.record import Basis, Component
from carbontrack.system.clock import process_cpu_s
from carbontrack.values import NamedTuple

RELATIVE_UNCERTAINTY = 0.10
"""Half-width, a guess: twice the +-5 % found for NVIDIA's boards (Yang, Adamek and Armour, SC'24),
because no published comparison of these sensors with a wall meter is known."""
GAUGE_PERIOD_S = 0.1
MOVES_WITHIN_S = 5.0
"""A processor or a module always draws some power, so that neither a count stands still nor a power
stays at 0 for so long. A board may: it is switched off when nobody uses it."""
_CAP_W = 2000.0

CLOSED = "zones_closed"
"""The fault of a component of which some sensors can be read and others cannot."""
UNMEASURED = "gpu_unmeasured"


class SensorFiles(NamedTuple):
    """How one value is read: joules or watts, None where there is none, and from which files."""

    read: Callable[[], float | None]
    files: tuple[Path, ...]


_NOTHING = SensorFiles(lambda: None, ())


class Sensor:
    """One sensor: a counter of joules, or watts that are integrated."""

    basis: Basis = "measured"
    relative_uncertainty = RELATIVE_UNCERTAINTY
    nominal_w: float | None = None

    def __init__(
        self, label: str, component: Component, source: SensorFiles, *, counts: bool
    ) -> None:
        self.id = f"hwmon:{label}"
        self.component: Component = component
        self.covers = frozenset({component})
        """The components whose energy it contains."""
        self.files = source.files
        # a read of an I2C sensor takes up to a millisecond: those of many rails are read less often
        period_s = GAUGE_PERIOD_S * max(1, len(source.files) // 2)
        self.resolution_s = 0.01 if counts else period_s
        self.max_period_s = None if counts else period_s
        is_never_at_rest = component in ("cpu", "ram")
        self.moves_within_s = MOVES_WITHIN_S if is_never_at_rest else None
        self._stuck = Stuck() if is_never_at_rest and not counts else None
        self._count: Counter | Gauge = Counter(None, _CAP_W) if counts else Gauge(_CAP_W)
        self._read: Callable[[], float | None] | None = source.read

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
            raise MeterReadError(
                f"{self.id} has shown {value:g} W for a long time, whatever the load"
            )
        return self._count.advance(value, now_s)

    def value(self) -> float | None:
        """The sensor's value now, in joules or watts; None where it has none."""
        if self._read is None:
            raise MeterGone(f"{self.id} is closed")
        return self._read()

    def close(self) -> None:
        """Stop reading."""
        self._read = None


Offer = tuple[Sensor | Refusal, set[Component]]


def hwmon_meters(sysfs: Path, wanted: Collection[Component]) -> Found:
    """Sensors for the wanted components; one may cover more than its own component."""
    chips: dict[str, list[Path]] = {}
    for chip in sorted((sysfs / "class" / "hwmon").glob("hwmon*"), key=_number):
        chips.setdefault(read_text(chip / "name", 64) or "", []).append(chip)
    meters: list[Meter] = []
    refused: list[Refusal] = []
    covered: set[Component] = set()
    for name, kind in _KINDS.items():
        offers = list(kind(chips[name])) if name in chips else []
        refused += [offer for offer, _ in offers if isinstance(offer, Refusal)]
        readable, refusals = _readable(
            [(offer, covers) for offer, covers in offers if isinstance(offer, Sensor)], wanted
        )
        refused += refusals
        for sensor, covers in readable:
            if not covered.isdisjoint(covers - {"gpu"}):
                reason = f"{', '.join(sorted(covers))} have another sensor already"
                refused.append(Refusal(sensor.id, reason))
                continue
            meters.append(sensor)
            sensor.covers = frozenset(covers)
        covered.update(*(sensor.covers for sensor in meters if isinstance(sensor, Sensor)))
    return Found(tuple(meters), frozenset(covered.intersection(wanted)), tuple(refused))


def _number(chip: Path) -> tuple[int, str]:
    digits = chip.name.removeprefix("hwmon")
    return int(digits) if digits.isdigit() else 0, chip.name


def _readable(
    offers: Sequence[tuple[Sensor, set[Component]]], wanted: Collection[Component]
) -> tuple[list[tuple[Sensor, set[Component]]], list[Refusal]]:
    """Those of wanted components that have a value, once each, and what is refused.

    Boards stand for themselves; a processor is measured by all of its sensors or by none.
    """
    found: dict[str, tuple[Sensor, set[Component]]] = {}
    refused: list[Refusal] = []
    silent: list[Sensor] = []
    for sensor, covers in offers:
        if sensor.component not in wanted:
            continue
        if sensor.id in found:
            refused.append(Refusal(sensor.id, "two sensors have this name; the first is read"))
        elif sensor.value() is None and sensor.value() is None:  # a bus may fail once
            silent.append(sensor)
        else:
            found[sensor.id] = sensor, covers
    is_board = bool(silent) and silent[0].component == "gpu"
    is_open = any(sensor.component == "cpu" for sensor, _ in found.values())
    fault = UNMEASURED if is_board else CLOSED if is_open else None
    refused += [_silent(sensor, fault) for sensor in silent]
    if silent and not is_board:
        for sensor, _ in found.values():
            refused.append(Refusal(sensor.id, f"{silent[0].id}, next to it, cannot be read"))
        found = {}
    return list(found.values()), refused


def _silent(sensor: Sensor, fault: str | None) -> Refusal:
    """The refusal of a sensor without a value, which names the file that has none."""
    closed = [path for path in sensor.files if path.exists() and not os.access(path, os.R_OK)]
    if closed:
        names = " ".join(map(str, closed))
        return Refusal(
            sensor.id, f"no permission to read {names}", f"sudo chmod a+r {names}", fault
        )
    names = ", ".join(str(path) for path in sensor.files if read_number(path) is None)
    reason = f"{names} contains no number" if names else "it has no sensor for it"
    return Refusal(sensor.id, reason, None, fault)


def _amd_energy(chips: Sequence[Path]) -> Iterator[Offer]:
    """The module amd_energy: "Esocket0" contains the cores "Ecore000" …, and no memory.

    Its counters may be read by root only (Documentation/hwmon/amd_energy.rst).
    """
    for chip in chips:
        for path, label in _labelled(chip, "energy"):
            if label.startswith("Esocket"):
                source = _scaled(path, 1e-6)
                yield Sensor(f"socket-{label[7:]}", "cpu", source, counts=True), {"cpu"}


# -- NVIDIA Grace ------------------------------------------------------------------------------

_POWER_SOCKET = re.compile(r"(module|grace|cpu|sysio) power socket (\d+)", re.IGNORECASE)


def _grace(chips: Sequence[Path]) -> Iterator[Offer]:
    """ACPI power meters of Grace: the socket with its memory; the module includes the GPU.

    Which is contained in which: NVIDIA's Grace Performance Tuning Guide, "Power Telemetry". Files:
    Documentation/hwmon/acpi_power_meter.rst; where the driver is older they are in `device`. Not
    seen on hardware.
    """
    sockets: dict[str, set[str]] = {}
    for chip in chips:
        folder = chip / "device" if (chip / "device" / "power1_average").exists() else chip
        label = " ".join((read_text(folder / "power1_oem_info", 128) or "").split())
        found = _POWER_SOCKET.fullmatch(label)
        if found is None:
            of = f" of {label!r}" if label else ""
            reason = (
                f"an ACPI power meter{of}: what it covers is not known, often the whole machine"
            )
            yield Refusal(f"hwmon:{chip.name}", reason), set()
            continue
        kind, number = found.group(1).lower(), found.group(2)
        sockets.setdefault(number, set()).add(kind)
        if kind == "grace":
            source = _scaled(folder / "power1_average", 1e-6)
            yield Sensor(f"grace-{number}", "cpu", source, counts=False), {"cpu", "ram"}
        else:
            yield (
                Refusal(f"hwmon:{label}", "it is contained in, or contains, the Grace socket"),
                set(),
            )
    for number in sorted(number for number, kinds in sockets.items() if "grace" not in kinds):
        # as a sensor without a value, so that the other sockets are not taken for all of them
        yield Sensor(f"grace-{number}", "cpu", _NOTHING, counts=False), {"cpu", "ram"}


# -- Jetson ------------------------------------------------------------------------------------

JETSON_MODULES = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
)
"""The rails that hold a whole Jetson module together, none of them contained in another: that of
Orin NX, Orin Nano, Xavier NX and TX2 NX, of Nano, AGX Orin, AGX Xavier, and AGX Thor.

NVIDIA's Jetson Linux Developer Guide, "Software-Based Power Consumption Modeling", for each of
them: VDD_IN contains all others; VIN_SYS_5V0 of AGX Orin contains VDDQ_VDD2_1V8AO, the memory; the
six of AGX Xavier are side by side. Thor's VIN, by an INA238, contains the carrier board as well, so
that the three rails of its module are read. The labels of AGX Orin and Orin NX are also in the
kernel's tegra234-p3701.dtsi and tegra234-p3767.dtsi. Not seen on hardware."""


def _jetson(chips: Sequence[Path]) -> Iterator[Offer]:
    """INA3221 of Jetson modules: voltages and currents of rails, identified by their labels.

    Documentation/hwmon/ina3221.rst: channels 1 to 3; in4 to in7 are those of shunts, in microvolts.
    A rail at rest may show a few milliamperes below 0, which count in the sum.
    """
    rails: dict[str, list[SensorFiles]] = {}
    for chip in chips:
        for channel in "123":
            label = " ".join((read_text(chip / f"in{channel}_label", 64) or "").split())
            if label and label != "NC":
                source = _product(chip / f"in{channel}_input", chip / f"curr{channel}_input")
                rails.setdefault(label, []).append(source)
    if not rails:
        yield (
            Refusal("hwmon:ina3221", "its channels have no labels: what they measure is not known"),
            set(),
        )
        return
    module = max(JETSON_MODULES, key=lambda names: _completeness(names, rails))
    missing = [name for name in module if name not in rails]
    twice = [name for name in module if len(rails.get(name, ())) > 1]
    if twice or missing:
        reason = (
            f"two rails are named {twice[0]}"
            if twice
            else f"not a known module: it lacks {missing[0]}"
        )
        yield Refusal(f"hwmon:{', '.join(sorted(rails))}", reason), set()
        return
    for name in sorted(rails.keys() - set(module)):
        yield (
            Refusal(f"hwmon:{name}", f"contained in {' + '.join(module)}, or outside of it"),
            set(),
        )
    source = _sum([rails[name][0] for name in module])
    yield Sensor("jetson-module", "cpu", source, counts=False), {"cpu", "ram", "gpu"}


def _completeness(names: Sequence[str], rails: Collection[str]) -> tuple[bool, int]:
    present = sum(name in rails for name in names)
    return present == len(names), present


def _thor_input(chips: Sequence[Path]) -> Iterator[Offer]:
    """INA238: the input of Thor's developer kit, which feeds the carrier board as well."""
    for chip in chips:
        label = read_text(chip / "label", 64) or read_text(chip / "in1_label", 64) or chip.name
        reason = "the input of a board, which supplies more than processor, memory and GPU"
        yield Refusal(f"hwmon:{label}", reason), set()


# -- Ampere ------------------------------------------------------------------------------------


def _ampere(chips: Sequence[Path]) -> Iterator[Offer]:
    """Ampere's processors (driver xgene-hwmon): "CPU power" and "IO power", side by side.

    Documentation/hwmon/xgene-hwmon.rst and drivers/hwmon/xgene-hwmon.c; Arm's learning path on the
    Thelio Astra shows it on an Altra, as the power of the processor's cores and of the rest of it.
    The memory is not in it. Not seen on hardware.
    """
    for index, chip in enumerate(chips):
        by_label = {label: path for path, label in _labelled(chip, "power")}
        label = f"ampere-{index}"
        if not {"CPU power", "IO power"} <= by_label.keys():
            yield Refusal(f"hwmon:{label}", 'no sensors "CPU power" and "IO power"'), set()
            continue
        source = _sum([_scaled(by_label[name], 1e-6) for name in ("CPU power", "IO power")])
        yield Sensor(label, "cpu", source, counts=False), {"cpu"}


def _smpro(_chips: Sequence[Path]) -> Iterator[Offer]:
    """SMpro of Ampere's Altra, which the board's controller reads, not the server itself.

    Documentation/hwmon/smpro-hwmon.rst; its reference is the Altra SoC BMC Interface Specification.
    """
    reason = "a board controller's readings of an Ampere Altra on which this program does not run"
    yield Refusal("hwmon:smpro", reason), set()


# -- AMD boards --------------------------------------------------------------------------------


def _amdgpu(chips: Sequence[Path]) -> Iterator[Offer]:
    """AMD boards; an integrated GPU is contained in its package (see amdgpu's board_info)."""
    for chip in chips:
        board = (read_text(chip / "device" / "board_info") or "").lower()
        address = read_text(chip / "device" / "unique_id") or chip.resolve().parent.parent.name
        if "cem" not in board and "oam" not in board:
            reason = (
                "not a discrete board (its board_info); an integrated GPU is already counted in "
                "package"
            )
            yield Refusal(f"hwmon:amdgpu-{address}", reason), set()
            continue
        names = ("energy1_input", "power1_average", "power1_input")
        present = [name for name in names if (chip / name).exists()]
        # some boards have the file of an average and no average in it
        with_value = [name for name in present if read_number(chip / name) is not None]
        name = (with_value or present or [""])[0]
        source = _scaled(chip / name, 1e-6) if name else _NOTHING
        counts = name.startswith("energy")
        yield Sensor(f"amdgpu-{address}", "gpu", source, counts=counts), {"gpu"}


_KINDS: dict[str, Callable[[Sequence[Path]], Iterator[Offer]]] = {
    "amd_energy": _amd_energy,
    "power_meter": _grace,
    "ina3221": _jetson,
    "ina238": _thor_input,
    "apm_xgene": _ampere,
    "smpro_hwmon": _smpro,
    "amdgpu": _amdgpu,
}


def _labelled(chip: Path, quantity: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(chip.glob(f"{quantity}[0-9]*_label")):
        label = " ".join((read_text(path, 64) or "").split())
        yield path.with_name(path.name.replace("_label", "_input")), label


def _scaled(path: Path, scale: float) -> SensorFiles:
    def read() -> float | None:
        number = read_number(path)
        return None if number is None else number * scale

    return SensorFiles(read, (path,))


def _product(millivolts: Path, milliamperes: Path) -> SensorFiles:
    def read() -> float | None:
        volts, amperes = read_number(millivolts), read_number(milliamperes)
        return None if volts is None or amperes is None else volts * amperes * 1e-6

    return SensorFiles(read, (millivolts, milliamperes))


def _sum(sources: Sequence[SensorFiles]) -> SensorFiles:
    """All of them together; no value where one of them has none."""

    def read() -> float | None:
        total = 0.0
        for source in sources:
            value = source.read()
            if value is None:
                return None
            total += value
        return total

    return SensorFiles(read, tuple(path for source in sources for path in source.files))


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
        raise MeterUnavailable(
            f"{root} contains no battery that is discharging", "unplug the charger"
        )

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
            raise MeterReadError(f"{self.id} is not discharging: the machine runs on mains power")
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
