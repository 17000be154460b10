"""The traceback of a measured cell, shown as if the cell had run without the magic.

An error passes through frames of IPython's magics and of carbontrack before the shell shows it.
They are no part of the cell, so they are taken out, and the shell shows the others in its own way.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from carbontrack.errors import CarbontrackError

_END_OF_CELL = "post_execute"
_PACKAGE = __name__.partition(".")[0]


def show_own_frames(shell: Any, error: BaseException) -> None:
    """Have the shell show an error that is about to leave a measured cell with its own frames.

    To be called where the error is caught, and to be followed by `raise`.

    Args:
        shell: IPython's.
        error: its traceback begins in the frame of the caller.
    """
    own = own_frames(error)
    if isinstance(error, CarbontrackError) and isinstance(error.__context__, CarbontrackError):
        error.__suppress_context__ = True  # the same message, from deeper inside
    for earlier in list(shell.events.callbacks[_END_OF_CELL]):
        if isinstance(earlier, _Restore):  # of an error that was caught, or of a cell inside
            earlier()
    restore = _Restore(shell)
    kept = restore.kept

    def show(
        shell: Any,
        etype: type[BaseException],
        value: BaseException,
        tb: TracebackType,
        tb_offset: int | None = None,
    ) -> None:
        restore()
        if isinstance(value, kept[0]):  # the user has a way of showing it
            kept[1](etype, value, tb, tb_offset)
        elif value is not error:
            shell.showtraceback((etype, value, tb), running_compiled_code=True)
        elif isinstance(value, SyntaxError):
            value.__traceback__ = own
            entries = traceback.extract_tb(own)
            shell._showtraceback(
                etype, value, shell.SyntaxTB.structured_traceback(etype, value, entries)
            )
        else:
            value.__traceback__ = own  # which %tb and %debug look at, too
            shell.showtraceback((etype, value, own), tb_offset=0)

    # an error of this class may still be caught on its way: then the end of the cell restores all
    shell.set_custom_exc((type(error),), show)
    shell.events.register(_END_OF_CELL, restore)


class _Restore:
    """Restores, once, how the shell shows errors.

    Attributes:
        kept: the classes of errors that the user has a way of showing, and that way.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.kept = shell.custom_exceptions, shell.CustomTB

    def __call__(self) -> None:
        if self in self._shell.events.callbacks[_END_OF_CELL]:
            self._shell.events.unregister(_END_OF_CELL, self)
            self._shell.custom_exceptions, self._shell.CustomTB = self.kept


def own_frames(error: BaseException) -> TracebackType | None:
    """The traceback without the frames of carbontrack, apart from those of an error in it.

    The caller's frame and those around it are left out. An error that carbontrack raises on purpose
    has a message that says all, so where in carbontrack that was is left out as well.
    """
    parts = list(_parts(error.__traceback__))[1:]
    last = parts[-1] if parts and not isinstance(error, CarbontrackError) else None
    own: TracebackType | None = None
    for part in reversed(parts):
        if part is last or not _is_ours(part):
            own = TracebackType(own, part.tb_frame, part.tb_lasti, part.tb_lineno)
    return own


def _parts(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _is_ours(part: TracebackType) -> bool:
    return str(part.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE
