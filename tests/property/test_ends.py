"""The ends that a meter counts go through all sums as if each were a meter of its own."""

from __future__ import annotations

import contextvars
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.api.track import track
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock, FakeMeter
from tests.support.bench import Bench, ScriptedUsage

ACTION = st.one_of(
    st.tuples(st.just("root"), st.integers(0, 9)),
    st.tuples(st.just("child"), st.integers(0, 9)),
    st.tuples(st.just("close"), st.integers(0, 9)),
    st.tuples(st.just("pause"), st.integers(0, 9)),
    st.tuples(st.just("resume"), st.integers(0, 9)),
    st.tuples(st.just("call"), st.floats(0.0, 3.0)),
    st.tuples(st.just("advance"), st.floats(0.0, 5.0)),
    st.tuples(st.just("power"), st.floats(0.0, 500.0)),
    st.tuples(st.just("fail"), st.integers(1, 4)),
    st.tuples(st.just("reset"), st.just(0)),
    st.tuples(st.just("suspend"), st.floats(0.0, 60.0)),
    st.tuples(st.just("tick"), st.just(0)),
    st.tuples(st.just("snapshot"), st.integers(0, 9)),
)


class Shadowed:
    """A meter that counts its ends, and two that count the same as energy of their own.

    Whatever is done to the one is done to all three; the records' sums are kept.
    """

    def __init__(self, scope: str) -> None:
        self.meters = [
            FakeMeter("ends:cpu", low=0.4, high=2.5),
            FakeMeter("low:cpu", watts=40.0),
            FakeMeter("high:cpu", watts=250.0),
        ]
        others = [FakeMeter("fake:ram", "ram"), FakeMeter("ends:gpu", "gpu", low=1.0, high=1.0)]
        meters = [*self.meters, *others]
        clock = FakeClock()
        sampler = Sampler(meters, clock=clock, interval_s=3600.0, usage=ScriptedUsage())
        self.bench = Bench(sampler, clock=clock, attribution=scope, grid=100.0)
        self.open = []
        self.built = []
        builder = self.bench.session.builder
        build = builder.build

        def kept(subject, window, sums, outcome):
            self.built.append(sums)
            return build(subject, window, sums, outcome)

        builder.build = kept
        self.call = track("job", tracker=self.bench.tracker)(self.bench.clock.advance)

    def do(self, action, amount):
        """One step of the program."""
        if action in ("child", "close", "pause", "resume", "snapshot"):
            if self.open:
                self.do_to(self.open[amount % len(self.open)], action)
        elif action in ("fail", "reset"):
            for meter in self.meters:
                getattr(meter, action)(*[amount] * (action == "fail"))
        else:
            getattr(self, action)(amount)

    def do_to(self, span, action):
        """One step of an open span."""
        if action == "child":
            self.opened(span.span("child"))
        else:
            getattr(span, action)()
        if action == "close":
            self.open.remove(span)

    def opened(self, span):
        """Open a span in a context of its own."""
        contextvars.Context().run(span.open)
        self.open.append(span)

    def root(self, _):
        """A span of its own."""
        self.opened(self.bench.tracker.span("root"))

    def advance(self, seconds):
        """Let time pass."""
        self.bench.clock.advance(seconds)

    def suspend(self, seconds):
        """Let the machine sleep."""
        self.bench.clock.suspend(seconds)

    def tick(self, _):
        """A tick of the sampler."""
        self.bench.sampler.tick()

    def power(self, watts):
        """Draw another power, with other ends; a fake's power changes at a read."""
        self.bench.sampler.sample()
        main, at_low, at_high = self.meters
        main.watts, main.low, main.high = watts, watts / 500.0, 1.0 + watts / 100.0
        at_low.watts, at_high.watts = watts * main.low, watts * main.high

    def finish(self):
        """Close what is open, with meters that answer."""
        for meter in self.meters:
            meter.back()
        for span in self.open:
            span.close()
        self.bench.tracker.close()


def check(sums):
    """The ends of the first meter are the energies of the second and third."""
    assert len(sums.ends_j) in (0, 4)
    if sums.ours_j:
        assert sums.ends_j[:2] == pytest.approx(sums.ours_j[1:3], rel=1e-9, abs=1e-9)
        assert sums.ends_j[2:] == pytest.approx((sums.ours_j[4],) * 2, rel=1e-9, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(program=st.lists(ACTION, max_size=40), scope=st.sampled_from(["machine", "process"]))
def test_the_ends_are_those_of_meters_of_their_own(program, scope):
    """Nested and parallel spans, calls, pauses, failures, resets and suspends, in any order."""
    shadowed = Shadowed(scope)
    for action, amount in program:
        shadowed.do(action, amount)
    shadowed.finish()
    for sums in shadowed.built:
        check(sums)
    sampler = shadowed.bench.sampler
    sampler.close()  # its thread would look at the clock for as long as the tests run
    counts = sampler.counts
    assert counts.ends_j[:2] == pytest.approx(counts.energy_j[1:3], rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.floats(0.01, 5.0), st.floats(0.0, 1.0), st.floats(1.0, 5.0), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_the_ends_of_children_and_of_the_rest_are_the_parents(pieces):
    """What the children may have used at each end, and the parent alone, is the parent's."""
    meter, inside_j, alone_j = FakeMeter(watts=80.0, low=1.0, high=1.0), [0.0, 0.0], [0.0, 0.0]
    with Bench([meter]) as bench:
        with bench.tracker.span("parent") as parent:
            for seconds, low, high, in_child in pieces:
                bench.sampler.sample()
                meter.low, meter.high = low, high
                if in_child:
                    with parent.span("child") as child:
                        bench.clock.advance(seconds)
                    ends_j = child.sums(child._end).ends_j
                    assert ends_j == pytest.approx((80.0 * seconds * low, 80.0 * seconds * high))
                    inside_j = [sum(pair) for pair in zip(inside_j, ends_j, strict=True)]
                else:
                    bench.clock.advance(seconds)
                    ends_j = 80.0 * seconds * low, 80.0 * seconds * high
                    alone_j = [sum(pair) for pair in zip(alone_j, ends_j, strict=True)]
        whole_j = parent.sums(parent._end).ends_j
    parts_j = [sum(pair) for pair in zip(inside_j, alone_j, strict=True)]
    assert whole_j == pytest.approx(parts_j, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=8, unique=True))
def test_parallel_leaves_share_the_ends_as_they_share_the_energy(lengths):
    """Children that end one after the other: together they have the ends of the whole time."""
    meter = FakeMeter(watts=100.0, low=0.5, high=3.0)
    with Bench([meter]) as bench:
        with bench.tracker.span("parent") as parent:
            spans = [parent.span("child") for _ in lengths]
            for span in spans:
                contextvars.Context().run(span.open)
            instants_s = pairwise([0.0, *sorted(lengths)])
            for (before_s, now_s), span in zip(instants_s, spans, strict=True):
                bench.clock.advance(now_s - before_s)
                span.close()
        ends_j = [span.sums(span._end).ends_j for span in spans]
        whole_j = parent.sums(parent._end).ends_j
    assert [sum(side) for side in zip(*ends_j, strict=True)] == pytest.approx(whole_j)
    assert whole_j == pytest.approx((50.0 * max(lengths), 300.0 * max(lengths)))
