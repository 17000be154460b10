"""The meters of the machine that the tests run on: what each kind promises, and its figures.

Nothing here is compared with an absolute number: a machine's own meters are compared with each
other, and how fast they are is printed.
"""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from itertools import pairwise

import pytest

from carbontrack.errors import MeterReadError
from tests.hardware.conftest import LENGTH, SYSFS, Bench, read_j

pytestmark = [pytest.mark.hardware, pytest.mark.slow, pytest.mark.xdist_group("serial")]


def test_counts_never_go_down(bench: Bench) -> None:
    """However often they are read, under load and idle."""
    with bench.load():
        for meter in bench.meters:
            counts = []
            for _ in range(500):
                with suppress(MeterReadError):  # a missed read, which the next one carries
                    counts.append(meter.read_joules(time.monotonic()))
                time.sleep(0.002)
            assert counts == sorted(counts), meter.id
            assert counts[0] >= 0.0, meter.id
            assert counts[-1] > counts[0], meter.id
            bench.figures[f"reads of 500 that failed, {meter.id}"] = 500 - len(counts)


def test_how_long_a_read_takes(bench: Bench) -> None:
    """Printed: the median and the slowest of a hundred reads."""
    for meter in bench.meters:
        took_us = []
        for _ in range(100):
            begun_s = time.perf_counter()
            with suppress(MeterReadError):
                meter.read_joules(time.monotonic())
            took_us.append((time.perf_counter() - begun_s) * 1e6)
            time.sleep(0.01)
        assert len(took_us) == 100
        bench.figures[f"a read, {meter.id}"] = (
            f"{statistics.median(took_us):.0f} us, at most {max(took_us):.0f} us"
        )


def test_how_often_it_changes(bench: Bench) -> None:
    """Printed: the median time between two changes of the count, which has to change at all."""
    with bench.load():
        for meter in bench.meters:
            changes_s, last_j = [], read_j(meter)
            end_s = time.monotonic() + 3.0 * LENGTH
            while time.monotonic() < end_s and len(changes_s) < 200:
                now_s = time.monotonic()
                count_j = read_j(meter)
                if count_j != last_j:
                    changes_s.append(now_s)
                    last_j = count_j
            periods_s = [after - before for before, after in pairwise(changes_s)]
            assert len(periods_s) >= 2, meter.id
            bench.figures[f"refresh period, {meter.id}"] = (
                f"{statistics.median(periods_s) * 1e3:.2f} ms; we assume"
                f" {meter.resolution_s * 1e3:g} ms"
            )


def test_load_costs_more_than_idle(bench: Bench) -> None:
    """The same time with a load has more joules; both powers are printed."""
    duration_s = 4.0 * LENGTH
    before_j = bench.used_j(duration_s)
    with bench.load():
        busy_j = bench.used_j(duration_s)
    time.sleep(2.0 * LENGTH)
    idle_j = min(before_j, bench.used_j(duration_s))
    bench.figures["power"] = f"idle {idle_j / duration_s:.2f} W, load {busy_j / duration_s:.2f} W"
    assert 0.0 <= idle_j < busy_j


def test_a_boards_counter_agrees_with_its_power(bench: Bench) -> None:
    """The energy counter and the integrated power meet, within what each may be off."""
    if bench.name != "nvml":
        pytest.skip("only NVIDIA's boards show a power of their own beside the counter")
    import pynvml

    from carbontrack.meters.nvml import POWER_UNCERTAINTY

    pynvml.nvmlInit()
    try:
        with bench.load():
            for meter in bench.meters:
                handle = pynvml.nvmlDeviceGetHandleByUUID(meter.id.removeprefix("nvml:"))
                counted_j, integrated_j = _side_by_side(
                    meter, lambda one=handle: pynvml.nvmlDeviceGetPowerUsage(one) / 1000.0
                )
                bench.figures[f"counter beside integrated power, {meter.id}"] = (
                    f"{counted_j:.1f} J beside {integrated_j:.1f} J"
                )
                own, other = meter.relative_uncertainty or 0.0, POWER_UNCERTAINTY
                assert counted_j * (1 - own) <= integrated_j * (1 + other), meter.id
                assert integrated_j * (1 - other) <= counted_j * (1 + own), meter.id
    finally:
        pynvml.nvmlShutdown()


def _side_by_side(meter, power_w, duration_s=10.0 * LENGTH):  # type: ignore[no-untyped-def]
    """The counter's joules and those of the power, between two changes of the counter."""
    first_j = _at_a_change(meter)
    at_s, before_w, integrated_j = time.monotonic(), power_w(), 0.0
    end_s = at_s + duration_s
    while at_s < end_s:
        time.sleep(0.02)
        now_s, now_w = time.monotonic(), power_w()
        integrated_j += (before_w + now_w) / 2.0 * (now_s - at_s)
        at_s, before_w = now_s, now_w
    last_j = _at_a_change(meter)
    integrated_j += power_w() * (time.monotonic() - at_s)
    return last_j - first_j, integrated_j


def _at_a_change(meter):  # type: ignore[no-untyped-def]
    before_j = read_j(meter)
    end_s = time.monotonic() + 5.0
    while (now_j := read_j(meter)) == before_j:
        assert time.monotonic() < end_s, f"{meter.id} stands still"
        time.sleep(0.001)
    return now_j


def test_powercap_and_perf_read_the_same_counter() -> None:
    """The packages' joules of both ways agree within the interval of either."""
    from carbontrack.meters.perf import perf_meters
    from carbontrack.meters.rapl import RELATIVE_UNCERTAINTY, powercap_meters

    zones = [meter for meter in powercap_meters(SYSFS)[0] if meter.component == "cpu"]
    events = [meter for meter in perf_meters(SYSFS, ("cpu",))[0] if meter.component == "cpu"]
    if not zones or not events:
        pytest.skip("powercap and perf are not both open here: see `carbontrack doctor`")
    try:
        first = [sum(read_j(m) for m in ways) for ways in (zones, events)]
        time.sleep(5.0)
        last = [sum(read_j(m) for m in ways) for ways in (zones, events)]
    finally:
        for meter in (*zones, *events):
            meter.close()
    one_j, other_j = (after - before for before, after in zip(first, last, strict=True))
    assert one_j == pytest.approx(other_j, rel=RELATIVE_UNCERTAINTY)
