"""The meters of this machine: the best for each component, none of them overlapping.

Order of preference: CPU: RAPL packages by powercap, by perf events, else TDP x load. RAM: RAPL dram
by powercap, by perf events, else watts per DIMM or GiB. GPU: NVML's energy counter, else its
power, integrated, else, if asked for, a model; AMD SMI, else hwmon's amdgpu. Other machines: hwmon
(AMD sockets, Grace, Jetson), Apple's counts. Meters of other packages, if a setting names them,
replace the meters that they contain. Each meter that is not used is named with the reason.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from traceback import format_exception_only  # `logging` has loaded it
from typing import TYPE_CHECKING, Any, TypeVar

from carbontrack.errors import ConfigError, MeterUnavailable
from carbontrack.meters.cpu_info import CpuFacts, read_cpu_facts, sockets_online
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.meters.cpu_power import CpuPower, cpu_power, is_client, is_guest
from carbontrack.meters.meter import (
    MACHINE_HIDDEN,
    UNMEASURED,
    Found,
    Hardware,
    Meter,
    MeterSet,
    Refusal,
)
from carbontrack.meters.ram_model import installed_gib, modules_gib, ram_model
from carbontrack.meters.rapl import powercap_meters
from carbontrack.record import Component
from carbontrack.system.files import is_folder
from carbontrack.system.host import online_threads
from carbontrack.system.interrupts import attempt, pass_on
from carbontrack.values import NamedTuple, replace

if TYPE_CHECKING:
    from carbontrack.meters.wall import WallFit


T = TypeVar("T")
D = TypeVar("D")
_Makers = Mapping[Component, Callable[[], Meter]]

NVML_LIBRARY = "libnvidia-ml.so.1"
FAILED = "source_failed"
"""The fault of a source that raised while it was asked."""
_log = logging.getLogger("carbontrack")
NO_HOST = Refusal("rapl", "the host's energy counters are not visible inside a virtual machine")


class Host(NamedTuple):
    """Where to look for meters, and what was configured about this machine.

    Attributes:
        busy_s: CPU seconds that all processors have worked; None where it cannot be read.
        own_s: CPU seconds of our own processes up to an instant, which are the least of these;
            None: not compared.
        sysfs, procfs: the roots of these file systems.
        cpu_tdp_w: design power of one CPU package; None: from the table.
        ram_w_per_gib: power of memory; None: the model's own figure.
        gpu_ids: GPUs to count, by index or UUID; None: those of `visible_gpus`; (): none.
        gpu_model: model NVIDIA GPUs without a sensor, instead of refusing them.
        plugins: meters of other packages to read, as the setting `meter_plugins` spells them.
        visible_gpus: the value of CUDA_VISIBLE_DEVICES; None where it is not set.
        gpu_variables: other variables by which GPUs are hidden or put in order, if they are set.
        cpu_name_cache: a folder for a CPU name that is slow to find out; None for no cache.
        wall: the calibration with a wall meter; None where there is none.
        models_wall: model the rest of the wall power, if it was not calibrated.
        hidden: why the machine cannot be observed; None: it can.
        busy_is_own: `busy_s` is our own CPU seconds, as those of the machine cannot be seen.
        counts_whole: what is asked for is the machine's energy, not our part of it.
        nvml_library: the library by which an NVIDIA driver is recognised.
        load_amdsmi: how to load AMD SMI; called only where the kernel's driver amdgpu is loaded.
    """

    busy_s: Callable[[], float | None]
    sysfs: Path = Path("/sys")
    procfs: Path = Path("/proc")
    cpu_tdp_w: float | None = None
    ram_w_per_gib: float | None = None
    gpu_ids: tuple[str, ...] | None = None
    gpu_model: bool = False
    plugins: tuple[str, ...] = ()
    visible_gpus: str | None = None
    gpu_variables: tuple[tuple[str, str], ...] = ()
    cpu_name_cache: Path | None = None
    wall: WallFit | None = None
    models_wall: bool = False
    hidden: str | None = None
    busy_is_own: bool = False
    counts_whole: bool = False
    nvml_library: str = NVML_LIBRARY
    load_amdsmi: Callable[[], Any] | None = None
    own_s: Callable[[float], float] | None = None


def detect(host: Host) -> MeterSet:
    """Open a disjoint set of the best meters, and name those that are not used.

    Raises:
        ConfigError: `gpu_ids` names a GPU that this machine does not have.
    """
    net = Net()
    facts, power = _processor(host, net)
    amd: _Gpus = net.ask("amdsmi", _amd, host, instead=_NO_GPUS)
    meters, sensors, refused = _counters(host, facts, power, amd, net)
    try:
        gpus, gpu_models, gpu_refusals = _all_gpus(host, amd, sensors, net)
    except BaseException:  # a `ConfigError`, after which the program may try again
        _close((*meters, *sensors.meters, *amd[0]))
        raise
    gib = net.ask("meminfo", installed_gib, host.procfs, host.sysfs, instead=None)
    substitutes = _models(host, facts, power, gib, net)
    measured = {meter.component for meter in meters} | sensors.covered
    models = _made(substitutes, measured, net)
    spare = {name: make for name, make in substitutes.items() if name in measured}
    single = (*meters, *sensors.meters, *models, *gpus)
    everything = net.ask("all or none", _together, single, instead=single)
    hardware = _hardware(facts, power, gib, gpu_models, everything)
    refusals = (*_told(refused, hardware), *sensors.refused, *gpu_refusals)
    refusals += _hidden(host)
    found = MeterSet(everything, spare, refusals, hardware, host.busy_s)
    if host.plugins:
        found = net.ask("plugins", _with_plugins, found, host, substitutes, instead=found)
    found = net.ask("wall", _with_wall, found, host, facts, power, instead=found)
    return replace(found, refused=(*found.refused, *net.refused)) if net.refused else found


def _counters(
    host: Host, facts: CpuFacts, power: CpuPower, amd: _Gpus, net: Net
) -> tuple[tuple[Meter, ...], Found, tuple[Refusal, ...]]:
    """RAPL's meters and the sensors, without those that count more than this system shows."""
    rapl = _rapl(host.sysfs, facts, power, net)
    are_read = bool(amd[0]) or _are_hidden(amd[2])
    sensors = net.ask(
        "sensors", _sensors, host, rapl.meters, gpus_are_read=are_read, instead=Found()
    )
    alike: _OfMachine = rapl.all(), sensors, ()
    kept, sensors, unused = net.ask("view", _of_this_machine, facts, *alike[:2], instead=alike)
    rapl = rapl.among(kept).without(sensors.covered)
    return rapl.all(), sensors, (*rapl.refused, *unused)


