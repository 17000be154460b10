"""The meter: one physical or modelled domain whose energy is a count that never decreases.

Every source of energy data is brought to this form: a hardware counter is unwrapped, a power gauge
is integrated, a model is evaluated from other counts. A span is then a subtraction.

`Meter` is all that a meter must have. Optional attributes are read by the function next to them,
the first three and the last once, when the meter is added, and none at a read:

    ==================  ================  ======================================================
    attribute           asked for by      meaning; without it
    ==================  ================  ======================================================
    fault_counts        counts_faults     dropped steps, by fault; no step is ever dropped
    low_j, high_j       counts_ends       the ends of the interval; +-`relative_uncertainty`
    part, look()        is_shared         the processes that use it; all of its energy is ours
    max_period_s        max_period_s      longest time between two reads; there is no limit
    nominal_w           nominal_w         power to assume before the first measured one; unknown
    about               about             a sentence for `carbontrack doctor`; nothing is shown
    moves_within_s      moves_within_s    an unchanged count is impossible after it; may stand still
    ==================  ================  ======================================================

At the end of the file: how meters read the one-line files of sysfs and procfs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from carbontrack.errors import ConfigError
from carbontrack.record import BASES, COMPONENTS, Basis, Component
from carbontrack.system.files import READING
from carbontrack.system.interrupts import pass_on
from carbontrack.values import NamedTuple, Value, field

LOWER_BOUND = "wraps"
"""The fault of a counter that was not read for so long that a wrap may have been missed."""
STANDS_STILL = "stands_still"
"""The fault of a counter that did not change although it must, and that another meter replaces."""
UNMEASURED = "gpu_unmeasured"
"""The fault of a GPU that is ours, or may be, and is not measured."""
MACHINE_HIDDEN = "machine_hidden"
"""The fault of a machine that the system's files do not show, or show differently."""

BESIDE_CPU_TIME = "beside_cpu_time"
"""The fault of a busy time of the processors that our own CPU seconds contradict. The step counts,
by a wider interval."""


class Meter(Protocol):
    """One domain of the machine with a cumulative energy.

    A meter owns no clock and no thread: the caller passes the instant. It never guesses: when it
    cannot read, it raises, and the next successful read includes the energy of the time between.

    Attributes:
        id: an address that is the same in every process of the host: "rapl:package-0",
            "nvml:GPU-4e817856-…", "model:ram".
        component: the component whose energy it counts.
        basis: how the joules are known.
        resolution_s: the time between two changes of the underlying count; a span shorter than
            this cannot be measured by differences.
        relative_uncertainty: half the width of the interval around a reading, relative to it
            (0.05 for +-5 %), from the source that the meter's docstring names. A meter that counts
            its ends gives here the wider side at its nominal power, at most 1; records use its
            ends.
    """

    @property
    def id(self) -> str:
        """The address, the same in every process of the host."""
        ...

    @property
    def component(self) -> Component:
        """The component whose energy it counts."""
        ...

    @property
    def basis(self) -> Basis:
        """How the joules are known."""
        ...

    @property
    def resolution_s(self) -> float:
        """The time between two changes of the count."""
        ...

    @property
    def relative_uncertainty(self) -> float:
        """Half the interval's width, relative."""
        ...

    def read_joules(self, now_s: float) -> float:
        """The joules counted since some fixed instant, at the monotonic instant `now_s`.

        Never less than at the last read, and callable from any thread, one at a time.

        Raises:
            MeterReadError: no value at this instant; a later read may succeed.
            MeterGone: no read will succeed any more.
        """
        ...

    def close(self) -> None:
        """Release descriptors and handles; a second call does nothing."""
        ...


class FaultCounting(Meter, Protocol):
    """A meter that drops steps which it cannot trust, and counts them.

    Attributes:
        fault_counts: how often each fault was met and survived: {"reset": 1, "implausible": 2}.
            A rise between two reads means that the step between them was dropped, not counted;
            only a rise of `LOWER_BOUND` means that it counts, as the least that it was, and one
            of `STANDS_STILL` or `BESIDE_CPU_TIME` that it counts, by another source.
    """

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """How often each fault was met; a rise means that a step was dropped."""
        ...


