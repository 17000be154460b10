"""NVIDIA meters over a library in Python: what the compiled stand-in cannot easily show."""

import pytest

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.meters.detect import nvml_is_present
from carbontrack.meters.nvml import RELATIVE_UNCERTAINTY, nvml_meters
from carbontrack.meters.nvml_driver import DEFAULT_CAP_W, Device, Driver, NotSupported
from tests.support.gpus import NVMLError, StillDriver, gpu_meter


def run(driver, seconds, *, counted_w, shown_w):
    meter = gpu_meter(driver)
    driver.power_mw = int(shown_w * 1000)
    for second in range(seconds + 1):
        meter.read_joules(float(second))
        driver.use(counted_w, 1.0)
    meter.close()
    return meter


def test_counter_and_power_that_agree_keep_the_published_interval():
    """Both at 300 W for ten minutes: +-5 %."""
    meter = run(StillDriver(), 600, counted_w=300.0, shown_w=300.0)
    assert meter.relative_uncertainty == RELATIVE_UNCERTAINTY


def test_counter_and_power_that_disagree_widen_the_interval():
    """A counter that falls short of the power by a third is not sold as +-5 %."""
    meter = run(StillDriver(), 600, counted_w=200.0, shown_w=300.0)
    assert meter.relative_uncertainty == pytest.approx(0.5, rel=0.02)


def test_a_short_run_is_not_judged_by_a_few_samples_of_power():
    """Less than two minutes of samples say nothing about the counter."""
    meter = run(StillDriver(), 60, counted_w=200.0, shown_w=300.0)
    assert meter.relative_uncertainty == RELATIVE_UNCERTAINTY


def test_what_is_not_supported_is_asked_for_once():
    """NOT_SUPPORTED is remembered."""
    still = StillDriver(has_energy=False)
    device = Device(Driver(still), still.uuids[0], lambda device: 0.0)
    calls = []
    still.nvmlDeviceGetTotalEnergyConsumption = lambda handle: calls.append(1) or still._no()
    still._no = lambda: (_ for _ in ()).throw(NVMLError(3))
    for _ in range(3):
        with pytest.raises(NotSupported):
            device.call("nvmlDeviceGetTotalEnergyConsumption")
    assert len(calls) == 1


def test_a_board_without_limits_has_a_stated_cap():
    """Where the driver names no limit, the largest module sold sets it."""
    still = StillDriver()
    still.nvmlDeviceGetPowerManagementLimitConstraints = lambda handle: [0, 0]
    assert Device(Driver(still), still.uuids[0], lambda device: 0.0).cap_w() == DEFAULT_CAP_W


def test_a_board_that_does_not_answer_is_refused_alone():
    """Listing goes on past a broken board."""
    still = StillDriver(uuids=("GPU-aaaa0000-1", "GPU-bbbb0000-2"))
    whole = still.nvmlDeviceGetUUID

    def uuid_of(handle):
        if handle.startswith("GPU-aaaa"):
            raise NVMLError(15)
        return whole(handle)

    still.nvmlDeviceGetUUID = uuid_of
    meters, _, refused = nvml_meters(None, None, Driver(still))
    assert [meter.id for meter in meters] == ["nvml:GPU-bbbb0000-2"]
    assert refused[0].id == "nvml:0"
    for meter in meters:
        meter.close()


def test_a_driver_that_cannot_count_is_refused():
    """No boards and no exception."""
    still = StillDriver()
    still.nvmlDeviceGetCount = lambda: (_ for _ in ()).throw(NVMLError(999))
    meters, names, refused = nvml_meters(None, None, Driver(still))
    assert (meters, names) == ((), ())
    assert "cannot count" in refused[0].reason


def test_a_nominal_power_is_found_when_it_is_needed():
    """The board's own power; None while it does not answer."""
    still = StillDriver()
    meter = gpu_meter(still)
    still.fail()
    assert meter.nominal_w is None
    assert meter.nominal_w == 80.0
    meter.close()
    with pytest.raises((MeterGone, MeterReadError)):
        meter.read_joules(99.0)


def test_presence_is_decided_by_loading():
    """A library that is there can be loaded, one that is not cannot."""
    assert nvml_is_present("libc.so.6")
    assert not nvml_is_present("libnvidia-ml-that-is-not-there.so")
