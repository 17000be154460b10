"""What a server draws beside its processors and memory, from published wall power by design power.

Used only where the setting `boundary` asks for it: no wall meter has seen this machine. A
calibration with a wall meter (`carbontrack.meters.wall`) is better, and is used instead where there
is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import cast

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.interval import Interval
from carbontrack.meters.cpu_power import Known
from carbontrack.meters.meter import Meter, MeterSet, Refusal, nominal_w
from carbontrack.meters.wall import Tap
from carbontrack.record import Basis, Component
from carbontrack.system.log import warn_user
from carbontrack.values import NamedTuple, replace

MODEL_ID = "model:wall"
WALL_SHARES: tuple[tuple[float, Interval], ...] = (
    (0.0, Interval(0.19, 0.11, 0.47)),
    (0.1, Interval(0.34, 0.22, 0.60)),
    (0.5, Interval(0.55, 0.36, 0.89)),
    (0.8, Interval(0.80, 0.53, 1.25)),
    (1.0, Interval(1.03, 0.73, 1.49)),
)
"""Load, and the wall's power over the design power (TDP) of all processors: median, 3rd and 97th
percentile of 245 servers since 2014 (SPECpower_ssj2008; a family that is left out lies inside in 91
to 93 %, and so do the newest three, of 2022 to 2025, at every load). They have few disks and are
tuned to save, so a server in use hardly draws less, and no laptop or desktop is among them."""
ANCHOR_S = 1.0
"""Load is averaged over at least this long, as by the model of the processors."""
_WALL_METER = "carbontrack calibrate --help  # better: with a wall meter"
_INSIDE: tuple[Component, ...] = ("cpu", "ram")


def wall_share(load: float) -> Interval:
    """The wall's power at a load between 0 and 1, as a share of design power; linear between."""
    load = min(1.0, max(0.0, load))
    for (low, at_low), (high, at_high) in pairwise(WALL_SHARES):
        if load <= high:
            part = (load - low) / (high - low)
            return Interval(
                *(a + (b - a) * part for a, b in zip(at_low, at_high, strict=True)),
            )
    return WALL_SHARES[-1][1]


class Server(NamedTuple):
    """What the model knows of the machine.

    Attributes:
        tdp_w: design power of its processors, in a guest that of its share.
        busy_s: CPU seconds of all processors since some instant; None is unknown.
        threads: hardware threads that `busy_s` counts.
        known: what the design power is known by; the model wants "given" or "part".
        is_guest: this is a virtual machine, which has a part of its host, and of whose host a data
            sheet or a wall meter say nothing.
        is_client: the processor is one of desktops and laptops.
    """

    tdp_w: float
    busy_s: Callable[[], float | None]
    threads: int
    known: Known = "part"
    is_guest: bool = False
    is_client: bool = False


