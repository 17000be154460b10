"""CodeCarbon's trackers: `start()`, `stop()`, tasks, rows; what is measured is carbontrack's."""

from __future__ import annotations

import atexit
import os
import threading
import uuid
import warnings
import weakref
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, ClassVar, TypeVar

from carbontrack.api.track import PROVIDER
from carbontrack.compat.codecarbon.config import (
    NOT_GIVEN,
    PARAMETERS,
    PLACES,
    Conf,
    Parameter,
    external_config,
)
from carbontrack.compat.codecarbon.data import EmissionsData
from carbontrack.compat.codecarbon.live import LiveRows
from carbontrack.compat.codecarbon.log import LOGGER, set_level, warn_once
from carbontrack.compat.codecarbon.outputs import BaseOutput, outputs_of
from carbontrack.compat.codecarbon.place import columns_of, region_of
from carbontrack.compat.codecarbon.run import Energy, Run, Task
from carbontrack.compat.codecarbon.settings import settings_of
from carbontrack.system.interrupts import attempt
from carbontrack.tracking.tracker import NoOpTracker, Tracker

MODES = ("machine", "process")
T = TypeVar("T")


class BaseEmissionsTracker:
    """What both trackers are; the parameters are CodeCarbon's.

    Nothing is measured before `start()`. A tracker may be started again after `stop()`, and then
    begins anew. There is no geo look-up, no account, no lock file and no handler of signals.

    Raises:
        TypeError: there is no such parameter.
        OSError: `output_dir` does not exist.
        ValueError: `on_csv_write` is neither "append" nor "update".
        AssertionError: `tracking_mode` is neither "machine" nor "process".
    """

    _known: ClassVar[Mapping[str, Parameter]] = PARAMETERS

    def __init__(self, *given: Any, **named: Any) -> None:
        self._conf = conf = Conf(
            _by_name(given, named, self._known), external_config(), self._known
        )
        if not os.path.exists(conf["output_dir"]):  # noqa: PTH110 - a text, as theirs
            raise OSError(f"Folder {conf['output_dir']!r} doesn't exist")
        assert conf["tracking_mode"] in MODES, f"tracking_mode is none of {MODES}"
        set_level(conf["log_level"])
        conf.warn_of_others()
        if any(name.startswith("save_to_") for name in conf.given):
            warnings.warn(
                "the save_to_* parameters are deprecated; use output_methods=[OutputMethod.CSV, …]",
                DeprecationWarning,
                stacklevel=2,
            )
        if not conf["allow_multiple_runs"]:
            warn_once(
                "allow_multiple_runs=False makes no lock file here: trackers may run side by side"
            )
        self._project_name = str(conf["project_name"])
        self._experiment_name = str(conf["experiment_name"])
        self._output_handlers: list[BaseOutput] = outputs_of(conf)
        self.run_id: Any = uuid.uuid4()
        self.final_emissions: float | None = None
        self.final_emissions_data: EmissionsData | None = None
        self._run: Run | None = None
        self._live: LiveRows | None = None
        self._active_task: str | None = None
        self._lock = threading.RLock()
        self._was_started = False
        atexit.register(_stop_at_exit, weakref.ref(self))

    # -- from start to stop -------------------------------------------------------------------

    def start(self) -> None:
        """Begin to measure; a second time after `stop()` it begins anew."""
        _kept_in(self._start)

    def stop(self) -> float | None:
        """End, write the row, and return the emissions in kg; None if it was never started."""
        return _kept_in(self._stop)

    def flush(self) -> float | None:
        """Write the row of what has been used so far, go on, and return the emissions in kg."""
        return _kept_in(self._flush)

    def _start(self) -> None:
        with self._lock:
            if self._run is not None:
                LOGGER.warning("Already started tracking")
                return
            if self._was_started:
                self.run_id = uuid.uuid4()
            self._open()

    def _open(self) -> Run:
        conf, region = self._conf, region_of(self._conf)
        said = {
            "project_name": self._project_name,
            "run_id": str(self.run_id),
            "experiment_id": str(conf["experiment_id"] or ""),
            "tracking_mode": conf["tracking_mode"],
            "wue": conf["wue"] or 0.0,
            **columns_of(region, conf),
        }
        labels = {"codecarbon_run_id": str(self.run_id)}
        self._run = run = Run(self._tracker(region), self._project_name, labels, said)
        self._was_started = True
        self._live = LiveRows(
            run, self._output_handlers, conf["measure_power_secs"], conf["api_call_interval"]
        )
        self._live.start()
        return run

    def _tracker(self, region: str | None) -> Tracker:
        settings = PROVIDER.load(settings_of(self._conf, region))
        return NoOpTracker() if settings.disable else PROVIDER.get(settings)

    def _stop(self) -> float | None:
        with self._lock:
            run, live = self._run, self._live
            if run is None:
                LOGGER.warning("Tracker already stopped or never started.")
                return self.final_emissions
            self._run = self._live = self._active_task = None
            if live is not None:
                live.stop()
            run.close()
            total = self._persist(run)
            self.final_emissions_data, self.final_emissions = total, total.emissions
            for handler in self._output_handlers:
                handler.exit()
            return total.emissions

    def _flush(self) -> float | None:
        with self._lock:
            if self._run is None:
                LOGGER.error("You first need to start the tracker.")
                return None
            return self._persist(self._run).emissions

    def _persist(self, run: Run) -> EmissionsData:
        total, added = run.data_and_added()
        tasks = run.task_rows()
        for handler in self._output_handlers:
            handler.out(total, added)
            if tasks:
                handler.task_out(tasks, self._experiment_name)
        return total

    # -- tasks --------------------------------------------------------------------------------

    def start_task(self, task_name: str | None = None) -> None:
        """Begin a task, inside the run that is open or in one that begins with it."""
        with self._lock:
            if self._active_task is not None:
                LOGGER.warning("A task is already under measure")
                return
            run = self._run or self._open()
            name = task_name or str(uuid.uuid4())
            if name in run.tasks:
                name += f"_{uuid.uuid4()}"
            run.begin_task(name)
            self._active_task = name

    def stop_task(self, task_name: str | None = None) -> EmissionsData | None:
        """End a task, the one that is open by default, and return what it used."""
        with self._lock:
            name, run = task_name or self._active_task, self._run
            if run is None or name not in run.tasks:
                LOGGER.warning("stop_task : No active task to stop.")
                return None
            if not run.tasks[name].is_active:
                return run.tasks[name].emissions_data
            self._active_task = None
            return run.end_task(name)

    # -- what else people use -----------------------------------------------------------------

    def service_shutdown(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop, as a handler of a signal."""
        self.stop()

    def get_detected_hardware(self) -> dict[str, Any]:
        """The processor, memory and GPUs, by CodeCarbon's names."""
        with self._lock:
            run = self._run
            made = run or Run(self._tracker(region_of(self._conf)), "hardware", {}, {})
            data = made.data()
            if run is None:
                made.close()
        return {
            "ram_total_size": data.ram_total_size,
            "cpu_count": data.cpu_count,
            "cpu_physical_count": None,
            "cpu_model": data.cpu_model,
            "gpu_count": data.gpu_count,
            "gpu_model": data.gpu_model,
            "gpu_ids": self._conf["gpu_ids"],
        }

    @property
    def _tasks(self) -> Mapping[str, Task]:
        return {} if self._run is None else self._run.tasks

    @property
    def _total_energy(self) -> Energy:
        return self._energy("energy_consumed")

    @property
    def _total_cpu_energy(self) -> Energy:
        return self._energy("cpu_energy")

    @property
    def _total_gpu_energy(self) -> Energy:
        return self._energy("gpu_energy")

    @property
    def _total_ram_energy(self) -> Energy:
        return self._energy("ram_energy")

    @property
    def _total_emissions(self) -> float:
        data = self._data()
        return 0.0 if data is None else data.emissions

    def _energy(self, name: str) -> Energy:
        data = self._data()
        return Energy(0.0 if data is None else getattr(data, name))

    def _data(self) -> EmissionsData | None:
        return self.final_emissions_data if self._run is None else self._run.data()

    def __enter__(self) -> BaseEmissionsTracker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class EmissionsTracker(BaseEmissionsTracker):
    """A tracker that finds out where it is, offline; see `BaseEmissionsTracker`."""


class OfflineEmissionsTracker(BaseEmissionsTracker):
    """A tracker that is told where it is, by `country_iso_code` or a cloud's region."""

    _known: ClassVar[Mapping[str, Parameter]] = {**PARAMETERS, **PLACES}


def _stop_at_exit(found: Callable[[], BaseEmissionsTracker | None]) -> None:
    tracker = found()
    if tracker is not None and tracker._run is not None:
        tracker.stop()


def _kept_in(do: Callable[[], T]) -> T | None:
    """What `do` returns; what it raises is logged, as in CodeCarbon, and None."""
    result, error = attempt(do)
    if error is not None:
        LOGGER.error("carbontrack: %s", error, exc_info=error)
    return result


def _by_name(
    given: tuple[Any, ...], named: dict[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    names = [name for name in known if name not in PLACES]
    if len(given) > len(names):
        raise TypeError(f"at most {len(names)} positional arguments, not {len(given)}")
    found = dict(zip(names, given, strict=False))
    twice = sorted(found.keys() & named.keys())
    if twice:
        raise TypeError(f"{twice[0]} is given twice")
    return {**found, **{name: one for name, one in named.items() if one is not NOT_GIVEN}}
