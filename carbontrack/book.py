"""One tracker's book: its policy, its grid and its account, advanced with every sample."""

from __future__ import annotations

import logging
from datetime import datetime
from itertools import repeat
from typing import Final

from carbontrack.attribution.policy import WHOLE, Attribution, Shares, Usage
from carbontrack.attribution.usage import UsageReader
from carbontrack.clock import Clock
from carbontrack.grid.intensity import GridIntensity, IntensitySource
from carbontrack.grid_desk import GridDesk
from carbontrack.ledger import Account, Step, Terms, credit
from carbontrack.notices import Later
from carbontrack.records import Component
from carbontrack.sums import Joules

SHARE_WINDOW_S: Final = 0.2
"""The shortest time over which a share of CPU time is taken. The machine's count moves in steps of
10 ms, which is 5 % of the window; what one window gets too much the next one gets too little."""
USAGE_PERIOD_S: Final = 0.02
"""Usage is read this often at most. At edges that follow each other more closely nothing could be
learned from it, and reading it costs as much as the rest of the edge."""
STALE_S: Final = 2.0
"""A window that ended longer ago than this says nothing about now."""


Parts = tuple[float | None, ...]


class ShareWindow:
    """Our share of each component, over the last `SHARE_WINDOW_S` or a little more."""

    def __init__(self, attribution: Attribution, reader: UsageReader, now_s: float) -> None:
        self._attribution = attribution
        self.reader = reader
        reserves = attribution.splits_idle() and attribution.idle == "reserved"
        self._reservation = reader.reservation() if reserves else None
        self._before = self._middle = self._last = self._look(now_s)
        # Until the counts have said anything all of it is ours: the upper end, never nothing.
        self._shares = WHOLE._replace(idle=self._last.reserved_share)
        self._known = False

    @property
    def at_s(self) -> float:
        """The instant of the last look."""
        return self._last.at_s

    @property
    def known(self) -> Shares:
        """The shares of the last look."""
        return self._shares

    def shares(self, now_s: float) -> Shares:
        """The share of each component now."""
        if self._known and now_s - self._last.at_s < USAGE_PERIOD_S:
            return self._shares
        usage = self._last = self._look(now_s)
        if usage.at_s - self._middle.at_s >= SHARE_WINDOW_S:
            self._before, self._middle = self._middle, usage
        new = self._attribution.shares(self._before, usage)
        self._known = self._known or new.cpu is not None
        self._shares = new.over(self._shares)
        return self._shares

    def _look(self, now_s: float) -> Usage:
        usage, reservation = self.reader.read(now_s), self._reservation
        if reservation is None:
            return usage
        return usage._replace(reserved_share=reservation.share, reserved_cpu_s=reservation.cpu_s())


class Book:
    """What one tracker's policy and grid make of the machine's energy, so far.

    Attributes:
        attribution: who shares.
        account: the sums; immutable, replaced at every sample.
        later: what is to be said once no lock is held.
        holds: how many spans, and windows of summed calls, are open on it.
    """

    def __init__(self, attribution: Attribution, grid: IntensitySource | None) -> None:
        self.attribution = attribution
        self.account = Account()
        self.later = Later()
        self.holds = 0
        self._desk = GridDesk(grid, self.later)
        self._intensity: GridIntensity | None = None
        self._begun_at: datetime | None = None
        self._window: ShareWindow | None = None
        self._shares: Shares | None = None
        self._parts: Parts = ()
        self._split = attribution.idle_split()
        self._terms = Terms((), None, attribution.pue, self._desk.changes)

    def begin(self, usage: UsageReader | None, now_s: float, when: datetime) -> None:
        """The first span opens: from here on this book takes its part."""
        window = self._window
        # A reader of another process is what a fork has left behind.
        if usage is not None and not (
            window and window.reader is usage and now_s - window.at_s <= STALE_S
        ):
            self._window = self._new_window(usage, now_s)
        self._begun_at, self._intensity = when, self._desk.now(when)

    def _new_window(self, usage: UsageReader, now_s: float) -> ShareWindow | None:
        try:
            return ShareWindow(self.attribution, usage, now_s)
        except Exception as error:
            self.later.note(logging.ERROR, "what this process uses could not be read", error)
        return None

    def intensity(self, when: datetime) -> GridIntensity | None:
        """The grid's intensity at `when`; None where nothing is known."""
        return self._desk.now(when)

    def refresh(self, clock: Clock) -> None:
        """Ask for the grid's intensity anew where that takes time; no lock is held."""
        self._desk.refresh(clock)

    def fresh_intensity(self, clock: Clock) -> GridIntensity | None:
        """The grid's intensity now, asked for anew where that takes time; no lock is held."""
        self.refresh(clock)
        return self.intensity(clock.now_utc())

    def take(self, step: Step, when: datetime | None) -> None:
        """Take this book's part of one step of the machine's energy."""
        shares = self._shares_now(step.at_s)
        if self._split is not None:
            shares = self._split.shares(shares, step.components, step.joules, step.elapsed_s)
        when = when or self._begun_at
        if when is not None and (self._desk.changes or self._intensity is None):
            self._intensity = self._desk.now(when)
        old = self._terms
        parts = step.parts if self._window is not None else ()
        known = shares is self._shares and parts is self._parts
        if not known or len(old.shares) != len(step.components):
            self._shares, self._parts = shares, parts
            old = old._replace(shares=_by_meter(shares, step.components, parts))
        if old.intensity is not self._intensity:
            old = old._replace(intensity=self._intensity)
        self._terms = old
        self.account = credit(self.account, step, old)

    def _shares_now(self, at_s: float) -> Shares:
        if self._window is None:
            return WHOLE
        try:
            return self._window.shares(at_s)
        except Exception as error:
            self.later.note(logging.ERROR, "what this process uses could not be read", error)
        return self._window.known  # what was known last holds on

    @property
    def follows_grid(self) -> bool:
        """Whether the grid's intensity changes with time."""
        return self._desk.changes


def _by_meter(shares: Shares, components: tuple[Component, ...], parts: Parts) -> Joules:
    ours = tuple(float(getattr(shares, component)) for component in components)
    if not parts:
        return ours
    told = (*parts, *repeat(None, len(ours) - len(parts)))  # what stands in comes after the rest
    return tuple(s if p is None else s * p for s, p in zip(ours, told, strict=True))
