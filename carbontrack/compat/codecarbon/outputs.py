"""Where CodeCarbon's rows go: a CSV file, a logger, an address, or what a program makes itself."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData
from carbontrack.compat.codecarbon.log import LOGGER


class OutputMethod(str, Enum):
    """The names of outputs."""

    CSV = "csv"
    API = "api"
    LOGGER = "logger"
    PROMETHEUS = "prometheus"
    LOGFIRE = "logfire"
    BOAMPS = "boamps"


class BaseOutput:
    """An output; a program's own may overwrite any of these."""

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Take the row at `flush` and `stop`, and what has been added since the last one."""

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Take the row of a run that goes on, each `api_call_interval` measures."""

    def task_out(self, data: Sequence[TaskEmissionsData], experiment_name: str) -> None:
        """Take the rows of the tasks that have ended, at `flush` and `stop`."""

    def exit(self) -> None:
        """The run has ended."""


class FileOutput(BaseOutput):
    """A CSV file.

    Raises:
        ValueError: `on_csv_write` is neither "append" nor "update".
        OSError: the folder does not exist.
    """

    def __init__(
        self, output_file_name: str, output_dir: str, on_csv_write: str = "append"
    ) -> None:
        if on_csv_write not in ("append", "update"):
            raise ValueError(f"on_csv_write is 'append' or 'update', not {on_csv_write!r}")
        if not Path(output_dir).exists():
            raise OSError(f"Folder {output_dir!r} doesn't exist")
        self.output_file_name, self.output_dir = output_file_name, output_dir
        self.on_csv_write = on_csv_write
        self.save_file_path = str(Path(output_dir) / output_file_name)

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:  # noqa: ARG002
        """Append the row."""
        path = Path(self.save_file_path)
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(total.values))
            if is_new:
                writer.writeheader()
            writer.writerow(total.values)


class LoggerOutput(BaseOutput):
    """A logger, which gets each row as JSON."""

    def __init__(self, logger: Any, severity: int = logging.INFO) -> None:
        self.logger, self.logging_severity = logger, severity

    def out(self, total: EmissionsData, delta: EmissionsData | None) -> None:  # noqa: ARG002
        """Log the row."""
        self.logger.log(self.logging_severity, msg=json.dumps(dataclasses.asdict(total)))

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Log the row of a run that goes on."""
        self.out(total, delta)


def outputs_of(conf: Any) -> list[BaseOutput]:
    """The outputs that the parameters name; a list that was given is extended in place."""
    handlers: list[BaseOutput] = [] if conf["output_handlers"] is None else conf["output_handlers"]
    methods = _methods(conf)
    if OutputMethod.CSV in methods:
        handlers.append(FileOutput(conf["output_file"], conf["output_dir"], conf["on_csv_write"]))
    if OutputMethod.LOGGER in methods:
        handlers.append(conf["logging_logger"] or LoggerOutput(LOGGER))
    return handlers


def _methods(conf: Any) -> list[OutputMethod]:
    given = conf["output_methods"]
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    if given is not None:
        return [OutputMethod(one) for one in given]
    flags = {OutputMethod.CSV: "save_to_file", OutputMethod.LOGGER: "save_to_logger"}
    return [method for method, name in flags.items() if conf[name]]