_Gpus = tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]
"""Meters of GPUs, the names of the GPUs, and what is refused."""
_NO_GPUS: _Gpus = ((), (), ())


def _all_gpus(host: Host, amd: _Gpus, sensors: Found, net: Net) -> _Gpus:
    """AMD's and NVIDIA's; not the latter where the sensors are those of a module that has one."""
    meters, names, refused = amd
    covered = "gpu" in sensors.covered
    if covered:  # the kernel's sensors have what the library could not read
        refused = tuple(refusal._replace(fault=None) for refusal in refused)
        if any(meter.component != "gpu" for meter in sensors.meters):
            return meters, names, refused
    nvidia: _Gpus = net.ask("nvml", _gpus, host, instead=_NO_GPUS)
    names, refused = (*names, *nvidia[1]), (*refused, *nvidia[2])
    found = (*meters, *nvidia[0])
    if host.gpu_ids and not found and not covered and all(one.fault is None for one in refused):
        refused = (*refused, *_none_of(host.gpu_ids))
    return found, names, _with_most_power(refused, names)


def _none_of(gpu_ids: tuple[str, ...]) -> Iterator[Refusal]:
    """GPUs that the user asks for on a machine without any; a driver may be loaded later."""
    for one in gpu_ids:
        reason = "the setting gpu_ids asks for it, and no GPU can be read on this machine"
        cure = "CARBONTRACK_GPU_IDS=none  # if there is no GPU"
        yield Refusal(f"gpu_ids:{one}", reason, cure, UNMEASURED)


def _close(meters: Iterable[Meter]) -> None:
    for meter in meters:
        attempt(meter.close)


class Net:
    """Asks sources of meters, and keeps what they raise as refusals; the next best one counts."""

    def __init__(self) -> None:
        self.refused: list[Refusal] = []

    def ask(
        self, name: str, source: Callable[..., T], *given: Any, instead: D, **named: Any
    ) -> T | D:
        """What the source answers; `instead` where it raises anything but a `ConfigError`."""
        # a `ConfigError`: the user has said something that cannot be used
        answer, error = attempt(source, *given, passes=ConfigError, **named)
        if error is None:
            return answer  # type: ignore[return-value]
        # which does not fail for an error that has no text
        text = format_exception_only(type(error), error)[-1].strip()
        self.refused.append(Refusal(name, f"it failed: {text}", fault=FAILED))
        _log.debug("%s failed", name, exc_info=error)
        return instead


