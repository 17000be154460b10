"""An account that is credited when it is asked for is the one that is credited at every step."""

from __future__ import annotations

from itertools import combinations
from operator import add, mul

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.attribution.policy import WHOLE, Attribution
from carbontrack.grid.intensity import Fixed, GridIntensity
from carbontrack.sampling.counts import (
    Counts,
    Reading,
    Returned,
    StandIn,
    advance,
    with_fault,
    with_suspend,
    without_counts,
)
from carbontrack.sampling.ledger import (
    Ledger,
    Mark,
    Sharing,
    between,
    calls_between,
    mark_at,
)
from carbontrack.testing import FakeClock
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import ScriptedUsage

COMPONENTS = ("cpu", "ram", "gpu", "cpu")
"""The last one stands in for the first, once it has joined."""
END_METERS = (1, 1)

STEP = st.fixed_dictionaries(
    {
        "elapsed_s": st.floats(0.0005, 3.0),
        "joules": st.tuples(*[st.floats(0.0, 500.0)] * len(COMPONENTS)),
        "what": st.sampled_from(
            ["plain"] * 6
            + ["silent", "drop", "lower bound", "fault", "suspend", "reset", "pause"]
            + ["join", "return", "leaves", "share", "parts", "grid", "calls", "mark"]
        ),
        "how": st.floats(0.0, 1.0),
    }
)


class Grid:
    """A grid whose intensity, and the source of it, change when a test says so."""

    prompt = True

    def __init__(self) -> None:
        self.now = GridIntensity("X", 100.0, 80.0, 150.0, "a", 2026, "m")

    def at(self, when):
        """The intensity now."""
        return self.now

    def change(self, how: float) -> None:
        """Another one."""
        g = 1000.0 * how
        self.now = GridIntensity("X", g, 0.5 * g, 2.0 * g, "ab"[how > 0.5], 2026, "m")


class Eager:
    """The account of a tracker, added up step by step."""

    def __init__(self, *, names_sources: bool) -> None:
        self._names_sources = names_sources
        self.leaf_j, self.calls_j = [0.0] * len(COMPONENTS), [0.0] * len(COMPONENTS)
        self.leaf_ends_j, self.calls_ends_j = [0.0] * 2, [0.0] * 2
        self.leaf_g, self.calls_g = [0.0] * 3, [0.0] * 3
        self.leaf_served_j, self.calls_served_j = {}, {}
        self.calls_s = self.calls_cpu_s = 0.0

    def add(self, step, shares, grid: GridIntensity) -> None:
        """Split the step's energy among the leaves and the calls."""
        ours_j = list(map(mul, step.joules, shares))
        ends_j = [joules * shares[n] for joules, n in zip(step.ends_j, END_METERS, strict=False)]
        sharers = step.leaves + step.calls
        if step.leaves:
            self._add("leaf", ours_j, ends_j, 1.0 / sharers, grid)
        if step.calls or not step.leaves:
            self._add("calls", ours_j, ends_j, step.calls / sharers if step.leaves else 1.0, grid)
            self.calls_s += step.elapsed_s * (step.calls if step.leaves else 1.0)
            self.calls_cpu_s += step.cpu_s

    def _add(self, whose, ours_j, ends_j, part, grid) -> None:
        joules = [one * part for one in ours_j]
        for name, more in (("j", joules), ("ends_j", [one * part for one in ends_j])):
            sums = getattr(self, f"{whose}_{name}")
            sums[: len(more)] = map(add, sums, more)
        kwh = sum(joules) / JOULES_PER_KWH
        grams = getattr(self, f"{whose}_g")
        ends = (grid.g_per_kwh, grid.low_g_per_kwh, grid.high_g_per_kwh)
        grams[:] = [g + kwh * end for g, end in zip(grams, ends, strict=True)]
        served_j = getattr(self, f"{whose}_served_j")
        if self._names_sources:
            served_j[grid.source] = served_j.get(grid.source, 0.0) + sum(joules)


