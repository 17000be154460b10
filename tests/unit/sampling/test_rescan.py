"""Meters that appear, vanish and return while a program runs: each joule once, and nothing idle."""

import os
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.meters.detect import Host, detect
from carbontrack.meters.meter import MeterSet, Refusal
from carbontrack.meters.signs import signs
from carbontrack.sampling.rescan import PERIOD_S, Rescan, changes, take_in
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock, FakeMeter, Zone, build_powercap
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import Bench, joules

ZONES = [Zone("package-0", "intel-rapl:0"), Zone("dram", "intel-rapl:0:0")]


def ids(bench):
    """The ids of the meters that records name as those in service."""
    return [meter.id for meter in bench.sampler.meters]


def measured(name, component="cpu", **options):
    return FakeMeter(name, component, **options)


def model(name="model:cpu", component="cpu", **options):
    return FakeMeter(name, component, basis="modelled", **options)


# -- what is taken in --------------------------------------------------------------------------


def test_a_component_that_is_measured_from_now_on_is_modelled_no_more():
    """The model counts until then, the meter from then on, and the record names both."""
    with Bench([model(watts=50.0)]) as bench, bench.tracker.span("a") as span:
        bench.run(4.0, ticks=4)
        take_in(bench.sampler, MeterSet((measured("rapl:0", watts=100.0),)))
        assert ids(bench) == ["rapl:0"]
        bench.run(6.0, ticks=6)
        span.close()
    assert joules(span.record) == pytest.approx(4 * 50.0 + 6 * 100.0)
    assert span.record.meters == "model:cpu;rapl:0"
    assert span.record.coverage == pytest.approx(1.0)
    assert span.record.basis == "modelled"


def test_the_next_span_knows_only_the_new_meter():
    """Nothing of the model is in it."""
    with Bench([model()]) as bench:
        with bench.tracker.span("before"):
            bench.run(2.0)
        take_in(bench.sampler, MeterSet((measured("rapl:0", watts=70.0),)))
        with bench.tracker.span("after") as span:
            bench.run(3.0, ticks=3)
    assert joules(span.record) == pytest.approx(210.0)
    assert (span.record.meters, span.record.basis) == ("rapl:0", "measured")
    assert (span.record.coverage, span.record.missed_reads) == (1.0, 0)


def test_a_board_more_counts_from_its_first_reading_on():
    """Beside those that were there, whose energy is as it was."""
    one, two = (measured(f"nvml:{n}", "gpu", watts=300.0) for n in (1, 2))
    with Bench([one]) as bench, bench.tracker.span("a") as span:
        bench.run(2.0)
        take_in(bench.sampler, MeterSet((measured("nvml:1", "gpu"), two)))
        bench.run(3.0)
        span.close()
    assert joules(span.record) == pytest.approx(5 * 300.0 + 3 * 300.0)
    assert span.record.coverage == pytest.approx(3 / 5), "of which one board is not known"


def test_what_is_detected_twice_is_closed_and_what_counts_is_not():
    """The descriptors of a second meter for the same zone."""
    again, new = measured("a"), measured("b", "gpu")
    with Bench([first := measured("a")]) as bench:
        take_in(bench.sampler, MeterSet((again, new)))
        assert (first.closed, again.closed, new.closed) == (False, True, False)


def test_a_lost_board_goes_on_under_its_id():
    """What it used while it was away is not billed."""
    board = measured("nvml:1", "gpu", watts=100.0)
    with Bench([board]) as bench, bench.tracker.span("a") as span:
        bench.run(1.0)
        board.gone()
        bench.run(5.0, ticks=5)
        take_in(bench.sampler, MeterSet((measured("nvml:1", "gpu", watts=100.0),)))
        bench.run(4.0, ticks=4)
        span.close()
    assert joules(span.record) == pytest.approx(500.0)
    assert span.record.meters == "nvml:1"
    assert board.closed


def test_the_same_energy_by_other_means_is_not_taken_in_beside():
    """A meter that measures stays; another one may be of the same processors."""
    with Bench([measured("perf:package", watts=10.0)]) as bench, bench.tracker.span("a") as span:
        found = (measured("rapl:0"), measured("rapl:dram", "ram"), measured("nvml:1", "gpu"))
        take_in(bench.sampler, MeterSet(found))
        bench.run(1.0)
        span.close()
    assert ids(bench) == ["perf:package", "nvml:1"], "a board is one more"


