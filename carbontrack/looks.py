"""What can be seen of a span besides its record: a line of text, and its power over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from carbontrack.clock import Clock
from carbontrack.ledger import Mark
from carbontrack.notices import Notices
from carbontrack.records import Record

if TYPE_CHECKING:
    from carbontrack.book import Book
    from carbontrack.circumstances import Timelines
    from carbontrack.curve import Curve, PowerRow, Timeline
    from carbontrack.figures import MeterFacts
    from carbontrack.sampler import Sampler
    from carbontrack.sums import Sums


class Shared(Protocol):
    """What spans share with the others of their tracker; `carbontrack.session` holds it all."""

    sampler: Sampler
    book: Book

    def meters(self) -> Sequence[MeterFacts]:
        """What the records say of each meter, in the order of every tuple of joules."""
        ...


class Looks:
    """The side of a span that is looked at.

    Attributes:
        curve: the series of what had been used by when; None where none is kept.
    """

    curve: Curve | None = None

    if TYPE_CHECKING:  # what the span itself knows
        name: str
        _start: Mark | None
        _end: Mark | None

        @property
        def session(self) -> Shared:  # noqa: D102
            ...

        @property
        def is_open(self) -> bool:  # noqa: D102
            ...

        @property
        def record(self) -> Record | None:  # noqa: D102
            ...

        def snapshot(self) -> Record:  # noqa: D102
            ...

        def _got(self, mark: Mark) -> Sums: ...

    @property
    def clock(self) -> Clock:
        """By which the span is timed."""
        return self.session.sampler.clock

    def timeline(self) -> list[PowerRow]:
        """Power over time so far, a row for each bin and component, in the order of time.

        Only a root span that was opened with the setting `timeline` keeps one; for others, and
        before the opening, the list is empty. The energies of a component add up to the record's.
        """
        found = self.whole_timeline()
        return [] if found is None else found.rows()

    def whole_timeline(self) -> Timeline | None:
        """The timeline in one piece; None where none is kept."""
        return self.so_far()[1]

    def so_far(self) -> tuple[Record | None, Timeline | None]:
        """The record of the time so far and the timeline that belongs to it."""
        if self.curve is None:
            return None, None
        from carbontrack.curve import timeline_of

        session = self.session
        with session.sampler.lock:
            record = self.snapshot() if self._end is None else self.record
            if self._end is None:
                self.draw(Mark(session.sampler.machine, session.book.account))
            edges = list(self.curve.edges)
        if record is None:
            return None, None
        return record, timeline_of(edges, session.meters(), record)

    def begin_curve(self) -> None:
        """Keep a timeline from the span's beginning on."""
        assert self._start is not None
        from carbontrack.curve import Curve  # only those who ask for it load it

        self.curve = Curve.begin(self._start.machine)

    def draw(self, mark: Mark) -> None:
        """Take an instant into the timeline; the sampler's lock is held."""
        if self.curve is not None and self._end is None:
            self.curve.go_on(mark.machine, self._got(mark).ours_j)

    def _state(self) -> str:
        return "open" if self.is_open else "closed" if self._end is not None else "not opened"

    def __repr__(self) -> str:
        return f"<Span {self.name!r} {self._state()}>"

    def _repr_html_(self) -> str:
        from carbontrack.record_html import plain_html, record_html  # for notebooks alone

        record = self.snapshot() if self.is_open else self.record
        if record is None:
            return plain_html(repr(self))
        return record_html(record, state="still open" if self.is_open else None)


def checkpoint_of(one: Any) -> tuple[Record | None, Mapping[str, object] | None]:
    """The record so far of something open, and its timeline as an object where it keeps one."""
    if getattr(one, "curve", None) is None:
        return one.checkpoint(), None
    if not one.is_open:
        return None, None
    from carbontrack.curve import timeline_object

    record, timeline = one.so_far()
    return record, None if timeline is None else timeline_object(record, timeline)


def keep_timeline(span: Any, timelines: Timelines | None, notices: Notices) -> None:
    """Write the timeline of a finished span; a failure is said and stops nothing."""
    timeline = span.whole_timeline()
    if timelines is None or timeline is None:
        return
    try:
        timelines.write(span.record, timeline)
    except Exception as error:
        notices.warn("timeline", f"a timeline could not be written: {error}")
