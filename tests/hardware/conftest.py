"""The meters that this machine has, by kind, and the figures that are measured of them.

`HARDWARE_SYSFS` is another root of /sys, `HARDWARE_CPU_LOAD` and `HARDWARE_GPU_LOAD` are commands
that keep a processor or a GPU busy until they are ended, and `HARDWARE_FIGURES` is a file for the
figures, as JSON. `HARDWARE_LENGTH` shortens how long meters are watched, as for stand-ins that have
a power without noise and no heat: 0.25 is a quarter.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from carbontrack.errors import MeterReadError
from carbontrack.meters.meter import Meter, Refusal

SYSFS = Path(os.environ.get("HARDWARE_SYSFS", "/sys"))
BUSY = "while True: sum(range(10_000))"
LENGTH = float(os.environ.get("HARDWARE_LENGTH", "1"))
WARM_UP_S = 1.0 * LENGTH
_figures: dict[str, dict[str, Any]] = {}


class Kind(NamedTuple):
    """A kind of meter.

    Attributes:
        find: carbontrack's own detection.
        is_there: whether the machine has the hardware, by a look at raw files that is not ours.
        load: the variable with the command of the load, and the usual command.
    """

    find: Callable[[], tuple[tuple[Meter, ...], tuple[Refusal, ...]]]
    is_there: Callable[[], bool]
    load: tuple[str, str]


def _rapl() -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    from carbontrack.meters.rapl import powercap_meters

    return powercap_meters(SYSFS)


def _perf() -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    from carbontrack.meters.perf import perf_meters

    return perf_meters(SYSFS, ("cpu", "ram"))


def _nvml() -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    from carbontrack.meters.detect import nvml_is_present
    from carbontrack.meters.nvml import nvml_meters

    if not nvml_is_present():
        return (), ()
    meters, _, refused = nvml_meters(None, None)
    return meters, refused


def _amdsmi() -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    from carbontrack.meters.amd import amd_meters

    if not (SYSFS / "module" / "amdgpu").is_dir():
        return (), ()
    meters, _, refused = amd_meters(None)
    return meters, refused


def _hwmon() -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    from carbontrack.meters.hwmon import hwmon_meters

    found = hwmon_meters(SYSFS, ("cpu", "ram", "gpu"))
    return found.meters, found.refused


def _any(pattern: str, root: Path = SYSFS) -> bool:
    return next(root.glob(pattern), None) is not None


def _has_known_chip() -> bool:
    known = ("amd_energy", "power_meter", "ina3221", "amdgpu")
    names = SYSFS.glob("class/hwmon/hwmon*/name")
    chips = [path.parent for path in names if path.read_text().strip() in known]
    return any(_any("energy*_input", chip) or _any("power*_average", chip) for chip in chips)


_CPU = ("HARDWARE_CPU_LOAD", shlex.join([sys.executable, "-c", BUSY]))
_GPU = (
    "HARDWARE_GPU_LOAD",
    shlex.join([sys.executable, str(Path(__file__).with_name("gpu_load.py"))]),
)

KINDS = {
    "rapl": Kind(_rapl, lambda: _any("class/powercap/*rapl*/energy_uj"), _CPU),
    "perf": Kind(_perf, lambda: _any("bus/event_source/devices/power/events/energy-pkg"), _CPU),
    "nvml": Kind(_nvml, lambda: _any("nvidia[0-9]*", Path("/dev")), _GPU),
    "amdsmi": Kind(
        _amdsmi,
        lambda: _any("class/kfd/kfd/topology/nodes/*/gpu_id") and _any("module/amdgpu"),
        _GPU,
    ),
    "hwmon": Kind(_hwmon, _has_known_chip, _CPU),
}


def read_j(meter: Meter) -> float:
    """The count; a read that is missed now and then is made again, since the next one carries it.

    Raises:
        MeterReadError: it misses all of them.
    """
    for _ in range(20):
        with suppress(MeterReadError):
            return meter.read_joules(time.monotonic())
        time.sleep(0.01)
    return meter.read_joules(time.monotonic())


class Bench:
    """The meters of one kind.

    Attributes:
        meters: those that can be read.
        figures: what is measured of them, by name.
    """

    def __init__(self, name: str, kind: Kind, meters: tuple[Meter, ...]) -> None:
        self.name, self.meters, self._kind = name, meters, kind
        self.figures = _figures.setdefault(name, {})

    def joules(self) -> float:
        """The count of all of them."""
        return sum(map(read_j, self.meters))

    def used_j(self, duration_s: float, every_s: float = 0.05) -> float:
        """What all of them count in a while, with the looks that a gauge needs."""
        end_s, first_j = time.monotonic() + duration_s, self.joules()
        while time.monotonic() < end_s:
            time.sleep(every_s)
            last_j = self.joules()
        return last_j - first_j

    @contextmanager
    def load(self) -> Iterator[None]:
        """Keep the hardware busy meanwhile; skips where there is nothing to do that with."""
        variable, usual = self._kind.load
        command = shlex.split(os.environ.get(variable) or usual)
        count = (os.cpu_count() or 1) if command == shlex.split(_CPU[1]) else 1
        running = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
        try:
            time.sleep(WARM_UP_S)
            if any(process.poll() is not None for process in running):
                pytest.skip(f"nothing here keeps it busy: set {variable} to a command that does")
            yield
        finally:
            for process in running:
                process.terminate()
                process.wait()


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The meters of a kind, where the machine has any; skips with the reason where not."""
    kind = KINDS[request.param]
    meters, refused = kind.find()
    if not meters:
        reasons = "; ".join(f"{one.id}: {one.reason}" for one in refused)
        if not reasons and kind.is_there():
            pytest.fail(f"the machine has {request.param}, and detection says nothing of it")
        pytest.skip(reasons or f"no {request.param} on this machine")
    yield Bench(request.param, kind, meters)
    for meter in meters:
        meter.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures, and write them where that was asked for."""
    if not _figures:
        return
    terminalreporter.section("figures of this machine's meters")
    for name, figures in _figures.items():
        for what, value in figures.items():
            terminalreporter.line(f"{name}: {what}: {value}")
    if path := os.environ.get("HARDWARE_FIGURES"):
        Path(path).write_text(json.dumps(_figures, indent=2) + "\n", encoding="utf-8")
