"""Decorators that count the calls of functions, coroutine functions and generator functions.

`wrap` returns the decorated function; `CallCounter` decides for each call whether it is counted as
a call, as a span, or by the span around it.

The wrapper does not change the function's behaviour: results, exceptions and the order of steps
stay the same. An error of carbontrack is logged, and the call is not counted.

There is one difference. Wrong arguments of a coroutine or generator function raise the same
`TypeError`, but at the first step instead of at the call. To raise it at the call, the wrapper
would have to call the function there. It would then not be a generator function to `inspect`, nor,
before Python 3.12, a coroutine function; and for a task that is cancelled before it starts, Python
would warn that the coroutine was never awaited.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import nullcontext
from sys import is_finalizing
from types import FunctionType, MethodType
from typing import Any, Literal

from carbontrack.errors import ConfigError
from carbontrack.record import Record, Status
from carbontrack.system.forking import holding_forks
from carbontrack.system.interrupts import pass_on, suppressed
from carbontrack.system.reentrance import here, pass_through
from carbontrack.tracking.block import Block
from carbontrack.tracking.call import CoveredCall, call_of, skip_ended
from carbontrack.tracking.call_site import Callee, CallSite, call_site_of
from carbontrack.tracking.context import current, innermost, nearest_open, set_current
from carbontrack.tracking.counted_call import CountedCall
from carbontrack.tracking.handle import dead, end_abandoned
from carbontrack.tracking.session import Session
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracked_object import FUNCTIONS, tracked_object
from carbontrack.tracking.tracker import Tracker

_log = logging.getLogger("carbontrack")


class NoOpCall(CountedCall):
    """A call that is not counted, after an error of carbontrack or the end of the session."""

    __slots__ = ()

    def __enter__(self) -> NoOpCall:
        return self

    def __exit__(self, *_: object) -> None:  # for any number of calls at once
        """Does nothing."""


NO_OP_CALL = NoOpCall()
"""One instance for all: near the recursion limit there is no room to make another."""

Begin = Callable[[], CountedCall]
"""Makes a call, which begins to count where it is entered; never raises."""


def wrap(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    """Return the function, with every call of it counted."""
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(wrap(function.__func__, begin))
    wrapper = _WRAPPERS[_kind_of(function)](function, begin)
    return _in_place_of(function, wrapper, functools.partial(wrap, begin=begin))


def _in_place_of(
    function: Callable[..., Any],
    wrapper: Callable[..., Any],
    again: Callable[[Any], Callable[..., Any]],
) -> Callable[..., Any]:
    """The wrapper with the function's other attributes; `again` wraps another in the same way."""
    kind = type(function)
    if kind not in FUNCTIONS and kind is not functools.partial:
        return tracked_object(function, wrapper, again)
    wrapper = functools.wraps(function)(wrapper)
    if kind is functools.partial:
        vars(wrapper).update({name: getattr(function, name) for name in _OF_A_PARTIAL})
    return wrapper


_OF_A_PARTIAL = ("func", "args", "keywords")


Kind = Literal["plain", "coroutine", "generator", "async generator"]
_KINDS: dict[int, Kind] = {0x20: "generator", 0x80: "coroutine", 0x200: "async generator"}
"""By `inspect.CO_GENERATOR`, `CO_COROUTINE` and `CO_ASYNC_GENERATOR`."""


def _kind_of(function: Callable[..., Any]) -> Kind:
    while isinstance(function, functools.partial):
        function = function.func
    if type(function) is FunctionType and not vars(function):
        return _KINDS.get(function.__code__.co_flags & sum(_KINDS), "plain")
    with holding_forks():
        import inspect  # it takes long, and most functions need it not

    if not inspect.isroutine(function):
        function = getattr(type(function), "__call__", function)  # noqa: B004 - to see its kind
    if inspect.isasyncgenfunction(function):
        return "async generator"
    if inspect.iscoroutinefunction(function):  # also what is only marked as one
        return "coroutine"
    return "generator" if inspect.isgeneratorfunction(function) else "plain"


