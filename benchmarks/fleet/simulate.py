"""A simulation, not a measurement: processes that end together, and one server.

Each process has one record, and waits for its delivery as long as its patience lasts; then it ends,
and the record stays in the journal of its host. The server takes requests in the order in which
they came, each for the same time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

PATIENCE_S = 1.8
"""How long a process waits at its end: `exit_timeout_s` of 2 s, and what is left of it."""
CASES = ((1_000, 1.0), (10_000, 1.0), (10_000, 60.0), (100_000, 60.0), (100_000, 600.0))
RATES = (200, 500, 1_000)


def arrived(
    processes: int,
    within_s: float,
    requests_per_s: float,
    *,
    patience_s: float = PATIENCE_S,
    serves_the_gone: bool = False,
    seed: int = 21,
) -> float:
    """The share of processes whose record arrives before they end.

    `serves_the_gone`: a request is served also when its process has ended, as where it lies in the
    server's socket already. Its record arrives too, but nobody is told, and it will be sent again.
    """
    chance = random.Random(seed)
    ends = sorted(chance.uniform(0.0, within_s) for _ in range(processes))
    service_s, free_at_s, count = 1.0 / requests_per_s, 0.0, 0
    for at_s in ends:
        done_s = max(free_at_s, at_s) + service_s
        in_time = done_s <= at_s + patience_s
        count += in_time
        if in_time or serves_the_gone:
            free_at_s = done_s
    return count / processes


def table(cases: Sequence[tuple[int, float]] = CASES, rates: Sequence[float] = RATES) -> list[str]:
    """The shares, as lines of Markdown."""
    heads = " | ".join(f"{rate:g} requests/s" for rate in rates)
    lines = [f"| processes ending (simulated) | in | {heads} |", "|---|---|" + "---|" * len(rates)]
    for processes, within_s in cases:
        cells = []
        for rate in rates:
            best = arrived(processes, within_s, rate)
            worst = arrived(processes, within_s, rate, serves_the_gone=True)
            cells.append(f"{best:.0%}" if best - worst < 0.005 else f"{worst:.0%} to {best:.0%}")
        lines.append(f"| {processes:,} | {within_s:g} s | {' | '.join(cells)} |")
    return lines
