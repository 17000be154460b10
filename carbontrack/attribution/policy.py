"""The policy that turns the machine's joules into ours: a pure function of two usage snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from carbontrack.errors import ConfigError

Scope = Literal["process", "machine"]
Idle = Literal["proportional", "reserved", "none"]


class Usage(NamedTuple):
    """What this process tree and the whole machine have used so far, at one instant.

    CPU seconds are cumulative counts; bytes are what is in use now. None is unknown.
    """

    at_s: float
    process_cpu_s: float
    machine_cpu_s: float | None
    process_ram_bytes: int | None
    machine_ram_bytes: int | None


class Shares(NamedTuple):
    """The part of each component's energy that is ours, from 0 to 1; None where nothing says."""

    cpu: float | None
    gpu: float | None
    ram: float | None
    other: float | None

    def over(self, older: Shares) -> Shares:
        """These shares, and the older ones where these say nothing."""
        return Shares(*(new if new is not None else old for new, old in zip(self, older)))  # noqa: B905 - both have four


WHOLE = Shares(1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Attribution:
    """How the machine's energy is shared out, and what a joule costs beyond the machine.

    Attributes:
        scope: "machine" takes all of it; "process" takes this process tree's share.
        idle: what happens to the energy of an idle machine. "proportional" shares it like the
            rest, so that the shares of all processes add up to the machine.
        pue: power usage effectiveness of the building, 1 or more: facility energy per energy of
            the computers (ISO/IEC 30134-2).
        wue_l_per_kwh: water usage effectiveness of the site, litres per kWh of the computers
            (ISO/IEC 30134-9); None where nobody says.
    """

    scope: Scope = "machine"
    idle: Idle = "proportional"
    pue: float = 1.0
    wue_l_per_kwh: float | None = None

    def __post_init__(self) -> None:
        if self.scope not in ("process", "machine"):
            raise ConfigError(f"scope {self.scope!r} is not known; use 'process' or 'machine'")
        if self.idle != "proportional":
            raise ConfigError(f"idle {self.idle!r} is not available; use 'proportional'")
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
        return Shares(cpu=cpu, gpu=1.0, ram=_ram_share(after), other=cpu)


def _cpu_share(before: Usage, after: Usage) -> float | None:
    if before.machine_cpu_s is None or after.machine_cpu_s is None:
        return None
    ours_s = after.process_cpu_s - before.process_cpu_s
    all_s = max(after.machine_cpu_s - before.machine_cpu_s, ours_s)
    return ours_s / all_s if all_s > 0.0 else None


def _ram_share(usage: Usage) -> float | None:
    if not usage.process_ram_bytes or not usage.machine_ram_bytes:
        return None
    return min(1.0, usage.process_ram_bytes / usage.machine_ram_bytes)
