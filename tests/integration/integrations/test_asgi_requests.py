"""Requests of Starlette and FastAPI in this process: their names, and what an application sees."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import suppress

import anyio
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute

from carbontrack.api.coroutine_cpu import CoroutineCpu
from carbontrack.api.track import current_span, track
from carbontrack.errors import ConfigError
from carbontrack.integrations.asgi import CarbontrackMiddleware
from carbontrack.integrations.asgi_request import RouteTemplates, in_thread
from carbontrack.record import NAME_LIMIT
from carbontrack.tracking.named_call import NamedCall
from tests.support.bench import Bench
from tests.support.costs import collect_all


def ok(request):
    return PlainTextResponse("ok")


async def ok_async(request):
    return PlainTextResponse("ok")


def requests_of(app, *asked, **given):
    """The answers to these methods and paths, one after the other."""

    async def main():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return [await client.request(*one.split(" "), **given) for one in asked]

    return asyncio.run(main())


def names(bench):
    """How many calls have each name."""
    found: dict[str, int] = {}
    for row in bench.records:
        found[row.name] = found.get(row.name, 0) + row.calls
    return found


def counted(app, *asked, **options):
    """The rows of an application that was asked these."""
    with Bench() as bench:
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker, **options)
        answers = requests_of(served, *asked)
    return bench, answers


def fastapi_app():
    """Routers in routers, mounts with parameters, routes of all kinds."""
    inner, outer, app = APIRouter(), APIRouter(prefix="/q"), FastAPI()

    @inner.get("/x/{k}")
    async def x(k: int):
        return k

    @app.post("/things/{name:path}")
    def things(name: str):
        return name

    outer.include_router(inner)
    app.include_router(outer, prefix="/api/v1")
    app.include_router(inner, prefix="/again")
    below = FastAPI()
    below.include_router(inner, prefix="/deep")
    app.mount("/m/{tenant}", Starlette(routes=[Mount("/below", below), Route("/z/{n}", ok)]))
    return app


def test_fastapi_names_have_the_prefixes_of_routers_and_mounts():
    """As the application's author has written them, with no value of a parameter."""
    asked = ["/api/v1/q/x/1", "/api/v1/q/x/2", "/again/x/3", "/m/a/z/4", "/m/b/below/deep/x/5"]
    bench, answers = counted(fastapi_app(), *[f"GET {path}" for path in asked])
    assert {answer.status_code for answer in answers} == {200}
    assert names(bench) == {
        "GET /api/v1/q/x/{k}": 2,
        "GET /again/x/{k}": 1,
        "GET /m/{tenant}/z/{n}": 1,
        "GET /m/{tenant}/below/deep/x/{k}": 1,
    }


def test_what_no_route_answers_has_one_name():
    """Not found, also in a mount; a wrong method and a wrong value belong to their route."""
    asked = ["GET /no", "GET /no/2", "GET /m/a/no", "BREW /no", "DELETE /again/x/1"]
    bench, answers = counted(fastapi_app(), *asked, "GET /again/x/q", "POST /things/a/b")
    assert [one.status_code for one in answers] == [404, 404, 404, 404, 405, 422, 200]
    assert names(bench) == {
        "GET (no route)": 3,
        "_OTHER (no route)": 1,
        "DELETE /again/x/{k}": 1,
        "GET /again/x/{k}": 1,
        "POST /things/{name:path}": 1,
    }
    assert {row.status for row in bench.records} == {"ok"}


def test_starlette_names():
    """Classes with a method for each of HTTP, hosts, routers, and applications without routes."""

    class Things(HTTPEndpoint):
        async def get(self, request):
            return PlainTextResponse("ok")

    async def opaque(scope, receive, send):
        await PlainTextResponse("ok")(scope, receive, send)

    inner = [Route("/", ok_async)]
    app = Starlette(
        routes=[
            Route("/things", Things),
            Mount("/files", opaque),
            Mount("/r", Router([Route("/{a}", ok), Mount("/{b}/c", routes=inner)])),
        ]
    )
    bench, _ = counted(app, "GET /things", "GET /files/x/y", "GET /r/1", "GET /r/2/c/")
    assert names(bench) == {
        "GET /things": 1, "GET /files/{path}": 1, "GET /r/{a}": 1, "GET /r/{b}/c/": 1,
    }  # fmt: skip


