"""Energy of the processors from their load and design power, if no counter can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.interval import Interval
from carbontrack.meters.load_curve import LOADS, SINCE_2010, LoadCurve
from carbontrack.meters.meter import BESIDE_CPU_TIME
from carbontrack.record import Basis, Component
from carbontrack.values import NamedTuple

ANCHOR_S = 1.0
"""Load is averaged over at least this long; busy time moves in steps of about 10 ms."""
SLACK_S, SLACK_PER_THREAD_S = 0.05, 0.02
"""How far the system's busy time may lag behind our own, and how much more for each thread: two
steps of each, and five at least."""
FAR_OFF = 1.25
"""Our own time over the system's busy time from which on the latter is no count of this machine.
The kernel may count by what runs at each step, which misses some of what runs between."""


class _Piece(NamedTuple):
    """A straight piece of the curve up to `to_load`, for the best estimate and both ends.

    The energy is `rest_w` x time + `busy_w` x CPU seconds.
    """

    to_load: float
    rest_w: Interval
    busy_w: Interval


class CpuModel:
    """TDP x load curve over CPU seconds, as a count of joules with its low and high ends.

    The energy since an anchor is E = P(u) x t with u the mean load over the time t since then: on a
    straight piece of P that is a x t + b x busy time, with a the piece's power prolonged to load 0.
    As no a and no b is below 0, and E has no jumps, it grows with time and with busy time, so that
    the count never goes down, however coarse or late the readings are. The same holds for the
    counts at the ends, which have the same anchor. It moves every second.

    Attributes:
        tdp_w: design power of this machine's threads together, in watts.
        busy_s: CPU seconds that all processors have worked since some instant; None is unknown.
        threads: hardware threads that `busy_s` counts.
        basis, curve: as `cpu_power` has them.
        about: the part, its TDP and the share of it, in a line for people.
        own_s: CPU seconds of our own processes up to an instant; None: not compared.
        low_j, high_j: the joules at the ends of the curve, as of the last read.
        relative_uncertainty: the wider side of the interval at the nominal power, at most 1.
    """

    id = "model:cpu"
    component: Component = "cpu"
    resolution_s = 0.01
    max_period_s: float | None = None

    def __init__(
        self,
        tdp_w: float,
        busy_s: Callable[[], float | None],
        threads: int,
        *,
        basis: Basis = "modelled",
        curve: LoadCurve = SINCE_2010,
        about: str = "",
        own_s: Callable[[float], float] | None = None,
    ) -> None:
        self.tdp_w = tdp_w
        self.busy_s = busy_s
        self.threads = threads
        self.basis: Basis = basis
        self.curve = curve
        self.about = about
        self.own_s = own_s
        self.low_j = self.high_j = 0.0
        self.fault_counts: Mapping[str, int] = {}
        share = curve.at(1.0 / threads)
        self.relative_uncertainty = min(
            1.0, max(share.high / share.best - 1.0, 1.0 - share.low / share.best)
        )
        self._pieces = tuple(
            _piece(curve, index, tdp_w, threads) for index in range(len(LOADS) - 1)
        )
        self._anchor: tuple[float, float, float, float, float] | None = None
        """Instant, busy seconds, and the joules from which the present energy is counted: best
        estimate and both ends."""
        self._own_then_s: float | None = None
        self._is_beside = False
        self._total_j = 0.0
        self._closed = False

    @property
    def nominal_w(self) -> float:
        """The power at the load of one busy thread, that of the caller."""
        return self.tdp_w * self.curve.at(1.0 / self.threads).best

    def begin_at(self, at_s: float, busy_s: float) -> None:
        """Count from an instant before the next read, at which the processors had worked so long.

        For a model that replaces a counter from the time at which that was last valid.
        """
        self._anchor = (at_s, busy_s, self._total_j, self.low_j, self.high_j)
        self._own_then_s = None  # not known: the next second is compared

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read.

        Raises:
            MeterReadError: the load of the machine cannot be read.
        """
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        busy_s = self.busy_s()
        if busy_s is None:
            if self.own_s is None:
                raise MeterReadError("how busy the processors are cannot be read")
            busy_s = 0.0  # our own processes are what is known
        if self._anchor is None:
            self._begin(now_s, busy_s)
        since_s, busy_then_s, best_j, low_j, high_j = self._anchor  # type: ignore[misc]
        elapsed_s = now_s - since_s
        if elapsed_s > 0.0:
            worked_s = min(self.threads * elapsed_s, max(0.0, busy_s - busy_then_s))
            if not worked_s or elapsed_s >= ANCHOR_S or self._is_beside:
                worked_s = self._at_least(worked_s, busy_s - busy_then_s, now_s, elapsed_s)
            _, rest_w, busy_w = self._piece_at(worked_s / (self.threads * elapsed_s))
            # busy time that goes back may not take anything away
            self._total_j = max(
                self._total_j, best_j + rest_w.best * elapsed_s + busy_w.best * worked_s
            )
            self.low_j = max(self.low_j, low_j + rest_w.low * elapsed_s + busy_w.low * worked_s)
            if self._is_beside:
                worked_s = self.threads * elapsed_s
                _, rest_w, busy_w = self._pieces[-1]
            self.high_j = max(
                self.high_j, high_j + rest_w.high * elapsed_s + busy_w.high * worked_s
            )
            if elapsed_s >= ANCHOR_S:
                self._begin(now_s, busy_s)
        return self._total_j

    def _begin(self, now_s: float, busy_s: float) -> None:
        self._anchor = (now_s, busy_s, self._total_j, self.low_j, self.high_j)
        self._own_then_s = self.own_s(now_s) if self.own_s is not None else None

    def _at_least(self, worked_s: float, told_s: float, now_s: float, elapsed_s: float) -> float:
        """CPU seconds of all processors since the anchor, compared with those of our own."""
        if self.own_s is None or self._own_then_s is None:
            return worked_s
        most_s, slack_s = self.threads * elapsed_s, SLACK_S + SLACK_PER_THREAD_S * self.threads
        own_s = min(most_s, self.own_s(now_s) - self._own_then_s)
        if own_s > FAR_OFF * worked_s + slack_s or told_s > FAR_OFF * most_s + slack_s:
            if not self._is_beside:
                self.fault_counts = {**self.fault_counts, BESIDE_CPU_TIME: 1}
            self._is_beside = True
        # once it was found wrong, it is no longer waited for
        return own_s if own_s > worked_s + (0.0 if self._is_beside else slack_s) else worked_s

    def _piece_at(self, load: float) -> _Piece:
        for piece in self._pieces:
            if load <= piece.to_load:
                break
        return piece

    def close(self) -> None:
        """Nothing is open."""
        self._closed = True


def _piece(curve: LoadCurve, index: int, tdp_w: float, threads: int) -> _Piece:
    from_load, to_load = LOADS[index], LOADS[index + 1]
    slopes = [(ends[index + 1] - ends[index]) / (to_load - from_load) for ends in curve]
    rests = [ends[index] - slope * from_load for ends, slope in zip(curve, slopes, strict=True)]
    return _Piece(
        to_load,
        Interval(*(tdp_w * max(0.0, rest) for rest in rests)),
        Interval(*(tdp_w * slope / threads for slope in slopes)),
    )
