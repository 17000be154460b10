"""Components with several zones: measured by all of their zones or by none.

`Completed` makes a model from the readable zones if others are closed; `together` makes all meters
of a component fail with the first one that does. Few machines have several zones of a kind, so this
is imported only on those.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from carbontrack.errors import MeterError, MeterReadError
from carbontrack.meters.meter import STANDS_STILL, Meter, Refusal, max_period_s
from carbontrack.record import Basis, Component
from carbontrack.values import NamedTuple

ZONES_CLOSED = "zones_closed"
"""The fault of a zone that may not be read, while others of its component may."""
MOST_RATIO: Mapping[Component, float] = {"cpu": 1.0, "ram": 5.0}
"""How many times the mean of the zones that are read a closed one may use, whatever its limit says.

The power of memory depends on its activity by a factor of five (see ram_model), and the limits of
its zones come from firmware that does not know the DIMMs. A package keeps to its limit."""


STILL_BESIDE_S = 5.0
"""A zone that has not changed for so long before the last change of another one stands still. Slow
ones, such as those that QEMU shows to a guest, move once a second."""
UNPROVEN_BESIDE_S = 1.5
"""The same of a zone that has never moved, so that a dead one is found in a short program, too."""


class Closed(NamedTuple):
    """What is known of the zones that may not be read.

    Attributes:
        part: how many times the energy of the zones that are read all zones of the component use,
            if each of a kind uses the same: 2 where one of two is closed.
        most_w: the power of the closed ones together that none can exceed for long; 0: not known.
    """

    part: float
    most_w: float


class Completed:
    """A component of which only some zones can be read, completed for the others; modelled.

    Best estimate: a closed zone uses as much as the others do on average. It is of the same type,
    and under the same kernel, which spreads work evenly where nobody binds it to a socket. Where
    somebody does, the closed zone may use nothing to speak of, which is the low end, or all that it
    can, which is the high end: its power limit, or MOST_RATIO times the mean.

    It has no value while one of the zones that are read stands still and others change.
    """

    basis: Basis = "modelled"
    max_period_s: float | None
    nominal_w: float | None = None
    relative_uncertainty = 1.0

    def __init__(self, zones: Sequence[Meter], closed: Closed) -> None:
        self.zones = tuple(zones)
        self.component: Component = zones[0].component
        self.id = f"model:{'packages' if self.component == 'cpu' else 'dram'}"
        self.resolution_s = max(zone.resolution_s for zone in zones)
        self.max_period_s = min(filter(None, map(max_period_s, zones)), default=None)
        # their sum stands still when all of them do
        self.moves_within_s: float | None = getattr(zones[0], "moves_within_s", None)
        self.low_j = self.high_j = 0.0
        self._closed = closed
        self._width = max(zone.relative_uncertainty for zone in zones)
        self._first_s: float | None = None
        self._moved: dict[str, tuple[float, float, bool]] = {}
        """By zone: its count, the first instant at which it was read, and whether it ever moved."""
        self._still: set[str] = set()
        self._found_still = 0

    @property
    def about(self) -> str:
        """A line for users: what is read, and what is assumed for the rest."""
        closed, read = self._closed, " + ".join(zone.id for zone in self.zones)
        most = f", or {closed.most_w:.0f} W at most" if closed.most_w else ""
        return f"({read}) x {closed.part:.3g}, as if the unreadable zones used as much{most}"

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Of all zones that are read, and how often one of them was found to stand still."""
        counts = {STANDS_STILL: self._found_still} if self._found_still else dict[str, int]()
        for zone in self.zones:
            for code, times in getattr(zone, "fault_counts", {}).items():
                counts[code] = counts.get(code, 0) + times
        return counts

    def read_joules(self, now_s: float) -> float:
        """Joules of the component since the first read, closed zones included.

        Raises:
            MeterReadError: a zone has no value now, or stands still.
        """
        counts_j = [zone.read_joules(now_s) for zone in self.zones]
        if len(counts_j) > 1:
            self._compare(counts_j, now_s)
        joules = sum(counts_j)
        if self._first_s is None:
            self._first_s = now_s
        closed_j = (self._closed.part - 1.0) * joules
        most_j = max(
            closed_j * MOST_RATIO.get(self.component, 1.0),
            self._closed.most_w * (now_s - self._first_s),
        )
        self.low_j = (1.0 - self._width) * joules
        self.high_j = (1.0 + self._width) * joules + most_j
        return joules + closed_j

    def _compare(self, counts_j: Sequence[float], now_s: float) -> None:
        """Refuse a sum to which one zone adds nothing, though it must, while the others go on."""
        for zone, joules in zip(self.zones, counts_j, strict=True):
            before_j, _, has_moved = self._moved.get(zone.id, (joules, now_s, False))
            if zone.id not in self._moved or joules > before_j:
                has_moved = has_moved or joules > before_j
                self._moved[zone.id] = joules, now_s, has_moved
        latest_s = max(at_s for _, at_s, _ in self._moved.values())
        still = {
            id_
            for id_, (_, at_s, has_moved) in self._moved.items()
            if latest_s - at_s >= (STILL_BESIDE_S if has_moved else UNPROVEN_BESIDE_S)
        }
        self._found_still += len(still - self._still)
        self._still = still
        if still:
            raise MeterReadError(f"{', '.join(sorted(still))} does not change, while others do")

    def rest(self) -> None:
        """Close the descriptors until the next read."""
        for zone in self.zones:
            _rest(zone)

    def close(self) -> None:
        """Close every zone."""
        for zone in self.zones:
            zone.close()


