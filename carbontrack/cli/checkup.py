"""What the doctor finds out by trying: which counters move, and what carbontrack itself costs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from carbontrack.meters.powercap import ENERGY_FILTERING, filtering_suspected
from carbontrack.sampler import Sampler
from carbontrack.tracker import Tracker

WATCH_S = 1.0
"""A counter that does not move in a second, a thousand refreshes of RAPL's, does not count."""
_TICKS, _TICK_GAP_S = 7, 0.03
"""Ticks this far apart read everything anew, as ticks a second apart do."""
_BATCHES, _SPANS = 5, 40

Findings = dict[str, Any]


def check_up(tracker: Tracker, procfs: Path) -> Findings:
    """Watch the meters for a second, and time ticks and spans."""
    sampler = tracker.session.sampler
    with tracker.span("doctor"):
        powers_w = _watch(sampler)
        overhead = _overhead(tracker)
    ids = [slot.meter.id for slot in sampler.slots]
    measured = {slot.meter.id for slot in sampler.slots if slot.meter.basis == "measured"}
    suspected = any(i.startswith("rapl:") for i in ids) and filtering_suspected(procfs)
    return {
        "watts": dict(zip(ids, powers_w, strict=False)),
        "still": [i for i, w in zip(ids, powers_w, strict=False) if i in measured and not w],
        "energy_filtering": ENERGY_FILTERING if suspected else None,
        "overhead": overhead,
    }


def _watch(sampler: Sampler) -> list[float | None]:
    sampler.sample()
    before = sampler.machine
    sampler.clock.wait(threading.Event(), WATCH_S)
    sampler.sample()
    after = sampler.machine
    powers_w: list[float | None] = []
    for place in range(len(before.energy_j)):
        observed_s = after.observed_s[place] - before.observed_s[place]
        joules = after.energy_j[place] - before.energy_j[place]
        powers_w.append(joules / observed_s if observed_s > 0.0 else None)
    return powers_w


def _overhead(tracker: Tracker) -> Findings:
    sampler = tracker.session.sampler
    now_s, pause = sampler.clock.monotonic_s, threading.Event()
    ticks_s = []
    for _ in range(_TICKS):
        sampler.clock.wait(pause, _TICK_GAP_S)
        ticks_s.append(_timed(now_s, sampler.tick))

    def spans() -> None:
        for _ in range(_SPANS):
            with tracker.span("doctor"):
                pass

    span_s = min(_timed(now_s, spans) for _ in range(_BATCHES)) / _SPANS
    return {"tick_us": median(ticks_s) * 1e6, "span_us": span_s * 1e6}


def _timed(now_s: Callable[[], float], act: Callable[[], object]) -> float:
    begun_s = now_s()
    act()
    return now_s() - begun_s
