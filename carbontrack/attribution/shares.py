"""The words of the policy: what may be chosen, and the parts that come out."""

from __future__ import annotations

from typing import Literal, NamedTuple

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