class Member:
    """A meter of a component that has several: it has a value only if all of them have.

    Otherwise a part of the component would count as all of it, and the lost part could not be
    replaced, because a substitute counts the whole component.
    """

    def __init__(self, meter: Meter, group: Group) -> None:
        self.meter = meter
        self.id = meter.id
        self.component: Component = meter.component
        self.basis: Basis = meter.basis
        self.resolution_s = meter.resolution_s
        self._group = group

    @property
    def relative_uncertainty(self) -> float:
        """Of the meter itself."""
        return self.meter.relative_uncertainty

    def __getattr__(self, name: str) -> Any:
        """What a meter may offer beyond the protocol, if this one does."""
        return getattr(self.meter, name)

    def read_joules(self, now_s: float) -> float:
        """Joules of this meter alone.

        Raises:
            MeterReadError: this meter or another one of the component has no value now.
        """
        return self._group.answer(self, now_s)

    def close(self) -> None:
        """Close the meter; the others go on without it."""
        self._group.members.pop(self.id, None)
        self.meter.close()


class Group:
    """The meters of a component; all of them are read when the first is asked."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self.members = {meter.id: Member(meter, self) for meter in meters}
        self._at_s: float | None = None
        self._counts_j: dict[str, float] = {}
        self._failed: tuple[str, MeterError] | None = None

    def answer(self, member: Member, now_s: float) -> float:
        """The member's count; all are read again if it has had its answer of this instant."""
        if now_s != self._at_s or member.id not in self._counts_j:
            self._read(now_s)
        joules = self._counts_j.pop(member.id, None)
        if joules is None:  # it was closed
            return member.meter.read_joules(now_s)
        if self._failed is None:
            return joules
        culprit, error = self._failed
        if culprit == member.id:
            raise error
        raise MeterReadError(f"{culprit}, of the same component, has no value: {error}")

    def _read(self, now_s: float) -> None:
        self._at_s, self._counts_j, self._failed = now_s, {}, None
        counts_j = dict.fromkeys(self.members, 0.0)
        for id_, member in self.members.items():
            try:
                counts_j[id_] = member.meter.read_joules(now_s)
            except MeterError as error:
                self._failed = id_, error
        self._counts_j = counts_j


class ZoneFacts(Protocol):
    """What is known of a zone, open or closed."""

    @property
    def component(self) -> Component:
        """What its energy belongs to."""
        ...

    @property
    def package(self) -> str:
        """The number of its package."""
        ...


Z = TypeVar("Z", bound=ZoneFacts)


def complete(
    meters: Sequence[Meter],
    opened: Sequence[Z],
    closed: Mapping[Z, Refusal],
    limit_w: Callable[[Z], float | None],
    usual_w: float,
) -> tuple[tuple[Meter, ...], dict[Z, Refusal]]:
    """One completed meter for each component that has open and closed zones.

    Args:
        meters: those of the open zones.
        opened: the open zones.
        closed: the closed ones, with the reasons.
        limit_w: the power limit of a zone, where it has one.
        usual_w: the most that a package without a limit uses, where no other has one either.

    Returns:
        The meters, and the refusals of the closed zones with their faults.
    """
    made: dict[Component, Completed] = {}
    refused = dict(closed)
    for component in MOST_RATIO:
        own = [meter for meter in meters if meter.component == component]
        read = [zone for zone in opened if zone.component == component]
        missing = [zone for zone in _missing(opened, closed) if zone.component == component]
        if not own or not missing:
            continue
        zones = Tally(zone.package for zone in (*read, *missing))
        part = len(zones) / sum(1.0 / zones[zone.package] for zone in read)
        most_w = 0.0
        if component == "cpu":
            like_w = max(filter(None, map(limit_w, read)), default=usual_w)
            most_w = sum(limit_w(zone) or like_w / zones[zone.package] for zone in missing)
        made[component] = Completed(own, Closed(part, most_w))
        refused |= {zone: closed[zone]._replace(fault=ZONES_CLOSED) for zone in missing}
    whole = tuple(meter for meter in meters if meter.component not in made)
    return (*made.values(), *whole), refused


def _missing(opened: Sequence[Z], closed: Mapping[Z, Refusal]) -> Iterator[Z]:
    """The closed zones that show a counter of their own.

    Dies of an AMD package all show that of the package. Intel's parts with several dies have one
    for each, and count dram, which AMD's do not.
    """
    dies_differ = any(zone.component == "ram" for zone in (*opened, *closed))
    seen = {zone.package for zone in opened if zone.component == "cpu"}
    for zone in closed:
        if dies_differ or zone.package not in seen:
            yield zone


def together(meters: Sequence[Meter]) -> tuple[Meter, ...]:
    """The meters; measured ones of a component that has several answer together or not at all."""
    by_component: dict[Component, list[Meter]] = {}
    for meter in meters:
        if meter.basis == "measured" and meter.component in ("cpu", "ram"):
            by_component.setdefault(meter.component, []).append(meter)
    grouped: dict[str, Meter] = {}
    for own in by_component.values():
        if len(own) > 1:
            grouped |= Group(own).members
    return tuple(grouped.get(meter.id, meter) for meter in meters)


def _rest(meter: Meter) -> None:
    rest = getattr(meter, "rest", None)
    if callable(rest):
        rest()
