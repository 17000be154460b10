"""The HTTP application: its routes, and what each answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carbontrack.errors import ConfigError, MissingExtra, StoreUnavailable
from carbontrack.report.frame import Loaded
from carbontrack.report.tables import Summary, as_json
from carbontrack.server.access import BASIC, BEARER, Access, Caller
from carbontrack.server.body import Disconnected, declared_length, read_body, rows_in
from carbontrack.server.limits import HeldBytes, Limits, Quotas, Refused, RetryAfter
from carbontrack.server.metrics import CONTENT_TYPE, ServerMetrics
from carbontrack.server.page import CONTENT_SECURITY_POLICY, project_page
from carbontrack.server.totals import ReportQuery, load_project, query_of, summary_of
from carbontrack.server.writer import StoreWriter
from carbontrack.store.base import Store
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.log import LOGGER, RateLimitedLog

Handler = Callable[[HttpRequest], Awaitable[Response]]
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_AWAY = "the store does not respond at the moment"
_REFUSALS = (Refused, StoreUnavailable, ConfigError, MissingExtra, asyncio.CancelledError)
"""Exceptions that become a response: a ConfigError is the grouping of a report.

A request is cancelled when the server has to stop.
"""
_GONE_STATUS = 499
"""For counting requests whose senders did not wait for the response; as in nginx."""


class ReceiverApp:
    """The application of one store; `asgi` is what a server runs."""

    def __init__(
        self, store: Store, access: Access, limits: Limits, clock: Clock | None = None
    ) -> None:
        self._store = store
        self._access = access
        self._limits = limits
        self._clock = clock or SystemClock()
        self._metrics = ServerMetrics()
        self._held = HeldBytes(limits.held_bytes)
        self._quotas = Quotas(clock)
        self._retry_after = RetryAfter(limits.retry_after_s)
        self._warnings = RateLimitedLog(clock)
        self._reports = 0
        self._checking: asyncio.Future[None] | None = None
        self._report_lock: asyncio.Lock | None = None
        self._writer: StoreWriter | None = None
        routes = {
            "/v1/records": ("POST", self.post_records),
            "/v1/report": ("GET", self.get_report),
            "/": ("GET", self.get_page),
            "/metrics": ("GET", self.get_metrics),
            "/healthz": ("GET", self.get_health),
        }
        app = Starlette(
            routes=[
                Route(path, self._answering(handler), methods=[method])
                for path, (method, handler) in routes.items()
            ],
            lifespan=self._lifespan,
        )
        app.router.redirect_slashes = False
        self.asgi: ASGIApp = _Counted(app, frozenset(routes), self._metrics)

    @property
    def writer(self) -> StoreWriter:
        """The writer, while the application runs."""
        assert self._writer is not None
        return self._writer

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._writer = StoreWriter(self._store, self._limits, self._metrics.committed)
        self._report_lock = asyncio.Lock()
        writing = asyncio.create_task(self._writer.run())
        keeping = asyncio.create_task(self._delete_old())
        try:
            yield
        finally:
            keeping.cancel()
            self._writer.close()
            await writing

    async def _delete_old(self) -> None:
        """Delete records past the retention time of their project, from time to time."""
        while True:
            try:
                count = await asyncio.to_thread(self._store.apply_retention)
            except StoreUnavailable as error:
                self._warnings.warn("retention", f"old records were not deleted: {error}")
            else:
                if count:
                    LOGGER.info(
                        "%d records past the retention time of their project were deleted", count
                    )
            await asyncio.sleep(self._limits.retention_every_s)

    # -- routes --------------------------------------------------------------------------------

    async def post_records(self, request: HttpRequest) -> Response:
        """Store an array of records; 204 when they are durable."""
        caller = await self._access.caller(request.headers, BEARER)
        if not caller.may_send:
            raise Refused(403, "this token is for reading; it cannot be used to send records")
        length = declared_length(request.headers, self._limits)
        self._quotas.check(caller.project, caller.quota_records_per_min)
        with self._held.taken(caller.project, length):
            body = await read_body(request.receive, length, self._limits)
            try:
                rows = rows_in(body, self._limits)
            except Refused:
                self._metrics.records("refused", 1)
                raise
            del body
            await self._put(caller, rows)
        return Response(status_code=204)

    async def _put(self, caller: Caller, rows: list[Any]) -> None:
        quota = caller.quota_records_per_min
        self._quotas.check(caller.project, quota)  # others have been taken meanwhile
        self._quotas.take(caller.project, len(rows), quota)
        is_stored = False
        try:
            await self.writer.put(caller.project, rows)
            is_stored = True
        finally:
            if not is_stored:  # they will come again
                self._quotas.take(caller.project, -len(rows), quota)
                self._metrics.records("failed", len(rows))

    async def get_report(self, request: HttpRequest) -> Response:
        """The totals of the token's project, as `carbontrack report --json` prints them."""
        caller = await self._reader(request, BEARER)
        query = query_of(caller.project, request.query_params)
        _, summary = await self._report(query)
        return Response(as_json(summary), media_type="application/json")

    async def get_page(self, request: HttpRequest) -> Response:
        """The page of the token's project."""
        caller = await self._reader(request, BASIC)
        query = query_of(caller.project, request.query_params)
        loaded, summary = await self._report(query)
        page = await asyncio.to_thread(project_page, query, loaded, summary, self._clock.now_utc())
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    async def _reader(self, request: HttpRequest, challenge: Mapping[str, str]) -> Caller:
        caller = await self._access.caller(request.headers, challenge)
        if caller.may_read:
            return caller
        reason = "this token is for sending; it cannot be used to read"
        if challenge is BASIC:  # a browser asks for another one
            raise Refused(401, reason, headers=challenge)
        raise Refused(403, reason)

    async def _report(self, query: ReportQuery) -> tuple[Loaded, Summary]:
        """One report at a time, in a thread; requests are refused if too many wait."""
        assert self._report_lock is not None
        if self._reports >= self._limits.waiting_reports:
            raise Refused(429, "too many reports are being computed", wait_s=0.0)
        self._reports += 1
        try:
            async with self._report_lock:
                return await asyncio.to_thread(self._made, query)
        finally:
            self._reports -= 1

    def _made(self, query: ReportQuery) -> tuple[Loaded, Summary]:
        loaded = load_project(self._store, query, self._limits.report_rows)
        return loaded, summary_of(loaded, query)

    async def get_metrics(self, _: HttpRequest) -> Response:
        """The server's own counts."""
        text = self._metrics.text(queue=self.writer.rows, held=self._held.now)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    async def get_health(self, _: HttpRequest) -> Response:
        """Whether the store responds; concurrent requests share one check."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.ensure_future(asyncio.to_thread(self._store.check))
        await asyncio.shield(self._checking)
        return JSONResponse({"status": "ok"})

    # -- errors --------------------------------------------------------------------------------

    def _answering(self, handler: Handler) -> Handler:
        """The handler, with a response for each kind of refusal."""

        async def answer(request: HttpRequest) -> Response:
            try:
                return await handler(request)
            except Disconnected:
                return Response(status_code=_GONE_STATUS)
            except _REFUSALS as error:
                return self._refusal(self._refused(error))

        return answer

    def _refused(self, error: BaseException) -> Refused:
        """The response for one of `_REFUSALS`."""
        if isinstance(error, Refused):
            return error
        if isinstance(error, StoreUnavailable):
            self._warnings.warn("store", f"{_AWAY}: {error}")
            return Refused(503, _AWAY, wait_s=0.0)
        if isinstance(error, asyncio.CancelledError):
            return Refused(503, "the server is stopping", wait_s=0.0)
        return Refused(501 if isinstance(error, MissingExtra) else 400, str(error))

    def _refusal(self, refused: Refused) -> Response:
        content: dict[str, Any] = {"error": refused.reason}
        headers = refused.headers
        if refused.record is not None:
            content["record"] = refused.record
        if refused.wait_s is not None:
            headers = {**headers, "Retry-After": str(self._retry_after.seconds(refused.wait_s))}
        text = json.dumps(content, ensure_ascii=True) + "\n"
        return Response(text, refused.status, headers, media_type="application/json")


class _Counted:
    """Counts the requests of an application by route and status, and adds headers for all."""

    def __init__(self, app: ASGIApp, routes: frozenset[str], metrics: ServerMetrics) -> None:
        self._app = app
        self._routes = routes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = _GONE_STATUS

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = ((k.lower().encode(), v.encode()) for k, v in _HEADERS.items())
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.answered(route, status)
