"""CodeCarbon's trackers: `start()`, `stop()`, tasks, rows; the measurement is carbontrack's."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, TypeVar

from carbontrack.api.track import PROVIDER
from carbontrack.compat.codecarbon.config import (
    PARAMETERS,
    PLACES,
    Conf,
    external_config,
    signature,
)
from carbontrack.compat.codecarbon.data import EmissionsData
from carbontrack.compat.codecarbon.log import LOGGER, set_level, set_preamble, warn_once
from carbontrack.compat.codecarbon.outputs import BaseOutput, outputs_of
from carbontrack.compat.codecarbon.place import columns_of, region_of
from carbontrack.compat.codecarbon.run import Energy, LiveRows, Run, RunTask, tell
from carbontrack.compat.codecarbon.running import RUNNING
from carbontrack.compat.codecarbon.settings import settings_of
from carbontrack.meters.cpu_info import sockets_online
from carbontrack.record import NAME_LIMIT, Record, Status
from carbontrack.system.forking import remember
from carbontrack.system.interrupts import attempt, reentrant_lock
from carbontrack.tracking.tracker import NoOpTracker, Tracker

MODES = ("machine", "process")
_COMPONENTS = {"cpu": "cpu_threads", "ram": "ram_gib", "gpu": "gpu_count"}
T = TypeVar("T")


class BaseEmissionsTracker:
    """The base class of both trackers; the parameters are CodeCarbon's.

    Nothing is measured before `start()`. A tracker may be started again after `stop()`, and then
    starts a new run. There is no geo look-up, no account, no lock file and no signal handler.

    Raises:
        TypeError: there is no such parameter.
        OSError: `output_dir` does not exist.
        ValueError: `on_csv_write` is neither "append" nor "update", or an output method is unknown.
        AssertionError: `tracking_mode` is neither "machine" nor "process".
        ConfigError: carbontrack's own environment or files cannot be used.
    """

    _arguments: ClassVar[Iterable[str]] = PARAMETERS
    _frames = 3
    """The number of frames between the caller and the place of a warning."""

    def __init__(self, *given: Any, **named: Any) -> None:
        conf = Conf(by_name(given, named), external_config(), self._arguments)
        _check(conf, self._frames)
        self._conf = conf
        self._region = region_of(conf)
        self._settings = settings_of(conf, self._region)
        self._project_name = str(conf["project_name"])
        self._experiment_name = str(conf["experiment_name"])
        self._output_handlers: list[BaseOutput] = outputs_of(conf)
        self.run_id: Any = uuid.uuid4()
        self.final_emissions: float | None = None
        self.final_emissions_data: EmissionsData | None = None
        self.outcome: tuple[Status, str | None] = ("ok", None)
        """The status of carbontrack's own record, which has more detail than CodeCarbon's row."""
        self._run_number = 0
        self.forget_parent()
        remember(self)

    def forget_parent(self) -> None:
        """In a forked child: the running trackers are the parent's."""
        self._lock = reentrant_lock()
        self._run: Run | None = None
        self._live: LiveRows | None = None
        self._active_task: str | None = None
        self._last_tasks: Mapping[str, RunTask] = {}

    # -- from start to stop -------------------------------------------------------------------

    def start(self) -> None:
        """Start measuring; after `stop()` this starts a new run."""
        kept_in(self._start)

    def stop(self) -> float | None:
        """End, write the row, and return the emissions in kg; None if it was never started."""
        return kept_in(self._stop)

    def flush(self) -> float | None:
        """Write the row so far, continue, and return the emissions in kg."""
        return kept_in(self._flush)

    def _start(self) -> None:
        with self._lock:
            if self._run is not None:
                LOGGER.warning("Already started tracking")
                return
            _, live = self._open()
        live.start()

    def _open(self) -> tuple[Run, LiveRows]:
        if self._run_number:  # so that the row of an earlier run is not updated to this one's
            self.run_id = uuid.uuid4()
        self._run_number += 1
        self.outcome, self._last_tasks = ("ok", None), {}
        labels = {"codecarbon_run_id": str(self.run_id)}
        self._run = run = Run(self._tracker(), _span_name(self._project_name), labels, self._said)
        seconds, each = self._conf["measure_power_secs"], self._conf["api_call_interval"]
        self._live = live = LiveRows(run, self._output_handlers, seconds, each)
        if RUNNING and self._settings.scope == "process":
            warn_once(
                "trackers in tracking_mode='process' that run at the same time share the energy of "
                "the process: their rows add up to it"
            )
        RUNNING.add(self)
        return run, live

    def _said(self, record: Record) -> Mapping[str, Any]:
        return {
            "project_name": self._project_name,
            "run_id": str(self.run_id),
            "experiment_id": str(self._conf["experiment_id"]),
            "wue": self._settings.wue or 0.0,
            **columns_of(record, self._region, self._conf),
        }

    def _tracker(self) -> Tracker:
        return NoOpTracker() if self._settings.disable else PROVIDER.get(self._settings)

    def _stop(self) -> float | None:
        with self._lock:
            run, live = self._run, self._live
            if run is None:
                LOGGER.warning("Tracker already stopped or never started.")
                return self.final_emissions
            # each step may be done again, by a second call after a signal's handler has raised
            if live is not None:
                live.stop()
            run.close(*self.outcome)
            self._last_tasks = run.tasks
            if run.untold is None:
                total, _ = self._rows = run.data_and_added()
                self.final_emissions_data, self.final_emissions = total, total.emissions
                _warn_of_unknown(run.span.snapshot())
                run.untold = list(self._output_handlers) if run.is_counted else []
            while run.untold:
                self._tell(run, run.untold[0], *self._rows)
                tell(run.untold.pop(0), "exit")
            self._run = self._live = self._active_task = None
            RUNNING.discard(self)
            return self.final_emissions

    def _flush(self) -> float | None:
        with self._lock:
            run = self._run
            if run is None:
                LOGGER.error("You first need to start the tracker.")
                return None
            if self._live is not None:
                self._live.measure()
            rows = run.data_and_added()
            for output in list(self._output_handlers) if run.is_counted else ():
                self._tell(run, output, *rows)
            return rows[0].emissions

    def _tell(self, run: Run, output: object, total: EmissionsData, added: EmissionsData) -> None:
        tell(output, "out", total, added)
        if tasks := run.task_rows():
            tell(output, "task_out", tasks, self._experiment_name)

    # -- tasks --------------------------------------------------------------------------------

    def start_task(self, task_name: str | None = None) -> str | None:
        """Begin a task, inside the run that is open or in one that begins with it.

        Returns:
            Its name, for `stop_task`; None if another task is open.
        """
        return kept_in(lambda: self._start_task(task_name))

    def _start_task(self, task_name: str | None) -> str | None:
        with self._lock:
            if self._active_task is not None:
                LOGGER.warning("A task is already under measure")
                return None
            run = self._run or self._open()[0]
            name = str(task_name or uuid.uuid4())
            if name in run.tasks:
                name += f"_{uuid.uuid4()}"
            run.begin_task(name)
            self._active_task = name
            return name

    def stop_task(self, task_name: str | None = None) -> EmissionsData | None:
        """End a task, the one that is open by default, and return its row."""
        return kept_in(lambda: self._stop_task(task_name))

    def _stop_task(self, task_name: str | None) -> EmissionsData | None:
        with self._lock:
            task = self._tasks.get(str(task_name or self._active_task or ""))
            if task is None:
                LOGGER.warning("stop_task : No active task to stop.")
                return None
            if task.is_active:
                self._active_task = None
                if self._live is not None:
                    self._live.measure()
            return task.close()

    # -- what else people use -----------------------------------------------------------------

    def service_shutdown(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop; for use as a signal handler of the program."""
        LOGGER.warning("stopped by signal %d", signum)
        self.stop()

    def get_detected_hardware(self) -> dict[str, Any]:
        """The processor, memory and GPUs, by CodeCarbon's names."""
        span = self._tracker().span("hardware").open()
        record = span.snapshot()
        span.discard()
        gpu_ids = self._settings.gpu_ids
        return {
            "ram_total_size": record.ram_gib,
            "cpu_count": record.cpu_threads,
            "cpu_physical_count": sockets_online(Path(self._settings.sysfs_path)),
            "cpu_model": record.cpu_model,
            "gpu_count": record.gpu_count,
            "gpu_model": record.gpu_models or "",
            "gpu_ids": None if gpu_ids is None else list(gpu_ids),
        }

    @property
    def _tasks(self) -> Mapping[str, RunTask]:
        return self._last_tasks if self._run is None else self._run.tasks

    @property
    def _total_energy(self) -> Energy:
        return Energy(self._so_far("energy_consumed"))

    @property
    def _total_cpu_energy(self) -> Energy:
        return Energy(self._so_far("cpu_energy"))

    @property
    def _total_gpu_energy(self) -> Energy:
        return Energy(self._so_far("gpu_energy"))

    @property
    def _total_ram_energy(self) -> Energy:
        return Energy(self._so_far("ram_energy"))

    @property
    def _total_emissions(self) -> float:
        return self._so_far("emissions")

    def _so_far(self, name: str) -> float:
        run = self._run
        data = self.final_emissions_data if run is None else run.data()
        return 0.0 if data is None else float(getattr(data, name))

    def __enter__(self) -> BaseEmissionsTracker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.outcome = ("error", kind.__name__)
        self.stop()


class EmissionsTracker(BaseEmissionsTracker):
    """A tracker that detects its location offline; see `BaseEmissionsTracker`."""


class OfflineEmissionsTracker(BaseEmissionsTracker):
    """A tracker with a given location, by `country_iso_code` or a cloud region."""

    _arguments: ClassVar[Iterable[str]] = (*PARAMETERS, *PLACES)
    _frames = 4

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)


