"""The faults that other tools are known to turn into energy, with their figures beside ours.

Ours is what a meter counts over the run; theirs were measured on the same faults, and stand here to
say what is at stake.
"""

import pytest

from carbontrack.errors import MeterError
from carbontrack.meters.nvml import nvml_meters
from carbontrack.meters.nvml_driver import Driver
from carbontrack.meters.powercap import powercap_meters
from carbontrack.testing import Zone, build_powercap
from tests.support.gpus import StillDriver

STEP_S = 1.5
STEPS = 10


class Run:
    """Ten steps of 1.5 s at constant power, read after each; a fault may strike at any of them."""

    def __init__(self, meter, use):
        self.meter, self.use = meter, use
        self.joules = meter.read_joules(0.0)
        self.missed = 0

    def go(self, watts, before=None, after=None):
        for step in range(1, STEPS + 1):
            self.use(watts * STEP_S)
            if before:
                before(step)
            try:
                self.joules = self.meter.read_joules(step * STEP_S)
            except MeterError:
                self.missed += 1
            if after:
                after(step)
        return self.joules


@pytest.fixture
def rapl(tmp_path):
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", raw_uj=100_000_000_000)])
    meter = powercap_meters(tmp_path)[0][0]
    return tree, Run(meter, lambda joules: tree.add_joules("package-0", joules))


@pytest.fixture
def gpu():
    driver = StillDriver()
    meter = nvml_meters(None, None, Driver(driver))[0][0]
    yield driver, Run(meter, lambda joules: driver.use(joules, STEP_S))
    meter.close()


def test_one_failed_read_of_ten(rapl):
    """True 1,500 J. CodeCarbon 3.3.0: 277,144 of 15,000 J; 3.3.2: 12,000 of 15,000 J."""
    tree, run = rapl
    joules = run.go(100.0, before=lambda step: tree.break_zone("package-0") if step == 5 else None)
    assert joules == pytest.approx(1500.0)
    assert (run.missed, run.meter.fault_counts) == (1, {})


def test_every_third_read_fails(rapl):
    """True 1,500 J. CodeCarbon 3.3.0: 801,431 of 15,000 J; 3.3.2: 6,000 of 15,000 J."""
    tree, run = rapl

    def fail(step):
        if step % 3 == 0:
            tree.break_zone("package-0", "-1")

    assert run.go(100.0, before=fail) == pytest.approx(1500.0)
    assert run.missed == 3


def test_counter_reset_in_the_middle(rapl):
    """True 1,500 J. CodeCarbon 3.3.0 and 3.3.2: 269,644 of 15,000 J. Here one step is lost."""
    tree, run = rapl
    joules = run.go(
        100.0, before=lambda step: tree.set_raw_uj("package-0", 1000) if step == 5 else None
    )
    assert 1350.0 - 1e-6 <= joules <= 1500.0
    assert run.meter.fault_counts == {"reset": 1}


def test_wrap(rapl):
    """A wrap is exact, as it is elsewhere when nothing else goes wrong."""
    tree, run = rapl
    tree.set_raw_uj("package-0", 262_143_000_000)
    fresh = Run(powercap_meters(tree.sysfs)[0][0], run.use)
    assert fresh.go(200.0) == pytest.approx(3000.0, abs=1e-3)


def test_range_unreadable_and_a_wrap(tmp_path):
    """CodeCarbon 3.3.0 adds -262,138 J to its totals. Here the step of the wrap is dropped."""
    zone = Zone("package-0", "intel-rapl:0", raw_uj=262_143_000_000)
    tree = build_powercap(tmp_path, [zone])
    (tree.directory("package-0") / "max_energy_range_uj").unlink()
    run = Run(powercap_meters(tmp_path)[0][0], lambda joules: tree.add_joules("package-0", joules))
    assert 2700.0 - 1e-6 <= run.go(200.0) <= 3000.0


def test_reads_that_race_a_wrap_are_never_negative(tmp_path):
    """Zeus 0.16 reports -262,103 J in 9 of 40 windows around a wrap; here 0 of 2,000."""
    zone = Zone("package-0", "intel-rapl:0", raw_uj=999_000_000, range_uj=1_000_000_000)
    tree = build_powercap(tmp_path, [zone])
    meter = powercap_meters(tmp_path)[0][0]
    last_j = meter.read_joules(0.0)
    for number in range(1, 2001):
        tree.add_joules("package-0", 40.0)
        joules = meter.read_joules(number * 0.5)
        assert joules - last_j == pytest.approx(40.0, abs=1e-3)
        last_j = joules


def test_gpu_lost_half_way(gpu):
    """What was counted stays. Zeus 0.16 raises into user code; others do not say it."""
    driver, run = gpu

    def lose(step):
        if step > 5:
            driver.fail(times=1)
            driver.failure_code = 15

    assert run.go(40.0, before=lose) == pytest.approx(300.0)
    assert run.missed == 5


def test_gpu_transient_errors(gpu):
    """True 600 J: two failed reads of ten cost nothing."""
    driver, run = gpu
    joules = run.go(40.0, before=lambda step: driver.fail() if step in (3, 7) else None)
    assert joules == pytest.approx(600.0)


def test_gpu_driver_reload(gpu):
    """True 600 J. CodeCarbon 3.3.0: -999,398 J; Zeus 0.16: -999,850 J for each GPU."""
    driver, run = gpu

    def reload(step):
        if step == 5:
            driver.energy_mj = dict.fromkeys(driver.uuids, 20_000)

    assert 540.0 - 1e-6 <= run.go(40.0, before=reload) <= 600.0
    assert run.meter.fault_counts == {"reset": 1}


def test_gpu_energy_not_supported():
    """True 600 J. CodeCarbon 3.3.0: 0 J, unlabelled. Here the power is integrated."""
    driver = StillDriver(has_energy=False)
    driver.power_mw = 40_000
    meter = nvml_meters(None, None, Driver(driver))[0][0]
    run = Run(meter, lambda joules: None)
    assert run.go(40.0) == pytest.approx(600.0, rel=0.01)
    assert meter.relative_uncertainty > 0.05
    meter.close()
