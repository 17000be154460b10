"""How busy the machine is: read anew only where there is something new to read."""

from __future__ import annotations

from carbontrack.compat.codecarbon.run import LatestLoad
from carbontrack.testing import FakeClock


def test_readings_in_quick_succession_are_one() -> None:
    """Within the kernel's own step they share one; after it they do not."""
    clock = FakeClock()
    load = LatestLoad(clock)
    first = load.read()
    clock.advance(0.019)
    assert load.read() is first
    clock.advance(0.002)
    assert load.read() is not first


def test_a_reading_has_processor_time_and_memory() -> None:
    """Of this machine, where psutil can tell."""
    total_s, idle_s, percent, used_gib = LatestLoad(FakeClock()).read()
    assert total_s > idle_s > 0.0
    assert 0.0 < percent < 100.0
    assert used_gib > 0.0
