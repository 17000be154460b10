"""The system call perf_event_open(2), which Python does not offer."""

from __future__ import annotations

import os
import struct

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_FLAG_CLOEXEC = 8
_ATTR = struct.Struct("IIQQQQQIIQ")
"""struct perf_event_attr up to config1, PERF_ATTR_SIZE_VER0: type, size, config, sample_period,
sample_type, read_format, flags, wakeup_events, bp_type, config1."""


class PerfEvent:
    """A counter of one processor and all its processes, running from the start.

    Raises:
        OSError: the kernel refuses; EACCES and EPERM are a matter of kernel.perf_event_paranoid.
    """

    def __init__(self, kind: int, config: int, cpu: int) -> None:
        import ctypes

        number = _SYSCALL.get(os.uname().machine)
        if number is None:
            raise OSError(38, "no perf_event_open for this kind of processor")
        attr = ctypes.create_string_buffer(
            _ATTR.pack(kind, _ATTR.size, config, 0, 0, 0, 0, 0, 0, 0), _ATTR.size
        )
        libc = ctypes.CDLL(None, use_errno=True)
        # any process (-1), on this processor, in no group (-1)
        self._descriptor = libc.syscall(number, attr, -1, cpu, -1, _FLAG_CLOEXEC)
        if self._descriptor < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def read(self) -> int:
        """The count so far."""
        return int.from_bytes(os.read(self._descriptor, 8), "little")

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
