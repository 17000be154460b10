"""The last known power of each meter, for spans too short to be measured by a difference."""

from __future__ import annotations

from collections.abc import Sequence

from carbontrack.machine import Machine

WINDOW_S = 0.05
"""A power is the mean over at least this long, fifty refreshes of a RAPL counter."""


class Powers:
    """Follows the machine's ledger and remembers the last mean power of each meter."""

    def __init__(self, machine: Machine) -> None:
        self._since = machine
        self._last_w: tuple[float, ...] = ()

    def restart(self, machine: Machine) -> None:
        """A pause has ended: what was used in it says nothing about now."""
        self._since = machine

    def follow(self, machine: Machine) -> None:
        """Take a new mean when enough time has passed."""
        since = self._since
        elapsed_s = machine.at_s - since.at_s
        if elapsed_s >= WINDOW_S:
            self._since = machine
            if len(since.energy_j) == len(machine.energy_j):
                pairs = zip(since.energy_j, machine.energy_j, strict=True)
                self._last_w = tuple((after - before) / elapsed_s for before, after in pairs)

    def known_w(self, machine: Machine) -> Sequence[float | None]:
        """The power of each meter; None, or no entry, where none has been seen."""
        since = self._since
        elapsed_s = machine.at_s - since.at_s
        if self._last_w or elapsed_s <= 0.0 or len(since.energy_j) != len(machine.energy_j):
            return self._last_w
        # Nothing better yet: the mean of the last moments, where a count has moved at all.
        pairs = zip(since.energy_j, machine.energy_j, strict=True)
        means_w = ((after - before) / elapsed_s for before, after in pairs)
        return tuple(power_w if power_w > 0.0 else None for power_w in means_w)
