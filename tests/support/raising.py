"""Raises one exception at a chosen point inside carbontrack, as a signal's handler would.

A handler of the program's may run between any two bytecodes at which the interpreter looks for
signals: at the start of a function, after a call, and where a loop goes back. Two models of that:

* `line`: the exception is raised at the n-th line of the package that is executed. This reaches
  every line, also a few at which the interpreter looks for no signal: the first ones of a `try`, an
  `except` or a `finally`. Only the line of a `with` is passed when it is left: no handler can run
  between its body and its `__exit__`, and a lock would stay held.
* `signal`: a signal arrives before the n-th bytecode of the package, or of what it calls, and its
  handler raises when the interpreter next looks for signals. No point is made up, and none of the
  real ones is missed.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import linecache
import signal
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple

import carbontrack

PACKAGE = str(Path(carbontrack.__file__).parent) + "/"
FAKES = PACKAGE + "testing/"
"""Fakes stand for other people's code."""

TESTS = str(Path(__file__).parents[1]) + "/"

Model = Literal["line", "signal"]
SIGNAL = signal.SIGUSR2


class Place(NamedTuple):
    """A point at which an exception was raised."""

    file: str
    function: str
    line: int
    text: str
    is_real: bool
    """Whether the interpreter looks for signals there."""

    @property
    def marked(self) -> str:
        """The text of the line, and a mark where no signal's handler runs."""
        return f"{self.text!r}{'' if self.is_real else ' (by a trace only)'}"


def is_ours(code: CodeType) -> bool:
    """Whether this is code of the package, and not of its fakes."""
    name = code.co_filename
    return name.startswith(PACKAGE) and not name.startswith(FAKES)


def _is_called_by_ours(frame: FrameType) -> bool:
    """Whether the package has called this code of a library, not of a program or a fake."""
    before = frame.f_back
    is_library = not frame.f_code.co_filename.startswith((TESTS, FAKES))
    return is_library and before is not None and before.f_trace is not None


def without_a_trace(act: Callable[[], object]) -> None:
    """Run `act`, in which a trace raises, so that no exception counts as being handled afterwards.

    What a trace raises on the first line of an `except` skips the end of its handling, which no
    handler of a signal can. The exception would be the `__context__` of every later one of this
    thread; but a generator keeps an account of its own.
    """

    def confined() -> Iterator[None]:
        act()
        yield

    next(confined())


class Raiser:
    """Raises `error` at the `nth` point while its `with` block runs; in the main thread.

    Args:
        nth: the number of the point, from 1.
        error: what is raised, once.
        model: where the points are; see above.
        on_hit: called just before.

    Attributes:
        place: where it was raised; None if the block was over before.
        seen: the points passed.
    """

    def __init__(
        self,
        nth: int,
        error: BaseException,
        *,
        model: Model = "line",
        on_hit: Callable[[], object] = lambda: None,
    ) -> None:
        self.place: Place | None = None
        self.seen = 0
        self._nth = nth
        self._error = error
        self._model = model
        self._on_hit = on_hit
        self._before: Any = None
        self._handler: Any = None
        self._trips: list[weakref.ref[_Mark]] = []

    def __enter__(self) -> Raiser:
        self._before = sys.gettrace()
        if self._model == "signal":
            self._handler = signal.signal(SIGNAL, self._handle)
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        if self._model == "signal":
            signal.signal(SIGNAL, self._handler)

    def _called(self, frame: FrameType, _event: str, _arg: object) -> Any:
        if self._model == "line":
            return self._tracer_of_lines() if is_ours(frame.f_code) else None
        if not is_ours(frame.f_code) and not _is_called_by_ours(frame):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._at_opcode

    def _tracer_of_lines(self) -> Any:
        last: int | None = None

        def at_line(frame: FrameType, event: str, _arg: object) -> Any:
            nonlocal last
            if event == "line":
                self.seen += 1
                if self.seen == self._nth:
                    sys.settrace(None)
                    if last is not None and _leaves_with(frame, last):
                        return None
                    self.place = place_of(frame)
                    self._on_hit()
                    raise self._error
                last = frame.f_lineno
            return at_line

        return at_line

    def _at_opcode(self, _frame: FrameType, event: str, _arg: object) -> Any:
        if event == "opcode":
            self.seen += 1
            if self.seen == self._nth:
                # Nothing of the tracer may run after the signal has come: it comes with the end of
                # this frame, which drops the mark, whose weak reference calls a function in C.
                sys.settrace(None)
                mark = _Mark()
                self._trips.append(weakref.ref(mark, _trip))
                return None
        return self._at_opcode

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        ours = frame
        while ours is not None and not is_ours(ours.f_code):
            ours = ours.f_back
        if ours is not None:  # otherwise it has come after the last point
            self.place = place_of(ours)._replace(is_real=True)
            self._on_hit()
            raise self._error


class _Mark:
    """An object whose end is noticed."""


_set_interrupt = ctypes.pythonapi.PyErr_SetInterruptEx
_set_interrupt.argtypes = [ctypes.c_int, ctypes.py_object]
_trip = functools.partial(_set_interrupt, int(SIGNAL))
"""What the arrival of the signal does; the second argument is that of a weak reference's call."""


def place_of(frame: FrameType) -> Place:
    """The place that a frame is at."""
    code, line = frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno
    name = getattr(code, "co_qualname", code.co_name)
    text = linecache.getline(code.co_filename, line).strip()
    is_real = line not in _blocks(code.co_filename)[1]
    return Place(code.co_filename.removeprefix(PACKAGE), name, line, text, is_real)


def _leaves_with(frame: FrameType, came_from: int) -> bool:
    """Whether a frame is about to call `__exit__`; `came_from` is the line it was at before."""
    body = _blocks(frame.f_code.co_filename)[0].get(frame.f_lineno)
    return body is not None and body[0] <= came_from <= body[1]


@functools.cache
def _blocks(file: str) -> tuple[dict[int, tuple[int, int]], set[int]]:
    """The bodies of a file's `with` statements by their first line, and where handlers begin.

    Behind the last call in a body the interpreter looks for signals as long as the body's own
    handler applies. On the way into `__exit__`, `try`, `except` or `finally` it looks for none.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    bodies: dict[int, tuple[int, int]] = {}
    handlers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.With, ast.AsyncWith)):
            end = node.end_lineno or node.lineno
            bodies[node.lineno] = (node.body[0].lineno, end)
        elif isinstance(node, ast.Try):
            handlers.update((node.lineno, *(part.lineno for part in node.finalbody[:1])))
            for handler in node.handlers:
                handlers.update((handler.lineno, handler.body[0].lineno))
    return bodies, handlers
