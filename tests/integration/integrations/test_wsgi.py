"""WSGI applications behind the middleware: what a server sees is unchanged, and whose energy it is.

Flask and gunicorn are the real ones.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import flask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.integrations.wsgi import CarbontrackMiddleware
from carbontrack.record import Record
from carbontrack.testing import FakeMeter, MemorySink
from tests.support.gunicorns import check_three_routes, serving


class Counted:
    """A tracker whose rows a test reads: calls and failures by name."""

    def __init__(self, **given: Any) -> None:
        self._sink = MemorySink()
        meters = [FakeMeter(watts=100.0)]
        self.tracker = carbontrack.Tracker(meters=meters, sinks=[self._sink], **given)

    def rows(self) -> list[Record]:
        self.tracker.close()
        return self._sink.records

    def calls(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for row in self.rows():
            found[row.name] += row.calls or 1
        return dict(found)


@pytest.fixture
def counted() -> Iterator[Counted]:
    counted = Counted()
    yield counted
    counted.tracker.close()


def flask_app() -> flask.Flask:
    """An application with every kind of route that names a request."""
    app = flask.Flask("shop", static_folder=None)
    api = flask.Blueprint("api", "shop", url_prefix="/api/v1")

    @api.route("/carts/<key>", methods=["GET", "POST"])
    def cart(key: str) -> str:
        return key

    @app.route("/items/<int:number>")
    def item(number: int) -> str:
        return str(number)

    @app.route("/stream")
    def stream() -> flask.Response:
        return flask.Response(flask.stream_with_context(c for c in ("a", "b")))

    @app.route("/boom")
    def boom() -> str:
        raise LookupError("no such thing")

    app.register_blueprint(api)
    return app


def test_a_request_to_flask_is_named_by_its_method_and_rule(counted: Counted) -> None:
    """A rule with its prefix and converters; one name for all that match nothing, or no method."""
    app = flask_app()
    app.wsgi_app = CarbontrackMiddleware(app.wsgi_app, routes=True, tracker=counted.tracker)
    client = app.test_client()
    for path in ("/items/1", "/items/2", "/api/v1/carts/x", "/stream", "/boom", "/etc/passwd"):
        with client.get(path) as answer:
            answer.get_data()
    client.post("/api/v1/carts/x").close()
    client.put("/items/3").close()  # 405: Flask has no rule for it
    client.head("/items/4").close()
    client.open("/items/5", method="BREW").close()
    assert counted.calls() == {
        "GET /items/<int:number>": 2,
        "GET /api/v1/carts/<key>": 1,
        "GET /stream": 1,
        "GET /boom": 1,
        "GET (no route)": 1,
        "POST /api/v1/carts/<key>": 1,
        "PUT (no route)": 1,
        "HEAD /items/<int:number>": 1,
        "_OTHER (no route)": 1,
    }


@pytest.mark.parametrize("propagates", [False, True])
def test_a_view_that_raises_is_a_failed_call_of_its_route(
    counted: Counted, propagates: bool
) -> None:
    """Whether Flask answers with 500, or hands the exception on, as it does in debug mode."""
    app = flask_app()
    app.config["PROPAGATE_EXCEPTIONS"] = propagates
    app.wsgi_app = CarbontrackMiddleware(app.wsgi_app, routes=True, tracker=counted.tracker)
    if propagates:
        with pytest.raises(LookupError, match="no such thing"):
            app.test_client().get("/boom")
    else:
        assert app.test_client().get("/boom", buffered=True).status_code == 500
    (row,) = counted.rows()
    assert (row.name, row.status, row.calls) == ("GET /boom", "error", 1)


def test_without_routes_all_requests_have_one_name(counted: Counted) -> None:
    """As few rows as can be."""
    app = flask_app()
    app.wsgi_app = CarbontrackMiddleware(app.wsgi_app, name="shop", tracker=counted.tracker)
    for path in ("/items/1", "/nowhere", "/stream"):
        app.test_client().get(path, buffered=True)
    assert counted.calls() == {"shop": 3}


def test_two_middlewares_count_a_request_once(counted: Counted) -> None:
    """The outer one does, as it has more of the request."""
    app = flask_app()
    for name in ("inner", "outer"):
        app.wsgi_app = CarbontrackMiddleware(app.wsgi_app, name=name, tracker=counted.tracker)
    app.test_client().get("/items/1", buffered=True)
    assert counted.calls() == {"outer": 1}


def test_other_frameworks_are_named_by_a_function(counted: Counted) -> None:
    """It is asked when the request has ended; what it raises reaches nobody."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["shop.route"] = "/items/{number}"
        start_response("200 OK", [])
        return [b""]

    def answer(template: Any) -> None:
        middleware = CarbontrackMiddleware(app, routes=template, tracker=counted.tracker)
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        assert middleware(environ, lambda *_: None) == [b""]

    answer(lambda environ: environ["shop.route"])
    answer(lambda environ: environ["misspelt"])
    answer(lambda environ: None)
    assert counted.calls() == {"GET /items/{number}": 1, "GET (no route)": 2}


