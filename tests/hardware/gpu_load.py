"""Keeps the first NVIDIA GPU busy until it is ended: fills its memory, over and over.

By the driver's own library, so that it needs no other package.
"""

from __future__ import annotations

import ctypes
import sys

SIZE = 1 << 28
"""Words of four bytes."""


def main() -> int:
    """Exits with 1 where there is no CUDA."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 1
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    begun = [
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device),
        cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(4 * SIZE)),
    ]
    if any(begun):
        return 1
    value = 0
    while not cuda.cuMemsetD32_v2(memory, ctypes.c_uint(value), ctypes.c_size_t(SIZE)):
        cuda.cuCtxSynchronize()
        value = (value + 1) % (1 << 32)
    return 1


if __name__ == "__main__":
    sys.exit(main())
