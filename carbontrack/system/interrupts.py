"""Exceptions from outside: a signal handler may raise at any line, including carbontrack's own.

Python runs the handlers of signals in the main thread, between two instructions of whatever runs
there. An exception of a handler, a KeyboardInterrupt or the TimeoutError of a time limit, is meant
for the program and must pass through carbontrack. So each clause that catches an `Exception` or an
`OSError` where a handler can run passes it to `pass_on` first. At the end are the locks and
collections that are safe where a handler may raise.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as it has no stub
import _thread
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any, Generic, TypeVar
from weakref import ref

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
V = TypeVar("V")

_CO_VARARGS = 0x04
"""`inspect.CO_VARARGS`; that module takes long to import."""
_SELDOM_MORE = 20
"""The number of chained exceptions (raised while another one was handled) that are examined."""
_FEW = 32
"""With more entries than this, weak collections drop the dead ones as they grow."""


def pass_on(error: BaseException) -> None:
    """Raise the exception of a signal handler again, if it is the cause of `error`.

    It is `error` itself, or one that carbontrack or a library has turned into `error`.
    """
    outside = from_outside(error)
    if outside is not None:
        try:
            raise outside
        finally:
            del outside, error  # its traceback refers to this frame


def attempt(
    do: Callable[..., T], *given: Any, passes: type[Exception] | tuple[()] = (), **named: Any
) -> tuple[T | None, Exception | None]:
    """What `do` returns, and None; or None, and what it raises, whatever that is.

    `passes` is raised all the same, and so is what a signal's handler raised.
    """
    try:
        return do(*given, **named), None
    except passes:
        raise
    except Exception as error:
        pass_on(error)
        return None, error


class suppressed:  # noqa: N801 - as `contextlib.suppress`
    """Like `contextlib.suppress`, but exceptions of signal handlers pass through."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if kind is None or error is None or not issubclass(kind, self._kinds):
            return False
        pass_on(error)
        return True


def from_outside(error: BaseException) -> BaseException | None:
    """The exception that a signal's handler, or a tracer, raised; None if it was our own."""
    found: BaseException | None = error
    for _ in range(_SELDOM_MORE):
        if found is None:
            return None
        if _came_through_a_handler(found.__traceback__):
            return found
        found = _handled_meanwhile(found)
    return None


def _handled_meanwhile(error: BaseException) -> BaseException | None:
    """The exception that was being handled when `error` was raised, if that began in our call."""
    before = error.__cause__ or error.__context__
    if before is None or before.__traceback__ is None:
        return None
    frames = {id(trace.tb_frame) for trace in _traces(error.__traceback__)}
    return before if id(before.__traceback__.tb_frame) in frames else None


def _came_through_a_handler(trace: TracebackType | None) -> bool:
    """Whether a frame of the traceback is that of a handler.

    A handler gets its signal's number and the frame that it interrupts, a tracer a frame and an
    event. A handler that no longer has them is known by its code.
    """
    outer: FrameType | None = None
    for each in _traces(trace):
        frame = each.tb_frame
        if outer is not None and (_got_a_frame(frame, outer) or _is_installed(frame.f_code)):
            return True
        outer = frame
    return False


def _got_a_frame(frame: FrameType, outer: FrameType) -> bool:
    given = tuple(_arguments(frame))
    seen = [one for index, one in enumerate(given) if _is_theirs(given, index)]
    around: FrameType | None = outer if seen else None
    while around is not None and around not in seen:  # a handler may look at the callers
        around = around.f_back
    return around is not None


def _is_theirs(given: tuple[object, ...], index: int) -> bool:
    """Whether this is the frame in a handler's (number, frame), or a tracer's (frame, event)."""
    before, behind = given[index - 1] if index else None, given[index + 1 : index + 2]
    follows_number = isinstance(before, int) and not isinstance(before, bool)
    return isinstance(given[index], FrameType) and (follows_number or behind[:1] in _EVENTS)


_EVENTS = tuple((event,) for event in ("call", "line", "return", "exception", "opcode"))
"""What `sys.settrace` tells a tracer."""


def _arguments(frame: FrameType) -> Iterator[object]:
    code, values = frame.f_code, frame.f_locals
    for name in code.co_varnames[: code.co_argcount]:
        yield values.get(name)
    if code.co_flags & _CO_VARARGS:
        rest = values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        yield from rest if isinstance(rest, tuple) else ()


def _is_installed(code: CodeType) -> bool:
    """Whether this is the code of a handler that is installed."""
    if "signal" not in sys.modules:  # no handler in Python
        return False
    # not the module `signal`, which makes an enum's member of each answer, 7,000 bytecodes in all
    installed = map(_signal.getsignal, _signal.valid_signals())
    return any(code is _code_of(one) for one in filter(callable, installed))


def _code_of(handler: Any) -> CodeType | None:
    while hasattr(handler, "func"):  # a partial
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__"):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004 - its code
    found = getattr(handler, "__code__", None)
    return found if isinstance(found, CodeType) else None


def _traces(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


class _Lock314(_thread.RLock):  # type: ignore[misc]
    """A lock that is not left held if a signal handler raises just after `acquire`.

    Python 3.14 looks for signals between `__enter__` and the part of the `with` statement in which
    `__exit__` is sure to be called; earlier and later versions do not (python/cpython#148874).
    """

    def __enter__(self) -> bool:  # type: ignore[override]
        before = self._recursion_count()  # type: ignore[attr-defined]
        try:
            self.acquire()
        except BaseException:
            if self._recursion_count() > before:  # type: ignore[attr-defined]
                self.release()
            raise
        return True


def reentrant_lock() -> threading.RLock:
    """A lock for `with`, released whatever a signal handler raises.

    Reentrant, as a finalizer may want it while its thread has it.
    """
    lock = threading.RLock()  # it may be that of gevent
    is_at_risk = sys.version_info[:2] == (3, 14) and type(lock) is _thread.RLock
    return _Lock314() if is_at_risk else lock


class WeakValues(Generic[K, V]):
    """Objects by key, held only as long as somebody else refers to them.

    Not a `WeakValueDictionary`: that calls a function in Python when an object goes, at any line of
    the program, and what a handler of a signal raises in there is lost. Here nothing happens then;
    what is gone is forgotten later. Several threads may use it; a change is one step.
    """

    def __init__(self) -> None:
        self._refs: dict[K, ref[V]] = {}
        self._most = _FEW

    def get(self, key: K) -> V | None:
        """The object with this key; None where there is none, or none any more."""
        reference = self._refs.get(key)
        return None if reference is None else reference()

    def __setitem__(self, key: K, one: V) -> None:
        self._refs[key] = ref(one)
        if len(self._refs) > self._most:
            self._most = max(_FEW, 2 * len(self.living()))

    def discard(self, key: K) -> None:
        """Forget the object with this key."""
        self._refs.pop(key, None)

    def __len__(self) -> int:
        return len(self.living())

    def living(self) -> list[V]:
        """Those that are still there; the others are forgotten."""
        found = []
        for key, reference in list(self._refs.items()):
            one = reference()
            if one is not None:
                found.append(one)
            elif self._refs.get(key) is reference:
                del self._refs[key]
        return found


class WeakObjects(WeakValues[int, V]):
    """Objects, each once, held only as long as somebody else refers to them."""

    def add(self, one: V) -> None:
        """Hold it from now on."""
        self[id(one)] = one

    def remove(self, one: V) -> None:
        """Hold it no more; nothing happens where it is not held."""
        self.discard(id(one))
