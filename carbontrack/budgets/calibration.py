"""How fast this machine is: a fixed piece of work, in CPU seconds, against a reference machine.

The work is half bytecode (calls, arithmetic, dictionaries, attributes) and half the interpreter's C
(sorting, long integers, text), the mix of an ordinary test. Its CPU time follows the machine and
the interpreter, as the tests' own does, so their quotient is nearly that of the reference machine.
"""

from __future__ import annotations

from collections.abc import Callable

from carbontrack.clock import process_cpu_s

REFERENCE_SLICE_S = 0.000286
"""CPU seconds of one slice on the reference machine: a core of an AMD EPYC 9005 (Zen 5) at
2.6 GHz, CPython 3.11, Linux in a virtual machine; the least of 1,000 slices, measured in 2026."""
SESSION_SLICES = 100
MOMENT_SLICES = 5
_TURNS = 1000


class _Point:
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


def _step(point: _Point, turn: int) -> int:
    point.x = (point.x * 31 + turn) % 1009
    return point.x


def slice_of_work() -> int:
    """One slice: the same steps every time; the answer only keeps them from being left out."""
    point, total = _Point(7, 11), 0
    counts: dict[int, int] = {}
    for turn in range(_TURNS):
        found = _step(point, turn)
        counts[found] = counts.get(found, 0) + turn
        if found & 1:
            total += found
    ordered = sorted((value * 7919) % 10007 for value in range(1500))
    long = (3**1500 * 7**900) % (10**400 + 7)
    text = ",".join(map(str, ordered[:400])).replace("1", "one").upper()
    return total + len(counts) + long % 97 + len(text)


def least_slice_s(slices: int, cpu_s: Callable[[], float] = process_cpu_s) -> float:
    """The least CPU time of some slices: what the work takes when nothing gets into its way."""
    least = float("inf")
    for _ in range(slices):
        begun = cpu_s()
        slice_of_work()
        least = min(least, cpu_s() - begun)
    return max(least, 1e-9)


def speed(slices: int, cpu_s: Callable[[], float] = process_cpu_s) -> float:
    """How many reference machines this one is worth now; 0.5 is half as fast."""
    return REFERENCE_SLICE_S / least_slice_s(slices, cpu_s)
