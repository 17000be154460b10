"""The public fakes: a clock by hand, a meter by hand, sinks, and a powercap tree."""

import threading
from datetime import datetime, timedelta, timezone

import pytest

from carbontrack.errors import MeterGone, MeterReadError, SinkError
from carbontrack.testing import (
    FailingSink,
    FakeClock,
    FakeMeter,
    MemorySink,
    Zone,
    build_powercap,
)
from tests.support.records import a_record


class Ticker(threading.Thread):
    """Ticks at every multiple of its interval, as the sampler does, and notes when it woke."""

    def __init__(self, clock, interval_s):
        super().__init__(daemon=True)
        self.clock, self.interval_s = clock, interval_s
        self.stop = threading.Event()
        self.woke_at_s = []

    def run(self):
        while not self.clock.wait(self.stop, self.interval_s):
            self.woke_at_s.append(self.clock.monotonic_s())


@pytest.fixture
def ticking():
    clock = FakeClock(start_s=0.0)
    ticker = Ticker(clock, 1.0)
    ticker.start()
    clock.until_waiting()
    yield clock, ticker
    ticker.stop.set()
    ticker.join(60.0)
    assert not ticker.is_alive()


def test_advance_wakes_a_thread_at_each_of_its_deadlines(ticking):
    """Ten seconds at once are ten ticks, each at its own instant."""
    clock, ticker = ticking
    clock.advance(10.5)
    assert ticker.woke_at_s == [float(second) for second in range(1, 11)]
    assert clock.monotonic_s() == 10.5


def test_two_threads_wake_in_the_order_of_their_deadlines(ticking):
    """Threads with different intervals interleave as they would in real time."""
    clock, ticker = ticking
    other = Ticker(clock, 0.4)
    other.start()
    clock.until_waiting(2)
    clock.advance(2.0)
    assert ticker.woke_at_s == [1.0, 2.0]
    assert other.woke_at_s == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    other.stop.set()
    other.join(60.0)


def test_a_wait_ends_at_once_when_its_event_is_set(ticking):
    """Setting the event needs no time to pass."""
    _, ticker = ticking
    ticker.stop.set()
    ticker.join(60.0)
    assert not ticker.is_alive()
    assert ticker.woke_at_s == []


def test_a_timeout_of_zero_asks_and_returns():
    """Nothing waits when there is nothing to wait for."""
    clock, event = FakeClock(), threading.Event()
    assert clock.wait(event, 0.0) is False
    event.set()
    assert clock.wait(event, None) is True


def test_a_thread_that_ends_does_not_hold_up_time():
    """A waiter that returns and ends is not waited for."""
    clock = FakeClock()
    thread = threading.Thread(target=lambda: clock.wait(threading.Event(), 1.0))
    thread.start()
    clock.until_waiting()
    clock.advance(5.0)
    thread.join(60.0)
    assert clock.monotonic_s() == 1005.0


def test_time_does_not_go_back():
    """A negative step is a mistake of the test."""
    with pytest.raises(ValueError, match="does not go back"):
        FakeClock().advance(-1.0)


def test_suspend_and_steps_move_only_what_they_move_in_a_machine():
    """Asleep the wall clock goes on; an NTP step moves nothing else."""
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    clock = FakeClock(start_s=5.0, now=began)
    clock.suspend(60.0)
    assert (clock.monotonic_s(), clock.suspended_s()) == (5.0, 60.0)
    assert clock.now_utc() == began + timedelta(seconds=60)
    clock.step_wall(-3600.0)
    assert clock.now_utc() == began - timedelta(seconds=3540)
    clock.set_wall(began)
    clock.advance(1.5)
    assert clock.now_utc() == began + timedelta(seconds=1.5)
    assert clock.monotonic_s() == 6.5


def test_meter_counts_its_power_from_its_first_read():
    """Constant power times time, and a change of it holds from the last read on."""
    meter = FakeMeter(watts=50.0)
    assert [meter.read_joules(at_s) for at_s in (10.0, 12.0)] == [0.0, 100.0]
    meter.watts = 10.0
    assert meter.read_joules(13.0) == 110.0
    meter.add_joules(5.0)
    assert meter.read_joules(13.0) == 115.0
    assert meter.reads == 4


