"""GPUs of which only some are ours, until the contexts of our processes show which.

CUDA and HIP number boards in orders of their own. Where the boards of a machine differ, a number in
CUDA_VISIBLE_DEVICES does not say which one it means; the board on which our processes compute does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from carbontrack.meters.gpu_selection import Choice, Gpu
from carbontrack.meters.meter import (
    UNMEASURED,
    GpuUse,
    Meter,
    Refusal,
    SharedMeter,
    about,
    counts_ends,
    counts_faults,
    max_period_s,
    nominal_w,
)
from carbontrack.record import Basis, Component


class Candidates:
    """The boards, of which `wanted` are ours."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.members: list[CandidateGpu] = []

    @property
    def decided(self) -> bool:
        """Whether it is known which are ours."""
        return sum(member.is_ours for member in self.members) >= self.wanted

    def settle(self) -> None:
        """Take in what the last looks have found."""
        ours = [member for member in self.members if member.is_ours]
        others = [member for member in self.members if not member.is_ours]
        others.sort(key=lambda member: member.recent_j)
        for place, member in enumerate(others):
            member.is_aside = len(ours) >= self.wanted
            member.is_least = place < self.wanted - len(ours)
        for member in self.members:
            member.recent_j = 0.0

    def forget(self) -> None:
        """Start anew in a child process, whose contexts are its own."""
        for member in self.members:
            member.is_ours = member.is_aside = member.is_least = False


class CandidateGpu:
    """A board that may be ours: counted while that is unknown, with a low end for it.

    The low end has the boards that have drawn the least, as many as are ours. Once others are known
    to be ours, this one stands still.

    Attributes:
        is_ours: whether a process of ours was seen to compute on it.
        is_aside: whether it is known not to be ours.
        is_least: whether it is among those that have drawn the least.
        recent_j: what it has counted since the candidates were settled.
    """

    def __init__(self, board: SharedMeter, candidates: Candidates) -> None:
        self.board, self.candidates = board, candidates
        self.is_ours = self.is_aside = self.is_least = False
        self.recent_j = 0.0
        self._last_j: tuple[float, float, float] | None = None
        self._total_j = 0.0
        self.low_j = 0.0
        self.high_j = 0.0
        candidates.members.append(self)

    @property
    def id(self) -> str:
        """The board's."""
        return self.board.id

    @property
    def component(self) -> Component:
        """The board's."""
        return self.board.component

    @property
    def basis(self) -> Basis:
        """The board's."""
        return self.board.basis

    @property
    def resolution_s(self) -> float:
        """The board's."""
        return self.board.resolution_s

    @property
    def relative_uncertainty(self) -> float:
        """The board's; the ends include the uncertainty of whether it is ours."""
        return self.board.relative_uncertainty

    @property
    def max_period_s(self) -> float | None:
        """The board's, as long as it may be ours."""
        return None if self.is_aside else max_period_s(self.board)

    @property
    def nominal_w(self) -> float | None:
        """The board's, as long as it may be ours."""
        return 0.0 if self.is_aside else nominal_w(self.board)

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """The board's, as long as it may be ours."""
        return self.board.fault_counts if counts_faults(self.board) and not self.is_aside else {}

    @property
    def about(self) -> str | None:
        """The board's."""
        return about(self.board)

    @property
    def part(self) -> float:
        """The board's."""
        return self.board.part

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read, in the time in which the board may have been ours."""
        joules = self.board.read_joules(now_s)
        if counts_ends(self.board):
            now_j = joules, self.board.low_j, self.board.high_j
        else:
            now_j = joules, joules, joules
        last_j, self._last_j = self._last_j or now_j, now_j
        step_j, low_j, high_j = (max(0.0, a - b) for a, b in zip(now_j, last_j, strict=True))
        self.recent_j += step_j
        if self.is_aside:
            return self._total_j
        width = 0.0 if counts_ends(self.board) else self.board.relative_uncertainty
        self._total_j += step_j
        self.high_j += high_j * (1.0 + width)
        if self.is_ours or self.is_least:
            self.low_j += low_j * max(0.0, 1.0 - width)
        return self._total_j

    def look(self) -> Sequence[GpuUse]:
        """Who uses the board."""
        return self.board.look()

    def note(self, uses: Sequence[GpuUse], ours: Collection[int] | None) -> None:
        """Take in who uses the board.

        A process that draws a desktop does not compute, and is ignored.
        """
        if ours is not None and any(use.computing and use.computing & set(ours) for use in uses):
            self.is_ours, self.is_aside = True, False

    def close(self) -> None:
        """Close the board's meter."""
        self.board.close()


def unmeasured(choice: Choice, opened: Mapping[Gpu, Meter | Refusal]) -> Iterator[Refusal]:
    """The boards that could not be opened, with the fault if one of ours is certainly missing."""
    measured = sum(not isinstance(opened[gpu], Refusal) for gpu in choice.unsure)
    missing = choice.wanted - measured
    for gpu in choice.gpus:
        refusal = opened[gpu]
        if not isinstance(refusal, Refusal):
            continue
        is_unsure = gpu in choice.unsure
        yield refusal if is_unsure and missing <= 0 else refusal._replace(fault=UNMEASURED)
        missing -= is_unsure