class EndCounting(Meter, Protocol):
    """A meter that counts the ends of its interval in addition to the best estimate.

    For a meter whose uncertainty is larger on one side, or a share that changes with time, as a
    model's does with the load. A span's interval is then a difference of counts, as its energy is.

    Attributes:
        low_j, high_j: the joules since the same instant as those of `read_joules`, as of the last
            read, if everything had been at its low or at its high end. Neither is ever less than
            before; `low_j` is at most the joules, and `high_j` at least.
    """

    @property
    def low_j(self) -> float:
        """The joules at the low end, as of the last read."""
        ...

    @property
    def high_j(self) -> float:
        """The joules at the high end, as of the last read."""
        ...


class GpuUse(NamedTuple):
    """The processes that use a board, or one slice of a board.

    Attributes:
        part: the part of the board's energy that this is, 0 to 1; 1 for a whole board.
        holders: the processes that hold a context on it; None where the driver does not report it.
        busy: how busy each kept it since the last call, in any unit; None where not reported.
        computing: those among the holders that do not only draw; None where not reported.
    """

    part: float
    holders: frozenset[int] | None
    busy: Mapping[int, float] | None = None
    computing: frozenset[int] | None = None


class SharedMeter(Meter, Protocol):
    """A meter of something that several processes can use: a GPU.

    Attributes:
        part: the most of its energy that this process can use, 0 to 1; below 1 for slices.
    """

    @property
    def part(self) -> float:
        """The most of its energy that this process can use, 0 to 1."""
        ...

    def look(self) -> Sequence[GpuUse]:
        """Who uses it now. It may wait for a driver, so the sampler calls it with no lock held.

        Raises:
            MeterReadError, MeterGone: no answer; the last one stays valid.
        """
        ...


def counts_faults(meter: Meter) -> TypeGuard[FaultCounting]:
    """Whether the meter has `fault_counts`."""
    return hasattr(meter, "fault_counts")


def counts_ends(meter: Meter) -> TypeGuard[EndCounting]:
    """Whether the meter counts the ends of its interval, both of them."""
    return hasattr(meter, "low_j") and hasattr(meter, "high_j")


def is_shared(meter: Meter) -> TypeGuard[SharedMeter]:
    """Whether several processes can use what the meter measures."""
    return hasattr(meter, "look")


def max_period_s(meter: Meter) -> float | None:
    """The longest time between two reads of this meter that loses nothing; None for no limit."""
    return getattr(meter, "max_period_s", None)


def nominal_w(meter: Meter) -> float | None:
    """The power to assume while none has been measured yet; None where it is unknown."""
    return getattr(meter, "nominal_w", None)


def about(meter: Meter) -> str | None:
    """The meter's description of how it obtains its values; None if it has none."""
    return getattr(meter, "about", None) or None


def moves_within_s(meter: Meter) -> float | None:
    """After how many seconds a count that has not moved cannot be true; None: it may be.

    That of a RAPL domain moves each millisecond. A counter that stands still for longer while the
    processors work is no meter, and is set aside.
    """
    return getattr(meter, "moves_within_s", None)


class Refusal(NamedTuple):
    """A meter that is not used: its id or family, the reason, and the commands to enable it.

    `fault` is the code that every record has in `faults`, because something of the machine is not
    measured, or not as it should be; None: nothing is amiss. `most_w` is the power that what is
    then counted by no meter cannot exceed, by which intervals reach further up; None: not known.
    """

    id: str
    reason: str
    cure: str | None = None
    fault: str | None = None
    most_w: float | None = None


class Found(NamedTuple):
    """Meters of one kind, the components that they cover together, and the meters not used."""

    meters: tuple[Meter, ...] = ()
    covered: frozenset[Component] = frozenset()
    refused: tuple[Refusal, ...] = ()


