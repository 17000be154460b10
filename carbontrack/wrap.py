"""Wrapping a function so that its calls are counted: plain, coroutine, generator, async generator.

Nothing of ours may change what the function does: its result, its exceptions and its order of steps
stay as they are, and a mistake of ours is logged and leaves the call uncounted.

One thing moves. Wrong arguments of a coroutine or generator function are told by the same
`TypeError`, but at its first step and no longer at the call. To tell them at the call the wrapper
would have to call the function there, and then be neither a generator function for those who
inspect it nor, before Python 3.12, a coroutine function; and of a task that is cancelled before it
starts Python would warn that the function's own coroutine was never awaited.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import nullcontext
from typing import Any, Protocol

from carbontrack.block import Block
from carbontrack.errors import ConfigError
from carbontrack.outcome import outcome_of
from carbontrack.records import Status

_log = logging.getLogger("carbontrack")


class Counted(Protocol):
    """One call that is being counted."""

    def resume(self) -> None: ...  # noqa: D102 - the words say it
    def pause(self) -> None: ...  # noqa: D102
    def end(self, status: Status = "ok", error: str | None = None) -> None: ...  # noqa: D102


class Uncounted:
    """A call that is not counted, because we failed or are told not to."""

    def resume(self) -> None:
        """Nothing."""

    def pause(self) -> None:
        """Nothing."""

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """Nothing."""


UNCOUNTED = Uncounted()
"""One for all: near the limit of recursion there is no room to make another."""

Begin = Callable[[], Counted]
"""Begins a call and lets it run; never raises."""


def wrap(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    """The function, with every call of it counted."""
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(wrap(function.__func__, begin))
    target = _called(function)
    if inspect.isasyncgenfunction(target):
        wrapper = _async_generator(function, begin)
    elif _is_coroutine_function(target):
        wrapper = _coroutine(function, begin)
    elif inspect.isgeneratorfunction(target):
        wrapper = _generator(function, begin)
    else:
        wrapper = _plain(function, begin)
    return functools.wraps(function)(wrapper)


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004 - its kind is wanted


def _is_coroutine_function(target: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(target)


def _end(call: Counted, error: BaseException | None) -> None:
    try:
        if error is None:
            call.end()
        else:
            call.end(*outcome_of(error))
    except RecursionError:  # what the program itself may just get by with is not enough for us
        pass
    except Exception:
        _log.exception("a call could not be counted")


def _quietly(step: Callable[[], None]) -> None:
    try:
        step()
    except RecursionError:
        pass
    except Exception:
        _log.exception("a call could not be counted")


def _plain(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            _end(call, error)
            raise
        _end(call, None)
        return result

    return wrapper


def _coroutine(function: Callable[..., Awaitable[Any]], begin: Begin) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin()
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            _end(call, error)
            raise
        _end(call, None)
        return result

    return wrapper


def wrap_stoppable(
    function: Callable[..., Any], new_block: Callable[[], Block[Any]]
) -> Callable[..., Any]:
    """The function with every call of it in a block, which may raise when it is left.

    Raises:
        ConfigError: it is a generator, whose body and consumer take turns.
    """
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(wrap_stoppable(function.__func__, new_block))
    target = _called(function)
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise ConfigError(
            "on_exceed cannot stop a generator; open a block with `with track(...)` inside of it"
        )

    async def stoppable_coroutine(*args: Any, **kwargs: Any) -> Any:
        async with _made(new_block):
            return await function(*args, **kwargs)

    def stoppable(*args: Any, **kwargs: Any) -> Any:
        with _made(new_block):
            return function(*args, **kwargs)

    chosen: Any = stoppable_coroutine if _is_coroutine_function(target) else stoppable
    wrapper: Callable[..., Any] = functools.wraps(function)(chosen)
    return wrapper


def _made(new_block: Callable[[], Block[Any]]) -> Any:
    try:
        return new_block()
    except Exception:
        _log.exception("a call could not be counted")
        return nullcontext()


def _generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    # PEP 380 spells out what `yield from` does; this is that, with the body's time taken out.
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body = function(*args, **kwargs)
        call = begin()
        step: Callable[[], Any] = functools.partial(next, body)
        while True:
            try:
                item = step()
            except StopIteration as stop:
                _end(call, None)
                return stop.value
            except BaseException as error:
                _end(call, error)
                raise
            _quietly(call.pause)
            try:
                sent = yield item
            except BaseException as error:
                # GeneratorExit too: a body may answer it with a value, and the caller is told.
                step = functools.partial(body.throw, error)
            else:
                step = functools.partial(_send, body, sent)
            _quietly(call.resume)

    return wrapper


def _send(body: Generator[Any, Any, Any], sent: Any) -> Any:
    return next(body) if sent is None else body.send(sent)


def _async_generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body = function(*args, **kwargs)
        call = begin()
        step: Callable[[], Awaitable[Any]] = body.__anext__
        while True:
            try:
                item = await step()
            except StopAsyncIteration:
                _end(call, None)
                return
            except BaseException as error:
                _end(call, error)
                raise
            _quietly(call.pause)
            try:
                sent = yield item
            except BaseException as error:
                step = functools.partial(body.athrow, error)
            else:
                step = body.__anext__ if sent is None else functools.partial(body.asend, sent)
            _quietly(call.resume)

    return wrapper