def test_a_model_never_takes_the_place_of_what_counts():
    """Where the meter has just fallen silent and detection finds the model only."""
    with Bench([measured("rapl:0")]) as bench:
        take_in(bench.sampler, MeterSet((model(),)))
        assert ids(bench) == ["rapl:0"]


def test_a_socket_whose_sensor_covers_the_memory_too_ends_both_models():
    """As the detection has it: nothing is modelled that is in a measured count."""
    with Bench([model(), model("model:ram", "ram")]) as bench:
        take_in(bench.sampler, MeterSet((measured("hwmon:socket"),)))
        assert ids(bench) == ["hwmon:socket"]


def test_the_retired_model_stands_in_when_the_meter_is_lost():
    """As after any loss, and its time between does not count."""
    with Bench([model(watts=40.0)]) as bench, bench.tracker.span("a") as span:
        bench.run(1.0)
        new = measured("rapl:0", watts=100.0)
        take_in(bench.sampler, MeterSet((new,)))
        bench.run(5.0, ticks=5)
        new.gone()
        bench.run(2.0, ticks=2)
        counted_j = sum(bench.sampler.counts.energy_j)
        bench.run(10.0, ticks=10)
        span.close()
    assert sum(bench.sampler.counts.energy_j) - counted_j == pytest.approx(400.0, abs=80.0)
    assert "substituted" in span.record.faults


def test_beside_a_counter_that_stands_still_nothing_is_taken_in():
    """Its stand-in counts the whole component; the new one joins when the old one counts again."""
    busy = iter(range(10_000))
    old = measured("rapl:0", watts=0.0)
    old.moves_within_s = 0.5
    spare = {"cpu": lambda: model(watts=50.0)}
    with Bench(MeterSet((old,), spare, busy_s=lambda: float(next(busy)))) as bench:
        with bench.tracker.span("a") as span:
            bench.run(3.0, ticks=3)
            new = measured("rapl:1", watts=30.0)
            assert take_in(bench.sampler, MeterSet((measured("rapl:0"), new)))
            assert new.closed
            bench.run(3.0, ticks=3)
        assert joules(span.record) == pytest.approx(6 * 50.0)
        old.watts = 100.0
        bench.clock.advance(1.0)
        with bench.tracker.span("b") as span:
            bench.run(1.0)
            new = measured("rapl:1", watts=30.0)
            assert not take_in(bench.sampler, MeterSet((measured("rapl:0"), new)))
            bench.run(3.0, ticks=3)
        assert joules(span.record) == pytest.approx(4 * 100.0 + 3 * 30.0)


def test_a_look_that_leaves_a_meter_out_is_repeated(looks):
    """Until the meter that is stood in for has returned."""
    old = measured("rapl:0")
    rescan = Rescan(looks.signs, looks.detect)
    with Bench(MeterSet((old,), {"cpu": model})) as bench, bench.tracker.span("a"):
        rescan.look_now(bench.sampler)
        old.fail(10_000)
        bench.run(5.0, ticks=5)
        looks.sign, looks.found = 1, MeterSet((measured("rapl:0"), measured("rapl:1")))
        rescan.look_now(bench.sampler)
        assert ids(bench) == ["rapl:0", "model:cpu"]
        old.back()
        bench.run(1.0)
        rescan.look_now(bench.sampler)
        rescan.look_now(bench.sampler)
        assert ids(bench) == ["rapl:0", "rapl:1"]
        assert looks.detections == 2


@pytest.mark.parametrize("is_early", [True, False], ids=["before any tick", "later"])
def test_a_meter_that_has_joined_and_stands_still_is_set_aside(is_early):
    """It is watched as those that were there from the start."""
    busy = iter(range(10_000))
    first = model(watts=50.0)
    dram = measured("rapl:dram", "ram", watts=5.0)
    dram.moves_within_s = 0.5
    meters = MeterSet((first, dram), busy_s=lambda: float(next(busy)))
    with Bench(meters) as bench, bench.tracker.span("a") as span:
        if not is_early:
            bench.run(2.0, ticks=2)
        dead = measured("rapl:0", watts=0.0)
        dead.moves_within_s = 0.5
        take_in(bench.sampler, MeterSet((dead, measured("rapl:dram", "ram"))))
        bench.run(8.0, ticks=8)
        span.close()
    assert "stands_still:1" in span.record.faults
    assert span.record.cpu_kwh * 3.6e6 == pytest.approx((8 if is_early else 10) * 50.0)
    assert span.record.ram_kwh * 3.6e6 == pytest.approx((8 if is_early else 10) * 5.0)


