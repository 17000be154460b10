"""The figures of one live service, refreshed in the background, with an interval for their age.

The last figures are also kept on disk, so that the next process need not fetch them again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from math import ceil
from pathlib import Path

from carbontrack.grid.intensity import GridIntensity
from carbontrack.grid.live.provider import Provider
from carbontrack.grid.live.web import FetchFailed, Get
from carbontrack.grid.series import Slot, in_order, last_before, slot_at, utc
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import replace_privately
from carbontrack.system.forking import OwnThread, PerProcess
from carbontrack.system.interrupts import pass_on, suppressed

MAX_AGE_S = 6 * 3600.0
"""A figure whose slot ended longer ago than this is no longer offered."""
FACTOR_RATIO = 1.10
"""The factors behind any figure are uncertain by at least a tenth (carbontrack/data/README.md)."""
FORECAST_RATIO = 1.29
"""95 % of the GB forecasts of 2025-26 lay within this ratio of what came."""
AGE_RATIOS = ((0.0, 1.0), (1.0, 1.26), (2.0, 1.53), (3.0, 1.79), (6.0, 2.34))
"""Age in hours, and the ratio within which 95 % of the hours of GB in 2025-26 lay of the hour that
long before: the error of an old figure. An island grid with much wind power is a demanding case."""

Runner = Callable[[Callable[[], None]], object]


def in_background(job: Callable[[], None]) -> None:
    """Run a job in a thread of its own, for which the interpreter's exit does not wait."""
    OwnThread(job, "carbontrack-intensity").start()


def _random() -> float:
    from random import random

    return random()  # noqa: S311 - spreads requests, no secret depends on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a feed needs from outside, each with its default.

    `run` starts a job in the background and returns at once, like an executor's `submit`. `warn`
    takes a topic and a message; `jitter` gives a random number from 0 to 1.
    """

    clock: Clock = field(default_factory=SystemClock)
    run: Runner = in_background
    warn: Callable[[str, str], object] | None = None
    jitter: Callable[[], float] = _random


class Feed:
    """One service's figures, refreshed in the background when they are asked for and due.

    `find` answers from memory. Where the service is down, slow, or its answers are invalid, the
    last good figure stays valid for `MAX_AGE_S`, with its age in `source` and a wider interval;
    then there is none. After a failure the next attempt waits: longer each time, at random up to a
    quarter less, so that many machines do not retry at once, and at least as long as the service
    asks for.
    """

    prompt = True

    def __init__(
        self,
        provider: Provider,
        get: Get,
        *,
        zone: str | None = None,
        cache: Cache | None = None,
        outside: Outside | None = None,
    ) -> None:
        """Serve a provider's figures, under the name `zone`, or the provider's own for it."""
        self.provider = provider
        self.failures = 0
        self._get, self._cache, self._zone = get, cache, zone or provider.zone
        self._outside = outside or Outside()
        self._clock = self._outside.clock
        self._due_s = float("-inf")
        self._lock = PerProcess(threading.Lock)  # in a child, one held at the fork stays so
        self._slots: tuple[Slot, ...] = in_order(cache.load()) if cache else ()
        self._answer: tuple[Slot, int, GridIntensity] | None = None

    def find(self, when: datetime) -> GridIntensity | None:
        """The figure at `when`, or the last good one with its age, or None."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._due_s:
            self._refresh(now_s)
        at_s = when.timestamp()
        slot = slot_at(self._slots, at_s) or last_before(self._slots, at_s)
        if slot is None or at_s - slot.end_s > MAX_AGE_S:
            return None
        return self._intensity(slot, _age_h(at_s - slot.end_s))

    def _refresh(self, now_s: float) -> None:
        lock = self._lock.get()
        if not lock.acquire(blocking=False):
            return
        self._due_s = now_s + self.provider.poll_s
        try:
            self._outside.run(self._job)
        except RuntimeError as error:  # at interpreter exit, or at the limit of threads
            lock.release()
            pass_on(error)
            self._fail(FetchFailed(f"{self.provider.name}: {error}"))

    def _job(self) -> None:
        try:
            self._fetch()
        except FetchFailed as failure:
            self._fail(failure)
        except Exception as error:  # a bug in a provider must not end the program
            self._fail(FetchFailed(f"{self.provider.name}: {type(error).__name__}"))
        finally:
            self._lock.get().release()

    def _fetch(self) -> None:
        now = self._clock.now_utc()
        slots = in_order(self.provider.fetch(self._get, now))
        if not slots:
            raise FetchFailed(f"{self.provider.name} returned an impossible value")
        self.failures = 0
        self._slots = _merged(self._slots, slots, now.timestamp())
        self._due_s = self._clock.monotonic_s() + self.provider.poll_s
        if self._cache is not None:
            self._cache.save(self._slots)

    def _fail(self, failure: FetchFailed) -> None:
        self.failures += 1
        longest_s = 3600.0 if failure.refused else 900.0
        delay_s = longest_s if failure.refused else min(longest_s, 15.0 * 2 ** (self.failures - 1))
        delay_s *= 1.0 - 0.25 * self._outside.jitter()
        if failure.retry_after_s is not None:
            delay_s = max(delay_s, min(failure.retry_after_s, 24 * 3600.0))
        self._due_s = self._clock.monotonic_s() + delay_s
        if self._outside.warn is not None:
            self._outside.warn(self.provider.name, f"no live intensity: {failure.reason}")

    def _intensity(self, slot: Slot, age_h: int) -> GridIntensity:
        """The same object while nothing changes; the age is in whole hours."""
        known = self._answer
        if known is None or known[0] is not slot or known[1] != age_h:
            known = self._answer = slot, age_h, self._describe(slot, age_h)
        return known[2]

    def _describe(self, slot: Slot, age_h: int) -> GridIntensity:
        provider, g = self.provider, slot.g_per_kwh
        ratio = FACTOR_RATIO * age_ratio(float(age_h))
        words = [provider.name, provider.signal, provider.counts]
        if slot.estimated:
            ratio *= FORECAST_RATIO
            words.append("forecast or estimate")
        if age_h:
            words.append(f"up to {age_h} h old")
        method = f"live_{provider.signal}_{provider.counts}"
        year = utc(slot.start_s).year
        return GridIntensity(self._zone, g, g / ratio, g * ratio, ", ".join(words), year, method)