class Hardware(Value):
    """The hardware of the machine, as far as its meters could find out; None is unknown.

    `cpu_idle_w` is what the model says that the processors draw at no load, `cpu_known` by what it
    knows their design power: "given", "part", "family" or "nothing". `cpu_sockets` is the number of
    processor packages; a virtual machine may have a part of one. `is_guest` is whether this is one.
    """

    cpu_model: str | None = None
    cpu_threads: int | None = None
    cpu_tdp_w: float | None = None
    gpu_models: tuple[str, ...] = ()
    gpu_count: int | None = None
    ram_gib: float | None = None
    cpu_sockets: float | None = None
    cpu_idle_w: float | None = None
    cpu_known: str | None = None
    is_guest: bool | None = None


class MeterSet(Value):
    """Disjoint meters that together cover the machine, and the substitutes for lost ones.

    Attributes:
        meters: the meters to read; no joule is counted by two of them.
        substitutes: by component, how to make the next best meter when one is gone.
        refused: meters that were considered and are not used, with the reasons.
        hardware: the hardware of the machine.
        busy_s: CPU seconds that all processors have worked, by which counters are doubted that
            stand still; None: only by those of this process.
    """

    meters: tuple[Meter, ...] = ()
    substitutes: Mapping[Component, Callable[[], Meter]] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()
    hardware: Hardware = field(default_factory=Hardware)
    busy_s: Callable[[], float | None] | None = None

    def __iter__(self) -> Iterator[Meter]:
        return iter(self.meters)

    def uncounted_w(self) -> float:
        """The most power of what no meter counts though it should, as far as it is known."""
        return sum(one.most_w or 0.0 for one in self.refused if one.fault is not None)

    def standing_faults(self) -> Mapping[str, int]:
        """The faults of the refusals, by code: what every record says as long as they stand."""
        faults: dict[str, int] = {}
        for refusal in self.refused:
            if refusal.fault is not None:
                faults[refusal.fault] = faults.get(refusal.fault, 0) + 1
        return faults


def check_meters(meters: Iterable[Meter]) -> None:
    """Reject meters with impossible attributes, before anything is measured.

    Raises:
        ConfigError: names the meter, the value, and the possible values.
    """
    for meter in meters:
        name = getattr(meter, "id", None)
        told = f"the meter {name!r}" if isinstance(name, str) and name else f"the meter {meter!r}"
        for fact, is_possible, wanted in _FACTS:
            found = getattr(meter, fact, None)
            if not is_possible(found):
                raise ConfigError(f"{told} has {fact}={found!r}; it must be {wanted}")
        ends = [end for end in ("low_j", "high_j") if hasattr(meter, end)]
        if len(ends) == 1:
            raise ConfigError(
                f"{told} has {ends[0]} only; it must have both low_j and high_j, or neither"
            )
        for end in ends:
            if not _is_size(getattr(meter, end)):
                found = getattr(meter, end)
                raise ConfigError(f"{told} has {end}={found!r}; it must be joules, 0 or more")


def _is_size(found: object) -> bool:
    return isinstance(found, (int, float)) and 0.0 <= found < float("inf")


_FACTS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("id", lambda found: isinstance(found, str) and found != "", "a text, such as 'wall:desk'"),
    ("component", lambda found: found in COMPONENTS, f"one of {', '.join(COMPONENTS)}"),
    ("basis", lambda found: found in BASES, f"one of {', '.join(BASES)}"),
    ("resolution_s", _is_size, "a number of seconds, 0 or more"),
    ("relative_uncertainty", _is_size, "a number, such as 0.05 for +-5 %"),
    ("read_joules", callable, "a method"),
)


# -- one-line files of sysfs and procfs --------------------------------------------------------


def open_to_read(path: str | Path) -> int:
    """A descriptor that children do not inherit; opening a FIFO in its place does not block."""
    return os.open(path, READING)


def read_text(path: str | Path, size: int = 4096) -> str | None:
    """The first `size` bytes of a file as text, stripped; None where it cannot be read."""
    try:
        descriptor = open_to_read(path)
    except OSError as error:
        pass_on(error)
        return None
    try:
        return os.read(descriptor, size).decode("utf-8", "replace").strip()
    except OSError as error:
        pass_on(error)
        return None
    finally:
        os.close(descriptor)


def read_number(path: str | Path) -> int | None:
    """The whole number in a file; None where there is none."""
    text = read_text(path, 64)
    try:
        return int(text) if text else None
    except ValueError:
        return None
