"""A small HTTP server that receives records, for trying and testing the HTTP output.

`python -m carbontrack.testing.receiver` listens on http://127.0.0.1:8765/records and prints a line
for each record. In a test, `Receiver(faults=…)` fails in the ways of real networks and servers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_BODY_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """How one request fails.

    Attributes:
        status: the status of the answer; None closes the connection without one.
        headers: headers of the answer, such as Retry-After or Location.
        store: whether the records are kept anyway, as when only the answer is lost.
        hang: do not answer until the receiver stops.
    """

    status: int | None = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    store: bool = False
    hang: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it arrived."""

    headers: Mapping[str, str]
    record_ids: tuple[str, ...]
    body: bytes


Faults = Callable[[int], Fault | None]
"""Maps the number of a request, starting with 0, to its fault, if any."""


class Receiver:
    """A server on this machine that runs for the duration of a `with` block.

    Attributes:
        requests: all requests, accepted or not.
        records: the accepted records, including repetitions.
        connections: the number of accepted connections.
    """

    def __init__(
        self,
        *,
        faults: Faults = lambda _: None,
        token: str | None = None,
        batch_limit: int | None = None,
        port: int = 0,
        on_record: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.records: list[dict[str, Any]] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._faults = faults
        self._token = token
        self._batch_limit = batch_limit
        self._on_record = on_record
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        self._server.accepted = self._count_connection
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="receiver", daemon=True
        )

    @property
    def url(self) -> str:
        """The address to send records to."""
        return f"http://127.0.0.1:{self._server.server_port}/records"

    @property
    def record_ids(self) -> set[str]:
        """The ids of the accepted records."""
        with self._lock:
            return {record["record_id"] for record in self.records}

    def answer(self, headers: Mapping[str, str], body: bytes) -> Fault:
        """Answer one request, and keep its records if they are accepted."""
        batch = json.loads(body)
        ids = tuple(record["record_id"] for record in batch)
        with self._lock:
            fault = self._faults(len(self.requests)) or self._judge(headers, batch)
            self.requests.append(Request(headers, ids, body))
            if fault.store:
                self.records += batch
        if fault.store and self._on_record is not None:
            for record in batch:
                self._on_record(record)
        return fault

    def _judge(self, headers: Mapping[str, str], batch: list[Any]) -> Fault:
        if self._token is not None and headers.get("Authorization") != f"Bearer {self._token}":
            return Fault(401)
        if self._batch_limit is not None and len(batch) > self._batch_limit:
            return Fault(413)
        return Fault(204, store=True)

    def _count_connection(self) -> None:
        self.connections += 1

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    accepted: Callable[[], None]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count the connection, and answer its requests in a thread."""
        self.accepted()
        super().process_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: connections are closed on purpose here."""


def _handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            size = min(int(self.headers.get("Content-Length", 0)), _BODY_LIMIT)
            fault = receiver.answer(dict(self.headers), self.rfile.read(size))
            if fault.hang:
                receiver.stopping.wait()
            if fault.hang or fault.status is None:
                self.close_connection = True
                return
            self.send_response(fault.status)
            for name, text in fault.headers.items():
                self.send_header(name, text)
            if fault.status != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing: the terminal is for the records."""

    return Handler


def main(argv: list[str] | None = None) -> int:
    """Listen and print what arrives, until interrupted."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m carbontrack.testing.receiver")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--token", help="refuse requests without this token")
    args = parser.parse_args(argv)
    seen: set[str] = set()

    def show(record: Mapping[str, Any]) -> None:
        again = " (again)" if record["record_id"] in seen else ""
        seen.add(record["record_id"])
        print(  # noqa: T201 - a command
            f"{record['ended_at']}  {record['name']}: {record['energy_kwh']} kWh, "
            f"{record['emissions_g']} g CO2e{again}",
            flush=True,
        )

    with Receiver(port=args.port, token=args.token, on_record=show) as receiver:
        print(f"listening on {receiver.url}; stop with Ctrl+C", flush=True)  # noqa: T201
        try:
            receiver.stopping.wait()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