def test_what_was_completed_does_not_stand_in_for_what_completed_it():
    """It would read the same dead zone."""
    partly = model("model:packages", watts=50.0)
    whole = model("model:cpu", watts=70.0)
    with Bench(MeterSet((partly,), {"cpu": lambda: whole})) as bench:
        both = (measured("rapl:0"), measured("rapl:1"))
        take_in(bench.sampler, MeterSet(both, {"cpu": model}))
        assert bench.sampler.bank.substitutes["cpu"]() is whole


def test_faults_and_hardware_are_those_of_the_last_look():
    """What is not measured is named as it is now."""
    first = MeterSet((model(),), refused=(Refusal("rapl", "closed", fault="zones_closed"),))
    with Bench(first) as bench:
        with bench.tracker.span("a") as before:
            bench.run(1.0)
        take_in(bench.sampler, MeterSet((measured("rapl:0"),)))
        with bench.tracker.span("b") as after:
            bench.run(1.0)
    assert (before.record.faults, after.record.faults) == ("zones_closed:1", None)


def test_trackers_that_share_a_sampler_share_what_is_new():
    """Each of them counts it from the same instant on."""
    sampler = Sampler([model(watts=10.0)], clock=FakeClock(), interval_s=3600.0)
    spans = []
    trackers = [Tracker(meters=sampler, interval_s=3600.0) for _ in range(2)]
    for tracker in trackers:
        spans.append(tracker.span("a").open())
    take_in(sampler, MeterSet((measured("rapl:0", watts=100.0),)))
    sampler.clock.advance(2.0)
    for span, tracker in zip(spans, trackers, strict=True):
        span.close()
        tracker.close()
    assert [joules(span.record) for span in spans] == [pytest.approx(100.0)] * 2
    sampler.close()


# -- conservation ------------------------------------------------------------------------------

WATTS = {"rapl:0": 100.0, "nvml:1": 250.0, "nvml:2": 70.0, "model:cpu": 100.0}
EVENTS = st.lists(
    st.sampled_from(["rapl:0", "nvml:1", "nvml:2", "look", "tick", "tick"]), max_size=40
)


class World:
    """Meters of a known power that come and go, and what detection finds of them."""

    def __init__(self):
        self.present = set()
        self.made = {}

    def turn(self, name):
        """What is there goes, and what is not comes."""
        if name in self.present:
            self.present.discard(name)
            if name in self.made:
                self.made.pop(name).gone()
        else:
            self.present.add(name)

    def detect(self):
        """New meters for all that is there, each counting from zero."""
        names = self.present if "rapl:0" in self.present else {*self.present, "model:cpu"}
        found = []
        for name in sorted(names):
            component = "gpu" if name.startswith("nvml") else "cpu"
            basis = "modelled" if name.startswith("model") else "measured"
            found.append(FakeMeter(name, component, watts=WATTS[name], basis=basis))
        spare = {"cpu": partial(FakeMeter, "model:cpu", watts=100.0, basis="modelled")}
        return MeterSet(tuple(found), spare if "rapl:0" in self.present else {})


@given(EVENTS, st.sampled_from([(), ("rapl:0",), ("nvml:1", "rapl:0")]))
def test_nothing_is_billed_twice_whatever_comes_and_goes(events, at_first):
    """The processors once at each instant, each board at most while it is there; sums add up."""
    world = World()
    for name in at_first:
        world.turn(name)
    with Bench(world.detect()) as bench:
        world.made = {meter.id: meter for meter in bench.sampler.meters}
        there_s = dict.fromkeys(WATTS, 0.0)
        seconds, parts = 0, []
        with bench.tracker.span("root") as root:
            part = root.span("part").open()
            for event in events:
                if event == "look":
                    take_in(bench.sampler, world.detect())
                    world.made = {
                        s.meter.id: s.meter for s in bench.sampler.meter_states if not s.gone
                    }
                    part.close()
                    parts.append(part)
                    part = root.span("part").open()
                elif event == "tick":
                    bench.run(1.0)
                    seconds += 1
                    for name in world.present:
                        there_s[name] += 1.0
                else:
                    bench.sampler.sample()  # what it has counted so far
                    world.turn(name=event)
            part.close()
            parts.append(part)
        if seconds == 0:
            return
        record = root.record
        cpu_j = (record.cpu_kwh or 0.0) * 3.6e6
        gpu_j = (record.gpu_kwh or 0.0) * 3.6e6
        assert cpu_j <= 100.0 * seconds + 1e-6
        assert gpu_j <= sum(WATTS[name] * there_s[name] for name in ("nvml:1", "nvml:2")) + 1e-6
        rows_j = sum(joules(one.record) for one in parts if one.record.energy_kwh)
        assert rows_j == pytest.approx(cpu_j + gpu_j, abs=1e-6)
        if "rapl:0" not in events:
            assert cpu_j == pytest.approx(100.0 * seconds), "and never too little without a loss"


