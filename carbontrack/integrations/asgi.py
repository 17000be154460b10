"""ASGI servers: write what has been summed up before the server ends its process.

Uvicorn, and what is built like it, shuts the application down on SIGTERM and then lets the signal
kill the process: what `atexit` holds is never run. The shutdown of the application is the last
moment at which the rows of the last seconds can be written (ASGI 3.0, lifespan 2.0).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from carbontrack.api.track import PROVIDER

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class CarbontrackMiddleware:
    """An ASGI application around yours that writes the last rows when the server shuts down.

    It sees only the server's start and end; requests pass through untouched.

    Args:
        app: your application.
        close: what writes the rows; takes 2 s at most and does not hold up the event loop.
    """

    def __init__(self, app: App, *, close: Callable[[], None] = PROVIDER.close) -> None:
        self._app = app
        self._close = close

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass everything on, and close at the end of the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            answered = True
            if message["type"].startswith("lifespan.shutdown"):
                await asyncio.to_thread(self._close)
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            if answered:
                raise
            # The application knows no lifespan, which is its right; then it is ours alone.
            await answer({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await answer({"type": "lifespan.shutdown.complete"})