def test_names_by_a_function_of_yours():
    """For a framework that leaves its template elsewhere."""

    async def bare(scope, receive, send):
        scope["path_template"] = "/by/{me}"
        await PlainTextResponse("ok")(scope, receive, send)

    with Bench() as bench:
        app = CarbontrackMiddleware(
            bare, routes=lambda scope: scope["path_template"], tracker=bench.tracker
        )
        requests_of(app, "GET /by/you")
    assert names(bench) == {"GET /by/{me}": 1}


def test_a_function_of_yours_that_fails_is_said_once(caplog):
    """The request is answered, and counted without a name."""

    def fails(scope):
        raise KeyError("route")

    with Bench() as bench, caplog.at_level(logging.WARNING, "carbontrack"):
        app = Starlette(routes=[Route("/", ok_async)])
        answers = requests_of(
            CarbontrackMiddleware(app, routes=fails, tracker=bench.tracker), "GET /", "GET /"
        )
    assert [one.status_code for one in answers] == [200, 200]
    assert names(bench) == {"GET (no route)": 2}
    (said,) = caplog.messages
    assert "KeyError('route')" in said


def test_exceptions_pass_and_are_failures():
    """The same object reaches the server; an answer of 5xx is a failure too."""
    error, seen = ValueError("mine"), []

    async def raises(request):
        raise error

    async def unavailable(request):
        return PlainTextResponse("no", status_code=503)

    app = Starlette(routes=[Route("/raises", raises), Route("/busy", unavailable)])
    with Bench() as bench:
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker, window_s=0)

        async def server(scope, receive, send):
            try:
                await served(scope, receive, send)
            except ValueError as caught:
                seen.append(caught)
                raise

        answers = requests_of(server, "GET /raises", "GET /busy")
    assert [one.status_code for one in answers] == [500, 503]
    assert seen == [error]
    assert [(row.name, row.status, row.error) for row in bench.records] == [
        ("GET /raises", "error", "ValueError: mine"),
        ("GET /busy", "error", "status 503"),
    ]


def test_a_request_that_is_cancelled_is_interrupted():
    """As a server does when the client has gone; nothing stays open."""

    async def forever(request):
        await asyncio.sleep(60)

    with Bench() as bench:
        app = Starlette(routes=[Route("/forever", forever)])
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker, window_s=0)

        async def main():
            scope = {"type": "http", "method": "GET", "path": "/forever", "headers": [],
                     "query_string": b"", "root_path": ""}  # fmt: skip
            task = asyncio.ensure_future(served(scope, None, None))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert not bench.sampler.under_way
    (row,) = bench.records
    assert (row.name, row.status) == ("GET /forever", "interrupted")


def test_a_socket_counts_while_it_works():
    """One call for a connection; the time that it waits for messages is not in it."""

    async def echo(socket):
        await socket.accept()
        async for text in socket.iter_text():
            bench.clock.advance(0.1)
            await socket.send_text(text)

    app = Starlette(routes=[WebSocketRoute("/chat/{room}", echo)])
    with Bench() as bench:
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker)
        messages = iter(({"type": "websocket.connect"}, *[
            {"type": "websocket.receive", "text": text} for text in "ab"
        ], {"type": "websocket.disconnect", "code": 1000}))  # fmt: skip
        sent = []

        async def receive():
            bench.run(5.0)  # a client takes its time
            return next(messages)

        async def send(message):
            sent.append(message.get("text"))

        scope = {"type": "websocket", "path": "/chat/7", "headers": [], "query_string": b""}
        asyncio.run(served(scope, receive, send))
    assert sent == [None, "a", "b"]
    (row,) = bench.records
    assert (row.name, row.calls) == ("WS /chat/{room}", 1)
    assert row.duration_s == pytest.approx(0.2)


