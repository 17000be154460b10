"""RAPL counters through perf events, for users who may not read powercap's files.

Layout: the kernel's Documentation/ABI/testing/sysfs-bus-event_source-devices-events. The counters
are 64 bits wide in steps of 2^-32 J, so they do not wrap. Access needs CAP_PERFMON, or a
kernel.perf_event_paranoid of -1 or 0. Python has no perf_event_open(2), so it is called by ctypes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from errno import EIO
from functools import partial
from pathlib import Path
from typing import Protocol

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.meters.counter import Counter
from carbontrack.meters.meter import Meter, Refusal, read_number, read_text
from carbontrack.meters.rapl import MOVES_WITHIN_S, RELATIVE_UNCERTAINTY, RESOLUTION_S
from carbontrack.record import Basis, Component
from carbontrack.system.interrupts import pass_on

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_FLAG_CLOEXEC = 8
_ATTR = struct.Struct("IIQQQQQIIQ")
"""struct perf_event_attr up to config1, PERF_ATTR_SIZE_VER0: type, size, config, sample_period,
sample_type, read_format, flags, wakeup_events, bp_type, config1."""


class PerfEvent:
    """A counter of one processor over all processes; it counts from the moment it is opened.

    Raises:
        OSError: the kernel refuses; EACCES and EPERM come from kernel.perf_event_paranoid.
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
        """The count so far.

        Raises:
            OSError: the event cannot be read; one that the kernel has given up shows nothing.
        """
        count = os.read(self._descriptor, 8)
        if len(count) < 8:
            raise OSError(EIO, "the event returns no count")
        return int.from_bytes(count, "little")

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_EVENTS: dict[Component, tuple[str, str]] = {
    "cpu": ("energy-pkg", "package"),
    "ram": ("energy-ram", "dram"),
}
_CAP_W: dict[Component, float] = {"cpu": 1000.0, "ram": 600.0}
"""As for powercap zones without limits; perf shows none."""
CURE = """\
# as root; let unprivileged programs count events of the whole machine, until the next boot
sysctl kernel.perf_event_paranoid=-1
# or for one service: AmbientCapabilities=CAP_PERFMON in its systemd unit"""


class Event(Protocol):
    """An opened counter."""

    def read(self) -> int:
        """The count since it was opened."""
        ...

    def close(self) -> None:
        """Give up the descriptor."""
        ...


OpenEvent = Callable[[int, int, int], Event]
"""Type, config and processor of an event to an opened counter; raises OSError."""


class PerfMeter:
    """One energy event of one package."""

    basis: Basis = "measured"
    resolution_s = RESOLUTION_S
    relative_uncertainty = RELATIVE_UNCERTAINTY
    moves_within_s = MOVES_WITHIN_S
    max_period_s: float | None = None
    nominal_w: float | None = None

    def __init__(
        self,
        label: str,
        component: Component,
        event: Event,
        scale_j: float,
        reopen: Callable[[], Event] | None = None,
    ) -> None:
        self.id = f"perf:{label}"
        self.component: Component = component
        self._event: Event | None = event
        self._reopen = reopen
        self._has_failed = False
        self._scale_j = scale_j
        self._counter = Counter(None, _CAP_W[component])
        self.fault_counts = self._counter.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._event is None:
            raise MeterGone(f"{self.id} is closed")
        try:
            count = self._event.read()
            self._has_failed = False
        except OSError as error:
            pass_on(error)
            count = self._read_again(self._event)
        return self._counter.advance(count * self._scale_j, now_s)

    def _read_again(self, event: Event) -> int:
        """The event's count at the second try; after a failed one before, that of a new event.

        A new event counts from 0, which the counter takes for a reset: what was used since the last
        good read is lost with the old event, so that one gets another chance first.
        """
        try:
            if self._has_failed and self._reopen is not None:
                self._event = self._reopen()
                event.close()
                event = self._event
            count = event.read()
        except OSError as error:
            pass_on(error)
            self._has_failed = True
            raise MeterReadError(f"{self.id}: {error.strerror}") from error
        self._has_failed = False
        return count

    def close(self) -> None:
        """Close the event."""
        event, self._event = self._event, None
        if event is not None:
            event.close()


