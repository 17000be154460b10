"""A counted request of an ASGI server: its messages, and the route that answered it.

Starlette and FastAPI store the route in the scope; neither is imported. All that is read is
public, except FastAPI's effective route, which has the prefixes of `include_router`. Without it,
the name is the route's own path.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any

from carbontrack.api.coroutine_cpu import CoroutineCpu
from carbontrack.api.named_calls import NamedCallHandle
from carbontrack.system.interrupts import attempt
from carbontrack.system.log import LOGGER

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_DEEPEST = 50
"""The deepest nesting of middlewares or mounts."""
_MOST_ROUTES = 10_000
"""The most routes that are kept."""


class RouteTemplates:
    """The template of the route that has answered a request, with those of the mounts around."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str | None]] = {}
        """By the id of the route, together with the route, so that the id is not reused."""

    def __call__(self, scope: Mapping[str, Any]) -> str | None:
        """The template; None if no route has answered."""
        effective = scope.get("fastapi", {}).get("effective_route_context")
        found = scope.get("route") if effective is None else effective
        found = scope.get("endpoint") if found is None else found  # Starlette before 1.0
        if found is None:
            return None
        known = self._known.get(id(found))
        if known is None:
            if len(self._known) >= _MOST_ROUTES:  # of a framework that makes them for each request
                self._known.clear()
            outermost = getattr(scope.get("router"), "routes", ())
            known = self._known[id(found)] = found, _template(found, outermost)
        return known[1]


def _template(found: Any, routes: Iterable[Any]) -> str | None:
    around, route = _search(found, routes, 0) or ("", found)
    if not hasattr(route, "path"):  # an endpoint that is in no route
        return None
    if hasattr(route, "endpoint"):
        return around + str(route.path)
    if getattr(route, "routes", None):  # a mount whose own routes have not answered
        return None
    return f"{around}{route.path}/{{path}}"  # a mounted application without routes


def _search(wanted: Any, routes: Iterable[Any], depth: int) -> tuple[str, Any] | None:
    """The templates of the mounts around a route, and the route; None if it is not found.

    `wanted` is the route, or its handler.
    """
    for route in routes:
        if wanted is route or wanted is _answers_in(route):
            return "", route
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is not None and any(one is wanted for one in contexts()):
            return "", wanted
        inner = getattr(route, "routes", None)
        if inner and depth < _DEEPEST:
            found = _search(wanted, inner, depth + 1)
            if found is not None:
                return str(getattr(route, "path", "")) + found[0], found[1]
    return None


def _answers_in(route: Any) -> Any:
    endpoint = getattr(route, "endpoint", None)
    return getattr(route, "app", None) if endpoint is None else endpoint


def in_thread(scope: Mapping[str, Any]) -> bool | None:
    """Whether a request is answered in another thread, by a `def`; None: not known yet."""
    route, endpoint = scope.get("route"), scope.get("endpoint")
    is_app = route is None and not (inspect.isroutine(endpoint) or inspect.isclass(endpoint))
    if endpoint is None or is_app or not (route is None or hasattr(route, "endpoint")):
        return None
    return _is_plain(endpoint, scope.get("method", "GET"))


@lru_cache(1024)
def _is_plain(endpoint: Any, method: str) -> bool:
    if inspect.isclass(endpoint):  # with a method for each of HTTP
        endpoint = getattr(endpoint, method.lower(), endpoint)
    while hasattr(endpoint, "func"):  # a partial
        endpoint = endpoint.func
    is_coroutine = inspect.iscoroutinefunction
    called = getattr(type(endpoint), "__call__", None)  # noqa: B004 - to see its kind
    return not (is_coroutine(endpoint) or is_coroutine(called))


def hides_steps(app: Any) -> str | None:
    """The name of a middleware that runs the inner application in another task.

    None: there is none.
    """
    for _ in range(_DEEPEST):
        kinds = [type(app), *(one.cls for one in getattr(app, "user_middleware", ()))]
        for kind in kinds:
            if any(one.__name__ == "BaseHTTPMiddleware" for one in getattr(kind, "__mro__", ())):
                return str(kind.__name__)
        app = getattr(app, "app", None)
    return None


def warned_of_tasks(app: Any) -> bool:
    """Whether the application inside `app` runs in separate tasks, where its steps are not seen."""
    found, _ = attempt(hides_steps, app)
    if found:
        LOGGER.warning(
            "%s runs the application in another task, so the CPU energy cannot be attributed to "
            "routes: add CarbontrackMiddleware before it, so that carbontrack's is the inner "
            "one", found
        )  # fmt: skip
    return bool(found)


class CountedRequest:
    """A counted request: its messages, and how it ends."""

    __slots__ = ("_has_body", "_is_socket", "_receive", "_scope", "_send", "call", "cpu", "outcome")

    call: NamedCallHandle

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._has_body, self._is_socket = False, scope["type"] == "websocket"
        self.cpu = CoroutineCpu(self._look)
        self.outcome: Any = ("ok", None)

    def _look(self) -> bool:
        """Whether its route is known; a `def` endpoint works in another thread."""
        works_in_thread, _ = attempt(in_thread, self._scope)
        if works_in_thread:
            self.cpu.in_thread()
        return works_in_thread is not None

    async def receive(self) -> Message:
        """Receive a message; while it waits for the client, the request uses nothing."""
        if self._has_body:  # only the end of the connection may come, at any time
            return await self._receive()
        self.call.begin_wait()
        if self._is_socket:
            self.cpu.pause()
        try:
            message = await self._receive()
        finally:
            if self._is_socket:
                self.cpu.begin()
            self.call.end_wait()
        self._has_body = not self._is_socket and not message.get("more_body")
        return message

    async def send(self, message: Message) -> None:
        """Send a message; a response of 5xx is a failure."""
        if not self.cpu.is_in_a_step:
            self.cpu.in_tasks()
        if message["type"] == "http.response.start" and message["status"] >= 500:
            self.outcome = "error", f"status {message['status']}"
        await self._send(message)
