"""Django behind the middleware: names, streams, errors, its settings, and whose energy it is."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import django
import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import include, path, re_path

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.integrations.django import CarbontrackMiddleware
from carbontrack.record import Record
from carbontrack.testing import FakeMeter, MemorySink
from tests.support.gunicorns import check_three_routes

MIDDLEWARE = [
    "carbontrack.integrations.django.CarbontrackMiddleware",
    "django.middleware.gzip.GZipMiddleware",  # it wraps what streams
    "django.middleware.common.CommonMiddleware",
]


def item(_request: HttpRequest, pk: int) -> HttpResponse:
    return HttpResponse(str(pk))


async def slow_item(_request: HttpRequest, pk: int) -> HttpResponse:
    await asyncio.sleep(0.0)
    return HttpResponse(str(pk))


def boom(_request: HttpRequest) -> HttpResponse:
    raise LookupError("no such thing")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[str]:
        yield "a"
        if "fails" in request.GET:
            raise LookupError("no such thing")
        yield "b"

    return StreamingHttpResponse(chunks())


async def slow_stream(_request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[str]:
        for chunk in ("a", "b"):
            await asyncio.sleep(0.0)
            yield chunk

    return StreamingHttpResponse(chunks())


def file(_request: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).open("rb"))


async def never(_request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(60.0)
    raise AssertionError


def dear(_request: HttpRequest) -> HttpResponse:
    until_s = time.thread_time() + 0.04
    while time.thread_time() < until_s:
        pass
    return HttpResponse()


async def wait(_request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0.2)
    return HttpResponse()


async def endless(_request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[str]:
        while True:
            yield "more"
            await asyncio.sleep(0.01)

    return StreamingHttpResponse(chunks())


urlpatterns = [
    path("dear", dear),
    path("wait", wait),
    path("endless", endless),
    path("items/<int:pk>/", item),
    path("api/", include([path("slow/<int:pk>/", slow_item), re_path(r"^old/(\d+)$", item)])),
    path("boom", boom),
    path("stream", stream),
    path("slow_stream", slow_stream),
    path("file", file),
    path("never", never),
]


@pytest.fixture(autouse=True, scope="module")
def _django() -> None:
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            LOGGING_CONFIG=None,
            MIDDLEWARE=MIDDLEWARE,
            ROOT_URLCONF=__name__,
            SECRET_KEY="-",
        )
        django.setup()


class Counted:
    """Requests under a tracker of their own, which are its rows afterwards."""

    def __init__(self, middleware: dict[str, Any] | None = None, **given: Any) -> None:
        self._sink = MemorySink()
        meters = [FakeMeter(watts=100.0)]
        self._tracker = carbontrack.Tracker(meters=meters, sinks=[self._sink], **given)
        self._settings = override_settings(
            CARBONTRACK={"tracker": self._tracker, **(middleware or {})}
        )

    def __enter__(self) -> Counted:
        self._settings.enable()
        return self

    def __exit__(self, *_: object) -> None:
        self._settings.disable()
        self._tracker.close()

    @property
    def rows(self) -> list[Record]:
        return self._sink.records

    @property
    def calls(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for row in self.rows:
            found[row.name] += row.calls or 1
        return dict(found)


PATHS = {
    "/items/1/": "GET /items/<int:pk>/",
    "/items/2/": "GET /items/<int:pk>/",
    "/items/3": "GET (no route)",  # Django redirects to the path with a slash
    "/api/slow/1/": "GET /api/slow/<int:pk>/",
    "/api/old/1": r"GET /api/old/(\d+)$",
    "/boom": "GET /boom",
    "/stream": "GET /stream",
    "/slow_stream": "GET /slow_stream",
    "/file": "GET /file",
    "/etc/passwd": "GET (no route)",
}


def read(response: Any) -> bytes:
    """The whole body of what a synchronous handler has answered, which is closed then."""
    try:
        return b"".join(response) if response.streaming else response.content
    finally:
        response.close()


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_request_is_named_by_its_method_and_route() -> None:
    """As Django writes it, with what includes it; one name for all that match nothing."""
    with Counted() as counted:
        client = Client(raise_request_exception=False)
        answers = {where: read(client.get(where)) for where in PATHS}
        read(client.head("/stream"))
        read(client.generic("BREW", "/items/1/"))
    assert answers["/items/1/"] == b"1"
    assert answers["/stream"] == answers["/slow_stream"] == b"ab"
    assert answers["/file"] == Path(__file__).read_bytes()
    others = {"HEAD /stream": 1, "_OTHER /items/<int:pk>/": 1}
    assert counted.calls == Counter(PATHS.values()) + Counter(others)


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_the_same_names_without_threads() -> None:
    """In an ASGI server's loop, where synchronous views run in a thread."""

    async def ask() -> dict[str, bytes]:
        return {where: await answer_of(where) for where in PATHS}

    with Counted() as counted:
        answers = asyncio.run(ask())
    assert answers["/items/1/"] == b"1"
    assert answers["/stream"] == answers["/slow_stream"] == b"ab"
    assert counted.calls == Counter(PATHS.values())