def perf_meters(
    sysfs: Path,
    components: Iterable[Component],
    open_event: OpenEvent | None = None,
    *,
    sockets: Callable[[], int | None] | None = None,
) -> tuple[tuple[Meter, ...], tuple[Refusal, ...]]:
    """A meter for each package and each of these components, where perf has an event for it.

    All packages of a component are read, or none.

    Args:
        sysfs: the root of this file system.
        components: what to look for.
        open_event: how to open an event.
        sockets: how many packages this machine has.
    """
    power = sysfs / "bus" / "event_source" / "devices" / "power"
    kind = read_number(power / "type")
    if kind is None:
        return (), ()
    if open_event is None:
        open_event = PerfEvent
    meters: list[Meter] = []
    refused: list[Refusal] = []
    for component in components:
        name, label = _EVENTS.get(component, ("", ""))
        config = _config(read_text(power / "events" / name)) if name else None
        scale_j = _number(read_text(power / "events" / f"{name}.scale"))
        if config is None or not scale_j:
            continue
        packages = tuple(_packages(sysfs, power))
        lacking = _lacking(packages, sockets)
        if lacking is not None:
            refused.append(Refusal(f"perf:{label}", lacking))
            continue
        events = _open_all(open_event, kind, config, [cpu for cpu, _ in packages])
        if isinstance(events, OSError):
            reason = f"perf_event_open: {events.strerror}"
            refused.append(Refusal(f"perf:{label}", reason, CURE))
            continue
        for (cpu, package), event in zip(packages, events, strict=True):
            again = partial(open_event, kind, config, cpu)
            meters.append(PerfMeter(f"{label}-{package}", component, event, scale_j, again))
    return tuple(meters), tuple(refused)


def _lacking(
    packages: Iterable[tuple[int, str]], sockets: Callable[[], int | None] | None
) -> str | None:
    """What is wrong where the kernel names processors of some packages only."""
    seen = len({package.partition("-die-")[0] for _, package in packages})
    wanted = sockets() if sockets is not None else None
    if wanted is None or seen >= wanted:
        return None
    return f"cpumask names processors of {seen} of {wanted} packages"


def _open_all(
    open_event: OpenEvent, kind: int, config: int, processors: Iterable[int]
) -> list[Event] | OSError:
    """One event for each processor, or none: some alone would pass for the whole machine."""
    events: list[Event] = []
    try:
        for cpu in processors:
            events.append(open_event(kind, config, cpu))  # noqa: PERF401 - kept when one fails
    except OSError as error:
        for event in events:
            event.close()
        pass_on(error)
        return error
    return events


def _packages(sysfs: Path, power: Path) -> Iterator[tuple[int, str]]:
    """A processor of each domain with a counter of its own, and the package's number.

    `cpumask` names one processor for each die. Dies of one AMD package all show the package's
    counter; Intel's parts with several dies (CLX-AP) have one for each, and count dram, which AMD's
    do not.
    """
    dies_differ = read_text(power / "events" / "energy-ram") is not None
    seen: dict[str, int] = {}
    for cpu in _processors(read_text(power / "cpumask") or "0"):
        topology = sysfs / "devices" / "system" / "cpu" / f"cpu{cpu}" / "topology"
        package = read_text(topology / "physical_package_id") or str(len(seen))
        times = seen[package] = seen.get(package, -1) + 1
        if times == 0:
            yield cpu, package
        elif dies_differ:
            yield cpu, f"{package}-die-{times}"


def _processors(cpumask: str) -> Iterator[int]:
    for piece in cpumask.split(","):
        first, _, last = piece.partition("-")
        if first.isdigit():
            yield from range(int(first), int(last or first) + 1)


def _config(text: str | None) -> int | None:
    """The number in "event=0x02"."""
    try:
        return int(text.removeprefix("event="), 16) if text else None
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
