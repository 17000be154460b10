"""ASGI servers: the energy of each route, and the last rows before the server ends its process.

Uvicorn, and servers like it, shut the application down on SIGTERM and then let the signal kill the
process, so `atexit` callbacks never run. The shutdown of the application is the last moment at
which the rows of the last seconds can be written (ASGI 3.0, lifespan 2.0).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from carbontrack.api.named_calls import NamedCalls, outcome_of, request_name
from carbontrack.api.track import PROVIDER
from carbontrack.errors import ConfigError, close_matches
from carbontrack.integrations.asgi_request import (
    App,
    CountedRequest,
    Message,
    Receive,
    RouteTemplates,
    Send,
    warned_of_tasks,
)
from carbontrack.system.interrupts import attempt
from carbontrack.system.log import OnceLog

_COUNTED = "carbontrack.counted"
"""The key in the scope of a counted request."""


class CarbontrackMiddleware:
    """Counts requests by route, and writes the last rows when the server shuts down.

    Without `routes` it handles only the server's start and shutdown; requests pass through
    unchanged.

    Args:
        app: your application.
        routes: True: count each request and each WebSocket connection, under its method and the
            template of its route. A function: the same for other frameworks; it receives the scope
            and returns the template, or None. False: count no requests.
        tracker: measures the requests; the default is a tracker made from `settings`.
        close: called in a thread at the shutdown, to write the rows; the default takes 2 s at most.
        settings: all settings of carbontrack; `labels` and `window_s` as in `carbontrack.track`;
            `most_names`, the number of names with separate rows, 200 by default.

    Raises:
        ConfigError: a setting cannot be used, or is given without `routes`.
    """

    def __init__(
        self,
        app: App,
        *,
        routes: bool | Callable[[Message], str | None] = False,
        tracker: Any = None,
        close: Callable[[], None] = PROVIDER.close,
        **settings: Any,
    ) -> None:
        if not routes and (settings or tracker is not None):
            named = ", ".join([*settings, *(["tracker"] if tracker is not None else [])])
            for typo in close_matches("routes", settings):
                raise ConfigError(
                    f"CarbontrackMiddleware has no argument {typo!r}; did you mean 'routes'?"
                )
            raise ConfigError(f"{named} of CarbontrackMiddleware: only with routes=True")
        self._app, self._close = app, close
        calls = NamedCalls("(unfinished request)", tracker=tracker, **settings) if routes else None
        self._calls = None if calls is None or calls.is_off else calls
        self._template_of = routes if callable(routes) else RouteTemplates()
        self._in_tasks: bool | None = None
        self._log = OnceLog()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Count a request, and write the rows at the end of the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._calls is None or _COUNTED in scope:
            await self._app(scope, receive, send)
        else:
            await self._count(self._calls, scope, receive, send)

    async def _count(self, calls: NamedCalls, scope: Message, receive: Receive, send: Send) -> None:
        request = CountedRequest(scope, receive, send)
        request.call = call = calls.begin(request.cpu, is_outermost=True)
        if not call.is_counted:
            await self._app(scope, receive, send)
            return
        scope[_COUNTED] = True
        request.cpu.begin(call.own_thread)
        if self._in_tasks is None:
            self._in_tasks = warned_of_tasks(self._app)
        if self._in_tasks:
            request.cpu.in_tasks()
        try:
            await request.cpu.run(self._app(scope, request.receive, request.send))
        except BaseException as raised:
            request.outcome = outcome_of(raised)
            raise
        finally:
            request.cpu.end()
            method = scope["method"] if scope["type"] == "http" else "WS"
            call.end_as(request_name(method, self._template(scope)), *request.outcome)

    def _template(self, scope: Message) -> str | None:
        template, error = attempt(self._template_of, scope)
        if error is not None:
            text = f"the route of a request could not be found: {error!r}; this is logged once"
            self._log.say(text, topic="route")
        return template

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        answered = False
        PROVIDER.is_closed_by_server = True

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = True
            if message["type"].startswith("lifespan.shutdown"):
                await self._write_rows()
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            if answered:
                raise
            # The application does not support lifespan events, which it need not; we answer them.
            await answer({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await answer({"type": "lifespan.shutdown.complete"})

    async def _write_rows(self) -> None:
        ends = [self._close] if self._calls is None else [self._calls.write_rows, self._close]
        for end in ends:
            loop, _ = attempt(asyncio.get_running_loop)
            if loop is None:  # one of another kind, such as that of trio
                end()
            else:
                await asyncio.to_thread(end)