def test_streams_and_background_tasks_are_inside():
    """The call lasts until the application has returned."""

    async def body():
        for _ in range(3):
            bench.clock.advance(0.1)
            yield b"x"

    async def later():
        bench.clock.advance(0.1)

    async def stream(request):
        from starlette.background import BackgroundTask

        return StreamingResponse(body(), background=BackgroundTask(later))

    with Bench() as bench:
        app = Starlette(routes=[Route("/", stream)])
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker)
        (answer,) = requests_of(served, "GET /")
    assert answer.content == b"xxx"
    assert bench.records[0].duration_s == pytest.approx(0.4)


def test_a_slow_upload_is_not_the_requests_time():
    """Neither is what the server reads in the meantime."""

    async def chunks():
        for _ in range(3):
            bench.clock.advance(1.0)
            yield b"x"

    async def read(request):
        body = await request.body()
        bench.clock.advance(0.1)
        return PlainTextResponse(body)

    with Bench() as bench:
        app = Starlette(routes=[Route("/", read, methods=["POST"])])
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker)

        async def main():
            transport = httpx.ASGITransport(served)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.post("/", content=chunks())

        assert asyncio.run(main()).content == b"xxx"
    (row,) = bench.records
    assert row.duration_s == pytest.approx(0.1)


def test_what_a_request_does_inside_is_its_own():
    """Blocks and decorated functions in `async def` and `def` endpoints, and `current_span`."""

    @track
    def decorated():
        bench.clock.advance(0.01)

    async def one(request):
        with track("block"):
            decorated()
        return PlainTextResponse(current_span().name)

    def two(request):
        decorated()
        with track("block"):
            bench.clock.advance(0.01)
        return PlainTextResponse("ok")

    with Bench() as bench:
        app = Starlette(routes=[Route("/one", one), Route("/two", two)])
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker)
        requests_of(served, "GET /one", "GET /two", "GET /one")
    assert names(bench) == {"GET /one": 2, "GET /two": 1}