def test_a_lone_request_pays_for_the_threads_that_work_for_it() -> None:
    """Such as those of a numerical library; beside other requests nobody knows whose they are."""
    counted = Counted(attribution="process", interval_s=3600.0)

    def burn() -> None:
        until_s = time.thread_time() + 0.02
        while time.thread_time() < until_s:
            pass

    def burn_in_a_thread() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(burn).result()

    def ask(work: Any, name: str) -> Any:
        def app(_environ: dict[str, Any], _start: Any) -> Iterator[bytes]:
            work()
            return iter([b""])

        return CarbontrackMiddleware(app, name=name, tracker=counted.tracker)({}, lambda *_: None)

    for name in (
        "own",
        "lone",
        "beside",
        "other",
    ):  # so that all is shared out at the end
        ask(lambda: None, name).close()
    ask(burn, "own").close()
    ask(burn_in_a_thread, "lone").close()
    other = ask(lambda: None, "other")
    ask(burn_in_a_thread, "beside").close()
    other.close()
    cpu_kwh: Counter[str] = Counter()
    for row in counted.rows():
        cpu_kwh[row.name] += row.cpu_kwh or 0.0
    assert 0.8 < cpu_kwh["lone"] / cpu_kwh["own"] < 1.5
    assert 0.0 < cpu_kwh["beside"] < 0.2 * cpu_kwh["own"]


def test_what_cannot_be_used_is_said_when_the_middleware_is_made() -> None:
    """Before the server starts."""
    with pytest.raises(ConfigError, match="regoin"):
        CarbontrackMiddleware(flask_app().wsgi_app, regoin="FR")
    with pytest.raises(ConfigError, match="name"):
        CarbontrackMiddleware(flask_app().wsgi_app, name="")
    with pytest.raises(ConfigError, match="routes"):
        CarbontrackMiddleware(flask_app().wsgi_app, routes="yes")  # type: ignore[arg-type]


# -- the protocol -------------------------------------------------------------------------------

STEPS = ["app", "iter", "next", "close"]


class Script:
    """A WSGI application by a script, which notes what a server does with it."""

    def __init__(self, kind: str, chunks: list[bytes], fails_at: str | None, late: bool) -> None:
        self.kind, self.chunks, self.fails_at, self.late = kind, chunks, fails_at, late
        self.error = LookupError(fails_at)
        self.seen: list[object] = []
        self.start: Any = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.start = start_response
        self._at("app")
        if not self.late or self.kind == "list":
            self.begin()
        if self.kind == "list":
            return self.chunks
        if self.kind == "generator":
            return self._generator()
        return self

    def begin(self) -> None:
        write = self.start("200 OK", [("Content-Type", "text/plain")])
        self.seen.append(("write", callable(write)))
        try:
            raise ValueError("too late to be another answer")
        except ValueError:
            self.start("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())

    def _generator(self) -> Iterator[bytes]:
        try:
            yield from self
        finally:
            self.close()

    def __iter__(self) -> Iterator[bytes]:
        self._at("iter")
        if self.late:
            self.begin()
        for chunk in self.chunks:
            yield chunk
            self._at("next")

    def close(self) -> None:
        self._at("close")

    def _at(self, step: str) -> None:
        self.seen.append(step)
        if step == self.fails_at:
            raise self.error


def served(app: Any, reads: int) -> list[object]:
    """What a server sees of an application, up to so many chunks."""
    seen: list[object] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        seen.append((status, headers, exc_info and exc_info[0]))
        return seen.append

    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    setup_testing_defaults(environ)
    body = None
    try:
        body = app(environ, start_response)
        for _, chunk in zip(range(reads), body, strict=False):
            seen.append(chunk)
    except LookupError as error:
        seen.append(error.args)
    try:
        if hasattr(body, "close"):
            body.close()
    except LookupError as error:
        seen.append(error.args)
    return seen


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["list", "generator", "object"]),
    chunks=st.lists(st.just(b"x"), max_size=3),
    fails_at=st.sampled_from([None, *STEPS]),
    late=st.booleans(),
    reads=st.integers(0, 4),
)
def test_a_server_sees_what_it_would_see_without_it(
    kind: str, chunks: list[bytes], fails_at: str | None, late: bool, reads: int
) -> None:
    """Whatever the application returns and wherever it fails; each request is counted once."""
    bare, wrapped = (Script(kind, chunks, fails_at, late) for _ in range(2))
    counted = Counted()
    middleware = CarbontrackMiddleware(wrapped, tracker=counted.tracker)
    assert served(middleware, reads) == served(bare, reads)
    assert wrapped.seen == bare.seen
    assert counted.calls() == {"requests": 1}