class Course:
    """One course of steps, taken in by a ledger as the sampler does it, and by an eager account."""

    def __init__(self, attribution: Attribution, *, follows_grid: bool) -> None:
        self.grid = Grid()
        grid = self.grid if follows_grid else Fixed.of(100.0)
        self.intensity = lambda: grid.at(None)
        self.clock, self.usage = FakeClock(0.0), ScriptedUsage(ours=0.5)
        self.ledger, self.eager = Ledger(attribution, grid), Eager(names_sources=follows_grid)
        self.is_process = attribution.scope == "process"
        self.ledger.begin(self.usage if self.is_process else None, 0.0, self.clock.now_utc())
        self.counts_j, self.ends_j, self.width = [0.0] * 4, [0.0, 0.0], 3
        self.leaves, self.parts, self.is_due = 1, (None,) * 3, True
        self.counts = advance(Counts(0.0), self.reading(0.0))[0]
        self.marks: list[tuple[Mark, list[float], list[float]]] = []

    def reading(self, now_s, **more):
        """What the meters show."""
        joules = more.pop("joules", tuple(self.counts_j[: self.width]))
        return Reading(now_s, joules, tuple(self.ends_j), END_METERS, **more)

    def take(self, elapsed_s, joules, what, how) -> None:
        """Let time pass, and take a sample."""
        self.clock.advance(elapsed_s)
        for index, more_j in enumerate(joules):
            self.counts_j[index] += more_j
        self.ends_j = [self.ends_j[0] + 0.5 * joules[1], self.ends_j[1] + 2.0 * joules[1]]
        before, calls, cpu_s = self.counts, 0.0, 0.0
        if what == "calls":
            calls, cpu_s = (0.1 + 4.0 * how if self.leaves else 0.0), 0.1 + how
        elif what in ("share", "grid", "parts", "leaves"):
            self.change(what, how)
        after = self.counted(before, what, int(how * 2.999))
        self.credit(before, after, Sharing(COMPONENTS[: self.width], self.leaves, calls, cpu_s,
                                           self.parts, END_METERS))  # fmt: skip
        self.counts = after
        if what == "mark":
            mark = Mark(after, self.ledger.account)
            self.marks.append((mark, [*self.eager.leaf_j], [*self.eager.calls_j]))

    def change(self, what, how) -> None:
        """Other terms from here on."""
        if what == "share":
            self.usage.ours = how
        elif what == "grid":
            self.grid.change(how)
        elif what == "parts":
            self.parts, self.is_due = (None, None, how), True
        else:
            self.leaves, self.is_due = int(how * 4.999), True

    def counted(self, before: Counts, what: str, index: int) -> Counts:
        """The counts after a reading in which something may have been amiss."""
        now_s = self.clock.monotonic_s()
        plain = self.reading(now_s)
        if what == "silent":
            joules = tuple(None if n == index else j for n, j in enumerate(plain.joules))
            return advance(before, self.reading(now_s, joules=joules, missed=1))[0]
        if what == "drop":
            return advance(before, self.reading(now_s, dropped=frozenset({index})))[0]
        if what == "lower bound":
            return advance(before, self.reading(now_s, lower_bounds=frozenset({index})))[0]
        if what == "reset":
            self.counts_j[index] = 0.0
            return advance(before, self.reading(now_s))[0]
        if what == "pause":
            return advance(without_counts(before), plain)[0]
        if what == "join" and self.width == 3:
            self.width = 4
            joined = {3: StandIn(before.at_s, max(0.0, self.counts_j[3] - 1.0), (), 0.5)}
            return advance(before, self.reading(now_s, joined=joined))[0]
        if what == "return" and self.width == 4:
            return advance(before, self.reading(now_s, returned={0: Returned((3,))}))[0]
        after = before.after(now_s, plain.joules, plain.ends_j) or advance(before, plain)[0]
        if what == "fault":
            return with_fault(after, "gap")
        return with_suspend(after, 3.0) if what == "suspend" else after

    def credit(self, before: Counts, after: Counts, sharing: Sharing) -> None:
        """Have the ledger look at a step if it must, and the eager account take it."""
        ledger = self.ledger
        is_plain = after.anchor is before.anchor and not (sharing.calls or sharing.cpu_s)
        if self.is_due or not is_plain or after.at_s >= ledger.due_s:
            ledger.account = ledger.after(before, after, sharing, self.clock)
            self.is_due = False
        step = sharing.of(before, after)
        self.eager.add(step, self.shares(sharing), self.intensity())

    def shares(self, sharing: Sharing):
        """Our share of each meter's energy in the last step."""
        known = self.ledger._window.known if self.is_process else WHOLE
        parts = (*self.parts, None) if self.is_process else (None,) * 4
        return [
            getattr(known, name) * (1.0 if part is None else part)
            for name, part in zip(sharing.components, parts, strict=False)
        ]


def check(account, eager) -> None:
    """Every sum of the one is that of the other."""
    for name in account._fields:
        mine, theirs = getattr(account, name), getattr(eager, name)
        if isinstance(theirs, list):
            mine = [*mine, *[0.0] * (len(theirs) - len(mine))]
        elif isinstance(theirs, dict):
            mine = {**dict.fromkeys(theirs, 0.0), **mine}
        assert mine == pytest.approx(theirs, rel=1e-12, abs=1e-9), name


def check_marks(marks) -> None:
    """What lies between two marks, whenever somebody asks, and it never falls."""
    for (start, leaf_j, calls_j), (end, more_leaf_j, more_calls_j) in combinations(marks, 2):
        got, calls = between(start, end), calls_between(start.settled, end.settled)
        for mine, then_j, now_j in ((got, leaf_j, more_leaf_j), (calls, calls_j, more_calls_j)):
            joules = [*mine.ours_j, *[0.0] * (len(COMPONENTS) - len(mine.ours_j))]
            differences = [b - a for a, b in zip(then_j, now_j, strict=True)]
            assert joules == pytest.approx(differences, rel=1e-12, abs=1e-9)
            assert min(joules) >= 0.0
        halfway_s = (start.counts.at_s + end.counts.at_s) / 2.0
        half = between(start, mark_at(halfway_s, start, end)).ours_j
        assert half == pytest.approx([joules / 2.0 for joules in got.ours_j], abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(STEP, max_size=40),
    scope=st.sampled_from(["machine", "process"]),
    follows_grid=st.booleans(),
)
def test_an_account_is_the_sum_of_its_steps(steps, scope, follows_grid):
    """Leaves, calls, shares, intensity, faults, ends, stand-ins, returns: whatever changes."""
    course = Course(Attribution(scope), follows_grid=follows_grid)
    for step in steps:
        course.take(**step)
        check(course.ledger.account.at(course.counts), course.eager)
    check_marks(course.marks)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(STEP, max_size=20))
def test_a_closed_account_stays_as_it_is(steps):
    """What is used while nothing is open on a ledger is not its own."""
    course = Course(Attribution(), follows_grid=False)
    course.take(1.0, (1.0, 2.0, 3.0, 4.0), "plain", 0.0)
    closed = course.ledger.account.closed(course.counts)
    settled = closed.at(course.counts)
    for step in steps:
        course.take(**step)
        assert closed.at(course.counts) is settled