def _processor(host: Host, net: Net) -> tuple[CpuFacts, CpuPower]:
    """What is known of the processor; the number of its threads where nothing is."""
    unknown = CpuFacts(threads=online_threads())
    cache = host.cpu_name_cache
    facts = net.ask("cpuinfo", read_cpu_facts, host.procfs, host.sysfs, cache, instead=unknown)
    power = net.ask("cpu table", cpu_power, facts, host.cpu_tdp_w, instead=None)
    return (facts, power) if power is not None else (unknown, cpu_power(unknown, host.cpu_tdp_w))


def _made(
    models: Mapping[Component, Callable[[], Meter]], measured: Collection[Component], net: Net
) -> list[Meter]:
    """The models of components that nothing measures."""
    made = [
        net.ask(f"model:{component}", make, instead=None)
        for component, make in models.items()
        if component not in measured
    ]
    return [meter for meter in made if meter is not None]


def _hardware(
    facts: CpuFacts,
    power: CpuPower,
    gib: float | None,
    gpu_models: tuple[str, ...],
    meters: Iterable[Meter],
) -> Hardware:
    return Hardware(
        cpu_model=facts.name or None,
        cpu_threads=facts.threads,
        cpu_tdp_w=round(power.tdp_w, 2),
        gpu_models=gpu_models,
        gpu_count=sum(meter.component == "gpu" for meter in meters),
        ram_gib=round(gib, 3) if gib is not None else None,
        cpu_sockets=power.share,
        cpu_idle_w=power.tdp_w * power.curve.at(0.0).best,
        cpu_known=power.known,
        is_guest=is_guest(facts),
    )


def _with_plugins(found: MeterSet, host: Host, substitutes: _Makers) -> MeterSet:
    from carbontrack.meters.plugins import PluginHost, join  # few have any

    told = PluginHost(host.sysfs, host.procfs)
    spare = found.substitutes
    joined = join(host.plugins, told, found.meters, models=substitutes, spare=spare)
    refused = (*found.refused, *joined.refused)
    return replace(found, meters=joined.meters, substitutes=joined.substitutes, refused=refused)


def _with_wall(found: MeterSet, host: Host, facts: CpuFacts, power: CpuPower) -> MeterSet:
    """With the wall power beyond the meters, by calibration or, if asked for, by a model."""
    if host.wall is None and not host.models_wall:
        return found
    meters, refused = _wall(found.meters, host.wall)
    found = replace(found, meters=meters, refused=(*found.refused, *refused))
    # what was calibrated is known better than by a model
    if not host.models_wall or (host.wall is not None and not refused):
        return found
    return _with_wall_model(found, host, facts, power)


def _hidden(host: Host) -> tuple[Refusal, ...]:
    """The fault of a machine that cannot be observed."""
    if host.hidden is None:
        return ()
    cure = "# in the systemd unit: ProcSubset=all"
    return (Refusal("machine", host.hidden, cure, fault=MACHINE_HIDDEN),)


_OfMachine = tuple[tuple[Meter, ...], Found, tuple[Refusal, ...]]


def _of_this_machine(facts: CpuFacts, meters: tuple[Meter, ...], more: Found) -> _OfMachine:
    """The meters without those that count more than this system shows, and what is not used."""
    refused: tuple[Refusal, ...] = ()
    if facts.machine_threads is not None:
        from carbontrack.meters.container_view import set_aside  # few are such containers

        meters, more, refused = set_aside(meters, more, facts)
    if facts.board:
        from carbontrack.meters.boards import board_refusals

        refused = (*refused, *board_refusals(facts.board))
    return meters, more, refused


def _with_wall_model(found: MeterSet, host: Host, facts: CpuFacts, power: CpuPower) -> MeterSet:
    from carbontrack.meters.wall_model import Server, with_wall_model  # few ask for it

    # a user vouches for the host of a guest whose share the family tells
    vouched = host.cpu_tdp_w is not None and power.known == "family"
    server = Server(
        power.tdp_w,
        host.busy_s,
        facts.threads,
        known="given" if vouched else power.known,
        is_guest=is_guest(facts),
        is_client=is_client(facts.name),
    )
    return with_wall_model(found, server)


def _wall(
    meters: tuple[Meter, ...], fit: WallFit | None
) -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    """The rest of the wall power as a meter, if it was calibrated with exactly these meters."""
    if fit is None:
        return meters, ()
    from carbontrack.meters.wall import WALL_ID, with_wall  # rarely needed

    if {meter.id for meter in meters} == set(fit.meters):
        return with_wall(meters, fit), ()
    reason = f"it was calibrated with different meters: {', '.join(fit.meters)}"
    cure = "carbontrack calibrate --clear  # then calibrate again"
    return meters, (Refusal(WALL_ID, reason, cure),)