def _age_h(late_s: float) -> int:
    """Whole hours since a slot ended, rounded up; within ten minutes its successor is just late."""
    return 0 if late_s < 600.0 else ceil(late_s / 3600.0)


def age_ratio(hours: float) -> float:
    """The error of a figure of this age, as a ratio, interpolated between those of `AGE_RATIOS`."""
    for (h0, r0), (h1, r1) in pairwise(AGE_RATIOS):
        if hours <= h1:
            return r0 + (r1 - r0) * (hours - h0) / (h1 - h0)
    return AGE_RATIOS[-1][1]


def _merged(old: Sequence[Slot], new: Sequence[Slot], now_s: float) -> tuple[Slot, ...]:
    """New figures, and those old ones before them that are not yet too old."""
    kept = [slot for slot in old if now_s - slot.end_s < MAX_AGE_S and slot.end_s <= new[0].start_s]
    return in_order([*kept, *new])


class Cache:
    """The last figures in a JSON file; errors of reading and writing it are ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, folder: Path, service: str, zone: str, signal: str) -> Cache:
        """The file of one service, zone and signal; names are made safe for any file system."""
        name = "".join(c if c.isalnum() else "-" for c in f"{service}-{zone}-{signal}".lower())
        return cls(folder / "intensity" / f"{name}.json")

    def load(self) -> list[Slot]:
        """The figures that were saved last; each has its own time, so an old one is recognised."""
        import json

        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            return [Slot(float(s), float(e), float(g), bool(x)) for s, e, g, x in entries]
        except (OSError, ValueError, TypeError) as error:
            pass_on(error)
            return []

    def save(self, slots: Sequence[Slot]) -> None:
        """Replace the file in one step, so that no reader sees half of it."""
        import json

        with suppressed(OSError):
            replace_privately(self._path, json.dumps(slots))