def test_meter_follows_any_curve_exactly():
    """`joules` is the truth at every instant, from the first read on."""
    meter = FakeMeter(joules=lambda at_s: at_s**2)
    assert [meter.read_joules(at_s) for at_s in (2.0, 3.0, 5.0)] == [0.0, 5.0, 21.0]


def test_meter_counts_its_ends_where_it_has_some():
    """They change with the meter's own count, at reads, by the ratios of the time."""
    meter = FakeMeter(watts=50.0, low=0.5, high=2.0)
    assert not hasattr(FakeMeter(), "low_j")
    meter.read_joules(0.0)
    assert (meter.low_j, meter.high_j) == (0.0, 0.0)
    meter.read_joules(2.0)
    assert (meter.low_j, meter.high_j) == (50.0, 200.0)
    meter.low, meter.high = 0.1, 3.0
    meter.add_joules(10.0)
    assert (meter.low_j, meter.high_j) == (50.0, 200.0), "until it is read"
    meter.read_joules(3.0)
    assert (meter.low_j, meter.high_j) == (56.0, 380.0)
    meter.reset()
    meter.read_joules(4.0)
    assert (meter.low_j, meter.high_j) == (56.0, 380.0)


def test_meter_faults():
    """Failed reads are carried by the next one, a reset is dropped and counted, gone is gone."""
    meter = FakeMeter(watts=10.0)
    meter.read_joules(0.0)
    meter.fail(times=2)
    for at_s in (1.0, 2.0):
        with pytest.raises(MeterReadError):
            meter.read_joules(at_s)
    assert meter.read_joules(3.0) == 30.0
    meter.reset()
    assert meter.read_joules(4.0) == 30.0
    assert meter.fault_counts == {"reset": 1}
    meter.gone()
    with pytest.raises(MeterGone):
        meter.read_joules(5.0)
    meter.back()
    assert meter.read_joules(6.0) == 50.0
    meter.close()
    assert meter.closed


def test_sinks_keep_and_refuse():
    """One keeps everything; the other refuses as often as it was told to."""
    memory, failing, record = MemorySink(), FailingSink(times=1), a_record()
    memory.write(record)
    assert memory.records == [record]
    with pytest.raises(SinkError):
        failing.write(record)
    failing.write(record)
    assert failing.records == [record]
    failing.close()
    assert failing.closed


def test_powercap_tree_is_shaped_like_the_kernels(tmp_path):
    """Zones lie in devices/virtual, children in their parents, and class/powercap links to all."""
    tree = build_powercap(tmp_path)
    links = tmp_path / "class" / "powercap"
    assert sorted(link.name for link in links.iterdir()) == [
        "intel-rapl",
        "intel-rapl:0",
        "intel-rapl:0:0",
        "intel-rapl:0:1",
        "intel-rapl:0:2",
    ]
    assert all(link.is_symlink() for link in links.iterdir())
    assert (links / "intel-rapl:0" / "intel-rapl:0:2" / "name").read_text() == "dram\n"
    assert int((links / "intel-rapl:0" / "energy_uj").read_text()) == tree.raw_uj("package-0")


def test_powercap_tree_wraps_as_hardware_does(tmp_path):
    """A counter passes its range and starts again with the rest."""
    zone = Zone("package-0", "intel-rapl:0", raw_uj=999_000_000, range_uj=1_000_000_000)
    tree = build_powercap(tmp_path, [zone])
    tree.add_joules("package-0", 11.0)
    assert tree.raw_uj("package-0") == 10_000_000


def test_powercap_tree_names_zones_by_key_or_by_unique_name(tmp_path):
    """A name that two zones share is no address."""
    tree = build_powercap(
        tmp_path, [Zone("dram", "intel-rapl:0:0"), Zone("dram", "intel-rapl:1:0")]
    )
    tree.add_joules("intel-rapl:1:0", 1.0)
    with pytest.raises(KeyError, match="names 2 zones"):
        tree.add_joules("dram", 1.0)


def test_powercap_tree_breaks_vanishes_and_returns(tmp_path):
    """Every fault can be undone, and the counter stands where the truth is."""
    tree = build_powercap(tmp_path)
    energy = tree.directory("package-0") / "energy_uj"
    tree.break_zone("package-0", "garbage")
    assert energy.read_text().strip() == "garbage"
    tree.remove("package-0")
    assert not energy.exists()
    tree.restore("package-0")
    assert int(energy.read_text()) == tree.raw_uj("package-0")
