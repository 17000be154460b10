"""Django: each request is a short call, summed with those of its route.

`CARBONTRACK = {…}` in Django's settings takes precedence over carbontrack's other sources of
settings. A streaming response runs in steps, and ends when it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from carbontrack.api.named_calls import NamedCalls, request_name
from carbontrack.errors import ConfigError
from carbontrack.integrations.steps import LoopRequest, SteppedRequest
from carbontrack.record import checked_name

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.conf import settings  # type: ignore[import-untyped]
    from django.core.exceptions import MiddlewareNotUsed  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError('Django is not installed: pip install "carbontrack[django]"') from error


class CarbontrackMiddleware:
    """Middleware that counts each request by method and route, such as `GET /users/<int:pk>/`.

    Put it first in `MIDDLEWARE`, so that the other middleware is counted too. `CARBONTRACK` in
    Django's settings takes all settings of carbontrack, `labels`, `window_s`, `tracker`, and
    `routes`: if it is False, all requests share one name, which `name` sets.

    Raises:
        ConfigError: a setting cannot be used. It is raised when the server starts.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        given = getattr(settings, "CARBONTRACK", {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"CARBONTRACK must be a dictionary of settings, not {given!r}")
        named: dict[str, Any] = {"routes": True, "name": "requests", **given}
        self._routes, self._name = named.pop("routes"), checked_name(named.pop("name"))
        self._calls = NamedCalls("(unfinished request)", **named)
        if self._calls.is_off:
            raise MiddlewareNotUsed
        self._get_response, self._is_async = get_response, iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Count a request; what the application returns or raises reaches the server."""
        around = getattr(request, "scope", None) or getattr(request, "environ", {})
        if around.setdefault("carbontrack.counted", self) is not self:  # by one that is around
            return self._get_response(request)
        if self._is_async:
            return self._respond(request)
        with _Answer(request, self._name_of, SteppedRequest(self._calls)) as answer:
            return answer.follow(answer.counted.step(self._get_response, request))

    async def _respond(self, request: Any) -> Any:
        counted = LoopRequest(self._calls, lambda: _works_in_thread(request))
        with _Answer(request, self._name_of, counted) as answer:
            return answer.follow(await counted.drive(self._get_response(request)))

    def _name_of(self, request: Any) -> str:
        if not self._routes:
            return self._name
        # missing where no route matches
        route = getattr(getattr(request, "resolver_match", None), "route", None)
        return request_name(request.method, None if route is None else f"/{route}")


def _works_in_thread(request: Any) -> bool | None:
    match = getattr(request, "resolver_match", None)
    return None if match is None else not iscoroutinefunction(match.func)


class _Answer:
    """A request and its response."""

    def __init__(self, request: Any, name_of: Callable[[Any], str], counted: Any) -> None:
        self._request, self._name_of, self._status = request, name_of, 200
        self.counted: SteppedRequest = counted

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.done()

    def follow(self, response: Any) -> Any:
        """Count the rest of the request: it ends here, or with its streaming response."""
        self._status = getattr(response, "status_code", 200)
        streams = getattr(response, "streaming", False)
        if streams and not getattr(response, "file_to_stream", None):
            stream = _AsyncStream if response.is_async else _Stream
            response.streaming_content = stream(response.streaming_content, self)
        else:  # a file is sent by the server, which looks for it in the response
            self.done()
        return response

    def done(self) -> None:
        """It has ended."""
        if not self.counted.is_over:
            failure = f"status {self._status}" if self._status >= 500 else None
            self.counted.end(self._name_of(self._request), failure)


class _AnyStream:
    """The content of a streaming response; iterating it is part of the request."""

    def __init__(self, body: Any, answer: _Answer) -> None:
        self._body, self._answer, self._step = body, answer, answer.counted.step
        is_on_loop = isinstance(answer.counted, LoopRequest)
        self._loop = asyncio.get_running_loop() if is_on_loop else None

    def close(self) -> None:
        """Django closes the response; that of an event loop in another thread."""
        if self._loop is None or self._loop.is_closed():
            self._answer.done()
        elif not self._answer.counted.is_over:
            self._loop.call_soon_threadsafe(self._answer.done)

    __del__ = close  # where that is cancelled


class _Stream(_AnyStream):
    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._step(self._body.__next__)  # type: ignore[no-any-return]


class _AsyncStream(_AnyStream):
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        counted = self._answer.counted
        if not isinstance(counted, LoopRequest):  # a synchronous server runs a loop for it
            return await self._body.__anext__()  # type: ignore[no-any-return]
        try:
            return await counted.drive(self._body.__anext__())
        except BaseException:  # also where the last chunk has been sent
            self._answer.done()
            raise
