"""Calls note CPU seconds only where a tracker of scope process has calls on the same sampler."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest

from carbontrack.api.named_calls import NamedCalls, ThreadCpu
from carbontrack.api.track import track
from carbontrack.attribution.policy import Attribution, Usage
from carbontrack.attribution.usage import UsageReader
from carbontrack.grid.intensity import Fixed
from carbontrack.sampling.ledger import Ledger, RunningAccount
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import process_cpu_s
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.call_site import CallSite
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import ScriptedUsage, joules

BURNT_S = 0.02


def burn() -> None:
    """Use the processor."""
    end_s = process_cpu_s() + BURNT_S
    while process_cpu_s() < end_s:
        pass


class Shared:
    """A sampler of one meter of 100 W, and trackers that share it."""

    def __init__(self, usage: UsageReader | None = None) -> None:
        self.clock = FakeClock()
        usage = usage or ScriptedUsage(ours=0.5)
        self.sampler = Sampler(
            [FakeMeter(watts=100.0)], interval_s=3600.0, clock=self.clock, usage=usage
        )
        self.sink = MemorySink()

    def tracker(self, scope: str) -> Tracker:
        """One more tracker."""
        ledger = Ledger(Attribution(scope), Fixed.of(100.0))  # type: ignore[arg-type]
        builder = RecordBuilder(Resource(), ledger, self.sampler)
        return Tracker.of(Session(builder, sinks=[self.sink]), owns_sampler=False)

    def decorated(
        self, tracker: Tracker, name: str, body: Callable[[], object]
    ) -> Callable[[], None]:
        """A function that lasts 0.1 s, whose calls are counted."""

        @track(name, tracker=tracker)
        def work() -> None:
            body()
            self.clock.advance(0.1)

        return work

    def rows(self, *trackers: Tracker) -> dict[str, float]:
        """The joules by name, once the trackers are closed."""
        self.sampler.sample()
        for tracker in trackers:
            tracker.close()
        return {record.name: joules(record) for record in self.sink.records}


def cpu_s_left(tracker: Tracker) -> list[float]:
    """The CPU seconds of the calls that have ended and are not collected yet."""
    (site,) = tracker.session.sites.living()
    assert isinstance(site, CallSite)
    return site.finished[1::3]


@pytest.mark.parametrize("scope", ["machine", "process"])
def test_they_are_noted_only_where_they_decide(scope: str) -> None:
    """In scope machine energy goes by time alone."""
    shared = Shared()
    tracker = shared.tracker(scope)
    work = shared.decorated(tracker, "work", burn)
    for _ in range(3):  # the first one, which opens the window, is credited singly
        work()
    found = cpu_s_left(tracker)
    assert len(found) == 2
    if scope == "machine":
        assert found == [0.0, 0.0]
    else:
        assert min(found) >= BURNT_S
    tracker.close()


def test_a_tracker_of_scope_process_has_all_calls_note_them() -> None:
    """Calls that overlap share the CPU seconds, whichever tracker they are of."""
    shared = Shared()
    machine, process = shared.tracker("machine"), shared.tracker("process")
    first = shared.decorated(machine, "first", burn)
    first()
    first()
    assert cpu_s_left(machine) == [0.0]
    second = shared.decorated(process, "second", burn)
    second()
    second()
    first()
    assert cpu_s_left(machine)[-1] >= BURNT_S
    assert cpu_s_left(process)[-1] >= BURNT_S
    rows = shared.rows(machine, process)
    assert rows["first"] == pytest.approx(30.0)


def test_a_call_that_runs_when_that_begins_is_whole() -> None:
    """It began without CPU seconds, and both are credited as if it had noted them all along."""
    shared = Shared()
    machine, process = shared.tracker("machine"), shared.tracker("process")
    second = shared.decorated(process, "second", burn)
    first = shared.decorated(machine, "first", second)
    first()
    first()
    rows = shared.rows(machine, process)
    # 40 J are used; the inner calls run for half of the time, and share it by time
    assert rows["first"] == pytest.approx(28.3333, rel=1e-3)
    assert rows["second"] == pytest.approx(7.5, rel=0.02)


class RealUsage(ScriptedUsage):
    """What this process uses, beside another one that uses a sixth of a processor."""

    def read(self, now_s: float) -> Usage:
        """Usage at this instant."""
        own_s = process_cpu_s()
        return Usage(now_s, own_s, own_s + now_s / 6.0, *self.ram, own_cpu_s=own_s)


@pytest.mark.parametrize("since_s", [0.015, 0.05])
@pytest.mark.parametrize("works", [False, True])
def test_a_call_that_ends_as_work_has_begun_or_ceased(since_s: float, *, works: bool) -> None:
    """Its share is that of its own time, however short, and not that of the time before."""
    shared = Shared(RealUsage())
    tracker = shared.tracker("process")
    calls = NamedCalls(tracker=tracker)
    for n in range(2):
        call = calls.begin(ThreadCpu())
        for _ in range(0 if works else 5):
            burn()
        shared.clock.advance(0.3)
        began_s = process_cpu_s()
        shared.sampler.tick()
        if n == 0:
            call.end_as("before")
    before_j = tracker.session.ledger.account.at(shared.sampler.counts).calls_j[0]
    if works:
        burn()
    shared.clock.advance(since_s)
    call.end_as("call")
    used_s = process_cpu_s() - began_s
    given_j = tracker.session.ledger.account.at(shared.sampler.counts).calls_j[0] - before_j
    tracker.close()
    ours = used_s / (used_s + since_s / 6.0)
    assert given_j <= 100.0 * since_s * ours * (1.0 + 1e-9)
    if works:
        assert given_j >= 100.0 * since_s * ours * 0.9


class Watched(Ledger):
    """A ledger that counts how often it is looked at."""

    looks = 0

    def after(self, *step: Any) -> RunningAccount:
        """As that of any ledger."""
        self.looks += 1
        return super().after(*step)


def test_samples_beside_functions_that_are_not_called_look_at_no_ledger() -> None:
    """And a call that begins after them has its part, as if each had looked."""
    shared = Shared()
    ledger = Watched(Attribution("machine"), Fixed.of(100.0))
    builder = RecordBuilder(Resource(), ledger, shared.sampler)
    tracker = Tracker.of(Session(builder, sinks=[shared.sink]), owns_sampler=False)

    @track("work", tracker=tracker)
    def work() -> None:
        shared.clock.advance(0.005)

    work()
    (site,) = tracker.session.sites.living()
    site.write_row()
    with tracker.span("open") as span:
        shared.sampler.sample()
        looks = ledger.looks
        for _ in range(40):
            shared.clock.advance(0.001)
            shared.sampler.sample()
        assert ledger.looks == looks
        Context().run(work)
        shared.sampler.sample()
        assert ledger.looks > looks
    site.write_row()
    assert joules(span.record) == pytest.approx(4.0 + 0.25)
    found = [joules(record) for record in shared.sink.records if record.name == "work"]
    assert found == pytest.approx([0.5, 0.25])
    tracker.close()
