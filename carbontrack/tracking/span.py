"""The span: a named window of time between two marks, with a parent.

A span reads no meters. Its energy is that of its own time as a leaf plus that of its children, so
nested and overlapping spans add up to what the process used, and no joule is in two leaves.

`SpanRow` has its row, `SpanEdges` its start and end, `Span` the public interface, and the
arithmetic is in `carbontrack.tracking.tree`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from carbontrack.record import Record, plain_html, record_html
from carbontrack.sampling.ledger import Mark, Sums
from carbontrack.system.clock import Clock
from carbontrack.tracking.checkpoints import Checkpoint, OpenRow
from carbontrack.tracking.record_builder import EndStatus, Window
from carbontrack.tracking.span_edges import SpanEdges

if TYPE_CHECKING:  # loaded only where they are asked for
    from carbontrack.tracking.timeline import PowerRow


class Span(SpanEdges):
    """A named window of time whose energy and emissions are counted.

    Made by `Tracker.span`, `Span.span` and `track`; opened and closed by `with` or `async with`, or
    by `open` and `close`, in the same thread or in another.

    Attributes:
        name: the name in its records.
        labels: the user's own labels, written as JSON.
        record_id: the id of its record; None before it is opened.
    """

    if TYPE_CHECKING:  # as `Block` has them

        def __enter__(self) -> Span: ...
        async def __aenter__(self) -> Span: ...

    def span(self, name: str, *, labels: Mapping[str, Any] | None = None) -> Span:
        """A child of this span, to be opened with `with`; its energy is part of this one's."""
        return Span(self.session, name, labels=labels, parent=self)

    @property
    def parent(self) -> Span | None:
        """The enclosing span; None for a root."""
        parent: Span | None = self._parent
        return parent

    around = parent

    @property
    def clock(self) -> Clock:
        """The clock that times the span."""
        return self.session.sampler.clock

    def snapshot(self) -> Record:
        """A record of the span so far, from any thread; the final record once it has ended.

        Raises:
            RuntimeError: the span has not been opened.
        """
        if self.has_passed:
            return self._unmeasured()
        if self._start is None:
            raise RuntimeError(f"span {self.name!r} has not been opened yet; use `with`")
        with self.session.sampler.lock:
            if self._end is None:  # another thread may just have closed it
                return self.record_at(self._mark())
        record = self.record
        assert record is not None
        return record

    def timeline(self) -> list[PowerRow]:
        """Power over time so far, a row for each bin and component, in chronological order.

        Only a root span opened with the setting `timeline` keeps one; for others, and before the
        span is opened, the list is empty. The energies of a component add up to the record's.
        """
        if self.power_series is None:
            return []
        from carbontrack.tracking.timeline import with_timeline

        return with_timeline(self)[1].rows()

    def pause(self) -> None:
        """Pause counting while the body of a generator is suspended."""
        with self.session.sampler.lock:
            if self.is_open:
                try:
                    self.pause_at(self._mark())
                except BaseException:
                    self._repair()
                    raise

    def resume(self) -> None:
        """Resume counting."""
        with self.session.sampler.lock:
            if self.is_open:
                try:
                    self.resume_at(self._mark())
                except BaseException:
                    self._repair()
                    raise

    def _mark(self) -> Mark:
        return self.session.sampler.mark(self.session.ledger)

    def interrupt(self) -> None:
        """The program ends: close as interrupted, the spans inside first."""
        opened = [self]
        for span in opened:  # no recursion: spans may lie deeper in each other than functions may
            if span.is_open:
                with span.session.sampler.lock:
                    opened += span.spans_inside
        for span in reversed(opened):
            span.end_here(EndStatus("interrupted"))

    def discard(self) -> None:
        """Stop counting and write nothing, because there is nothing to report."""
        self.end_here(EndStatus("interrupted"), written=False)

    def measured(self) -> tuple[Sums, Window, datetime, bool]:
        """A finished span's sums, its window, when that began, and whether it failed."""
        assert self._end is not None
        failed = self._outcome.status != "ok"
        return self.sums(self._end), self.ended, self._started_at, failed

    def first_checkpoint(self) -> OpenRow | None:
        """The checkpoint of a span that has just been opened; None once it has ended."""
        return self.first_row() if self.is_open else None

    def checkpoint(self) -> Checkpoint | OpenRow | None:
        """The checkpoint of an open span; None once it has ended."""
        if not self.is_open:
            return None
        self.is_new = False
        return self.row_so_far() if self.power_series is None else self.current_checkpoint()

    def current_checkpoint(self) -> Checkpoint:
        """The record so far, or the final one, with its timeline."""
        if self.power_series is None:
            return Checkpoint(self.snapshot())
        from carbontrack.tracking.timeline import timeline_object, with_timeline

        record, timeline = with_timeline(self)
        return Checkpoint(record, timeline_object(record, timeline))

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed" if self._end is not None else "not opened"
        return f"<Span {self.name!r} {state}>"

    def _repr_html_(self) -> str:
        record = self.snapshot() if self.is_open else self.record
        if record is None:
            return plain_html(repr(self))
        return record_html(record, state="still open" if self.is_open else None)
