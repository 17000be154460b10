"""What every meter promises, whatever it is made of."""

import contextlib
import math
from pathlib import Path

import pytest

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.meters.meter import Meter, MeterSet, counts_ends
from carbontrack.meters.ram_model import ram_model
from carbontrack.meters.rapl import powercap_meters
from carbontrack.meters.wall_model import Server, with_wall_model
from carbontrack.record import BASES, COMPONENTS
from carbontrack.testing import FakeMeter, Zone, build_powercap
from tests.support.gpus import StillDriver, gpu_meter


class Rig:
    """A meter, a way to let it use energy, and a way to let one read of it fail."""

    def __init__(self, meter, use, fail=None):
        self.meter: Meter = meter
        self.use = use
        self.fail = fail


def fake(_):
    meter = FakeMeter(watts=0.0)
    return Rig(meter, lambda joules, _: meter.add_joules(joules), meter.fail)


def fake_with_ends(_):
    meter = FakeMeter(watts=0.0, low=0.4, high=2.5)
    return Rig(meter, lambda joules, _: meter.add_joules(joules), meter.fail)


def package(folder: Path):
    tree = build_powercap(folder)
    meter = powercap_meters(folder)[0][0]
    return Rig(
        meter, lambda j, _: tree.add_joules("package-0", j), lambda: tree.break_zone("package-0")
    )


def mirrored(folder: Path):
    tree = build_powercap(folder, [Zone(f"package-0-die-{n}", f"intel-rapl:{n}") for n in (0, 1)])
    meter = powercap_meters(folder)[0][0]

    def use(joules, _):
        for key in tree.zones:
            tree.add_joules(key, joules)

    return Rig(meter, use, lambda: tree.break_zone("package-0-die-0"))


def cpu_model(_):
    busy = {"s": 0.0, "fails": False}

    def busy_s():
        failed, busy["fails"] = busy["fails"], False
        return None if failed else busy["s"]

    return Rig(
        CpuModel(100.0, busy_s, 4),
        lambda _, seconds: busy.update(s=busy["s"] + seconds),
        lambda: busy.update(fails=True),
    )


def memory(modules_gib):
    return lambda _: Rig(ram_model(16.0, modules_gib, None), lambda joules, seconds: None)


def wall_model(_):
    cpu = FakeMeter(watts=0.0)
    meters = list(with_wall_model(MeterSet((cpu,)), Server(1000.0, lambda: 0.0, 4)))
    read_rest = meters[-1].read_joules

    def read(now_s):
        with contextlib.suppress(MeterReadError):
            meters[0].read_joules(now_s)
        return read_rest(now_s)

    meters[-1].read_joules = read
    return Rig(meters[-1], lambda joules, _: cpu.add_joules(joules), cpu.fail)


def modelled_gpu(_):
    driver = StillDriver(has_energy=False)
    driver.has_power = False
    return Rig(gpu_meter(driver, may_model=True), driver.use, driver.fail)


def gpu(kind):
    def rig(_):
        driver = StillDriver(has_energy=kind == "energy")
        return Rig(gpu_meter(driver), driver.use, driver.fail)

    return rig


RIGS = {
    "fake": fake,
    "fake with ends": fake_with_ends,
    "package": package,
    "mirrored": mirrored,
    "cpu model": cpu_model,
    "ram model": memory(()),
    "ram model by modules": memory((8.0, 8.0)),
    "wall model": wall_model,
    "gpu model": modelled_gpu,
    "gpu energy": gpu("energy"),
    "gpu power": gpu("power"),
}


@pytest.fixture(params=RIGS.values(), ids=RIGS.keys())
def rig(request, tmp_path):
    return request.param(tmp_path)


def run(rig, seconds, watts=80.0, begin_s=0.0):
    """Read once a second while the meter uses energy; return what it counted at each read."""
    counts_j = []
    for second in range(seconds):
        counts_j.append(rig.meter.read_joules(begin_s + second))
        rig.use(watts, 1.0)
    return counts_j


