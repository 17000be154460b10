"""ASGI servers: write the open rows before the server ends its process.

Uvicorn, and servers like it, shut the application down on SIGTERM and then let the signal kill the
process, so `atexit` callbacks never run. The shutdown of the application is the last moment at
which the rows of the last seconds can be written (ASGI 3.0, lifespan 2.0).
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
    """A middleware that writes the last rows when the server shuts down.

    It handles only the server's start and shutdown; requests pass through unchanged.

    Args:
        app: your application.
        close: writes the rows; it takes 2 s at most and does not block the event loop.
    """

    def __init__(self, app: App, *, close: Callable[[], None] = PROVIDER.close) -> None:
        self._app = app
        self._close = close

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass every event on, and write the rows at the end of the lifespan."""
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
            # The application does not support lifespan events, which it need not; we answer them.
            await answer({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await answer({"type": "lifespan.shutdown.complete"})
