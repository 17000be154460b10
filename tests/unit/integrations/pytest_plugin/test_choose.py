"""Which energy of the GPUs a test is charged with."""

from __future__ import annotations

from pathlib import Path

from carbontrack.integrations.pytest_plugin.choose import CudaJoules


def test_a_gpu_counts_from_the_reading_at_which_cuda_is_loaded(tmp_path: Path) -> None:
    """Before, an idle GPU costs nothing; afterwards all that it uses counts."""
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp /usr/lib/libm.so.6\n")
    joules = iter([100.0, 150.0, 170.0, 175.0])
    read = CudaJoules(lambda: next(joules), maps)

    assert read() == 0.0
    assert read() == 0.0
    maps.write_text("7f00-7f01 r-xp /usr/lib/libcuda.so.1\n")
    assert read() == 20.0
    maps.write_text("")
    assert read() == 25.0
