"""What the hardware can tell without a tracker."""

from __future__ import annotations

from carbontrack.api.hardware import gpu_joules_reader, machine_fingerprint
from carbontrack.config.settings import Settings
from carbontrack.meters.cpu_info import CpuFacts


def test_no_gpu_is_read_where_none_is_wanted() -> None:
    """`gpu_ids="none"` keeps the driver untouched."""
    assert gpu_joules_reader(Settings(gpu_ids=())) is None


def test_the_fingerprint_tells_processors_apart() -> None:
    """By name where it has one, by its part's numbers, by threads, system and interpreter."""
    one = CpuFacts(name="AMD EPYC 7763", vendor="AMD", family="25", model="1", stepping="1")
    assert machine_fingerprint(one).startswith("AMD EPYC 7763 (25.1.1) x")
    assert machine_fingerprint(one) != machine_fingerprint(one._replace(model="2"))
    assert machine_fingerprint(CpuFacts(vendor="ARM", family="0x41", model="0xd0c")).startswith(
        "ARM (0x41.0xd0c) x"
    )
    assert machine_fingerprint(CpuFacts()).partition(" x")[0]
    assert "Python 3." in machine_fingerprint(one)
