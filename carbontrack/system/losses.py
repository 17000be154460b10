"""How many records of this process are lost, and why, for one line at its end."""

from __future__ import annotations

import atexit
import threading

from carbontrack.system.forking import PerProcess, at_end_of_worker
from carbontrack.system.log import EACH_TIME, LOGGER

_MOST_REASONS = 5
"""Reasons that are told apart."""


class _Tally:
    """What is counted in one process: a child does not tell of its parent's losses."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: a finalizer may lose a record in here
        self.counts: dict[str, int] = {}
        self.said = 0


class Losses:
    """Records that are in no output and in no journal.

    Attributes:
        is_ending: whether all trackers are being closed, and `say` follows.
        has_speaker: whether somebody calls `say` at the exit, after the last tracker.
    """

    def __init__(self) -> None:
        self.is_ending = self.has_speaker = False
        self._tally = PerProcess(_Tally)

    def add(self, why: str, count: int = 1, *, is_said: bool = False) -> None:
        """Count records that are lost; `is_said`: the user has been told how many."""
        is_first = self._tally.state is None
        tally = self._tally.get()
        if is_first:
            atexit.register(self._at_exit)
            at_end_of_worker(self)
        with tally.lock:
            if why not in tally.counts and len(tally.counts) >= _MOST_REASONS:
                why = "others"
            tally.counts[why] = tally.counts.get(why, 0) + count
            tally.said += count * is_said

    def is_to_be_said(self, why: str, count: int) -> bool:
        """Count what an output has lost at its close; False if `say` tells of it in a moment."""
        if count:
            self.add(why, count, is_said=not self.is_ending)
        return not (count and self.is_ending)

    def say(self) -> None:
        """Tell how many records are lost in all, and why, unless that was told already."""
        tally = self._tally.state
        if tally is None:
            return
        with tally.lock:
            counts, total = dict(tally.counts), sum(tally.counts.values())
            if total == tally.said:
                return
            tally.said = total
        what = "1 record" if total == 1 else f"{total} records"
        one = len(counts) == 1
        why = "; ".join(why if one else f"{count} {why}" for why, count in counts.items())
        verb = "is" if total == 1 else "are"
        text = f"{what} could not be written and {verb} lost: {why}"
        LOGGER.warning("%s", text, extra={EACH_TIME: True})

    def end(self) -> None:
        """Nothing: at the end of a worker, its trackers are ended and closed first."""

    def close(self) -> None:
        """At the end of a worker: tell."""
        self.say()

    def _at_exit(self) -> None:
        if not self.has_speaker:
            self.say()


LOSSES = Losses()