def _plain(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with begin():
            return function(*args, **kwargs)

    return wrapper


def _coroutine(function: Callable[..., Awaitable[Any]], begin: Begin) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with begin():
            return await function(*args, **kwargs)

    return wrapper


def wrap_stoppable(
    function: Callable[..., Any], new_block: Callable[[], Block[Any]]
) -> Callable[..., Any]:
    """Return the function, with every call of it in a block, which may raise at its end.

    Raises:
        ConfigError: it is a generator function, whose body alternates with its consumer.
    """
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(wrap_stoppable(function.__func__, new_block))
    kind = _kind_of(function)
    if kind in ("generator", "async generator"):
        raise ConfigError(
            "on_exceed cannot stop a generator; open a block with `with track(...)` inside it"
        )

    async def stoppable_coroutine(*args: Any, **kwargs: Any) -> Any:
        async with _block_or_null(new_block):
            return await function(*args, **kwargs)

    def stoppable(*args: Any, **kwargs: Any) -> Any:
        with _block_or_null(new_block):
            return function(*args, **kwargs)

    chosen: Any = stoppable_coroutine if kind == "coroutine" else stoppable
    return _in_place_of(function, chosen, functools.partial(wrap_stoppable, new_block=new_block))


def _block_or_null(new_block: Callable[[], Block[Any]]) -> Any:
    try:
        return new_block()
    except Exception as error:
        pass_on(error)
        _log.exception("a call could not be counted")
        return nullcontext()


def _generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    # As `yield from` (PEP 380 defines its steps), but the call is paused outside the body.
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body = function(*args, **kwargs)
        with begin() as call:
            step: Callable[[], Any] = functools.partial(next, body)
            while True:
                try:
                    item = step()
                except StopIteration as stop:
                    return stop.value
                except BaseException:
                    del step  # it may refer to the error, whose traceback refers to this frame
                    raise
                call.step(call.pause)
                try:
                    sent = yield item
                except BaseException as error:
                    # GeneratorExit too: a body may yield after it, which the caller must see.
                    step = functools.partial(body.throw, error)
                else:
                    step = functools.partial(_send, body, sent)
                call.step(call.resume)

    return wrapper


def _send(body: Generator[Any, Any, Any], sent: Any) -> Any:
    return next(body) if sent is None else body.send(sent)


def _async_generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body = function(*args, **kwargs)
        with begin() as call:
            step: Callable[[], Awaitable[Any]] = body.__anext__
            while True:
                try:
                    item = await step()
                except StopAsyncIteration:
                    return
                except BaseException:
                    del step  # it may refer to the error, whose traceback refers to this frame
                    raise
                call.step(call.pause)
                try:
                    sent = yield item
                except BaseException as error:
                    step = functools.partial(body.athrow, error)
                else:
                    step = body.__anext__ if sent is None else functools.partial(body.asend, sent)
                call.step(call.resume)

    return wrapper


_WRAPPERS = {
    "plain": _plain,
    "coroutine": _coroutine,
    "generator": _generator,
    "async generator": _async_generator,
}


class CallCounter:
    """Begins the calls of one decorated function.

    Args:
        callee: the function.
        window_s: the time for which short calls are summed into one row; 0: each call has a row.
        budget_check: called with each row before it is written.
        tracker: returns the tracker; called when the first call needs it.
        separate_root: calls are roots even inside a span of another tracker.
        on_enclosing: called with the session of the enclosing span, when that changes.
    """

    def __init__(
        self,
        callee: Callee,
        *,
        window_s: float,
        budget_check: Callable[[Record], Record] | None,
        tracker: Callable[[], Tracker],
        separate_root: bool,
        on_enclosing: Callable[[Session], None] | None = None,
    ) -> None:
        self._callee = callee
        self._name, self._labels = callee.name, callee.labels
        self._window_s = window_s
        self._budget_check = budget_check
        self._tracker = tracker
        self._separate_root = separate_root
        self._on_enclosing = on_enclosing
        self._enclosing: Session | None = None
        self._site: CallSite | None = None
        self._inner: CallSite | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For functions that are pickled by value: another process has its own trackers."""
        return vars(self) | {"_enclosing": None, "_site": None, "_inner": None}

    def begin(self) -> CountedCall:
        """Make a call, which begins to count where it is entered; never raises."""
        try:
            if here.thread.busy:
                pass_through(self._name)
                return NO_OP_CALL
            if dead:
                end_abandoned()
            around, site = current.get(), self._site
            if around is not None:
                return self._inside(around)
            return self._first() if site is None or site.session.closed else call_of(site)
        except RecursionError:  # the program may still succeed in its last frames
            return NO_OP_CALL
        except Exception as error:
            return self._uncounted(error)

    def _uncounted(self, error: Exception) -> CountedCall:
        pass_on(error)
        with suppressed(RecursionError):
            _log.exception("a call of %s could not be counted", self._name)
        return NO_OP_CALL

    def _root(self) -> CountedCall:
        site = self._site
        return self._first() if site is None or site.session.closed else call_of(site)

    def _first(self) -> CountedCall:
        if is_finalizing():
            pass_through(self._name)
            return NO_OP_CALL
        session = self._tracker().session
        if session.closed:
            session.warn_uncounted_call(self._name)
            return NO_OP_CALL
        if self._window_s == 0.0 or session.writes_each_call:
            return self._as_span(Span(session, self._name, labels=self._labels))
        self._site = self._new_site(session)
        return self._root()

    def _new_site(self, session: Session, *, inside: bool = False) -> CallSite:
        return call_site_of(
            session,
            self._callee,
            window_s=self._window_s,
            budget_check=self._budget_check,
            inside=inside,
        )

    def _inside(self, around: Any) -> CountedCall:
        open_around = nearest_open(around)
        if open_around is not around:
            set_current(skip_ended(around))
        if open_around is None or (
            self._separate_root and open_around.session is not self._tracker().session
        ):
            return self._root()
        session: Session = open_around.session
        if session is not self._enclosing:
            self._enclosing = session
            if self._on_enclosing is not None:
                self._on_enclosing(session)
        if session.spans == "roots" and self._budget_check is None:
            return CoveredCall(open_around, self._new_site)
        parent = innermost()
        assert parent is not None
        return self._as_span(parent.span(self._name, labels=self._labels))

    def _as_span(self, span: Span) -> CountedCall:
        span.budget_check = self._budget_check
        if self._window_s > 0.0 and not span.session.writes_each_call:
            if self._inner is None or self._inner.session is not span.session:
                self._inner = self._new_site(span.session, inside=True)
            span.call_site = self._inner
        return SpanCall(span)


class SpanCall(CountedCall):
    """A decorated call that is a span from its beginning."""

    __slots__ = ("_before", "_inside", "_span")

    def __init__(self, span: Span) -> None:
        self._before: Any = current.get()
        self._inside: Any = span
        self._span = span

    def resume(self) -> None:
        """The body starts or resumes."""
        self._before = current.get()
        if self._span.record_id is None:
            self._span.open()
            return
        self._span.resume()
        set_current(self._inside)

    def pause(self) -> None:
        """The body is suspended."""
        self._span.pause()
        self._inside = current.get()  # a block inside may be open
        set_current(self._before)

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended."""
        self.handle = None
        if current.get() is self._span:
            set_current(self._before)
        self._span.close(status, error)

    def drop(self) -> None:
        """Stop counting it, because counting has failed."""
        self.end("error")


def callee_of(function: Callable[..., Any], name: str | None, labels: Mapping[str, Any]) -> Callee:
    """The function by `name`, or by its module and qualified name."""
    inner = _unwrapped(function)
    code = getattr(inner, "__code__", None)
    return Callee(name or name_of(function), labels, id(inner) if code is None else code)


def name_of(function: Callable[..., Any]) -> str:
    """The function's module and qualified name; behind a partial or method, the inner one's."""
    function = _unwrapped(function)
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = type(function).__qualname__
    return f"{module}.{name}" if module else name


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The innermost function behind methods and partials."""
    while (inner := _wrapped_by(function)) is not None:
        function = inner
    return function


def _wrapped_by(function: Any) -> Any:
    if isinstance(function, functools.partial):
        return function.func
    # Accessed through a class, a partialmethod is a function that refers to the partialmethod; the
    # attribute has another name from Python 3.13 on.
    maker = getattr(function, "__partialmethod__", getattr(function, "_partialmethod", None))
    if isinstance(maker, functools.partialmethod):
        return maker.func
    # Not anything with a `__func__`: a remote proxy has attributes of any name.
    methods = (staticmethod, classmethod, MethodType)
    return function.__func__ if isinstance(function, methods) else None