def _told(refused: tuple[Refusal, ...], hardware: Hardware) -> tuple[Refusal, ...]:
    """The refusals, without cures that cannot help in a virtual machine."""
    if not hardware.is_guest:
        return refused
    return tuple(NO_HOST if refusal.id == "rapl" else refusal for refusal in refused)


class _Rapl(NamedTuple):
    """RAPL's meters, by powercap or by perf.

    Attributes:
        meters: of components of which every zone is read.
        completed: of components with zones that may not be read; no other counter is known.
        refused: what is not used, with the reasons.
    """

    meters: tuple[Meter, ...]
    completed: tuple[Meter, ...]
    refused: tuple[Refusal, ...]

    def all(self) -> tuple[Meter, ...]:
        """Those that are read, completed ones last."""
        return *self.meters, *self.completed

    def among(self, meters: Collection[Meter]) -> _Rapl:
        """The same, of these meters only."""
        kept = tuple(meter for meter in self.meters if meter in meters)
        if not self.completed:
            return _Rapl(kept, (), self.refused)
        return self._less(m for m in self.completed if m not in meters)._replace(meters=kept)

    def without(self, covered: Collection[Component]) -> _Rapl:
        """The same, without completed meters of components that others measure as a whole."""
        if not self.completed:
            return self
        return self._less(meter for meter in self.completed if meter.component in covered)

    def _less(self, others: Iterable[Meter]) -> _Rapl:
        """The same, without these completed meters: their closed zones are then nothing amiss."""
        surplus = list(others)
        if not surplus:
            return self
        for meter in surplus:
            meter.close()
        prefixes = tuple(_ZONE[meter.component] for meter in surplus)
        refused = (
            one._replace(fault=None) if one.id.startswith(prefixes) else one for one in self.refused
        )
        kept = tuple(meter for meter in self.completed if meter not in surplus)
        return _Rapl(self.meters, kept, tuple(refused))


_ZONE: Mapping[Component, str] = {"cpu": "rapl:package", "ram": "rapl:dram"}
"""How the ids of a component's zones begin."""


def _rapl(sysfs: Path, facts: CpuFacts, power: CpuPower, net: Net) -> _Rapl:
    """Powercap's zones, and perf's events for a component of which a zone is missing."""
    sockets = None if facts.is_guest else partial(sockets_online, sysfs)
    package_w = power.tdp_w / power.share * power.curve.at(1.0).high if power.share else None
    ask = partial(powercap_meters, sockets=sockets, package_w=package_w)
    found, refused = net.ask("powercap", ask, sysfs, instead=_NOTHING)
    meters = tuple(meter for meter in found if meter.basis == "measured")
    completed = tuple(meter for meter in found if meter.basis != "measured")
    rapl = _Rapl(meters, completed, refused)
    covered = {meter.component for meter in meters}
    missing: list[Component] = [name for name in ("cpu", "ram") if name not in covered]
    if "cpu" in covered and not any(refusal.id.startswith(_ZONE["ram"]) for refusal in refused):
        return rapl  # this machine has no dram domain
    more, more_refused = net.ask("perf", _perf, sysfs, missing, sockets, instead=_NOTHING)
    rapl = rapl.without({meter.component for meter in more})
    return _Rapl((*meters, *more), rapl.completed, (*rapl.refused, *more_refused))


_NOTHING: tuple[tuple[Meter, ...], tuple[Refusal, ...]] = ((), ())


def _perf(
    sysfs: Path, missing: list[Component], sockets: Callable[[], int | None] | None
) -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    if not is_folder(sysfs / "bus" / "event_source" / "devices" / "power"):
        return _NOTHING
    from carbontrack.meters.perf import perf_meters

    return perf_meters(sysfs, missing, sockets=sockets)


def _together(meters: tuple[Meter, ...]) -> tuple[Meter, ...]:
    """The meters; of a component that several measure, all answer or none."""
    measured = [m.component for m in meters if m.basis == "measured" and m.component != "gpu"]
    if len(measured) == len(set(measured)):
        return meters
    from carbontrack.meters.all_or_none import together  # machines with several sockets

    return together(meters)


