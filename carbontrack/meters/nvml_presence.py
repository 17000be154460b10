"""Whether there is an NVIDIA driver, at a tenth of a millisecond where there is none."""

from __future__ import annotations

import sys

NVML_LIBRARY = "libnvidia-ml.so.1"
_RTLD_LAZY = 1


def nvml_is_present(library: str = NVML_LIBRARY) -> bool:
    """Whether the driver's library can be loaded.

    Loading is the only test that holds everywhere: under WSL there are no device files, in
    containers no /proc/driver, and LD_LIBRARY_PATH may point anywhere. `_ctypes` is the C half of
    ctypes, a millisecond cheaper to import, and is missing in sub-interpreters.
    """
    if sys.platform != "linux":
        return sys.platform == "win32"  # there nvidia-ml-py itself knows where to look
    try:
        from _ctypes import dlopen

        dlopen(library, _RTLD_LAZY)
    except (ImportError, OSError):
        return False
    return True