@given(EVENTS)
def test_a_second_look_changes_nothing(events):
    """What was taken in is not new any more."""
    world = World()
    with Bench(world.detect()) as bench:
        for event in events:
            if event.startswith(("rapl", "nvml")):
                world.turn(event)
        take_in(bench.sampler, world.detect())
        what = changes(bench.sampler.meter_states, world.detect())
        assert not any(what)


# -- when it looks -----------------------------------------------------------------------------


class Looks:
    """Signs that a test changes, and how often each question was asked."""

    def __init__(self):
        self.sign, self.signs_asked, self.detections = 0, 0, 0
        self.found = MeterSet((measured("rapl:0"),))

    def signs(self):
        self.signs_asked += 1
        return self.sign

    def detect(self):
        self.detections += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def looks():
    return Looks()


def test_meters_are_detected_only_where_a_sign_has_changed(looks):
    """The first look notes the signs."""
    rescan = Rescan(looks.signs, looks.detect)
    with Bench([model()]) as bench:
        for _ in range(5):
            rescan.look_now(bench.sampler)
        assert (looks.signs_asked, looks.detections) == (5, 0)
        looks.sign = 1
        for _ in range(5):
            rescan.look_now(bench.sampler)
        assert looks.detections == 1
        assert ids(bench) == ["rapl:0"]


def test_a_detection_that_fails_is_tried_again(looks):
    """Whatever a driver raises, nobody hears of it."""
    rescan = Rescan(looks.signs, looks.detect)
    with Bench([model()]) as bench:
        rescan.look_now(bench.sampler)
        looks.sign, looks.found = 1, RuntimeError("the driver is just being loaded")
        rescan.look_now(bench.sampler)
        looks.found = MeterSet((measured("rapl:0"),))
        rescan.look_now(bench.sampler)
        assert ids(bench) == ["rapl:0"]


def test_nothing_is_taken_in_after_the_end(looks):
    """A look that was under way finds a closed sampler, and closes what it has found."""
    with Bench([model()]) as bench:
        pass
    found = measured("rapl:0")
    bench.sampler.close()
    take_in(bench.sampler, MeterSet((found,)))
    assert found.closed
    assert len(bench.sampler.meter_states) == 1


def test_it_looks_once_a_minute(looks):
    """And one look at a time."""
    rescan = Rescan(looks.signs, looks.detect)
    with Bench([model()]) as bench:
        now_s = bench.clock.monotonic_s()
        rescan._looking_pid = os.getpid()
        rescan.look(bench.sampler)
        assert rescan.due_s == now_s + PERIOD_S
        assert looks.signs_asked == 0


# -- real trees --------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path):
    """A machine without zones, whose processors are modelled."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys").mkdir()
    return Host(busy_s=lambda: 0.0, sysfs=tmp_path / "sys", procfs=tmp_path / "proc", gpu_ids=())


def test_zones_that_are_loaded_later_are_read(host):
    """As after `modprobe intel_rapl_msr`: packages and dram, and no model any more."""
    with Bench(detect(host)) as bench:
        assert ids(bench) == ["model:cpu", "model:ram"]
        rescan = Rescan(partial(signs, host), partial(detect, host))
        with bench.tracker.span("a") as span:
            rescan.look_now(bench.sampler)
            tree = build_powercap(host.sysfs, ZONES)
            rescan.look_now(bench.sampler)
            assert ids(bench) == ["rapl:package-0", "rapl:dram-0"]
            tree.add_joules("package-0", 50.0)
            tree.add_joules("dram", 7.0)
            bench.run(1.0)
    assert (span.record.cpu_kwh * 3.6e6, span.record.ram_kwh * 3.6e6) == pytest.approx((50.0, 7.0))


def test_signs_are_the_same_while_nothing_changes(host):
    """Energy that is used, and load, are none."""
    tree = build_powercap(host.sysfs, ZONES)
    before = signs(host)
    tree.add_joules("package-0", 5.0)
    assert signs(host) == before
    (host.sysfs / "class" / "hwmon" / "hwmon0").mkdir(parents=True)
    assert signs(host) != before
