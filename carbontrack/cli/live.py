"""What a command uses while it runs: the terminal's last line, kept up to date, and sparklines."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from carbontrack.cli.periodic import PeriodicThread
from carbontrack.cli.terminal import Terminal
from carbontrack.record import Record
from carbontrack.system.clock import Clock
from carbontrack.tracking.timeline import PowerRow
from carbontrack.units import (
    JOULES_PER_KWH,
    format_grams,
    format_interval,
    format_seconds,
    format_watts,
)

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_ROOM_BELOW = "\x1bD\x1b[A"
"""One line down and up again: scrolls if the cursor is on the last line, and does nothing else."""
_FEWEST_LINES = 5
_PREFIX = "carbontrack  "
_BARS = "▁▂▃▄▅▆▇█"
_GAP = " "
_MOST = 24
"""Bars at most: with the figures behind them they fit a narrow terminal."""


class LiveLine(PeriodicThread):
    """A line at the bottom of the terminal that is kept up to date while the command runs.

    The command prints on the same terminal, and we do not see what. So the terminal is set to
    scroll all lines but the last (DECSTBM), and nothing that the command prints is overwritten.
    While a full-screen program runs, or another process group has the terminal, nothing is drawn.

    Args:
        terminal: where the line is drawn.
        look: what the command has used so far.
        period_s: seconds between two updates.
        clock: the time.
    """

    def __init__(
        self,
        terminal: Terminal,
        look: Callable[[], Record],
        *,
        period_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__("carbontrack-live", period_s=period_s, clock=clock)
        self._terminal = terminal
        self._look = look
        self._before: Record | None = None
        self._lines = 0
        self._drawing = threading.Lock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self.erase()

    def step(self) -> bool:
        """Draw what has been used, if the terminal is ours."""
        with self._drawing:
            if is_ours(self._terminal):
                record = self._look()
                self.draw(live_text(record, self._before))
                self._before = record
            else:
                self._lines = 0  # another program may leave the screen in any state
        return True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal as it was to the one that has it in the block, such as the shell."""
        with self._drawing:
            if is_ours(self._terminal):
                self.erase()
            self._lines = 0
            yield

    def draw(self, text: str) -> None:
        """Write the text on the last line; the cursor stays where it is."""
        columns, lines = self._terminal.size
        if lines < _FEWEST_LINES:
            return
        prepared = ""
        if lines != self._lines:
            # all lines scroll, room is made, then all but the last scroll; DECSTBM homes the cursor
            prepared = f"{_SAVE}\x1b[r{_RESTORE}{_ROOM_BELOW}{_SAVE}\x1b[1;{lines - 1}r{_RESTORE}"
            self._lines = lines
        line = self._terminal.dim(_shortened(self._terminal.fit(text), columns - 1))
        self._terminal.say(f"{prepared}{_SAVE}\x1b[{lines};1H\x1b[2K{line}{_RESTORE}")

    def erase(self) -> None:
        """Clear the last line, and let all lines scroll again."""
        if self._lines:
            lines, self._lines = self._lines, 0
            self._terminal.say(f"{_SAVE}\x1b[r\x1b[{lines};1H\x1b[2K{_RESTORE}")


def live_text(record: Record, before: Record | None = None) -> str:
    """The line's text; the watts are those since `before`, where there is one."""
    parts = [] if record.duration_s is None else [format_seconds(record.duration_s)]
    watts = _watts(record, before)
    if watts is not None:
        parts.append(format_watts(watts))
    if record.emissions_g is not None:
        parts.append(f"{format_grams(record.emissions_g)} CO2e")
    return _PREFIX + " · ".join(parts)


def is_ours(terminal: Terminal) -> bool:
    """Whether the terminal is in line mode and we are in the foreground.

    A full-screen program, or one with a line editor, reads single keys: it clears ICANON
    (termios(3)).
    """
    try:
        import termios
    except ImportError:  # not a POSIX system
        return False
    if terminal.stream is None:
        return False
    try:
        descriptor = terminal.stream.fileno()
        takes_lines = bool(termios.tcgetattr(descriptor)[3] & termios.ICANON)
        return takes_lines and os.tcgetpgrp(descriptor) == os.getpgrp()
    except (OSError, ValueError, termios.error):
        return False


def sparkline(rows: Sequence[PowerRow]) -> str:
    """Power over time as a line of small bars, and the lowest and highest power.

    A space is a part of the time in which no meter answered.
    """
    watts = _means_w(rows)
    known = [power_w for power_w in watts if power_w is not None]
    if not known:
        return "unknown"
    highest_w = max(known)
    if len(watts) == 1 or highest_w <= 0.0:
        return f"{format_watts(highest_w)} throughout"
    bars = "".join(_GAP if w is None else _bar(w / highest_w) for w in watts)
    return f"{bars}  {format_interval(min(known), highest_w, format_watts)}"


def _shortened(text: str, width: int) -> str:
    """The text in `width` columns at most; our name is left out first."""
    return text if len(text) <= width else text.removeprefix(_PREFIX)[:width]


def _watts(record: Record, before: Record | None) -> float | None:
    seconds, kwh = record.duration_s, record.energy_kwh
    if seconds is None or kwh is None:
        return None
    if before is not None and before.duration_s is not None and before.energy_kwh is not None:
        seconds, kwh = seconds - before.duration_s, kwh - before.energy_kwh
    return max(0.0, kwh) * JOULES_PER_KWH / seconds if seconds > 0.0 else None


def _bar(height: float) -> str:
    return _BARS[min(len(_BARS) - 1, int(height * len(_BARS)))]


def _means_w(rows: Sequence[PowerRow]) -> list[float | None]:
    """The mean power in equal parts of the time; a bin counts in each part that it overlaps."""
    length_s = max((row.end_s for row in rows), default=0.0)
    count = max(1, min(_MOST, len({row.start_s for row in rows})))
    sums: list[dict[str, tuple[float, float]]] = [{} for _ in range(count)]
    for row in rows:
        if row.observed_s > 0.0 and length_s > 0.0:
            first = min(count - 1, int(row.start_s / length_s * count))
            for place in range(first, count):
                overlap_s = _overlap_s(
                    row, place * length_s / count, (place + 1) * length_s / count
                )
                if overlap_s <= 0.0:
                    break
                share = overlap_s / (row.end_s - row.start_s)
                joules, seen_s = sums[place].get(row.component, (0.0, 0.0))
                seen_s += row.observed_s * share
                sums[place][row.component] = (joules + row.energy_j * share, seen_s)
    return [
        sum(joules / seen_s for joules, seen_s in part.values()) if part else None for part in sums
    ]


def _overlap_s(row: PowerRow, start_s: float, end_s: float) -> float:
    return min(row.end_s, end_s) - max(row.start_s, start_s)
