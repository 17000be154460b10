"""The policy that turns the machine's joules into ours: a pure function of two usage snapshots.

The words of the policy: what may be chosen, and the parts that come out.

The energy that an idle machine would have used too, told apart from what programs add to it.

Which part of a GPU is ours: by who holds a context on it, and who has kept it busy. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from carbontrack.errors import ConfigError
from carbontrack.record import COMPONENTS, Basis, Component

Scope = Literal["process", "machine"]
Idle = Literal["proportional", "reserved", "none"]


class Shares(NamedTuple):
    """The part of each component's energy that is ours, from 0 to 1; None where nothing says.

    `idle` is our part of the idle processors' energy where that goes another way than the rest.
    """

    cpu: float | None
    gpu: float | None
    ram: float | None
    other: float | None
    idle: float | None = None

    def over(self, older: Shares) -> Shares:
        """These shares, and the older ones where these say nothing."""
        return Shares(*(new if new is not None else old for new, old in zip(self, older)))  # noqa: B905 - both have five


WHOLE = Shares(1.0, 1.0, 1.0, 1.0)


LONGEST_DEBT_S = 10.0
"""A count that stood still for longer than this owes the idle energy of this long, no more."""


class IdlePower(NamedTuple):
    """What each component draws while nothing runs, in watts of the whole machine; None: unknown.

    Attributes:
        cpu, gpu, ram, other: the components, all of their meters together.
        basis: how the watts of the processors are known.
    """

    cpu: float | None = None
    gpu: float | None = None
    ram: float | None = None
    other: float | None = None
    basis: Basis = "modelled"


UNKNOWN = IdlePower()


class IdleSplit:
    """Turns shares of the whole energy into shares of a step whose idle part goes another way.

    A step of E joules over t seconds holds min(E, P t) of idle energy, with P the idle power. A
    fraction f of it then being idle, and r and s the shares of the idle and of the other energy,
    f r + (1 - f) s of the step is ours. Where P is not known, all of it goes by s.

    A counter that has not moved since the last look owes its idle energy with its next step.
    """

    def __init__(self, policy: Idle, power: IdlePower) -> None:
        self._reserved = policy == "reserved"
        self._power_w = {
            name: watts for name in COMPONENTS if (watts := getattr(power, name)) is not None
        }
        if self._reserved:  # memory goes by bytes, and boards by contexts
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


How = Literal["assumed", "alone", "absent", "time", "even"]


class GpuShare(NamedTuple):
    """The part that is ours, 0 to 1, and how that is known.

    `assumed`: nobody tells, so all of it; `alone` and `absent`: who holds a context says it all;
    `time`: by the time for which each process kept the multiprocessors busy; `even`: an equal part
    for each process that holds a context.
    """

    share: float
    how: How


def gpu_share(
    holders: Collection[int] | None, busy: Mapping[int, float] | None, ours: Collection[int] | None
) -> GpuShare:
    """Our part of a board, or of a slice of one.

    Args:
        holders: the processes that hold a context; None where the driver does not tell.
        busy: how busy each of them has kept the board of late, in any unit; None where not told.
        ours: the processes of our tree as the driver numbers them; None where that is not known.

    The parts of disjoint trees that see the same holders add up to 1 at most.
    """
    if holders is None or ours is None:
        return GpuShare(1.0, "assumed")
    ours_here = set(holders) & set(ours)
    if not ours_here:
        return GpuShare(0.0, "absent")
    if len(ours_here) == len(set(holders)):
        return GpuShare(1.0, "alone")
    shown = {pid: max(0.0, busy.get(pid, 0.0)) for pid in holders} if busy is not None else {}
    all_busy = sum(shown.values())
    if all_busy > 0.0:
        return GpuShare(sum(shown[pid] for pid in ours_here) / all_busy, "time")
    return GpuShare(len(ours_here) / len(set(holders)), "even")


__all__ = ["WHOLE", "Attribution", "Idle", "Scope", "Shares", "Usage"]


class Usage(NamedTuple):
    """What this process tree and the whole machine have used so far, at one instant.

    CPU seconds are cumulative counts; bytes are what is in use now. None is unknown. The last two
    are read for the idle policy "reserved" only: the part of the machine's threads that is reserved
    for us, and the CPU seconds of all who work on that reservation (None: the machine's).
    """

    at_s: float
    process_cpu_s: float
    machine_cpu_s: float | None
    process_ram_bytes: int | None
    machine_ram_bytes: int | None
    reserved_share: float | None = None
    reserved_cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """How the machine's energy is shared out, and what a joule costs beyond the machine.

    Attributes:
        scope: "machine" takes all of it; "process" takes this process tree's share.
        idle: what happens to the energy of an idle machine, in scope "process". "proportional"
            shares it like the rest, so that the shares of all processes add up to the machine.
            "reserved" gives us the part that goes with the processors reserved for us, and of the
            rest our share. "none" leaves it to nobody and counts only what programs add to it.
        pue: power usage effectiveness of the building, 1 or more: facility energy per energy of
            the computers (ISO/IEC 30134-2).
        wue_l_per_kwh: water usage effectiveness of the site, litres per kWh of the computers
            (ISO/IEC 30134-9); None where nobody says.
        idle_power: what the idle machine draws; at least its processors must be known for
            "reserved" and "none".
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
            raise ConfigError(f"pue must lie between 1 and 10, not {self.pue!r}")
        if self.wue_l_per_kwh is not None and not 0.0 <= self.wue_l_per_kwh <= 100.0:
            raise ConfigError(f"wue must lie between 0 and 100 L/kWh, not {self.wue_l_per_kwh!r}")

    def shares(self, before: Usage, after: Usage) -> Shares:
        """Our part of each component's energy between two snapshots.

        CPU, and what no other count speaks for, by CPU seconds: ours over those of the whole
        machine. The sums of the machine are kept in ticks of 10 ms and may lag behind ours, so ours
        is the least they can be. RAM by the bytes in use. GPUs in full: those in the set are the
        ones that this process may use.
        """
        if self.scope == "machine":
            return WHOLE
        cpu = _cpu_share(before, after)
        idle = _reserved_share(before, after, cpu) if self.idle == "reserved" else None
        return Shares(cpu=cpu, gpu=1.0, ram=_ram_share(after), other=cpu, idle=idle)

    def splits_idle(self) -> bool:
        """Whether the idle energy is shared out in another way than the rest."""
        return self.scope == "process" and self.idle != "proportional"

    def idle_basis(self) -> Basis:
        """How the split between idle and other energy is known; measured where there is none."""
        return self.idle_power.basis if self.splits_idle() else "measured"

    def idle_split(self) -> IdleSplit | None:
        """What tells idle energy apart, step by step; None where it is shared like the rest."""
        return IdleSplit(self.idle, self.idle_power) if self.splits_idle() else None


def _check_idle_power(policy: Attribution) -> None:
    for component in COMPONENTS:
        watts = getattr(policy.idle_power, component)
        if watts is not None and not 0.0 <= watts < float("inf"):
            raise ConfigError(f"idle power of {component} must be 0 W or more, not {watts!r}")
    if policy.splits_idle() and policy.idle_power.cpu is None:
        raise ConfigError(
            f"idle={policy.idle!r} needs to know what the idle processors draw; give it as "
            "idle_power=IdlePower(cpu=…), in watts"
        )


def _cpu_share(before: Usage, after: Usage) -> float | None:
    if before.machine_cpu_s is None or after.machine_cpu_s is None:
        return None
    ours_s = after.process_cpu_s - before.process_cpu_s
    all_s = max(after.machine_cpu_s - before.machine_cpu_s, ours_s)
    return ours_s / all_s if all_s > 0.0 else None


def _reserved_share(before: Usage, after: Usage, cpu: float | None) -> float | None:
    """Of the idle energy: the reserved part, split by CPU time among all who work on it."""
    if after.reserved_share is None:
        return cpu
    if before.reserved_cpu_s is None or after.reserved_cpu_s is None:
        return None if cpu is None else after.reserved_share * cpu
    ours_s = after.process_cpu_s - before.process_cpu_s
    all_s = max(after.reserved_cpu_s - before.reserved_cpu_s, ours_s)
    # The quotient first: the product of a share and subnormal CPU seconds may round up by half.
    return after.reserved_share * (ours_s / all_s) if all_s > 0.0 else None


def _ram_share(usage: Usage) -> float | None:
    if not usage.process_ram_bytes or not usage.machine_ram_bytes:
        return None
    return min(1.0, usage.process_ram_bytes / usage.machine_ram_bytes)