async def answer_of(
    where: str, handler: ASGIHandler | None = None, leaves_after_s: float | None = None
) -> bytes:
    """The body of what the real ASGI handler answers; the client may leave before that."""
    body = []
    come = [{"type": "http.request", "body": b""}]

    async def receive() -> dict[str, Any]:
        if come:
            return come.pop()
        await asyncio.sleep(60.0 if leaves_after_s is None else leaves_after_s)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        body.append(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": where, "headers": [], "query_string": b""}
    await (handler or ASGIHandler())(scope, receive, send)
    return b"".join(body)


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django 4.2 does not see a client leave")
@pytest.mark.parametrize("where", ["/never", "/endless"])
def test_a_client_that_leaves_ends_its_request(where: str) -> None:
    """Django cancels the view, or the stream."""
    with Counted() as counted:
        asyncio.run(answer_of(where, leaves_after_s=0.05))
    (row,) = counted.rows
    assert (row.name, row.status, row.calls) == (f"GET {where}", "error", 1)


def test_on_a_loop_a_request_that_waits_pays_nothing_for_those_that_work_in_threads() -> None:
    """A synchronous view works in a thread, which has a part of what the other threads use."""
    asked = ["/dear", "/wait"] * 10

    async def ask() -> None:
        handler = ASGIHandler()
        await answer_of("/dear", handler)
        await answer_of("/wait", handler)  # from here on nothing is shared out until the end
        await asyncio.gather(*(answer_of(where, handler) for where in asked))

    alone = override_settings(MIDDLEWARE=MIDDLEWARE[:1])  # others change threads a few times
    with alone, Counted(attribution="process", interval_s=3600.0) as counted:
        asyncio.run(ask())
    assert counted.calls == {"GET /dear": 11, "GET /wait": 11}
    cpu_kwh: Counter[str] = Counter()
    for row in counted.rows:
        cpu_kwh[row.name] += row.cpu_kwh or 0.0
    assert 0.0 < cpu_kwh["GET /wait"] <= 0.05 * cpu_kwh["GET /dear"]


def test_what_another_middleware_has_counted_is_counted_once() -> None:
    """One around the whole application, for instance."""
    with Counted() as counted:
        environ: dict[str, Any] = {"carbontrack.counted": True, "PATH_INFO": "/items/1/"}
        setup_testing_defaults(environ)
        assert b"".join(WSGIHandler()(environ, lambda *_: None)) == b"1"
    assert counted.calls == {}


def test_an_error_is_a_failed_call() -> None:
    """A view's, which Django answers with 500, and one in the middle of a stream."""
    with Counted() as counted:
        client = Client(raise_request_exception=False)
        assert client.get("/boom").status_code == 500
        with pytest.raises(LookupError):
            read(client.get("/stream?fails"))
        client.get("/nowhere")
        client.get("/items/1/")
    assert {row.name: row.status for row in counted.rows} == {
        "GET /boom": "error",
        "GET /stream": "error",
        "GET (no route)": "ok",
        "GET /items/<int:pk>/": "ok",
    }


def test_a_stream_is_counted_to_its_end() -> None:
    """Not before it is closed, and once, whether it has been read or not."""
    with Counted() as counted:
        client = Client()
        unread, whole = client.get("/stream"), client.get("/stream")
        assert not counted.rows
        read(whole)
        unread.close()
    assert counted.calls == {"GET /stream": 2}


def test_the_file_of_a_file_response_stays_what_it_is() -> None:
    """The server sends it by `wsgi.file_wrapper`, and looks for it in the response."""
    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper, "PATH_INFO": "/file"}
    setup_testing_defaults(environ)
    with Counted() as counted:
        body = WSGIHandler()(environ, lambda *_: None)
        assert type(body) is FileWrapper
        assert counted.calls == {}  # it is summed
        body.close()