def test_it_says_what_it_is(rig):
    """Every attribute has a value that the record can use."""
    meter = rig.meter
    kind, _, address = meter.id.partition(":")
    assert kind
    assert address
    assert meter.component in COMPONENTS
    assert meter.basis in BASES
    assert 0.0 <= meter.resolution_s <= 1.0
    assert 0.0 <= meter.relative_uncertainty <= 1.0
    assert all(times > 0 for times in meter.fault_counts.values())
    assert meter.max_period_s is None or meter.max_period_s > 0.0
    assert meter.nominal_w is None or meter.nominal_w > 0.0


def test_its_count_never_goes_down_and_grows_with_use(rig):
    """A span is a subtraction, so it can never be negative."""
    counts_j = run(rig, 6)
    assert counts_j == sorted(counts_j)
    assert counts_j[-1] > counts_j[0]
    assert all(math.isfinite(joules) for joules in counts_j)


def test_reading_twice_at_one_instant_changes_nothing(rig):
    """Several spans may end together; the energy is the same for all."""
    run(rig, 3)
    assert rig.meter.read_joules(3.0) == rig.meter.read_joules(3.0)


def test_its_ends_enclose_its_count_and_never_go_down(rig):
    """Where it counts them: at every read, and as of that read."""
    if not counts_ends(rig.meter):
        pytest.skip("it is off by its relative uncertainty, whatever it counts")
    counts_j = []
    for second in range(6):
        joules = rig.meter.read_joules(float(second))
        counts_j.append((rig.meter.low_j, joules, rig.meter.high_j))
        rig.use(80.0 + second, 1.0)
        assert counts_j[-1] == (rig.meter.low_j, joules, rig.meter.high_j), "until it is read"
    for low_j, joules, high_j in counts_j:
        assert 0.0 <= low_j <= joules <= high_j < math.inf
    for one, counted_j in zip(("low", "best", "high"), zip(*counts_j, strict=True), strict=True):
        assert list(counted_j) == sorted(counted_j), one
    assert counts_j[-1][2] > counts_j[0][2]


def test_a_failed_read_leaves_the_ends_or_carries_everything(rig):
    """They are as of the last read that succeeded."""
    if rig.fail is None or not counts_ends(rig.meter):
        pytest.skip("nothing in this meter can fail, or it counts no ends")
    run(rig, 3)
    before_j = rig.meter.low_j, rig.meter.high_j
    rig.use(80.0, 1.0)
    rig.fail()
    with pytest.raises(MeterReadError):
        rig.meter.read_joules(4.0)
    assert (rig.meter.low_j, rig.meter.high_j) == before_j
    rig.use(80.0, 1.0)
    joules = rig.meter.read_joules(5.0)
    assert before_j[0] < rig.meter.low_j <= joules <= rig.meter.high_j


def test_a_failed_read_raises_and_the_next_one_carries_everything(rig):
    """It never guesses, and it loses nothing."""
    if rig.fail is None:
        pytest.skip("nothing in this meter can fail")
    before_j = run(rig, 3)[-1]
    whole_j = []
    for fails in (False, True, False):
        rig.use(80.0, 1.0)
        if fails:
            rig.fail()
        try:
            whole_j.append(rig.meter.read_joules(4.0 + len(whole_j)))
        except MeterReadError:
            assert fails
            whole_j.append(None)
    assert whole_j[1] is None or whole_j[1] >= before_j
    assert whole_j[2] > whole_j[0] > before_j
    assert dict(rig.meter.fault_counts) == {}


def test_closing_twice_is_fine_and_reading_afterwards_invents_nothing(rig):
    """A closed meter says that it is gone, or keeps its last count."""
    last_j = run(rig, 3)[-1]
    rig.meter.close()
    rig.meter.close()
    with contextlib.suppress(MeterGone, MeterReadError):
        assert rig.meter.read_joules(2.0) >= last_j
