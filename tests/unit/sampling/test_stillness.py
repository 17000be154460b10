"""Counters that stand still although they must move, and what comes in their place."""

import logging

import pytest

from carbontrack.meters.meter import STANDS_STILL, MeterSet
from carbontrack.sampling.rescan import take_in
from carbontrack.testing import FakeMeter
from tests.support.bench import Bench, joules


class Machine:
    """Counters that must move within 0.5 s, their models of 30 W, and a load that a test sets."""

    def __init__(self, *watts: float, load: float = 1.0, has_models: bool = True) -> None:
        self.load, self._worked_s, self._at_s = load, 0.0, None
        self.counters = [FakeMeter(f"rapl:package-{n}", watts=w) for n, w in enumerate(watts)]
        for counter in self.counters:
            counter.moves_within_s = 0.5
        self.model = FakeMeter("model:cpu", watts=30.0, basis="modelled")
        models = {"cpu": lambda: self.model} if has_models else {}
        self.bench = Bench(MeterSet(tuple(self.counters), models, busy_s=self.worked_s))
        self._at_s = self.bench.clock.monotonic_s()

    def worked_s(self) -> float:
        """CPU seconds up to now."""
        now_s = self.bench.clock.monotonic_s() if self._at_s is not None else 0.0
        self._worked_s += self.load * (now_s - (self._at_s or now_s))
        self._at_s = now_s
        return self._worked_s

    def run(self, seconds: float, *, ticks: int) -> None:
        """Let time pass, in so many ticks."""
        self.bench.run(seconds, ticks=ticks)


