"""The share of each GPU that this process tree uses, queried by the sampler with no lock held.

A share holds until the next query. Before the first answer everything that this process may use
counts as its own: an upper bound, never zero.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeGuard

from carbontrack.attribution.policy import GpuShare, gpu_share
from carbontrack.attribution.usage import UsageReader
from carbontrack.errors import MeterError
from carbontrack.meters.meter import SharedMeter
from carbontrack.meters.meter import is_shared as is_shared_meter
from carbontrack.sampling.counts import Counts, with_fault
from carbontrack.sampling.meter_bank import MeterState
from carbontrack.system.clock import Clock

if TYPE_CHECKING:  # few machines have boards of several models
    from carbontrack.meters.gpu_candidates import CandidateGpu, Candidates

QUERY_PERIOD_S: Final = 0.9
"""The shortest time between two queries of the driver: one for each tick of a second."""

ORDER_FAULT: Final = "gpu_order_unknown"
"""The fault of readings in which it was unknown which of several boards are ours."""

_log = logging.getLogger("carbontrack")


class GpuShares:
    """The meters that several processes can share, and this process tree's part of each.

    Attributes:
        parts: our part of each meter's energy, 0 to 1; None where it is not known, () where no
            meter can be shared.
        codes: the fault codes of the assumptions behind these parts, for the record's `faults`.
    """

    def __init__(self, states: Sequence[MeterState]) -> None:
        self._shared: list[tuple[int, SharedMeter]] = [
            (n, s.meter) for n, s in enumerate(states) if is_shared_meter(s.meter)
        ]
        self._updated_at_s = float("-inf")
        self._uncertainties: dict[int, float] = {}
        self._codes_of: dict[int, str] = {}
        self._candidates = _groups(meter for _, meter in self._shared)
        self.codes: tuple[str, ...] = (ORDER_FAULT,) if self._candidates else ()
        self.parts: tuple[float | None, ...] = ()
        if self._shared:
            self._set_parts({index: meter.part for index, meter in self._shared}, len(states))

    def __bool__(self) -> bool:
        return bool(self._shared)

    def take(self, states: Sequence[MeterState]) -> None:
        """Update to changed meters; all of a new one may be ours."""
        before = dict(self._shared)
        self._shared = [
            (n, s.meter) for n, s in enumerate(states) if is_shared_meter(s.meter) and not s.gone
        ]
        if self._shared:
            new = {n: meter.part for n, meter in self._shared if before.get(n) is not meter}
            self.parts += (None,) * (len(states) - len(self.parts))
            self._set_parts(new, len(states))
            self._candidates = _groups(meter for _, meter in self._shared)
            self._updated_at_s = float("-inf")

    def update(self, usage: UsageReader | None, clock: Clock, *, is_shared: bool) -> None:
        """Query the processes that use the GPUs, if it is due and needed.

        Args:
            usage: knows our processes; None: they are unknown.
            clock: the clock.
            is_shared: whether our part of each is needed.
        """
        undecided = [group for group in self._candidates if not group.decided]
        if usage is None or not (is_shared or undecided):
            self.codes = (ORDER_FAULT,) if undecided else ()
            return
        now_s = clock.monotonic_s()
        if now_s - self._updated_at_s < QUERY_PERIOD_S:
            return
        self._updated_at_s = now_s
        ours = usage.pids_as_the_driver_counts()
        found = {
            index: part
            for index, meter in self._shared
            if (part := self._part(index, meter, ours, usage.unsaid_gpu_part)) is not None
        }
        self._set_parts(found, len(self.parts))
        for group in self._candidates:
            group.settle()
        self.codes = self._codes_now(is_shared=is_shared)

    def _codes_now(self, *, is_shared: bool) -> tuple[str, ...]:
        codes = set(self._codes_of.values()) if is_shared else set[str]()
        # where all contexts are known, a board on which we have none is not billed in any case
        if not is_shared or codes & {"gpu_share_assumed", "gpu_share_ranks"}:
            codes.update(ORDER_FAULT for group in self._candidates if not group.decided)
        return tuple(sorted(codes))

    def _part(
        self, index: int, meter: SharedMeter, ours: Collection[int] | None, unsaid: float
    ) -> float | None:
        try:
            uses = meter.look()
        except MeterError as error:
            _log.debug("the processes that use the board could not be read: %s", error)
            return None  # the last known part stays valid
        if _is_candidate(meter):
            meter.note(uses, ours)
        slices = [(use.part, gpu_share(use.holders, use.busy, ours, unsaid)) for use in uses]
        part = min(1.0, sum(part * one.share for part, one in slices))
        code = _code([one for _, one in slices], is_slice=any(part < 1.0 for part, _ in slices))
        self._codes_of.pop(index, None)
        self._uncertainties.pop(index, None)
        if code is not None and part > 0.0:
            self._codes_of[index] = code
            if code != "gpu_share_assumed":
                self._uncertainties[index] = min(1.0, 1.0 / part - 1.0)
        return part

    def _set_parts(self, found: dict[int, float], width: int) -> None:
        parts = tuple(found.get(n, self.parts[n] if self.parts else None) for n in range(width))
        if parts != self.parts:
            self.parts = parts

    def relative_uncertainty(self, index: int) -> float:
        """The relative uncertainty of our part of a meter, at most 1.

        An even split, among ranks too, and a MIG slice do not show which process drew the power:
        all of it may be ours.
        """
        return self._uncertainties.get(index, 0.0)

    def with_assumptions(self, counts: Counts) -> Counts:
        """The counts with a fault for each assumption behind the last step's shares."""
        for code in self.codes:
            counts = with_fault(counts, code)
        return counts

    def forget_parent(self) -> None:
        """Start anew in a child process, whose process tree is another one."""
        self._updated_at_s = float("-inf")
        self._set_parts({index: meter.part for index, meter in self._shared}, len(self.parts))
        self._uncertainties.clear()
        self._codes_of.clear()
        for group in self._candidates:
            group.forget()
        self.codes = (ORDER_FAULT,) if self._candidates else ()


def _groups(meters: Iterable[SharedMeter]) -> tuple[Candidates, ...]:
    return tuple(dict.fromkeys(meter.candidates for meter in meters if _is_candidate(meter)))


def _is_candidate(meter: SharedMeter) -> TypeGuard[CandidateGpu]:
    return hasattr(meter, "candidates")


def _code(held_parts: Sequence[GpuShare], *, is_slice: bool) -> str | None:
    ways = {one.how for one in held_parts if one.share > 0.0}
    if is_slice:
        return "gpu_share_slices"
    if "assumed" in ways:
        return "gpu_share_assumed"
    if "ranks" in ways:
        return "gpu_share_ranks"
    return "gpu_share_even" if "even" in ways else None