class WallModel:
    """Wall power by load, less what the meters of processors and memory have counted.

    It counts three sums, with the wall at its best estimate and at its low and high end, and the
    other meters at their best estimates. Energies are compared over `ANCHOR_S` or more, and
    where the others have counted more than the wall, nothing is added: a sum is never below 0,
    never falls, and carries no deficit over.

    Its error and the others' are not independent. Where the processors use less than their meter
    says, the rest is larger by as much, since the wall power is what is known. The interval of all
    components together is made as if they erred independently, so it contains the wall's own and is
    wider: with both models by a fifth to two fifths at its high end.

    Args:
        server: what is known of the machine.
        taps: the meters of processors and memory, which are read before it.
        stand_ins: by component, the meters that stand in for these. They are read after it.
    """

    id = MODEL_ID
    component: Component = "other"
    basis: Basis = "assumed"
    resolution_s = 0.01
    max_period_s: float | None = None
    relative_uncertainty = 1.0
    """The rest of a wall that is known within a factor of 1.4 to 2.5; `low_j` and `high_j` say it
    exactly."""

    def __init__(
        self, server: Server, taps: Sequence[Tap], stand_ins: Mapping[Component, list[Tap]]
    ) -> None:
        self._server, self._tdp_w = server, server.tdp_w
        self._taps, self._stand_ins = taps, stand_ins
        self.fault_counts: Mapping[str, int] = {}
        self.low_j = self.high_j = 0.0
        """Joules with the wall at its low and high end, as of the last read."""
        self._total_j = 0.0
        self._read_at_s: float | None = None
        self._anchor: tuple[float, float, float, tuple[float, ...]] | None = None
        """Instant, busy seconds, metered joules and our sums that the present count starts from."""
        self._closed = False
        self.about = (
            f"wall power of servers: {WALL_SHARES[0][1].best:g} (idle) to "
            f"{WALL_SHARES[-1][1].best:g} (busy) x {self._tdp_w:.4g} W of design power, less what "
            "is metered"
        )
        if server.is_guest:
            self.about += (
                "; of the host's wall power, this guest's share in proportion to its part of the "
                "design power"
            )

    def rest_w(self, load: float, metered_w: float) -> float:
        """The power at this load beside `metered_w` of processors and memory."""
        return max(0.0, self._tdp_w * wall_share(load).best - metered_w)

    @property
    def nominal_w(self) -> float | None:
        """The power at the load of one busy thread, that of the caller."""
        powers_w = [nominal_w(cast("Meter", tap)) for tap in self._taps]
        known_w = [power_w for power_w in powers_w if power_w is not None]
        if len(known_w) < len(powers_w):
            return None
        return self.rest_w(1.0 / self._server.threads, sum(known_w)) or None

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read.

        Raises:
            MeterReadError: the load cannot be read, or a meter of processors or memory was silent.
        """
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        if now_s == self._read_at_s:
            return self._total_j
        metered_j, busy_s = self._metered_j(now_s), self._server.busy_s()
        if busy_s is None:
            raise MeterReadError("how busy the processors are cannot be read")
        self._read_at_s = now_s
        if self._anchor is None:
            self._anchor = (now_s, busy_s, metered_j, (0.0, 0.0, 0.0))
        since_s, busy_then_s, metered_then_j, sums_j = self._anchor
        elapsed_s = now_s - since_s
        if elapsed_s > 0.0:
            load = (busy_s - busy_then_s) / (self._server.threads * elapsed_s)
            others_j = metered_j - metered_then_j
            walls_j = (self._tdp_w * share * elapsed_s for share in wall_share(load))
            sums_j = tuple(
                sum_j + max(0.0, wall_j - others_j)
                for sum_j, wall_j in zip(sums_j, walls_j, strict=True)
            )
            self._total_j = max(self._total_j, sums_j[0])
            self.low_j, self.high_j = max(self.low_j, sums_j[1]), max(self.high_j, sums_j[2])
            if elapsed_s >= ANCHOR_S:
                self._anchor = (now_s, busy_s, metered_j, sums_j)
        return self._total_j

    def _metered_j(self, now_s: float) -> float:
        """What processors and memory have used.

        Raises:
            MeterReadError: some of it is not known yet, and would be taken for a part of the rest.
        """
        since_s = self._read_at_s if self._read_at_s is not None else now_s
        for component in _INSIDE:
            own = [tap for tap in self._taps if tap.component == component]
            stand_ins = self._stand_ins.get(component, [])
            if any(tap.read_at_s != now_s for tap in own) and not any(
                tap.read_at_s >= since_s for tap in stand_ins
            ):
                raise MeterReadError(f"the meter of the component {component} did not answer")
        later = (tap for taps in self._stand_ins.values() for tap in taps)
        return sum(tap.grown_j for tap in (*self._taps, *later))

    def close(self) -> None:
        """Nothing is open."""
        self._closed = True


def with_wall_model(meters: MeterSet, server: Server) -> MeterSet:
    """The meters, and one for the further wall power of a server with this design power.

    The user, who asked for it, is warned where it cannot be had.
    """
    refusal = _refusal(meters.meters, server)
    if refusal is not None:
        warn_user(f'boundary="wall" is not counted: {refusal.reason}')
        return replace(meters, refused=(*meters.refused, refusal))
    tapped = [Tap(meter) if meter.component in _INSIDE else meter for meter in meters]
    taps = [meter for meter in tapped if isinstance(meter, Tap)]
    stand_ins: dict[Component, list[Tap]] = {}
    substitutes = {
        component: _tapped(make, stand_ins.setdefault(component, []))
        if component in _INSIDE
        else make
        for component, make in meters.substitutes.items()
    }
    rest = WallModel(server, taps, stand_ins)
    everything = (*cast("list[Meter]", tapped), rest)
    return replace(meters, meters=everything, substitutes=substitutes)


def _tapped(make: Callable[[], Meter], taps: list[Tap]) -> Callable[[], Meter]:
    """The same maker, whose meter is noted in `taps`."""

    def made() -> Meter:
        taps.append(Tap(make()))
        return cast("Meter", taps[-1])

    return made


def _refusal(meters: Sequence[Meter], server: Server) -> Refusal | None:
    for meter in meters:
        if "other" in {meter.component, *(getattr(meter, "covers", None) or ())}:
            return Refusal(MODEL_ID, f"{meter.id} counts the same energy")
    if not any(meter.component == "cpu" for meter in meters):
        return Refusal(MODEL_ID, "no meter counts the processors")
    if server.is_client:
        reason = (
            "this is a desktop or laptop processor, and the model is for servers: no published "
            "wall power is of such a machine"
        )
        return Refusal(MODEL_ID, reason, None if server.is_guest else _WALL_METER)
    if server.known in ("family", "nothing"):
        how_well = "is known by family only" if server.known == "family" else "is not known"
        reason = f"the design power of this machine's processors {how_well}"
        if server.is_guest and server.known == "nothing":
            seen = "and a virtual machine does not see how large its host's processors are"
            cure = "# where the hypervisor shows the processor's own name (QEMU: -cpu host), it is"
            return Refusal(MODEL_ID, f"{reason}, {seen}", cure)
        cure = f"CARBONTRACK_CPU_TDP_W=…  # of one package, from its datasheet\n{_WALL_METER}"
        return Refusal(MODEL_ID, reason, cure)
    return None
