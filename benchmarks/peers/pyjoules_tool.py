"""pyJoules: a sample of the counters at each edge, without a thread and without emissions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "pyJoules"
IMPORT = "import pyJoules.energy_meter"
SAMPLES = False
WAYS = {
    "life": "`EnergyContext()`",
    "step": "`start()`, `stop()` of one meter",
    "call": "`@measure_energy`",
}


def handler() -> Any:
    """A handler that keeps nothing."""
    from pyJoules.handler import EnergyHandler

    class Nothing(EnergyHandler):
        def process(self, trace: object) -> None:
            pass

    return Nothing()


def life() -> None:
    """One context from start to stop."""
    from pyJoules.energy_meter import EnergyContext

    with EnergyContext(handler=handler()):
        pass


def decorated(function: Callable[[], None]) -> Callable[[], None]:
    """The function, measured."""
    from pyJoules.energy_meter import measure_energy

    return measure_energy(handler=handler())(function)


@contextmanager
def session() -> Iterator[Callable[[], None]]:
    """Yield what starts and stops one meter, made once."""
    from pyJoules.device import DeviceFactory
    from pyJoules.energy_meter import EnergyMeter

    meter = EnergyMeter(DeviceFactory.create_devices())

    def step() -> None:
        meter.start()
        meter.stop()

    yield step


@contextmanager
def sampling(interval_s: float) -> Iterator[None]:  # noqa: ARG001 - it has no sampler
    """An open context; nothing is sampled."""
    from pyJoules.energy_meter import EnergyContext

    with EnergyContext(handler=handler()):
        yield


@contextmanager
def windows() -> Iterator[tuple[Callable[[], Any], Callable[[Any], float]]]:
    """Yield what opens a window, and what closes it and returns the package's joules."""
    from pyJoules.device import DeviceFactory
    from pyJoules.device.rapl_device import RaplPackageDomain
    from pyJoules.energy_meter import EnergyMeter

    meter = EnergyMeter(DeviceFactory.create_devices([RaplPackageDomain(0)]))

    def close(_: object) -> float:
        meter.stop()
        return float(sum(next(iter(meter.get_trace())).energy.values())) / 1e6

    yield meter.start, close
