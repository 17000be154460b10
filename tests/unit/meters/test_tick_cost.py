"""Reading a large server costs little beside what it reads."""

import os
import time

import pytest

from carbontrack.meters.nvml import nvml_meters
from carbontrack.meters.nvml_driver import Driver
from carbontrack.meters.rapl import powercap_meters
from carbontrack.testing import Zone, build_powercap
from tests.support.gpus import StillDriver

pytestmark = pytest.mark.xdist_group("serial")  # ratios of times

SERVER = [
    Zone("package-0", "intel-rapl:0", 1_000_000),
    Zone("dram", "intel-rapl:0:0", 2_000_000),
    Zone("package-1", "intel-rapl:1", 3_000_000),
    Zone("dram", "intel-rapl:1:0", 4_000_000),
]


def test_two_sockets_with_dram_and_eight_gpus_are_exact(tmp_path):
    """Twelve meters over a minute: every one within half a percent, as its counter is exact."""
    tree = build_powercap(tmp_path, SERVER)
    driver = StillDriver(uuids=[f"GPU-{n:08d}-1fb8-192a-7ab7-0e0e4476d301" for n in range(8)])
    meters = [*powercap_meters(tmp_path)[0], *nvml_meters(None, None, Driver(driver))[0]]
    for second in range(61):
        joules = [meter.read_joules(float(second)) for meter in meters]
        for number, key in enumerate(tree.zones):
            tree.add_joules(key, 10.0 * (number + 1))
        driver.use(350.0, 1.0)
    truth = [60 * 10.0 * (number + 1) for number in range(4)] + [60 * 350.0] * 8
    assert [abs(j / t - 1.0) < 0.005 for j, t in zip(joules, truth, strict=True)] == [True] * 12
    for meter in meters:
        meter.close()


def test_all_gpus_are_read_in_one_call():
    """Eight boards cost little more than one: one call to the driver's thread for all."""
    costs = {}
    for count in (1, 8):
        driver = StillDriver(uuids=[f"GPU-{n:08d}-1fb8" for n in range(count)])
        meters = nvml_meters(None, None, Driver(driver))[0]
        best = float("inf")
        for second in range(400):
            begun = time.perf_counter()
            for meter in meters:
                meter.read_joules(float(second))
            best = min(best, time.perf_counter() - begun)
        costs[count] = best
        for meter in meters:
            meter.close()
    assert costs[8] < 6 * costs[1]


def test_a_read_of_a_zone_costs_a_few_system_calls(tmp_path):
    """At most ten times a bare pread and the reading of its number: a ratio, not a time."""
    build_powercap(tmp_path, SERVER[:1])
    meter = powercap_meters(tmp_path)[0][0]
    path = tmp_path / "class" / "powercap" / "intel-rapl:0" / "energy_uj"
    descriptor = os.open(path, os.O_RDONLY)

    def best_of(read):
        best = float("inf")
        for _ in range(20):
            begun = time.perf_counter()
            for _ in range(200):
                read(1.0)
            best = min(best, time.perf_counter() - begun)
        return best

    bare = best_of(lambda _: int(os.pread(descriptor, 32, 0)))
    assert best_of(meter.read_joules) < 10 * bare
    os.close(descriptor)
    meter.close()
