"""Joules, grams, and how they add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import repeat
from operator import add, mul, sub
from typing import NamedTuple

Joules = tuple[float, ...]
"""One number for each meter, in the order of the sampler's meters."""
Grams = tuple[float, float, float]
"""Best estimate, low and high end of the grid's interval."""

Operation = Callable[[float, float], float]
Served = Mapping[str, float]
"""Joules by the source of the intensity they were weighed with; empty where it never changes."""

NO_GRAMS: Grams = (0.0, 0.0, 0.0)
NOTHING_SERVED: Served = {}


class Sums(NamedTuple):
    """Energy and grams of a span, or of calls, or of several together; they add up."""

    ours_j: Joules = ()
    grams: Grams = NO_GRAMS
    served_j: Served = NOTHING_SERVED

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        if not self.ours_j:
            return other
        if not other.ours_j:
            return self
        return Sums(
            add_joules(self.ours_j, other.ours_j),
            each(add, self.grams, other.grams),
            merged(add, self.served_j, other.served_j),
        )

    def times(self, factor: int) -> Sums:
        """So many times as much."""
        if factor == 1:
            return self
        best, low, high = self.grams
        return Sums(
            tuple(map(mul, self.ours_j, repeat(factor))),
            (best * factor, low * factor, high * factor),
            {source: joules * factor for source, joules in self.served_j.items()},
        )


NOTHING = Sums()


def each(operation: Operation, a: Grams, b: Grams) -> Grams:
    """The operation on both estimates and on both ends."""
    return operation(a[0], b[0]), operation(a[1], b[1]), operation(a[2], b[2])


def merged(operation: Operation, a: Served, b: Served) -> Served:
    """The operation source by source; one that a side does not know has served nothing there."""
    if not a and not b:
        return a
    return {source: operation(a.get(source, 0.0), b.get(source, 0.0)) for source in {**a, **b}}


def add_joules(a: Joules, b: Joules) -> Joules:
    """Meter by meter; a meter that one side does not know yet has counted nothing there."""
    if len(a) == len(b):
        return tuple(map(add, a, b))
    if len(a) < len(b):
        a, b = b, a
    return tuple(map(add, a, b)) + a[len(b) :]


def sub_joules(a: Joules, b: Joules) -> Joules:
    """Meter by meter, `a` being the later and not the shorter."""
    if len(a) == len(b):
        return tuple(map(sub, a, b))
    return tuple(map(sub, a, b)) + a[len(b) :]
