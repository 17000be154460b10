"""The tracker: combines meters, a grid, an attribution policy and sinks; the source of spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn

from carbontrack.attribution.policy import Attribution, Scope
from carbontrack.config.environment import is_disabled
from carbontrack.errors import ConfigError
from carbontrack.grid.intensity import Fixed, GridIntensity, IntensitySource
from carbontrack.meters.meter import Meter, MeterSet, check_meters
from carbontrack.record import Sink
from carbontrack.sampling.ledger import Ledger
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import Clock
from carbontrack.tracking.noop import NoOpSpan
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Session, let_begin
from carbontrack.tracking.span import Span


class Tracker:
    """Measures its spans and sends each root span's record to its sinks.

    It starts with its first span and ends with `close`, or at the end of a `with` block. A tracker
    built by hand is independent: it reads its own meters, and spans of other trackers do not reduce
    the energy attributed to its spans. `carbontrack.auto` builds one from settings.

    Args:
        meters: disjoint meters, with or without substitutes; or a sampler shared with other
            trackers.
        grid: the source of the carbon intensity; a fixed intensity, or a number of g/kWh. None:
            emissions are unknown, but energy is known.
        attribution: the part of the energy that is attributed to the spans: "machine" (all of it),
            "process" (this process tree's share), or a policy with its own PUE.
        sinks: the sinks that receive the records; none by default.
        interval_s: time between two ticks of the sampler, above 0.
        clock: the time source.

    Under CARBONTRACK_DISABLE, `Tracker(…)` measures nothing, whatever the arguments.

    Raises:
        ConfigError: one of the arguments cannot be used.
    """

    def __new__(cls, **_: object) -> Tracker:
        """A tracker; under CARBONTRACK_DISABLE one that measures and checks nothing."""
        if cls is Tracker and is_disabled():
            return object.__new__(NoOpTracker)
        return object.__new__(cls)

    def __init__(
        self,
        *,
        meters: MeterSet | Iterable[Meter] | Sampler,
        grid: IntensitySource | GridIntensity | float | None = None,
        attribution: Attribution | Scope = "machine",
        sinks: Sequence[Sink] = (),
        interval_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        owns_sampler = not isinstance(meters, Sampler)
        if isinstance(meters, Sampler):
            meters.request_interval(interval_s)
            sampler = meters
        else:
            found = meters if isinstance(meters, MeterSet) else MeterSet(tuple(meters))
            check_meters(found)
            sampler = Sampler(found, interval_s=interval_s, clock=clock)
        policy = attribution if isinstance(attribution, Attribution) else Attribution(attribution)
        basis = None if grid is None else "argument"
        builder = RecordBuilder(Resource(basis), Ledger(policy, _source(grid)), sampler)
        self._session = Session(builder, sinks=checked_sinks(sinks))
        self._session.owns_sampler = owns_sampler
        for sink in sinks:
            let_begin(sink, self._session)

    @classmethod
    def of(cls, session: Session, *, owns_sampler: bool) -> Tracker:
        """A tracker for a session that was assembled elsewhere."""
        tracker = object.__new__(cls)
        tracker._session = session
        session.owns_sampler = owns_sampler
        return tracker

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled and copied.

        Raises:
            TypeError: always, with the alternative in the message.
        """
        raise TypeError(
            "a Tracker cannot be pickled or copied: its meters, files and thread belong to this "
            "process. Create it where the work is done, with carbontrack.auto(...) or @track in "
            "the module that the worker imports; child processes find their parent's record in the "
            "environment"
        )

    @property
    def session(self) -> Session:
        """The tracker's shared state, for other parts of carbontrack."""
        return self._session

    def span(self, name: str, *, labels: Mapping[str, Any] | None = None) -> Span:
        """A span, to be opened with `with`.

        Inside an open span of the same tracker it becomes a child of that span, otherwise a root.

        Raises:
            ConfigError: the name is not a text, or the tracker has been closed.
        """
        if self._session.closed:
            raise ConfigError("this tracker has been closed; create a new one")
        return Span(self._session, name, labels=labels)

    def close(self) -> None:
        """Write open roots as interrupted and close the sinks. A second call does nothing."""
        try:
            self._session.close()
        except BaseException:  # a handler of a signal: what is left is done all the same
            self._session.close()
            raise

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class NoOpTracker(Tracker):
    """A tracker that measures nothing and writes nothing."""

    def __init__(self, **_: object) -> None:
        """Needs no meters and no sinks."""

    def span(self, name: str, *, labels: Mapping[str, Any] | None = None) -> Span:
        """A span that counts nothing."""
        return NoOpSpan(name, labels=labels)

    def close(self) -> None:
        """Does nothing."""


def checked_sinks(sinks: Sequence[Sink]) -> Sequence[Sink]:
    """The sinks, after checking that each can be written to.

    Raises:
        ConfigError: one of them cannot.
    """
    for sink in sinks:
        if not callable(getattr(sink, "write", None)):
            raise ConfigError(
                f"sinks must have a method `write`, as CsvSink and HttpSink have; not {sink!r}"
            )
    return sinks


def _source(grid: IntensitySource | GridIntensity | float | None) -> IntensitySource | None:
    if grid is None or hasattr(grid, "at"):
        return grid
    if isinstance(grid, GridIntensity):
        return Fixed(grid)
    if isinstance(grid, (int, float)) and not isinstance(grid, bool):
        return Fixed.of(float(grid))
    raise ConfigError(
        f"grid must be a number of g CO2e/kWh, a GridIntensity, or have a method `at`; not {grid!r}"
    )
