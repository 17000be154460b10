"""NVIDIA meters over a library in Python: what the compiled stand-in cannot easily show."""

from types import SimpleNamespace

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


@pytest.mark.parametrize("count", [None, -1, "2", 10**9, True, 1.5e300])
def test_a_number_of_boards_that_is_none_is_refused(count):
    """Nothing is listed a billion times."""
    still = StillDriver()
    still.nvmlDeviceGetCount = lambda: count
    meters, _, (refusal,) = nvml_meters(None, None, Driver(still))
    assert meters == ()
    assert refusal.fault == "gpu_unmeasured"


@pytest.mark.parametrize("uuid", [None, "", b"", 7, -1, b"GPU-\xff"])
def test_a_board_without_a_uuid_is_refused_alone(uuid):
    """The others are measured; one that is no UTF-8 still is a name."""
    still = StillDriver(uuids=("GPU-aaaa0000-1", "GPU-bbbb0000-2"))
    still.nvmlDeviceGetUUID = lambda handle: uuid if "aaaa" in handle else handle
    still.nvmlDeviceGetHandleByUUID = lambda name: still.uuids[0] if name == uuid else name
    meters, _, refused = nvml_meters(None, None, Driver(still))
    assert "nvml:GPU-bbbb0000-2" in [meter.id for meter in meters]
    assert len(meters) + len(refused) == 2
    assert {refusal.fault for refusal in refused} <= {"gpu_unmeasured"}


@pytest.mark.parametrize("answer", [None, -1, "300", b"300", [], float("nan"), True])
@pytest.mark.parametrize("function", ["TotalEnergyConsumption", "PowerUsage"])
def test_what_is_no_number_is_a_missed_read(function, answer):
    """Whether at the start or later; the other source goes on."""
    still = StillDriver()
    setattr(still, f"nvmlDeviceGet{function}", lambda handle: answer)
    meter = gpu_meter(still)
    for second in range(9):
        joules = meter.read_joules(float(second))
        still.use(80, 1.0)
    assert joules == pytest.approx(640.0, rel=0.01)
    meter.close()


@pytest.mark.parametrize(
    "error", [ValueError("no"), TypeError(), OSError(5, "no"), KeyError("x"), NVMLError(12345)]
)
def test_whatever_a_function_raises_is_a_missed_read(error):
    """And the next one has the energy."""
    still = StillDriver()
    meter = gpu_meter(still)
    meter.read_joules(0.0)
    asked, still.has_power = still.nvmlDeviceGetTotalEnergyConsumption, False

    def failing(handle):
        raise error

    still.nvmlDeviceGetTotalEnergyConsumption = failing
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    still.nvmlDeviceGetTotalEnergyConsumption = asked
    still.use(160, 2.0)
    assert meter.read_joules(2.0) == pytest.approx(160.0)
    meter.close()


def test_a_counter_that_shows_nothing_but_zero_is_left_for_the_power():
    """It counted, and then it shows 0 for good: neither a reset nor a wrap."""
    still = StillDriver()
    meter = gpu_meter(still)
    meter.read_joules(0.0)
    still.energy_mj = dict.fromkeys(still.uuids, 0)
    reads = 0
    for tenth in range(10, 101):
        try:
            joules = meter.read_joules(tenth / 10)
            reads += 1
        except MeterReadError:
            continue
    assert joules == pytest.approx(800.0, rel=0.01)
    assert reads > 50
    meter.close()


@pytest.mark.parametrize(("buses", "boards"), [((b"01", b"01"), 1), ((b"01", b"02"), 1)])
def test_a_uuid_that_is_listed_twice_is_counted_once(buses, boards):
    """One board listed twice is whole; a second board of that UUID is missed in every record."""
    still = StillDriver(uuids=("GPU-aaaa0000-1", "GPU-bbbb0000-2"))
    still.nvmlDeviceGetUUID = lambda handle: "GPU-aaaa0000-1"
    still.nvmlDeviceGetPciInfo = lambda handle: SimpleNamespace(
        busId=buses[still.uuids.index(handle)]
    )
    meters, _, refused = nvml_meters(None, None, Driver(still))
    assert len(meters) == boards
    faults = [refusal.fault for refusal in refused]
    assert faults == ([] if buses[0] == buses[1] else ["gpu_unmeasured"])
    for meter in meters:
        meter.close()


def test_processes_that_make_no_sense_leave_the_last_share_standing():
    """Who uses a board is not known then, and its energy goes on."""
    still = StillDriver()
    meter = gpu_meter(still)
    for nonsense in (None, [None], [SimpleNamespace()], [SimpleNamespace(pid="7")]):
        still.nvmlDeviceGetComputeRunningProcesses = lambda handle, said=nonsense: said
        with pytest.raises(MeterReadError):
            meter.look()
    still.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        SimpleNamespace(pid=pid) for pid in (7, 0, -1, 0xFFFF_FFFF)
    ]
    assert meter.look()[0].holders == {7}
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
