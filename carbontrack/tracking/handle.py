"""Handles: how the end of a block or call is detected if its own exit did not run.

A signal handler may raise at any instruction: in carbontrack's `__enter__` before its last one, in
`__exit__` before its first one, or between these and the program's code. Then no code here ends the
block. But the `with` statement is over, and it held the only reference to the bound method that it
would have called. So each `with` gets a separate bound method, and a weak reference to it is the
block's handle. Once that is dead, `end_abandoned` ends the block, at the next edge or tick. It is a
`partial`, because from Python 3.14 on an interpreter drops a `MethodType` before it begins the
call.
"""

from __future__ import annotations

import logging
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from carbontrack.system.interrupts import pass_on, suppressed

_log = logging.getLogger("carbontrack")
dead: deque[Handle | _Later] = deque()
"""The handles of blocks whose `with` is over; appended to by the interpreter, in no frame."""
_note: Callable[[Any], None] = dead.append
_ending: set[Handle | _Later] = set()
"""Those of them whose blocks are being ended."""


class Handle(ref["partial[Any]"]):
    """Dies with one `with` statement.

    Attributes:
        owner: the span or call to be ended then; missing where there is none yet.
    """

    __slots__ = ("owner",)

    owner: Any

    __eq__ = object.__eq__  # two statements may have methods of the same object
    __hash__ = object.__hash__


class _Later:
    """A span that a handler or finalizer has ended in the middle of an edge of the same thread."""

    def __init__(self, span: Any, outcome: tuple[Any, ...]) -> None:
        self._span = span
        self._outcome = outcome
        self.owner = self

    def abandon(self) -> None:
        """End it now."""
        self._span.close(*self._outcome[:2])


def end_later(span: Any, outcome: tuple[Any, ...]) -> None:
    """End a span after the edge in whose middle this thread is."""
    if span.is_open:
        dead.append(_Later(span, outcome))


def exit_method(function: Callable[..., Any], block: Any) -> partial[Any]:
    """What a `with` statement on `block` is to call at its end, and to hold alone until then."""
    method = partial(function, block)
    block.handle = handle = Handle(method, _note)
    handle.owner = block
    return method


class ExitMethod:
    """The method `__exit__` of blocks whose handle is theirs alone: spans and calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __get__(self, block: Any, kind: type | None = None) -> Any:
        if block is None:  # asked of the class, as `contextlib.ExitStack` does
            return self._function
        return exit_method(self._function, block)


class WithStatement:
    """One `with` statement on an object that opens a span for each of them.

    Attributes:
        block: the object.
        span: the span that was opened for this statement; None until then.
    """

    __slots__ = ("_handle", "_thread", "block", "span")

    def __init__(self, block: Any) -> None:
        self.block = block
        self.span: Any = None
        self._thread = get_ident()

    def watch(self, method: partial[Any]) -> None:
        """Have the span ended when `method`, which the statement will call, is gone."""
        self._handle: Handle | None = Handle(method, _note)

    def begin(self, span: Any) -> None:
        """A span is about to be opened for this statement."""
        handle = self._handle
        if handle is not None:
            self.span = handle.owner = span
            # the span's from here on: a handle that is no more when the method goes says nothing
            span.handle, self._handle = handle, None

    @property
    def is_here(self) -> bool:
        """Whether the statement is in this thread."""
        return self._thread == get_ident()


class SharedExitMethod(ExitMethod):
    """The method `__exit__` of an object that opens a span for each `with`, in any thread.

    The function gets the `WithStatement` in place of the object, whose `statement` it is meanwhile.
    """

    def __get__(self, block: Any, kind: type | None = None) -> Any:
        if block is None:  # asked of the class, as `contextlib.ExitStack` does
            return self._of_class
        statement = WithStatement(block)
        method = partial(self._function, statement)
        statement.watch(method)
        block.statement = statement
        return method

    def _of_class(self, block: Any, *raised: Any) -> Any:
        return self._function(WithStatement(block), *raised)


def end_abandoned() -> None:
    """End the blocks and calls whose `with` is over and whose own end did not run."""
    for handle in list(dead):
        if handle in _ending:  # by another thread, or around this call
            continue
        owner = getattr(handle, "owner", None)
        try:
            _ending.add(handle)
            if owner is not None:
                owner.abandon()
        except BaseException as error:
            _ending.discard(handle)
            if not isinstance(error, Exception):  # a handler of a signal; the next edge does it
                raise
            pass_on(error)
            _log.exception("a block could not be closed when it was left")
        _ending.discard(handle)
        with suppressed(ValueError):
            dead.remove(handle)
