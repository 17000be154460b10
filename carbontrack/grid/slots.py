"""A grid's intensity over time: slots of constant intensity, their values and their integrals."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from itertools import accumulate, pairwise
from math import isfinite
from typing import NamedTuple

HIGHEST_G_PER_KWH = 2500.0
"""No grid comes near it: the worst lignite plant emits about 1,700 g/kWh (IPCC AR5 WG III, A.III),
the worst national grid of the tables 1,306. What lies above, or below zero, is an error."""


class Slot(NamedTuple):
    """A span of time, in seconds since 1970 (UTC), and its intensity in g CO2e per kWh."""

    start_s: float
    end_s: float
    g_per_kwh: float
    estimated: bool = False
    """A forecast, or the provider's own stand-in for a figure it does not have yet."""


def in_order(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """Sorted, without absurd values, and each ended where the next begins."""
    good = [slot for slot in slots if _possible(slot)]
    latest = {slot.start_s: slot for slot in sorted(good, key=lambda slot: slot.start_s)}
    ordered = list(latest.values())
    cut = [slot._replace(end_s=min(slot.end_s, after.start_s)) for slot, after in pairwise(ordered)]
    return (*cut, *ordered[-1:])


def _possible(slot: Slot) -> bool:
    sound = all(isfinite(number) for number in slot[:3])
    return sound and slot.start_s < slot.end_s and 0.0 <= slot.g_per_kwh <= HIGHEST_G_PER_KWH


def slot_at(slots: Sequence[Slot], at_s: float) -> Slot | None:
    """The slot that holds an instant, or None."""
    slot = last_before(slots, at_s)
    return slot if slot is not None and at_s < slot.end_s else None


def last_before(slots: Sequence[Slot], at_s: float) -> Slot | None:
    """The last slot that has begun at an instant, over or not; or None."""
    place = bisect_right(slots, at_s, key=lambda slot: slot.start_s)
    return slots[place - 1] if place else None


class Course:
    """The integral of a run of slots without a gap; instants outside count as its ends."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Take slots that follow each other without a gap, at least one."""
        self.start_s, self.end_s = slots[0].start_s, slots[-1].end_s
        self.edges_s = [*(slot.start_s for slot in slots), self.end_s]
        areas = ((slot.end_s - slot.start_s) * slot.g_per_kwh for slot in slots)
        self._areas = list(accumulate(areas, initial=0.0))
        self._slots = slots

    def _area_to(self, at_s: float) -> float:
        at_s = min(max(at_s, self.start_s), self.end_s)
        place = min(bisect_right(self.edges_s, at_s), len(self._slots)) - 1
        slot = self._slots[place]
        return self._areas[place] + (at_s - slot.start_s) * slot.g_per_kwh

    def mean_g_per_kwh(self, start_s: float, end_s: float) -> float:
        """The mean over a part of the run, in g/kWh: what constant power would emit per kWh."""
        return (self._area_to(end_s) - self._area_to(start_s)) / (end_s - start_s)


def courses(slots: Sequence[Slot]) -> list[Course]:
    """The runs of slots that lie between gaps."""
    runs: list[list[Slot]] = []
    for slot in slots:
        if runs and runs[-1][-1].end_s == slot.start_s:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return [Course(run) for run in runs]


def parse_time_s(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; without an offset it is UTC.

    Raises:
        ValueError: the text is no such time.
    """
    text = text.strip()
    if text.endswith(("Z", "z")):
        text = f"{text[:-1]}+00:00"
    head, dot, tail = text.partition(".")
    if dot:  # Python 3.10 takes three or six digits of a second, and servers send others
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def utc(at_s: float) -> datetime:
    """The instant as a datetime with the time zone UTC."""
    return datetime.fromtimestamp(at_s, timezone.utc)