_SIGNATURE = "__signature__"
setattr(BaseEmissionsTracker.__init__, _SIGNATURE, signature(PARAMETERS))
setattr(OfflineEmissionsTracker.__init__, _SIGNATURE, signature(PARAMETERS, PLACES))


def by_name(given: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Positional arguments by their names, and the others.

    Raises:
        TypeError: there are too many, or one is given twice.
    """
    if len(given) > len(PARAMETERS):
        raise TypeError(f"at most {len(PARAMETERS)} positional arguments, not {len(given)}")
    found = dict(zip(PARAMETERS, given, strict=False))
    for name in found.keys() & named.keys():
        raise TypeError(f"{name} is given twice")
    return {**found, **named}


def kept_in(do: Callable[[], T]) -> T | None:
    """What `do` returns; None if it raises, which is logged, as in CodeCarbon."""
    result, error = attempt(do)
    if error is not None:
        LOGGER.error("measuring stops here: %s", error, exc_info=error)
    return result


def _span_name(text: str) -> str:
    """A name for a span: CodeCarbon's may be of any length, and empty."""
    return text.strip()[:NAME_LIMIT] or "codecarbon"


def _check(conf: Conf, frames: int) -> None:
    """Refuse what CodeCarbon refuses, and log what has no counterpart."""
    if not os.path.exists(conf["output_dir"]):  # noqa: PTH110 - a text, as theirs
        raise OSError(f"Folder {conf['output_dir']!r} doesn't exist")
    if conf["tracking_mode"] not in MODES:
        raise AssertionError(f"tracking_mode={conf['tracking_mode']!r} is none of {MODES}")
    set_level(conf["log_level"])
    set_preamble(conf["logger_preamble"])
    conf.warn_of_others()
    if any(name.startswith("save_to_") for name in conf.given):
        warnings.warn(
            "the save_to_* parameters are deprecated; use output_methods=[OutputMethod.CSV, …]",
            DeprecationWarning,
            stacklevel=frames,
        )
    if not conf["allow_multiple_runs"]:
        warn_once(
            "allow_multiple_runs=False creates no lock file here: several trackers may run at the "
            "same time"
        )


def _warn_of_unknown(record: Record) -> None:
    """CodeCarbon's rows cannot express that a value is unknown, so warn of it."""
    for component, fact in _COMPONENTS.items():
        if getattr(record, f"{component}_kwh") is None and getattr(record, fact):
            warn_once(f"the energy of the {component.upper()} is not known; the row says 0.0")
    if record.region_basis == "unknown":
        warn_once(
            "no country is set, and none is looked up over the network: give "
            'OfflineEmissionsTracker(country_iso_code="FRA"), or set '
            "CODECARBON_COUNTRY_ISO_CODE=FRA in the environment"
        )
    if record.emissions_g is None and record.energy_kwh is not None:
        warn_once("the carbon intensity is not known; the row says 0.0 kg")
    if record.scope == "machine" and record.local_rank:
        warn_once(
            f"this is local rank {record.local_rank}, and each rank's row counts the whole "
            "machine: start a tracker in rank 0 only, or give tracking_mode='process'"
        )