def test_both_sides_keep_the_protocol(counted: Counted) -> None:
    """By the validator of the standard library, which stands for the server and the application."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"a", b"b"]

    checked = validator(CarbontrackMiddleware(validator(app), tracker=counted.tracker))
    environ: dict[str, Any] = {"QUERY_STRING": ""}
    setup_testing_defaults(environ)
    body = checked(environ, lambda *_: lambda _: None)
    assert list(body) == [b"a", b"b"]
    body.close()
    assert counted.calls() == {"requests": 1}


def test_a_file_that_the_server_sends_stays_what_it_is(counted: Counted) -> None:
    """So that it may use `sendfile`; a list, by whose length a server knows the content's."""
    for body in (FileWrapper(BytesIO(b"all of it")), [b"all of it"]):
        middleware = CarbontrackMiddleware(lambda _, __, it=body: it, tracker=counted.tracker)
        assert middleware({"wsgi.file_wrapper": FileWrapper}, lambda *_: None) is body
        getattr(body, "close", lambda: None)()
    sent = BytesIO(b"as it is")  # as uWSGI does, whose wrapper is a function
    middleware = CarbontrackMiddleware(lambda _, __: sent, tracker=counted.tracker)
    assert middleware({"wsgi.file_wrapper": lambda file, _size: file}, lambda *_: None) is sent
    assert counted.calls() == {"requests": 3}


def test_a_body_that_no_server_closes_is_counted_when_it_is_gone(counted: Counted) -> None:
    """Some servers drop it."""
    middleware = CarbontrackMiddleware(lambda _, __: iter([b"x"]), tracker=counted.tracker)
    body = middleware({}, lambda *_: None)
    assert list(body) == [b"x"]
    del body
    assert counted.calls() == {"requests": 1}


def test_flask_has_the_names_that_are_used_of_it() -> None:
    """A release that renames one of these is seen here, and not by its users."""
    from werkzeug.routing import Rule

    missing = [
        name
        for owner, name in (
            (flask, "request_started"),
            (flask.Flask, "wsgi_app"),
            (flask.Request, "url_rule"),
            (Rule("/x"), "rule"),
        )
        if not hasattr(owner, name)
    ]
    assert missing == [], "Flask has no such name any more; look where it has gone"


# -- a real server ------------------------------------------------------------------------------

PROGRAM = """
import atexit
import os
import time

import flask

import carbontrack
from carbontrack.integrations.wsgi import CarbontrackMiddleware

if os.environ.get("WHOLE"):
    # by other readings, so that nothing of it is shared with the requests
    whole = carbontrack.auto(output="whole.csv", procfs_path="/proc/.").span("process").open()
    atexit.register(whole.close)
app = flask.Flask("shop")


def work(kind, number):
    if kind == "wait":
        time.sleep(0.3)
    until_s = time.thread_time() + {"dear": 0.08, "cheap": 0.001, "wait": 0.0}[kind]
    while time.thread_time() < until_s:
        pass
    return kind


for kind in ("dear", "cheap", "wait"):
    app.add_url_rule(f"/{kind}/<int:number>", kind, work, defaults={"kind": kind})
app.wsgi_app = CarbontrackMiddleware(
    app.wsgi_app, routes=True, region="FR", output="rows.csv"
)
application = app
"""


@pytest.mark.xdist_group("servers")  # a free port is looked for, then taken
@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn")
class TestGunicorn:
    """Workers that are recycled while requests come, threads that share a process."""

    def test_a_request_that_waits_pays_nothing_for_those_that_work(self, tmp_path: Path) -> None:
        """Each route pays for the CPU of its own threads; all pay no more than the process."""
        check_three_routes(tmp_path, PROGRAM, "GET /{}/<int:number>")

    def test_a_recycled_worker_writes_what_it_has_counted(self, tmp_path: Path) -> None:
        """Of two workers, each with one request at a time, which end after every seventh or so."""
        options = ("--workers", "2", "--max-requests", "7", "--max-requests-jitter", "3")
        with serving(tmp_path, PROGRAM, *options) as server:
            server.ask_all(*([f"/cheap/{n}" for n in range(20)] for _ in range(2)))
            server.end()
        rows = server.rows()
        assert {row.name for row in rows} == {"GET /cheap/<int:number>"}
        assert len({row.pid for row in rows}) > 2
        assert sum(row.calls or 0 for row in rows) == 40
