"""Django: each request is a short call, summed with those of its route.

Settings are in `CARBONTRACK = {…}` in Django's settings, and where that says nothing in
carbontrack's own sources. A streaming response goes on in steps, and ends when it is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from carbontrack.api.named_calls import NamedCalls, request_name
from carbontrack.errors import ConfigError
from carbontrack.integrations.steps import CountedRequest

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.conf import settings  # type: ignore[import-untyped]
    from django.core.exceptions import MiddlewareNotUsed  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError('Django is not installed: pip install "carbontrack[django]"') from error


class CarbontrackMiddleware:
    """A middleware that counts each request, by method and route: `GET /users/<int:pk>/`.

    Put it first in `MIDDLEWARE`, so that what the others do is counted. `CARBONTRACK` in Django's
    settings takes any of carbontrack's settings; also `tracker`, and `routes`: with False all
    requests have the same name, and `name` says which.

    Raises:
        ConfigError: a setting cannot be used; when the server starts.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        given = getattr(settings, "CARBONTRACK", {})
        if not isinstance(given, Mapping):
            raise ConfigError(f"CARBONTRACK must be a dictionary of settings, not {given!r}")
        named: dict[str, Any] = {"routes": True, "name": "requests", **given}
        self._routes, self._name = named.pop("routes"), named.pop("name")
        self._calls = NamedCalls(**named)
        if self._calls.is_off:
            raise MiddlewareNotUsed
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Count a request; what the application returns and raises reaches the server."""
        counted = _DjangoRequest(self._calls, self._name_of, request)
        if self._is_async:
            return self._answer(counted)
        try:
            response = counted.step(self._get_response, request)
        except BaseException:
            counted.done()
            raise
        return counted.follow(response)

    async def _answer(self, counted: _DjangoRequest) -> Any:
        try:
            response = await counted.drive(self._get_response(counted.request))
        except BaseException:
            counted.done()
            raise
        return counted.follow(response)

    def _name_of(self, request: Any) -> str:
        if not self._routes:
            return str(self._name)
        # missing where no route matches
        route = getattr(getattr(request, "resolver_match", None), "route", None)
        return request_name(request.method, None if route is None else f"/{route}")


class _DjangoRequest(CountedRequest):
    """A request of Django's."""

    def __init__(self, calls: NamedCalls, name_of: Callable[[Any], str], request: Any) -> None:
        super().__init__(calls)
        self._name_of, self.request = name_of, request
        self._status = 200

    def follow(self, response: Any) -> Any:
        """Count what is left of the request: it ends here, or with its streaming response."""
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
        if not self.is_over:
            failure = f"status {self._status}" if self._status >= 500 else None
            self.end(self._name_of(self.request), failure)


class _AnyStream:
    """The content of a streaming response, whose iteration is a part of the request."""

    def __init__(self, body: Any, request: _DjangoRequest) -> None:
        self._body, self._request = body, request

    def close(self) -> None:
        """Django closes the response."""
        self._request.done()

    __del__ = close  # where that is cancelled


class _Stream(_AnyStream):
    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk: bytes = self._request.step(self._body.__next__)
        return chunk


class _AsyncStream(_AnyStream):
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk: bytes = await self._request.drive(self._body.__anext__())
        except StopAsyncIteration:
            self.close()  # here, as Django closes the response in another thread
            raise
        return chunk
