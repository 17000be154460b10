"""Where CodeCarbon's rows go beside the file: loggers, addresses, and what parameters name."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from carbontrack.compat.codecarbon.config import PARAMETERS
from carbontrack.compat.codecarbon.data import EmissionsData, data_of
from carbontrack.compat.codecarbon.outputs import (
    BaseOutput,
    FileOutput,
    GoogleCloudLoggerOutput,
    HTTPOutput,
    LoggerOutput,
    OutputMethod,
    outputs_of,
)
from tests.support.records import a_record

ROW = data_of(a_record(), run_id="run-0", emissions=0.25)


def conf(**given: Any) -> dict[str, Any]:
    """The parameters' values, these and the defaults."""
    return {name: one.default for name, one in PARAMETERS.items()} | given


class Server:
    """A server that answers with a status, and keeps what was posted."""

    def __init__(self, status: int) -> None:
        self.posted: list[tuple[str | None, dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posted.append((self.headers["Content-Type"], json.loads(body)))
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/emissions"

    def __enter__(self) -> Server:
        self.thread = Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the logger `codecarbon` says."""
    with caplog.at_level(logging.INFO, logger="codecarbon"):
        yield caplog


def test_a_logger_gets_rows_as_json(caplog: pytest.LogCaptureFixture) -> None:
    """At the severity that it was made with, and those of a run that goes on too."""
    logger = logging.getLogger("mine")
    output = LoggerOutput(logger, logging.WARNING)
    output.out(ROW, ROW)
    output.live_out(ROW, ROW)

    assert [(r.name, r.levelno) for r in caplog.records] == [("mine", logging.WARNING)] * 2
    assert [json.loads(r.getMessage()) for r in caplog.records] == [asdict(ROW)] * 2


def test_a_logger_of_googles_gets_rows_as_they_are(heard: pytest.LogCaptureFixture) -> None:
    """By its `log_struct`; a logger without one is said, and raises nothing."""

    class Logger:
        def __init__(self) -> None:
            self.rows: list[tuple[Mapping[str, Any], int]] = []

        def log_struct(self, row: Mapping[str, Any], severity: int) -> None:
            self.rows.append((row, severity))

    logger = Logger()
    GoogleCloudLoggerOutput(logger).out(ROW, ROW)
    assert logger.rows == [(asdict(ROW), logging.INFO)]

    GoogleCloudLoggerOutput(object()).out(ROW, ROW)
    assert "no row was written to logger: AttributeError" in heard.text


def test_an_address_gets_the_row_without_a_login_name(heard: pytest.LogCaptureFixture) -> None:
    """As JSON; CodeCarbon adds `user` to it."""
    with Server(201) as server:
        HTTPOutput(server.url).out(ROW, ROW)

    assert server.posted == [("application/json", asdict(ROW))]
    assert "user" not in server.posted[0][1]
    assert heard.text == ""


@pytest.mark.parametrize("status", [200, 307, 500])
def test_an_unexpected_answer_is_said(status: int, heard: pytest.LogCaptureFixture) -> None:
    """Once, without a second request: a redirect is not followed."""
    with Server(status) as server:
        HTTPOutput(server.url).out(ROW, ROW)
    assert len(server.posted) == 1
    assert f"answered with status {status}, not 201" in heard.text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "no address", ""])
def test_an_address_that_does_not_answer_raises_nothing(
    url: str, heard: pytest.LogCaptureFixture
) -> None:
    """A training does not end for it."""
    HTTPOutput(url).out(ROW, ROW)
    assert "no row was written to emissions_endpoint" in heard.text


def test_an_output_may_have_any_of_the_methods() -> None:
    """Those that it does not have do nothing."""

    class Mine(BaseOutput):
        rows = 0

        def out(self, total: EmissionsData, delta: EmissionsData) -> None:
            self.rows += 1

    mine = Mine()
    mine.out(ROW, ROW)
    mine.live_out(ROW, ROW)
    mine.task_out([], "base")
    mine.exit()
    assert mine.rows == 1


def test_the_parameters_name_the_outputs(tmp_path: Path) -> None:
    """A file alone by default; in this order all that there are; the given list is extended."""
    usual = conf(output_dir=str(tmp_path))
    assert [type(one) for one in outputs_of(usual)] == [FileOutput]
    mine: list[BaseOutput] = [BaseOutput()]
    found = outputs_of(
        usual | {"output_methods": "csv, logger", "emissions_endpoint": "http://127.0.0.1:9/",
                 "output_handlers": mine}
    )  # fmt: skip
    assert found is mine
    assert [type(one) for one in mine] == [BaseOutput, FileOutput, LoggerOutput, HTTPOutput]
    assert outputs_of(usual | {"output_methods": []}) == []
    assert outputs_of(usual | {"save_to_file": False}) == []
    with pytest.raises(ValueError, match="parquet"):
        outputs_of(usual | {"output_methods": "parquet"})


def test_a_logger_output_that_is_given_is_used() -> None:
    """As it is, whatever class it has."""
    mine = LoggerOutput(logging.getLogger("mine"))
    given = conf(output_methods=[OutputMethod.LOGGER], logging_logger=mine)
    assert outputs_of(given) == [mine]


@pytest.mark.parametrize("method", ["api", "prometheus", "logfire", "boamps"])
def test_a_method_without_a_counterpart_is_said_once(
    method: str, heard: pytest.LogCaptureFixture
) -> None:
    """With what to do instead; the tracker goes on without it."""
    for _ in range(2):
        assert outputs_of(conf(output_methods=[OutputMethod(method)])) == []
    assert heard.text.count(f"output method {method!r} does nothing in carbontrack") == 1