def test_a_dead_counter_is_replaced_from_the_very_beginning():
    """The block has the model's energy for all of its time, and says that it is modelled."""
    machine = Machine(0.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(8.0, ticks=8)
    assert joules(span.record) == pytest.approx(240.0)
    assert (span.record.basis, span.record.cpu_basis) == ("modelled", "modelled")
    assert (span.record.faults, span.record.coverage) == ("stands_still:1", 1.0)


@pytest.mark.parametrize("seconds", [0.06, 0.3, 2.0])
def test_a_block_without_a_tick_is_not_billed_nothing(seconds):
    """A counter that never moved is no measurement of a block of 60 ms either."""
    machine = Machine(0.0)
    with machine.bench.tracker.span("s") as span:
        machine.bench.clock.advance(seconds)
    assert joules(span.record) == pytest.approx(30.0 * seconds)
    assert span.record.cpu_basis == "modelled"


def test_a_live_counter_costs_no_model():
    """It is proven by its second reading, and the model is never made."""
    machine = Machine(50.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(8.0, ticks=8)
    assert joules(span.record) == pytest.approx(400.0)
    assert (span.record.cpu_basis, span.record.faults) == ("measured", None)
    assert machine.model.reads == 0


def test_one_line_is_logged(caplog):
    """It names the counter, how long it stood, and what stands in."""
    machine = Machine(0.0)
    with caplog.at_level(logging.WARNING), machine.bench.tracker.span("s"):
        machine.run(20.0, ticks=20)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "rapl:package-0 has not changed for" in caplog.text
    assert "model:cpu replaces it" in caplog.text


def test_a_counter_that_freezes_in_the_middle():
    """Its own energy up to there, the model's from there on, whatever the ticks."""
    machine = Machine(50.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(10.0, ticks=10)
        machine.counters[0].watts = 0.0
        machine.run(10.0, ticks=10)
    assert joules(span.record) == pytest.approx(500.0 + 300.0)
    assert span.record.faults == "stands_still:1"
    assert span.record.meters == "rapl:package-0;model:cpu"


def test_a_counter_that_comes_alive_again_is_used_again():
    """From there on its own count; the sum is never less than what both have counted."""
    machine = Machine(0.0)
    with machine.bench.tracker.span("dead") as dead:
        machine.run(10.0, ticks=10)
    machine.counters[0].watts = 50.0
    machine.run(10.0, ticks=10)  # what it counts while nothing is open is nobody's
    with machine.bench.tracker.span("alive") as alive:
        machine.run(10.0, ticks=10)
    assert joules(dead.record) == pytest.approx(300.0)
    assert joules(alive.record) == pytest.approx(500.0)
    assert (alive.record.cpu_basis, alive.record.faults) == ("measured", None)


def test_a_counter_that_moves_rarely_loses_nothing_and_is_left_in_peace():
    """One that a hypervisor moves every 3 s is doubted at first, and then known to be slow."""
    machine = Machine(0.0)
    counter = machine.counters[0]
    with machine.bench.tracker.span("s") as span:
        for _ in range(40):
            machine.run(3.0, ticks=3)
            counter.add_joules(300.0)
        machine.bench.sampler.sample()
    assert joules(span.record) == pytest.approx(40 * 300.0)
    faults = dict(fault.split(":") for fault in span.record.faults.split(";"))
    assert int(faults["stands_still"]) <= 2


def test_an_idle_machine_needs_longer_and_three_looks():
    """Without work only time tells, and a machine that was paused has been looked at once."""
    machine = Machine(0.0, load=0.0)
    with machine.bench.tracker.span("s") as span:
        machine.bench.clock.advance(3600.0)
        assert machine.bench.sampler.counts.faults == {}
        machine.run(6.0, ticks=6)
        assert machine.bench.sampler.counts.faults == {STANDS_STILL: 1}
    assert joules(span.record) == pytest.approx(30.0 * 3606.0)


def test_one_dead_socket_of_two_is_not_half_a_machine():
    """The model counts both; what the live one has counted before is not billed again."""
    machine = Machine(0.0, 10.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(20.0, ticks=20)
    assert joules(span.record) == pytest.approx(30.0 * 20.0)
    assert span.record.cpu_basis == "modelled"
    assert span.record.faults == "stands_still:1"


def test_a_counter_that_freezes_beside_a_dead_one_is_found_as_well():
    """One that is set aside for good is no reason not to look at the others."""
    machine = Machine(50.0)
    dram = FakeMeter("rapl:dram", "ram", watts=0.0)
    dram.moves_within_s = 0.5
    models = {
        "cpu": lambda: machine.model,
        "ram": lambda: FakeMeter("model:ram", "ram", watts=5.0, basis="modelled"),
    }
    meters = MeterSet((*machine.counters, dram), models, busy_s=machine.worked_s)
    machine.bench = Bench(meters, clock=machine.bench.clock)
    with machine.bench.tracker.span("s") as span:
        machine.run(4.0, ticks=4)
        machine.counters[0].watts = 0.0
        machine.run(6.0, ticks=6)
    assert span.record.cpu_kwh * 3.6e6 == pytest.approx(4 * 50.0 + 6 * 30.0)
    assert span.record.ram_kwh * 3.6e6 == pytest.approx(10 * 5.0)
    assert span.record.faults == "stands_still:2"


def test_both_dead_sockets_are_told():
    """Each of them is a counter that stands still; one model stands in."""
    machine = Machine(0.0, 0.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(20.0, ticks=20)
    assert joules(span.record) == pytest.approx(30.0 * 20.0)
    assert span.record.faults == "stands_still:2"


def test_without_a_model_the_energy_is_unknown_and_not_nothing():
    """What cannot be replaced is left out from when it was found; coverage and fault say so."""
    machine = Machine(0.0, has_models=False)
    with machine.bench.tracker.span("first"):
        machine.run(10.0, ticks=10)
    with machine.bench.tracker.span("second") as second:
        machine.run(10.0, ticks=10)
    assert second.record.cpu_kwh is None
    assert second.record.coverage == 0.0


def test_energy_of_the_time_between_blocks_is_nobodys():
    """Short blocks of a dead counter: what stands in brings nothing of the time between them."""
    machine = Machine(0.0)
    spans = []
    for _ in range(20):
        with machine.bench.tracker.span("s") as span:
            machine.bench.clock.advance(0.04)
        spans.append(span)
        machine.bench.clock.advance(5.0)
    billed_j = sum(joules(span.record) or 0.0 for span in spans)
    assert billed_j <= 30.0 * 0.04 * len(spans) + 1e-9
    assert joules(spans[-1].record) == pytest.approx(30.0 * 0.04)
    told = [span.record.faults for span in spans]
    assert (told[0], told[-1]) == (None, "stands_still:1")


def test_a_counter_that_freezes_in_a_later_block_is_billed_from_there():
    """Nothing of the block is lost because there was one before it."""
    machine = Machine(50.0)
    with machine.bench.tracker.span("before"):
        machine.run(4.0, ticks=4)
    machine.bench.clock.advance(100.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(4.0, ticks=4)
        machine.counters[0].watts = 0.0
        machine.run(6.0, ticks=6)
    assert joules(span.record) == pytest.approx(4 * 50.0 + 6 * 30.0)


def test_a_counter_that_froze_between_two_blocks_is_billed_from_the_second_on():
    """And the time between is nobody's."""
    machine = Machine(50.0)
    with machine.bench.tracker.span("before"):
        machine.run(4.0, ticks=4)
    machine.counters[0].watts = 0.0
    machine.bench.clock.advance(100.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(6.0, ticks=6)
    assert joules(span.record) == pytest.approx(6 * 30.0)


@pytest.mark.parametrize("fails", [True, False], ids=["silent", "standing still"])
def test_a_counter_that_returns_in_a_later_block_leaves_no_gap(fails):
    """Its stand-in counts until it does."""
    machine = Machine(50.0)
    counter = machine.counters[0]
    with machine.bench.tracker.span("before"):
        counter.watts = 0.0
        if fails:
            counter.fail(10_000)
        machine.run(5.0, ticks=5)
    with machine.bench.tracker.span("s") as span:
        machine.run(3.0, ticks=3)
        counter.back()
        counter.watts = 50.0
        machine.run(1.0, ticks=1)
        machine.run(2.0, ticks=2)
    assert joules(span.record) == pytest.approx(4 * 30.0 + 2 * 50.0)
    assert span.record.coverage == 1.0


def test_a_socket_that_joins_beside_one_that_has_just_frozen():
    """It had no count at the instant from which on the stand-in counts."""
    machine = Machine(50.0)
    with machine.bench.tracker.span("s") as span:
        machine.run(3.0, ticks=3)
        machine.counters[0].watts, machine.load = 0.0, 0.0
        machine.run(3.0, ticks=3)
        take_in(machine.bench.sampler, MeterSet((*machine.counters, FakeMeter("rapl:1"))))
        machine.load = 1.0
        machine.run(4.0, ticks=4)
    assert span.record.faults == "stands_still:1"


@pytest.mark.parametrize("count", [1, 5])
def test_blocks_too_short_for_a_look_take_nothing_from_the_next_one(count):
    """A dead counter is found in the first block that is long enough, and all of that is billed."""
    machine = Machine(0.0)
    for _ in range(count):
        with machine.bench.tracker.span("short"):
            machine.bench.clock.advance(0.004)
        machine.bench.clock.advance(0.002)
    with machine.bench.tracker.span("s") as span:
        machine.bench.clock.advance(1.0)
    assert joules(span.record) == pytest.approx(30.0)
    assert span.record.faults == "stands_still:1"


def test_a_meter_that_says_nothing_of_its_movement_may_stand_still():
    """A meter of another package may count something that is really at rest."""
    resting = FakeMeter("wall:plug", watts=0.0)
    with Bench(MeterSet((resting,), {"cpu": FakeMeter})) as bench, bench.tracker.span("s") as span:
        bench.run(100.0, ticks=100)
    assert (joules(span.record), span.record.faults) == (0.0, None)
