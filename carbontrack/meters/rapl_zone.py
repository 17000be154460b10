"""One RAPL counter through a descriptor that stays open, and counters that mirror each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from carbontrack.errors import MeterError, MeterGone, MeterReadError
from carbontrack.meters.counter import Counter
from carbontrack.meters.text_files import open_to_read
from carbontrack.records import Basis, Component

RESOLUTION_S = 0.001
"""RAPL counters change about once a millisecond, with jitter (Haehnel et al. 2012)."""
LOOK_EVERY_S = 0.05
"""A file that shows no change is checked for having been deleted, this often at most."""
RELATIVE_UNCERTAINTY = 0.07
"""Half-width for package and dram, within the boundary package + dram.

From public wall-meter data: 318 runs of an i9-13900K with an RTX 4090 (Fischer 2025, arXiv
2509.22092). After one affine fit of software readings (RAPL and NVML) to the meter, which takes
out power supply, board and fans, a mean absolute error of 5.6 % is left; for normal errors that is
a standard deviation of 5.6 % / 0.8 = 7 %. Mainboard, fans, disks and the supply's own loss are
outside the boundary and outside this interval: at the wall a joule read here costs 1.17 J (Jay et
al., CCGrid 2023, slope over servers of one kind; it differs between machines).
"""


class RaplZone:
    """A package or a dram domain.

    A read is one pread of a text of a dozen digits. A file that was put in the place of the open
    one, or a zone that vanishes and returns, is found again by its path.
    """

    basis: Basis = "measured"
    resolution_s = RESOLUTION_S
    relative_uncertainty = RELATIVE_UNCERTAINTY
    nominal_w: float | None = None

    def __init__(
        self,
        id: str,  # noqa: A002 - the protocol's name
        component: Component,
        path: Path,
        *,
        range_j: float | None,
        cap_w: Callable[[], float],
        open_file: Callable[[Path], int] = open_to_read,
    ) -> None:
        self.id = id
        self.component: Component = component
        self._path = path
        self._open_file = open_file
        self._cap_w = cap_w
        self.counter = Counter(range_j, cap_w())
        self.fault_counts: Mapping[str, int] = self.counter.fault_counts
        """Resets and impossible steps that were dropped."""
        self._raw_uj = -1
        self._looked_at_s = float("-inf")
        self._descriptor: int | None = open_file(path)
        self._closed = False
        self.read_uj()

    @property
    def max_period_s(self) -> float | None:
        """0.4 of the time in which the counter can wrap."""
        return self.counter.max_period_s

    def read_uj(self) -> int:
        """The counter as it stands, in microjoules.

        A read that fails is made once more, at once and by the path: at the edge of a span there
        is no later one, and its energy would go to the span around it.

        Raises:
            MeterReadError: the zone cannot be read now, or shows no number.
        """
        descriptor = self._descriptor
        try:
            text = self._read_anew() if descriptor is None else os.pread(descriptor, 32, 0)
        except OSError:
            text = self._read_anew()
        try:
            raw_uj = int(text)
        except ValueError as error:
            raise MeterReadError(f"{self._path} shows no number: {error}") from error
        self._raw_uj = raw_uj
        return raw_uj

    def _read_anew(self) -> bytes:
        try:
            return os.pread(self._reopen(), 32, 0)
        except OSError as error:
            self._release()
            raise MeterReadError(f"{self._path}: {error.strerror}") from error

    def read_joules(self, now_s: float) -> float:
        """Joules since the meter was opened."""
        before_uj = self._raw_uj
        raw_uj = self.read_uj()
        if raw_uj == before_uj and now_s - self._looked_at_s >= LOOK_EVERY_S:
            # live counters move every millisecond; one that stands still may be a deleted file,
            # which is worth a look, but not at every one of many close reads
            self._looked_at_s = now_s
            raw_uj = self._look_again(raw_uj)
        try:
            return self.counter.advance(raw_uj * 1e-6, now_s)
        except MeterReadError:
            return self._count_within_new_limits(raw_uj, now_s)

    def count(self, raw_uj: int, now_s: float) -> float:
        """Take a reading of this zone into its count."""
        try:
            return self.counter.advance(raw_uj * 1e-6, now_s)
        except MeterReadError:
            return self._count_within_new_limits(raw_uj, now_s)

    def _count_within_new_limits(self, raw_uj: int, now_s: float) -> float:
        # the limits may have been raised since the meter was opened
        counter = self.counter
        counter.cap_w = max(counter.cap_w, self._cap_w())
        return counter.advance(raw_uj * 1e-6, now_s)

    def close(self) -> None:
        """Close the descriptor for good."""
        self._closed = True
        self._release()

    def _look_again(self, raw_uj: int) -> int:
        if self._descriptor is None or os.fstat(self._descriptor).st_nlink > 0:
            return raw_uj
        self._release()
        return self.read_uj()

    def _release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _reopen(self) -> int:
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        self._release()
        self._descriptor = self._open_file(self._path)
        return self._descriptor


def differ(one: RaplZone, other: RaplZone) -> bool:
    """Whether two zones are seen to show different counters.

    They do when three times in a row the other's value does not lie between two readings of the
    one's, which a counter that wraps meanwhile explains once. A failed read proves nothing.

    Multi-die AMD parts show the socket's counter once for each die. Real counters of several dies
    differ (Intel CLX-AP), so values decide, never names.
    """
    for _ in range(3):
        try:
            before_uj, other_uj, after_uj = one.read_uj(), other.read_uj(), one.read_uj()
        except MeterReadError:
            return False
        if before_uj <= other_uj <= after_uj:
            return False
    return True


class MirroredZones:
    """Zones that showed equal values when they were opened, as one meter.

    As long as they stay equal they are one counter, and one of them is counted. Every zone keeps a
    count of its own all the same: when they turn out to differ, two fresh sockets for instance, the
    meter becomes the sum of all from the beginning, and nothing of either was lost.
    """

    basis: Basis = "measured"
    resolution_s = RESOLUTION_S
    relative_uncertainty = RELATIVE_UNCERTAINTY
    nominal_w: float | None = None

    def __init__(self, zones: Sequence[RaplZone]) -> None:
        self.zones = tuple(zones)
        self.id = zones[0].id
        self.component: Component = zones[0].component
        self.mirrored = True
        """False once the zones have been seen to differ."""
        self._total_j = 0.0

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Of the zones that are counted."""
        if self.mirrored:
            return self.zones[0].fault_counts
        counts: dict[str, int] = {}
        for zone in self.zones:
            for code, times in zone.fault_counts.items():
                counts[code] = counts.get(code, 0) + times
        return counts

    @property
    def max_period_s(self) -> float | None:
        """Of the zone that wraps soonest."""
        periods_s = (zone.max_period_s for zone in self.zones)
        return min((period_s for period_s in periods_s if period_s), default=None)

    def read_joules(self, now_s: float) -> float:
        """Joules of the one counter, or of all of them together."""
        counts_j: list[float] = []
        error: MeterError | None = None
        for zone in self.zones:
            try:
                counts_j.append(zone.read_joules(now_s))
            except MeterError as failure:
                if zone is self.zones[0]:
                    raise
                error = failure
        if self.mirrored and error is None:
            # judged only when all could be read and believed: garbage in one is no difference
            self.mirrored = not any(differ(self.zones[0], zone) for zone in self.zones[1:])
        if error is not None and not self.mirrored:
            raise error
        self._total_j = max(self._total_j, counts_j[0] if self.mirrored else sum(counts_j))
        return self._total_j

    def close(self) -> None:
        """Close every zone."""
        for zone in self.zones:
            zone.close()
