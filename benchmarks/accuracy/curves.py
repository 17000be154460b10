"""Known power curves, straight lines from point to point, repeated; and the energy under them."""

from __future__ import annotations

import csv
import os
import random
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

Curve = Sequence[tuple[float, float]]
"""Seconds from the beginning and watts; the last point is the period."""

LOW_W, HIGH_W = 30.0, 120.0
TRACE = Path(__file__).with_name("trace.csv")


def constant() -> Curve:
    """The same power for ever."""
    return [(0.0, 75.0), (1.0, 75.0)]


def square(period_s: float) -> Curve:
    """Half of the period high, half of it low."""
    half_s = period_s / 2
    return [(0.0, HIGH_W), (half_s, HIGH_W), (half_s, LOW_W), (period_s, LOW_W)]


def ramp() -> Curve:
    """From low to high in 2 s, and at once back."""
    return [(0.0, LOW_W), (2.0, HIGH_W)]


def bursts(seed: int = 7) -> Curve:
    """Bursts of 2 to 60 ms at random times over 10 s."""
    rng, points, at_s = random.Random(seed), [(0.0, LOW_W)], 0.0
    while at_s < 9.8:
        at_s += rng.expovariate(1 / 0.08)
        end_s = at_s + rng.uniform(0.002, 0.06)
        high_w = rng.uniform(60.0, 150.0)
        points += [(at_s, LOW_W), (at_s, high_w), (end_s, high_w), (end_s, LOW_W)]
        at_s = end_s
    return [*points, (at_s + 0.1, LOW_W)]


def recorded() -> Curve:
    """The recorded load of a machine (`trace.csv`), as power between low and high."""
    with TRACE.open(newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [
            (float(row["at_s"]), LOW_W + (HIGH_W - LOW_W) * float(row["busy_share"]))
            for row in rows
        ]


CURVES = {
    "constant": constant(),
    "square 1 ms": square(0.001),
    "square 10 ms": square(0.01),
    "square 100 ms": square(0.1),
    "square 1 s": square(1.0),
    "square 10 s": square(10.0),
    "ramp": ramp(),
    "bursts": bursts(),
}
"""Every curve but the recorded one, which is read when it is wanted."""


def curve_of(name: str) -> Curve:
    """The curve of this name."""
    return recorded() if name == "recorded" else CURVES[name]


def joules(curve: Curve, at_s: float) -> float:
    """The energy from the beginning until `at_s`; the same as machine.c, written once more."""
    before, period_s = [0.0], curve[-1][0]
    for (a_s, a_w), (b_s, b_w) in pairwise(curve):
        before.append(before[-1] + (a_w + b_w) / 2 * (b_s - a_s))
    times, at_s = divmod(at_s, period_s)
    place = min(bisect_right([a_s for a_s, _ in curve], at_s), len(curve) - 1) - 1
    (a_s, a_w), (b_s, b_w) = curve[place], curve[place + 1]
    slope = (b_w - a_w) / (b_s - a_s) if b_s > a_s else 0.0
    since_s = at_s - a_s
    return times * before[-1] + before[place] + a_w * since_s + slope * since_s**2 / 2


def record(length_s: float, step_s: float) -> Iterator[tuple[float, float]]:
    """What part of this machine's processors is busy, from now on."""
    begun_s, last = time.monotonic(), _busy()
    while (at_s := time.monotonic() - begun_s) < length_s:
        time.sleep(step_s)
        now = _busy()
        whole = now[1] - last[1]
        yield at_s, (now[0] - last[0]) / whole if whole else 0.0
        last = now


def _busy() -> tuple[float, float]:
    ticks = [float(tick) for tick in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


if __name__ == "__main__":
    with TRACE.open("w", newline="") as made:
        made.write(f"# busy share of {os.cpu_count()} processors, every 0.1 s, /proc/stat\n")
        writer = csv.writer(made)
        writer.writerow(["at_s", "busy_share"])
        writer.writerows((f"{at_s:.4f}", f"{busy:.3f}") for at_s, busy in record(60.0, 0.1))
