"""The outputs of CodeCarbon's rows: a CSV file, a logger, an address, or a program's own class."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from carbontrack.compat.codecarbon.csv_rows import append_row, header_of, replace_rows, update_row
from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData
from carbontrack.compat.codecarbon.log import LOGGER, warn_once
from carbontrack.system.interrupts import attempt

CREATED = 201
"""The HTTP status with which a server confirms the row."""


class OutputMethod(str, Enum):
    """The names of outputs."""

    CSV = "csv"
    API = "api"
    LOGGER = "logger"
    PROMETHEUS = "prometheus"
    LOGFIRE = "logfire"
    BOAMPS = "boamps"


_ELSEWHERE: Mapping[OutputMethod, str] = {
    OutputMethod.API: "it has no hosted service; name your own server with "
    "emissions_endpoint, or with CARBONTRACK_OUTPUT=https://…",
    OutputMethod.PROMETHEUS: "carbontrack.integrations.prometheus is scraped; it pushes nothing",
    OutputMethod.LOGFIRE: "carbontrack.integrations.opentelemetry exports to any backend",
    OutputMethod.BOAMPS: "`carbontrack report --format boamps` writes a BoAmps report",
}


class BaseOutput:
    """An output; a program's own may override any of these methods."""

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Receive the row at `flush` and `stop`, and the increase since the last one."""

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Receive the row of a running run, each `api_call_interval` measures."""

    def task_out(self, data: Sequence[TaskEmissionsData], experiment_name: str) -> None:
        """Receive the rows of finished tasks, at `flush` and `stop`."""

    def exit(self) -> None:
        """The run has ended."""


class FileOutput(BaseOutput):
    """A CSV file, and next to it one with the tasks of each run.

    Args:
        output_file_name: its name.
        output_dir: its directory.
        on_csv_write: "append" adds a row each time; "update" replaces the row of the same run.

    Raises:
        ValueError: `on_csv_write` is neither "append" nor "update".
        OSError: the directory does not exist.
    """

    def __init__(
        self, output_file_name: str, output_dir: str, on_csv_write: str = "append"
    ) -> None:
        if on_csv_write not in ("append", "update"):
            raise ValueError(f"on_csv_write must be 'append' or 'update', not {on_csv_write!r}")
        if not os.path.exists(output_dir):  # noqa: PTH110 - a text, as theirs
            raise OSError(f"Folder {output_dir!r} doesn't exist")
        self.output_file_name, self.output_dir = output_file_name, output_dir
        self.on_csv_write = on_csv_write
        self.save_file_path = os.path.join(output_dir, output_file_name)  # noqa: PTH118 - as above

    def has_valid_headers(self, data: EmissionsData, headers: list[str] | None = None) -> bool:
        """Whether the file has the columns of the row, in any order; an empty file has."""
        found = header_of(Path(self.save_file_path)) if headers is None else headers
        return not found or sorted(found) == sorted(data.values)

    def out(self, total: EmissionsData, delta: EmissionsData | None = None) -> None:  # noqa: ARG002
        """Write the row of a run; a file with other columns is kept under another name."""
        write = append_row if self.on_csv_write == "append" else update_row
        _, error = attempt(write, Path(self.save_file_path), total.values)
        _say(self.save_file_path, error)

    def task_out(self, data: Sequence[TaskEmissionsData], experiment_name: str) -> None:
        """Write the rows of a run's tasks to a separate file, with the name of that moment."""
        name = f"emissions_{experiment_name}_{data[0].run_id}.csv"
        path = Path(self.output_dir) / name
        _, error = attempt(replace_rows, path, [one.values for one in data])
        _say(path, error)


class LoggerOutput(BaseOutput):
    """A logger, which receives each row as JSON, including those of a running run."""

    def __init__(self, logger: Any, severity: int = logging.INFO) -> None:
        self.logger, self.logging_severity = logger, severity

    def out(self, total: EmissionsData, delta: EmissionsData | None) -> None:  # noqa: ARG002
        """Log the row."""
        _, error = attempt(self._log, dataclasses.asdict(total))
        _say("logger", error)

    def live_out(self, total: EmissionsData, delta: EmissionsData | None) -> None:  # noqa: ARG002
        """Log the row of a running run."""
        self.out(total, None)

    def _log(self, row: dict[str, Any]) -> None:
        self.logger.log(self.logging_severity, msg=json.dumps(row))


class GoogleCloudLoggerOutput(LoggerOutput):
    """A logger of Google Cloud, which receives each row unchanged."""

    def _log(self, row: dict[str, Any]) -> None:
        self.logger.log_struct(row, severity=self.logging_severity)


class HTTPOutput(BaseOutput):
    """An address to which each row is sent as JSON, at `flush` and `stop`.

    CodeCarbon adds `user`, the login name; this does not. A redirect is not followed.
    """

    TIMEOUT_S: ClassVar[float] = 10.0

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url

    def out(self, total: EmissionsData, delta: EmissionsData | None) -> None:  # noqa: ARG002
        """Post the row."""
        _, error = attempt(self._post, json.dumps(dataclasses.asdict(total)))
        _say("emissions_endpoint", error)

    def _post(self, body: str) -> None:
        from carbontrack.system.http import exchange, new_session
        from carbontrack.system.urls import shown

        with new_session() as session:
            answer = exchange(
                session,
                "POST",
                self.endpoint_url,
                timeout_s=self.TIMEOUT_S,
                data=body.encode(),
                headers={"Content-Type": "application/json"},
            )
        if answer.status != CREATED:
            where = shown(self.endpoint_url)
            LOGGER.warning("%s answered with status %d, not 201", where, answer.status)


def _say(place: str | Path, error: Exception | None) -> None:
    if error is not None:
        LOGGER.error("no row was written to %s: %s: %s", place, type(error).__name__, error)


def outputs_of(conf: Any) -> list[BaseOutput]:
    """The outputs that the parameters name; a given list is extended in place.

    Raises:
        ValueError: an output method is not in `OutputMethod`, or as for `FileOutput`.
        OSError: as for `FileOutput`.
    """
    handlers: list[BaseOutput] = [] if conf["output_handlers"] is None else conf["output_handlers"]
    methods = _methods(conf)
    if OutputMethod.CSV in methods:
        handlers.append(FileOutput(conf["output_file"], conf["output_dir"], conf["on_csv_write"]))
    if OutputMethod.LOGGER in methods:
        handlers.append(conf["logging_logger"] or LoggerOutput(LOGGER))
    if conf["emissions_endpoint"]:
        handlers.append(HTTPOutput(conf["emissions_endpoint"]))
    for method in methods:
        if method in _ELSEWHERE:
            warn_once(f"output method {method.value!r} does nothing in carbontrack: "
                      f"{_ELSEWHERE[method]}")  # fmt: skip
    return handlers


def _methods(conf: Any) -> list[OutputMethod]:
    given = conf["output_methods"]
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    if given is not None:
        return [OutputMethod(one) for one in given]
    flags = {OutputMethod.CSV: "save_to_file", OutputMethod.LOGGER: "save_to_logger"}
    return [method for method, name in flags.items() if conf[name]]
