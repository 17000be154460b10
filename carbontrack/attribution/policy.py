"""The policy that turns the machine's joules into ours: a pure function of two usage snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from carbontrack.attribution.idle import UNKNOWN, IdlePower, IdleSplit
from carbontrack.attribution.shares import WHOLE, Idle, Scope, Shares
from carbontrack.errors import ConfigError
from carbontrack.records import COMPONENTS, Basis

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
    return after.reserved_share * ours_s / all_s if all_s > 0.0 else None


def _ram_share(usage: Usage) -> float | None:
    if not usage.process_ram_bytes or not usage.machine_ram_bytes:
        return None
    return min(1.0, usage.process_ram_bytes / usage.machine_ram_bytes)