def test_a_request_is_counted_once():
    """With the middleware around the application and inside of it."""
    with Bench() as bench:
        app = Starlette(routes=[Route("/", ok_async)])
        app.add_middleware(CarbontrackMiddleware, routes=True, tracker=bench.tracker)
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker)
        requests_of(served, "GET /")
    assert names(bench) == {"GET /": 1}


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_middleware_that_makes_tasks_is_said(caplog, is_inside):
    """What is inside of it cannot be told apart; added before it, it can."""

    class Timing(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    with Bench() as bench, caplog.at_level(logging.WARNING, "carbontrack"):
        app = Starlette(routes=[Route("/", ok_async)])
        ours = {"routes": True, "tracker": bench.tracker}
        if is_inside:
            app.add_middleware(CarbontrackMiddleware, **ours)
        app.add_middleware(Timing)
        if not is_inside:
            app = CarbontrackMiddleware(app, **ours)
        requests_of(app, "GET /", "GET /")
    assert names(bench) == {"GET /": 2}
    assert len(caplog.messages) == (0 if is_inside else 1)
    assert is_inside or "Timing runs the application" in caplog.text


def test_names_and_routes_are_bounded():
    """A path for a name may be long; a framework may make a route for each request."""
    templates = RouteTemplates()

    class Passing:
        path = "/users/{n}"

        def endpoint(self):
            raise NotImplementedError

    for _ in range(10_500):
        assert templates({"route": Passing()}) == "/users/{n}"
    assert len(templates._known) <= 10_000

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with Bench() as bench:
        path = CarbontrackMiddleware(app, routes=lambda at: at["path"], tracker=bench.tracker)
        requests_of(path, "GET /" + "x" * 60_000)
    (name,) = names(bench)
    assert len(name) == NAME_LIMIT


def test_mistakes_are_said_when_the_application_is_made():
    """Nothing has started then."""
    with pytest.raises(ConfigError, match="regoin"):
        CarbontrackMiddleware(ok_async, routes=True, regoin="FR")
    with pytest.raises(ConfigError, match="only with routes=True"):
        CarbontrackMiddleware(ok_async, region="FR")
    with pytest.raises(ConfigError, match="no argument 'route'; did you mean 'routes'"):
        CarbontrackMiddleware(ok_async, route=True, region="FR")


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_leaves_no_garbage(fails):
    """Nothing waits for the collector, after an exception neither."""

    async def app(scope, receive, send):
        await receive()
        if fails:
            raise ValueError("mine")

    async def receive():
        return {"type": "http.request"}

    def kept():
        # by type, as `isinstance` would wake the lazy objects that other libraries keep
        return sum(issubclass(type(one), (NamedCall, CoroutineCpu)) for one in gc.get_objects())

    async def requests(served, number):
        for _ in range(number):
            with suppress(ValueError):
                await served({"type": "http", "method": "GET", "path": "/"}, receive, None)

    with Bench() as bench:
        served = CarbontrackMiddleware(app, routes=True, tracker=bench.tracker)
        asyncio.run(requests(served, 10))
        collect_all()
        gc.disable()
        before = kept()
        asyncio.run(requests(served, 100))
        after = kept()
        gc.enable()
    assert after <= before


def test_switched_off_it_is_not_there():
    """The application gets what the server gave."""
    given = {"type": "http"}, object(), object()

    async def app(*got):
        seen.append(got)

    seen = []
    asyncio.run(CarbontrackMiddleware(app, routes=True, disable=True)(*given))
    assert seen == [given]
    assert given[0] == {"type": "http"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_the_lifespan_writes_the_rows(backend):
    """On a loop of asyncio and on one of trio; the tracker that was given stays open."""
    closed, sent = [], []

    async def app(scope, receive, send):
        for word in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{word}"
            await send({"type": f"lifespan.{word}.complete"})

    async def http(scope, receive, send):
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        await anyio.sleep(0)

    with Bench() as bench:
        served = CarbontrackMiddleware(
            http, routes=True, tracker=bench.tracker, close=lambda: closed.append(1)
        )
        messages = iter(("startup", "shutdown"))

        async def receive():
            return {"type": f"lifespan.{next(messages)}"}

        async def send(message):
            sent.append(message["type"])

        async def main():
            await served({"type": "http", "method": "GET", "path": "/"}, receive, send)
            await served({"type": "lifespan"}, receive, send)

        anyio.run(main, backend=backend)
        assert names(bench) == {"GET (no route)": 1}
        assert not bench.session.closed
    assert closed == [1]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_what_is_read_of_the_frameworks_is_there():
    """The names by which the route of a request is found; a release may change them."""
    seen = {}

    async def look(scope, receive, send):
        await inner(scope, receive, send)
        seen.update(scope)

    inner = fastapi_app()
    requests_of(look, "GET /api/v1/q/x/1")
    context = seen.get("fastapi", {}).get("effective_route_context", seen["route"])
    assert context.path == "/api/v1/q/x/{k}", "FastAPI leaves no full path of its route any more"
    assert seen["endpoint"].__name__ == "x", "the scope has no endpoint any more"
    requests_of(look, "GET /m/a/z/4")
    assert seen["route"].path == "/z/{n}", "Starlette's route has no path any more"
    assert seen["router"] is inner.router, "the scope has no outermost router any more"
    for left_out in ({}, {"route": None}):  # as Starlette before 1.0
        scope = seen | {"fastapi": {}} | left_out
        assert RouteTemplates()(scope) == "/m/{tenant}/z/{n}"
        assert in_thread(scope)
