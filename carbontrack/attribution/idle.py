"""The energy that an idle machine would have used too, told apart from what programs add to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from carbontrack.attribution.shares import Idle, Shares
from carbontrack.records import COMPONENTS, Basis, Component

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
