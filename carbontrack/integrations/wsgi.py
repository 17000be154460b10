"""WSGI applications (PEP 3333), such as Flask's: each request is a call of its route."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any

from carbontrack.api.named_calls import NamedCalls, request_name
from carbontrack.errors import ConfigError
from carbontrack.integrations.steps import SteppedRequest
from carbontrack.record import checked_name
from carbontrack.system.interrupts import attempt
from carbontrack.system.log import LOGGER

Environ = MutableMapping[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
Template = Callable[[Environ], "str | None"]
_TEMPLATE, _COUNTED = "carbontrack.template", "carbontrack.counted"


class CarbontrackMiddleware:
    """Middleware that counts each request.

    Args:
        app: your application.
        routes: True: one name for each method and route of Flask, such as `GET /users/<int:id>`. A
            function: the same for other frameworks; it receives the `environ` of a finished request
            and returns the template of its route, or None. False: one name for all.
        name: the name of all requests if `routes` is False.
        tracker: measures the requests; the default is a tracker made from `settings`.
        settings: all settings of carbontrack: region, output, scope, …

    Raises:
        ConfigError: an argument or a setting cannot be used.
    """

    def __init__(
        self,
        app: App,
        *,
        routes: bool | Template = False,
        name: str = "requests",
        tracker: Any = None,
        **settings: Any,
    ) -> None:
        self._app, self._name, self._said = app, checked_name(name), False
        if not (isinstance(routes, bool) or callable(routes)):
            raise ConfigError(f"routes must be True, False or a function, not {routes!r}")
        self._template = _flask_template() if routes is True else routes or None
        self._calls = NamedCalls("(unfinished request)", tracker=tracker, **settings)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Count a request; what the application returns or raises reaches the server."""
        if self._calls.is_off or _COUNTED in environ:
            return self._app(environ, start_response)
        environ[_COUNTED] = True
        request = _WsgiRequest(self._calls, self._name_of, environ)
        try:
            body = request.step(self._app, environ, request.starts(start_response))
        except BaseException:
            request.done()
            raise
        if type(body) in (list, tuple) or _is_file(body, environ.get("wsgi.file_wrapper")):
            request.done()  # the rest is the server's work, which needs the object itself
            return body
        return (_SizedBody if hasattr(body, "__len__") else _WsgiBody)(body, request)

    def _name_of(self, environ: Environ) -> str:
        if self._template is None:
            return self._name
        template, error = attempt(self._template, environ)
        if error is not None and not self._said:
            self._said = True
            LOGGER.warning("routes= raised %r; such requests are counted without a route", error)
        return request_name(environ.get("REQUEST_METHOD", ""), template)


def _is_file(body: object, wrapper: object) -> bool:
    if isinstance(wrapper, type):
        return isinstance(body, wrapper)
    return wrapper is not None and hasattr(body, "read")  # uWSGI's is a function


def _flask_template() -> Template:
    try:
        from flask import request_started
    except ImportError:
        what = "routes=True needs Flask, which is not installed; or give a function of environ"
        raise ConfigError(what) from None
    request_started.connect(_note_rule)
    return lambda environ: environ.get(_TEMPLATE)


def _note_rule(_app: object, **_: object) -> None:
    from flask import request  # it takes it out of `environ` when its context ends, before we do

    request.environ[_TEMPLATE] = getattr(request.url_rule, "rule", None)


class _WsgiRequest(SteppedRequest):
    """A WSGI request and the source of its name."""

    def __init__(self, calls: NamedCalls, name_of: Any, environ: Environ) -> None:
        super().__init__(calls)
        self._name_of, self._environ, self._status = name_of, environ, ""

    def starts(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that begins the response, which notes the status."""

        def start(status: str, *rest: Any, **more: Any) -> Any:
            self._status = str(status)
            return start_response(status, *rest, **more)

        return start

    def done(self) -> None:
        """It has ended."""
        if not self.is_over:
            failure = f"status {self._status[:3]}" if self._status.startswith("5") else None
            self.end(self._name_of(self._environ), failure)


class _WsgiBody:
    """What the application returned; iterating and closing it is part of the request."""

    def __init__(self, body: Iterable[bytes], request: _WsgiRequest) -> None:
        self._body, self._request = body, request

    def __iter__(self) -> Iterator[bytes]:
        self._next = self._request.step(iter, self._body).__next__
        return self

    def __next__(self) -> bytes:
        return self._request.step(self._next)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close what the application returned; this ends the request."""
        try:
            if (close := getattr(self._body, "close", None)) is not None:
                self._request.step(close)
        finally:
            self._request.done()

    def __del__(self) -> None:
        self._request.done()  # of a server that closes nothing


class _SizedBody(_WsgiBody):
    def __len__(self) -> int:  # of one chunk: a server makes its length the content's
        return len(self._body)  # type: ignore[arg-type]
