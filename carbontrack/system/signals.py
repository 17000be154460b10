"""Writes open records when a signal is about to end the program; only with a setting.

By default carbontrack installs no signal handler: the next program writes a killed program's
records from its journal. With the setting the row is written at once.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from carbontrack.system.forking import OwnThread
from carbontrack.system.interrupts import pass_on

FLUSH_S = 2.0
"""How long the end of the program is delayed at most."""
_log = logging.getLogger("carbontrack")


def flush_on(number: signal.Signals, flush: Callable[[], None]) -> None:
    """Call `flush` when the signal arrives, and then the previous handler.

    Without a previous handler the signal has its default effect. Only the main thread can install
    handlers; from another one nothing is installed, and a warning is logged.
    """
    if threading.current_thread() is not threading.main_thread():
        _log.warning(
            "flush_on_signals has no effect: carbontrack was first used outside the main thread"
        )
        return
    before = signal.getsignal(number)

    def handle(received: int, frame: FrameType | None) -> None:
        _flush_for_a_moment(flush)
        if callable(before):
            before(received, frame)
        elif before == signal.SIG_DFL:
            signal.signal(received, signal.SIG_DFL)
            os.kill(os.getpid(), received)

    signal.signal(number, handle)


def _flush_for_a_moment(flush: Callable[[], None]) -> None:
    # In a thread, because the interrupted code may hold a lock that writing needs: then the wait
    # times out, the program ends, and what was not written is in the journal.
    thread = OwnThread(flush, "carbontrack-flush")
    try:
        thread.start()
    except RuntimeError as error:
        pass_on(error)
        _log.debug("records were not flushed: %s", error)
    else:
        thread.join(FLUSH_S)
