"""How each tool measures: `measure(act)` acts inside one of its windows, and says what was found.

Runs in the tool's own environment, which knows nothing of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Act = Callable[[], None]
Measure = Callable[[Act], Callable[[], "float | None"]]
"""Acts in a window; what comes back tells its joules, None where the tool says that it does not
know, and is asked when the clock has stopped. `so_far`, where it has that, tells those of the whole
run, and `flagged` whether the tool said that something was the matter in the last window."""

JOULES_PER_KWH = 3.6e6
REQUIREMENTS = {
    "codecarbon": "codecarbon",
    "zeus": "zeus",
    "pyjoules": "pyJoules",
    "carbontracker": "carbontracker",
    "perun": "perun",
}
"""The peers, and what pip calls them."""
SHORTEST_S = {"carbontracker": 1.0, "perun": 1.0}
"""Tools that sample at an interval, and whose unit is an epoch or an application."""
WITH_GPU = ("carbontrack", "codecarbon", "zeus")
"""The tools that are asked for a GPU, too."""


@contextmanager
def carbontrack(part: str) -> Iterator[Measure]:
    """Spans inside a run, in scope machine."""
    import carbontrack

    with carbontrack.track(region="FR", output=None, scope="machine") as run:
        last: list[Any] = []

        def measure(act: Act) -> Callable[[], float | None]:
            with run.span("x") as span:
                act()
            last[:] = [span]
            return lambda: joules_of(span.record)

        def joules_of(record: Any) -> float | None:
            kwh = getattr(record, f"{part}_kwh")
            return None if kwh is None else float(kwh) * JOULES_PER_KWH

        def flagged() -> bool:
            record = last[0].record
            return bool(record.faults or record.missed_reads or (record.coverage or 0.0) < 0.999)

        measure.flagged = flagged  # type: ignore[attr-defined]
        measure.so_far = lambda: joules_of(run.snapshot())  # type: ignore[attr-defined]
        yield measure


@contextmanager
def codecarbon(part: str) -> Iterator[Measure]:
    """Tasks of an offline tracker; nothing is written."""
    import codecarbon

    made = codecarbon.OfflineEmissionsTracker(
        country_iso_code="FRA", measure_power_secs=1, save_to_file=False, log_level="critical"
    )

    def measure(act: Act) -> Callable[[], float]:
        made.start_task()
        act()
        found = made.stop_task()
        return lambda: getattr(found, f"{part}_energy") * JOULES_PER_KWH

    yield measure
    made.stop()


@contextmanager
def zeus(part: str) -> Iterator[Measure]:
    """Windows of a monitor."""
    from zeus.monitor import ZeusMonitor

    gpus, cpus = ([], [0]) if part == "cpu" else ([0], [])
    made = ZeusMonitor(gpu_indices=gpus, cpu_indices=cpus)

    def measure(act: Act) -> Callable[[], float]:
        made.begin_window("x", sync_execution=False)
        act()
        found = made.end_window("x", sync_execution=False)
        return lambda: sum((found.cpu_energy if part == "cpu" else found.gpu_energy).values())

    yield measure


@contextmanager
def pyjoules(part: str) -> Iterator[Measure]:
    """Start and stop of a meter of the first package."""
    from pyJoules.device import DeviceFactory
    from pyJoules.device.rapl_device import RaplPackageDomain
    from pyJoules.energy_meter import EnergyMeter

    assert part == "cpu"
    made = EnergyMeter(DeviceFactory.create_devices([RaplPackageDomain(0)]))

    def measure(act: Act) -> Callable[[], float]:
        made.start()
        act()
        made.stop()
        return lambda: sum(next(iter(made.get_trace())).energy.values()) / 1e6

    yield measure


@contextmanager
def carbontracker(part: str) -> Iterator[Measure]:
    """Epochs; the power is sampled by a thread, once a second."""
    from carbontracker import constants
    from carbontracker.tracker import CarbonTracker

    made = CarbonTracker(
        epochs=10**9, epochs_before_pred=0, update_interval=1, verbose=0, components=part
    )

    def measure(act: Act) -> Callable[[], float]:
        made.epoch_start()
        act()
        made.epoch_end()
        kwh = made.tracker.total_energy_per_epoch
        return lambda: float(kwh()[-1]) / constants.PUE_2023 * JOULES_PER_KWH

    yield measure
    made.stop()


@contextmanager
def perun(part: str) -> Iterator[Measure]:
    """Applications, monitored at 0.1 s from a process of its own."""
    import perun as tool
    from perun.data_model.data import MetricType

    assert part == "cpu"
    found: list[float] = []

    def keep(node: Any) -> None:
        metrics = node.metrics
        found.append(float(metrics[MetricType.CPU_ENERGY].value))

    def measure(act: Act) -> Callable[[], float]:
        def body() -> None:
            tool.register_callback(keep)  # which is possible only while it runs
            act()

        before = len(found)
        tool.perun(sampling_period=0.1, app_name="x", rounds=1, warmup_rounds=0)(body)()
        assert len(found) == before + 1, "perun told no energy"
        return lambda: found[-1]

    yield measure
