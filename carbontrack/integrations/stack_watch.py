"""The stack watch: closes a run whose framework does not call the last hook.

Many frameworks call no hook when a training raises. The span of the run would stay open, and what
the thread does afterwards would be counted as its children. So each tick checks whether the
function that called the first hook, the loop, is still on the stack of its thread. After two checks
in a row without it the run is over.

Only the thread's number and the loop's code are kept, never a frame, which would keep a model
alive. A check is made by the sampler's thread, for each run that is open. In Python 3.11 it takes
193 bytecodes and 10 for each frame above the loop, in other versions 59 fewer. If no run is open,
nothing is done.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from itertools import chain, tee
from operator import methodcaller
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

LOOKS = 2
"""The number of checks in a row without the loop after which a run is over."""
_Frame = tuple[int, CodeType]
_SUSPENDED = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
"""Code that leaves the stack while it still runs."""
_open: dict[StackWatch, None] = {}
"""The active watches, the oldest first, since a callback may be gone while its run is open."""


class StackWatch:
    """Watches one run, as a listener of the sampler's ticks.

    Args:
        loop: the code that must be on the stack of this thread.
        is_open: whether the run is still open.
        on_gone: called on the sampler's thread when the loop is gone.
        sampler: the sampler whose ticks are used.
    """

    has_gone_on = False
    """Whether the loop has called another hook."""

    def __init__(
        self,
        loop: CodeType,
        is_open: Callable[[], bool],
        on_gone: Callable[[], object],
        sampler: Any,
    ) -> None:
        self._thread, self._loop = get_ident(), loop
        self._frame, _ = _first(list(_frames()), loop) or (0, loop)
        self._is_open, self._on_gone = is_open, on_gone
        self._sampler = sampler
        self._misses = 0

    def start(self) -> None:
        """Check at each tick from now on."""
        _open[self] = None
        with self._sampler.lock:
            self._sampler.tick_listeners.add(self)

    def after_tick(self, now_s: float) -> None:  # noqa: ARG002 - the protocol's
        """Check whether the loop is still there."""
        if not self._is_open():
            self.stop()
        elif _is_running(self._thread, self._loop):
            self._misses = 0
        else:
            self._misses += 1
            if self._misses >= LOOKS:
                self.stop()
                self._on_gone()

    def runs_elsewhere(self) -> bool:
        """Whether the loop is on the stack of its thread, and that is not this one."""
        return self._thread != get_ident() and _is_running(self._thread, self._loop)

    def close(self) -> None:
        """The loop is gone, as observed by the program's thread, which a handler may interrupt."""
        self._on_gone()
        self.stop()

    def is_over(self, frames: list[_Frame], loop: CodeType | None) -> bool:
        """Whether the loop is gone, as these are the frames of its thread and `loop` begins there.

        Another frame may have the number of one that is gone, even for the same code. A loop that
        has gone on does not call its first hook again.
        """
        mine = (self._frame, self._loop)
        return mine not in frames or (self.has_gone_on and _first(frames, loop) == mine)

    def fall_asleep(self) -> None:
        """Nothing is open any more."""
        self.stop()

    def stop(self) -> None:
        """Stop watching; a second call does nothing."""
        _open.pop(self, None)
        with self._sampler.lock:
            self._sampler.tick_listeners.remove(self)


def close_gone(loop: CodeType | None) -> None:
    """Close finished runs of this thread, before a run of this loop begins.

    Otherwise it would become their child, and keep them open if it has the same loop.
    """
    here, frames = get_ident(), list(_frames())
    for watch in reversed(list(_open)):
        if watch._thread == here and watch.is_over(frames, loop):
            watch.close()


def watched_loop() -> CodeType | None:
    """The code of the framework's loop that has called the hook in which this is called.

    It is the nearest caller outside of carbontrack, of the module that called the hook, and of
    modules for callbacks. None if that caller does not stay on the stack: in coroutines, generators
    and greenlets.
    """
    frame: FrameType | None = sys._getframe(1)
    caller = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith("carbontrack."):
            caller = caller or module
            if module != caller and not _is_for_callbacks(module):
                break
        frame = frame.f_back
    if frame is None or frame.f_code.co_flags & _SUSPENDED or _is_in_greenlet():
        return None
    return frame.f_code


def stays_on_stack(loop: CodeType) -> bool:
    """Whether this code is on the stack of this thread, and stays there while it runs."""
    is_plain = not loop.co_flags & _SUSPENDED and not _is_in_greenlet()
    return is_plain and _is_running(get_ident(), loop)


def _is_running(thread: int, loop: CodeType) -> bool:
    frame = _frames_of_threads().get(thread)
    while frame is not None:
        if frame.f_code is loop:
            return True
        frame = frame.f_back
    return False


def _frames_without_collection() -> Mapping[int, FrameType]:
    """Like `sys._current_frames`, but without a garbage collection in the middle of it.

    In Python 3.11 it makes objects while it holds a lock of the interpreter. A collection that they
    start waits forever for that lock if it finds a `threading.local`, and every thread waits for
    the collection (github.com/python/cpython/issues/106883).
    """
    # the look whether collections are on, and all else, is one call in C: no other thread runs
    # between its steps, so what the program says of collections is kept
    look, restore = tee(map(_RESTORERS.__getitem__, map(_call, (gc.isenabled,))))
    steps = map(_call, (gc.disable, sys._current_frames))
    *_, frames, _ = chain(map(type, look), steps, map(_call, restore))
    found: Mapping[int, FrameType] = frames
    return found


_call = methodcaller("__call__")
_RESTORERS: dict[bool, Callable[[], Any]] = {True: gc.enable, False: bool}
_frames_of_threads: Callable[[], Mapping[int, FrameType]] = (
    _frames_without_collection if sys.version_info[:2] == (3, 11) else sys._current_frames
)


def _frames() -> Iterator[_Frame]:
    """The number and the code of each frame of this thread, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield id(frame), frame.f_code
        frame = frame.f_back


def _first(
    frames: list[tuple[int, CodeType]], loop: CodeType | None
) -> tuple[int, CodeType] | None:
    return next((one for one in frames if one[1] is loop), None)


def _is_for_callbacks(module: str) -> bool:
    return "callback" in module or module.endswith(".call")


def _is_in_greenlet() -> bool:
    greenlet = sys.modules.get("greenlet")
    return greenlet is not None and greenlet.getcurrent().parent is not None