def _amd(host: Host) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    """AMD SMI's GPUs, where the kernel's driver for them is loaded."""
    if host.gpu_ids == () or not is_folder(host.sysfs / "module" / "amdgpu"):
        return (), (), ()
    from carbontrack.meters.amd import amd_meters, load_library

    variables = dict(host.gpu_variables)
    if host.visible_gpus is not None:
        variables["CUDA_VISIBLE_DEVICES"] = host.visible_gpus
    return amd_meters(host.gpu_ids, host.load_amdsmi or load_library, variables, host.sysfs)


def _are_hidden(refused: tuple[Refusal, ...]) -> bool:
    """Whether AMD SMI has listed boards, and none of them is ours."""
    return bool(refused) and all(r.id.startswith("amdsmi:") and not r.fault for r in refused)


def _sensors(host: Host, meters: tuple[Meter, ...], *, gpus_are_read: bool) -> Found:
    """Sensors for components without a better meter: hwmon's, or Apple's own counts."""
    wanted: set[Component] = set() if host.gpu_ids == () or gpus_are_read else {"gpu"}
    if not any(meter.component == "cpu" for meter in meters):
        wanted |= {"cpu", "ram"}
    if sys.platform != "darwin":
        if not is_folder(host.sysfs / "class" / "hwmon"):
            return Found()
        from carbontrack.meters.hwmon import hwmon_meters

        return hwmon_meters(host.sysfs, wanted)
    from carbontrack.meters.apple import apple_meters

    try:
        parts = tuple(part for part in apple_meters() if part.component in wanted | {"other"})
    except MeterUnavailable as error:
        return Found(refused=(Refusal("apple", str(error), error.cure),))
    return Found(parts, frozenset(part.component for part in parts))


def _models(
    host: Host, facts: CpuFacts, power: CpuPower, gib: float | None, net: Net
) -> dict[Component, Callable[[], Meter]]:
    curve = power.curve.of_own_load(whole=host.counts_whole) if host.busy_is_own else power.curve
    models: dict[Component, Callable[[], Meter]] = {
        "cpu": partial(
            CpuModel,
            power.tdp_w,
            host.busy_s,
            facts.threads,
            basis=power.basis,
            curve=curve,
            about=power.how,
            own_s=host.own_s,
        )
    }
    if gib is not None:
        models["ram"] = partial(_ram_model, host, facts, gib, net)
    return models


def _ram_model(host: Host, facts: CpuFacts, gib: float, net: Net) -> Meter:
    """By the memory modules, except in a guest: the modules that it sees are the host's."""
    modules: tuple[float, ...] = ()
    if not facts.is_guest:
        modules = net.ask("memory modules", modules_gib, host.procfs, host.sysfs, instead=())
    return ram_model(gib, modules, host.ram_w_per_gib)


def _gpus(host: Host) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    if host.gpu_ids == ():
        return (), (), (Refusal("nvml", "gpu_ids asks for no GPU"),)
    if not nvml_is_present(host.nvml_library):
        reason = f"{host.nvml_library} cannot be loaded: this machine has no NVIDIA driver"
        cure = "# in a container: docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=utility ..."
        return (), (), (Refusal("nvml", reason, cure),)
    from carbontrack.meters.gpu_selection import numbers_are_by_bus
    from carbontrack.meters.nvml import nvml_meters  # pynvml alone takes 35 ms

    by_bus = numbers_are_by_bus(host.gpu_variables)
    return nvml_meters(host.gpu_ids, host.visible_gpus, may_model=host.gpu_model, by_bus=by_bus)


def _with_most_power(refused: tuple[Refusal, ...], names: tuple[str, ...]) -> tuple[Refusal, ...]:
    """The refusals; of a GPU that is not measured although it should be, what it can use."""
    if all(refusal.fault is None for refusal in refused):
        return refused
    from carbontrack.meters.gpu_model import with_most_power  # hardly any GPU is refused

    return with_most_power(refused, names)


_RTLD_LAZY = 1


def nvml_is_present(library: str = NVML_LIBRARY) -> bool:
    """Whether NVIDIA's driver library can be loaded; takes 0.1 ms where it cannot.

    Loading is the only test that works everywhere: under WSL there are no device files, in
    containers no /proc/driver, and LD_LIBRARY_PATH may point anywhere. `_ctypes` is the C part of
    ctypes, a millisecond cheaper to import, and is missing in sub-interpreters.
    """
    if sys.platform != "linux":
        return sys.platform == "win32"  # there nvidia-ml-py finds the library itself
    try:
        from _ctypes import dlopen

        dlopen(library, _RTLD_LAZY)
    except (ImportError, OSError) as error:
        pass_on(error)
        return False
    return True