def test_settings_are_django_s() -> None:
    """What cannot be used is said when the server makes its handler, not at a request."""
    with Counted({"routes": False, "name": "shop"}) as counted:
        Client().get("/items/1/")
        Client().get("/nowhere")
    assert counted.calls == {"shop": 2}
    for given, what in (
        ({"regoin": "FR"}, "regoin"),
        ("FR", "dictionary"),
        ({"tracker": 1}, "tracker"),
    ):
        with override_settings(CARBONTRACK=given), pytest.raises(ConfigError, match=what):
            ASGIHandler()


def test_switched_off_it_is_no_part_of_the_handler() -> None:
    """Django leaves it out, so that a request costs what it did."""
    with override_settings(CARBONTRACK={"disable": True}, MIDDLEWARE=MIDDLEWARE[:1]):
        handler = WSGIHandler()
    assert handler._middleware_chain.__wrapped__ == handler._get_response


def test_django_has_the_names_that_are_used_of_it() -> None:
    """A release that renames one of these is seen here, and not by its users."""
    from django.urls import ResolverMatch

    missing = [
        name
        for owner, names in (
            (HttpRequest(), ("resolver_match", "method")),
            (ResolverMatch(item, (), {}, route="x"), ("route",)),
            (StreamingHttpResponse(), ("streaming", "streaming_content", "is_async", "close")),
            (FileResponse(iter([b""])), ("file_to_stream",)),
            (HttpResponse(), ("streaming", "status_code")),
        )
        for name in names
        if not hasattr(owner, name)
    ]
    assert missing == [], "Django has no such name any more; look where it has gone"
    assert CarbontrackMiddleware.async_capable
    assert CarbontrackMiddleware.sync_capable


PROGRAM = """
import atexit
import os
import time

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import HttpResponse
from django.urls import path

import carbontrack

settings.configure(
    ALLOWED_HOSTS=["*"],
    CARBONTRACK={"region": "FR", "output": "rows.csv"},
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    MIDDLEWARE=["carbontrack.integrations.django.CarbontrackMiddleware"],
    ROOT_URLCONF="app",
    SECRET_KEY="-",
)
django.setup()
if os.environ.get("WHOLE"):
    # by other readings, so that nothing of it is shared with the requests
    whole = carbontrack.auto(output="whole.csv", procfs_path="/proc/.").span("process").open()
    atexit.register(whole.close)
COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s) " \
    "SELECT max(i) FROM n"


def work(request, kind, number):
    until_s = time.thread_time() + {"dear": 0.08, "cheap": 0.001, "wait": 0.0}[kind]
    if kind == "wait":
        time.sleep(0.3)
    with connection.cursor() as cursor:
        while time.thread_time() < until_s:
            cursor.execute(COUNT, [1000])
    return HttpResponse(kind)


urlpatterns = [
    path(f"{kind}/<int:number>", work, {"kind": kind}) for kind in ("dear", "cheap", "wait")
]
application = WSGIHandler()
"""


@pytest.mark.xdist_group("servers")  # a free port is looked for, then taken
@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn")
def test_a_request_that_waits_pays_nothing_for_those_that_work(tmp_path: Path) -> None:
    """The database works in the request's thread, and the request pays for that."""
    check_three_routes(tmp_path, PROGRAM, "GET /{}/<int:number>")
