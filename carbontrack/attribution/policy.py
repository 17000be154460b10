"""The attribution policy: which part of the machine's energy is attributed to this process tree.

`Attribution` computes the shares from two snapshots of CPU time and memory. `IdleSplit` attributes
the idle energy of the machine differently from the rest, and `gpu_share` computes our part of a GPU
from the processes that use it. All functions are pure: nothing is read here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from carbontrack.errors import ConfigError
from carbontrack.record import COMPONENTS, Basis, Component
from carbontrack.values import NamedTuple, Value

Scope = Literal["process", "machine"]
Idle = Literal["proportional", "reserved", "none"]


class Shares(NamedTuple):
    """The part of each component's energy attributed to us, from 0 to 1; None if it is unknown.

    `idle` is our part of the processors' idle energy where that is attributed separately.
    """

    cpu: float | None
    gpu: float | None
    ram: float | None
    other: float | None
    idle: float | None = None

    def over(self, older: Shares) -> Shares:
        """These shares, with the older ones in place of unknown ones."""
        if None not in self[:4] and (self.idle is not None or older.idle is None):
            return self
        return Shares(*(new if new is not None else old for new, old in zip(self, older)))  # noqa: B905 - both have five


WHOLE = Shares(1.0, 1.0, 1.0, 1.0)


class Usage(NamedTuple):
    """The cumulative use of this process tree and of the whole machine at one instant.

    CPU seconds are cumulative; bytes are those in use now. None is unknown. `own_cpu_s` is that of
    this process only, without its children. The two on the reservation are read only for the idle
    policy "reserved": the part of the machine's threads that is reserved for us, and the CPU
    seconds of all processes that use it (None: the machine's).
    """

    at_s: float
    process_cpu_s: float
    machine_cpu_s: float | None
    process_ram_bytes: int | None
    machine_ram_bytes: int | None
    reserved_share: float | None = None
    reserved_cpu_s: float | None = None
    own_cpu_s: float | None = None


class IdlePower(NamedTuple):
    """The idle power of each component, in watts of the whole machine; None: unknown.

    Attributes:
        cpu, gpu, ram, other: the components, all of their meters together.
        basis: how the processors' idle power is known.
    """

    cpu: float | None = None
    gpu: float | None = None
    ram: float | None = None
    other: float | None = None
    basis: Basis = "modelled"


UNKNOWN = IdlePower()


class Attribution(Value):
    """How the machine's energy is attributed, and the overhead of its site.

    Attributes:
        scope: "machine" attributes all of it; "process" attributes this process tree's share.
        idle: how the energy of an idle machine is attributed, in scope "process". "proportional"
            shares it like the rest, so that the shares of all processes add up to the machine.
            "reserved" attributes to us the part of the processors reserved for us, and our share of
            the rest. "none" attributes it to no one and counts only what programs use in addition.
        pue: power usage effectiveness of the building, 1 or more: facility energy per energy of
            the computers (ISO/IEC 30134-2).
        wue_l_per_kwh: water usage effectiveness of the site, litres per kWh of the computers
            (ISO/IEC 30134-9); None if it is unknown.
        idle_power: the idle power of the machine; for "reserved" and "none" at least that of the
            processors must be known.
    """

    scope: Scope = "machine"
    idle: Idle = "proportional"
    pue: float = 1.0
    wue_l_per_kwh: float | None = None
    idle_power: IdlePower = UNKNOWN

    def __post_init__(self) -> None:
        if self.scope not in ("process", "machine"):
            raise ConfigError(f"scope {self.scope!r} is not known; use 'process' or 'machine'")
        if self.idle not in ("proportional", "reserved", "none"):
            raise ConfigError(
                f"idle {self.idle!r} is not known; use 'proportional', 'reserved' or 'none'"
            )
        _check_idle_power(self)
        if not 1.0 <= self.pue <= 10.0:
            raise ConfigError(f"pue must be between 1 and 10, not {self.pue!r}")
        if self.wue_l_per_kwh is not None and not 0.0 <= self.wue_l_per_kwh <= 100.0:
            raise ConfigError(f"wue must be between 0 and 100 L/kWh, not {self.wue_l_per_kwh!r}")

    def shares(self, before: Usage, after: Usage) -> Shares:
        """Our part of each component's energy between two snapshots.

        CPU and other components by CPU seconds: ours divided by those of the whole machine. The
        machine's sums advance in ticks of 10 ms and may lag behind ours, so ours is their lower
        limit. RAM by the bytes in use. GPUs in full: the set contains only those that this process
        may use.
        """
        if self.scope == "machine":
            return WHOLE
        cpu = _cpu_share(before, after)
        idle = _reserved_share(before, after, cpu) if self.idle == "reserved" else None
        return Shares(cpu=cpu, gpu=1.0, ram=_ram_share(after), other=cpu, idle=idle)

    def splits_idle(self) -> bool:
        """Whether the idle energy is attributed separately."""
        return self.scope == "process" and self.idle != "proportional"

    def idle_basis(self) -> Basis:
        """How the split between idle and other energy is known; measured without a split."""
        return self.idle_power.basis if self.splits_idle() else "measured"

    def idle_split(self) -> IdleSplit | None:
        """Splits off the idle energy, step by step; None if it is shared like the rest."""
        return IdleSplit(self.idle, self.idle_power) if self.splits_idle() else None


def _check_idle_power(policy: Attribution) -> None:
    for component in COMPONENTS:
        watts = getattr(policy.idle_power, component)
        if watts is not None and not 0.0 <= watts < float("inf"):
            raise ConfigError(f"idle power of {component} must be 0 W or more, not {watts!r}")
    if policy.splits_idle() and policy.idle_power.cpu is None:
        raise ConfigError(
            f"idle={policy.idle!r} needs the idle power of the processors; give it as "
            "idle_power=IdlePower(cpu=…), in watts"
        )


def _cpu_share(before: Usage, after: Usage) -> float | None:
    if before.machine_cpu_s is None or after.machine_cpu_s is None:
        return None
    ours_s = _cpu_s(before.process_cpu_s, after.process_cpu_s)
    all_s = max(after.machine_cpu_s - before.machine_cpu_s, ours_s)
    return ours_s / all_s if all_s > 0.0 else None


def _reserved_share(before: Usage, after: Usage, cpu: float | None) -> float | None:
    """Of the idle energy: the reserved part, split by CPU time among all that use it."""
    if after.reserved_share is None:
        return cpu
    if before.reserved_cpu_s is None or after.reserved_cpu_s is None:
        return None if cpu is None else after.reserved_share * cpu
    ours_s = _cpu_s(before.process_cpu_s, after.process_cpu_s)
    all_s = max(after.reserved_cpu_s - before.reserved_cpu_s, ours_s)
    return after.reserved_share * (ours_s / all_s) if all_s > 0.0 else None


def _cpu_s(before_s: float, after_s: float) -> float:
    # No system counts less than a nanosecond. A smaller difference is lost in the sum of all
    # processes, so that several of them could each seem to be the only one that worked.
    return after_s - before_s if after_s - before_s >= 1e-9 else 0.0


def _ram_share(usage: Usage) -> float | None:
    if not usage.process_ram_bytes or not usage.machine_ram_bytes:
        return None
    return min(1.0, usage.process_ram_bytes / usage.machine_ram_bytes)


# -- energy that an idle machine would use too -------------------------------------------------

LONGEST_DEBT_S = 10.0
"""After a longer time without a change, a counter's next step has idle energy of this time."""


class IdleSplit:
    """Converts shares of all energy into shares of a step whose idle part is split differently.

    A step of E joules over t seconds contains min(E, P t) of idle energy, with P the idle power.
    With f the idle fraction of the step, and r and s our shares of the idle and of the other
    energy, our share of the step is f r + (1 - f) s. Where P is not known, it is s.

    The idle energy of a time in which a counter did not change is part of its next step.
    """

    def __init__(self, policy: Idle, power: IdlePower) -> None:
        self._reserved = policy == "reserved"
        self._power_w = {
            name: watts for name in COMPONENTS if (watts := getattr(power, name)) is not None
        }
        if self._reserved:  # memory is shared by bytes, and GPUs by contexts
            self._power_w = {k: w for k, w in self._power_w.items() if k in ("cpu", "other")}
        self._owed_j = dict.fromkeys(self._power_w, 0.0)

    def shares(
        self,
        shares: Shares,
        components: Sequence[Component],
        joules: Sequence[float],
        elapsed_s: float,
    ) -> Shares:
        """Our part of each component's energy in one step; `joules` go with `components`."""
        ours: dict[str, float] = {}
        for name, power_w in self._power_w.items():
            share = getattr(shares, name)
            step_j = sum(j for j, component in zip(joules, components, strict=True)
                         if component == name)  # fmt: skip
            owed_j = self._owed_j[name] + power_w * elapsed_s
            if step_j <= 0.0:
                self._owed_j[name] = min(owed_j, power_w * LONGEST_DEBT_S)
                continue
            self._owed_j[name] = 0.0
            idle = min(1.0, owed_j / step_j)
            of_idle = (share if shares.idle is None else shares.idle) if self._reserved else 0.0
            ours[name] = idle * of_idle + (1.0 - idle) * share
        return shares._replace(**ours)


# -- GPUs that several processes use -----------------------------------------------------------

How = Literal["assumed", "ranks", "alone", "absent", "time", "even"]


class GpuShare(NamedTuple):
    """The part attributed to us, 0 to 1, and how that is known.

    `assumed`: the driver does not report its processes, so all of it; `ranks`: the same, but other
    ranks of the job may use it as well, so an equal part for each of them; `alone` and `absent`:
    only our processes hold a context, or none of them; `time`: by the time for which each process
    kept the multiprocessors busy; `even`: an equal part for each process that holds a context.
    """

    share: float
    how: How


def gpu_share(
    holders: Collection[int] | None,
    busy: Mapping[int, float] | None,
    ours: Collection[int] | None,
    unsaid: float = 1.0,
) -> GpuShare:
    """Our part of a board, or of a slice of one.

    Args:
        holders: the processes that hold a context; None where the driver does not report them.
        busy: how busy each recently kept the board, in any unit; None where not reported.
        ours: the pids of our process tree as the driver numbers them; None where unknown.
        unsaid: our part if the users of the board could not be detected.

    The parts of disjoint process trees that see the same holders add up to at most 1.
    """
    if holders is None or ours is None:
        return GpuShare(unsaid, "assumed" if unsaid == 1.0 else "ranks")
    ours_here = set(holders) & set(ours)
    if not ours_here:
        return GpuShare(0.0, "absent")
    if len(ours_here) == len(set(holders)):
        return GpuShare(1.0, "alone")
    busy_by_pid = {pid: max(0.0, busy.get(pid, 0.0)) for pid in holders} if busy is not None else {}
    all_busy = sum(busy_by_pid.values())
    if all_busy > 0.0:
        return GpuShare(sum(busy_by_pid[pid] for pid in ours_here) / all_busy, "time")
    return GpuShare(len(ours_here) / len(set(holders)), "even")
