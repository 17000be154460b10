"""OpenTelemetry: energy and emissions of blocks, written onto the span that they were closed in."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from opentelemetry import trace

from carbontrack.api.live import Span
from carbontrack.record import BASES, Record
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import LOGGER
from carbontrack.units import joules_from

Figures = tuple[float | None, float | None, str | None]
_WRITTEN: WeakKeyDictionary[trace.Span, dict[str | None, Figures]] = WeakKeyDictionary()
"""For each span what it has so far, by the block around: that one will contain it."""
_SAID: set[type] = set()


def annotate(block: Span) -> None:
    """Write what a block has used onto the span that is recording here, if there is one.

    The figures of several blocks are added up; those inside another block of the same span are
    part of that one's.
    """
    try:
        span = trace.get_current_span()
        record = block.record if span.is_recording() else None
        if record is not None and record.status != "disabled":
            _write(span, record)
    except Exception as error:  # nothing of ours ends the program
        pass_on(error)
        if type(error) not in _SAID:
            _SAID.add(type(error))
            LOGGER.exception("a span of OpenTelemetry could not be annotated")


def _write(span: trace.Span, record: Record) -> None:
    parts = _WRITTEN.setdefault(span, {})
    parts.pop(record.record_id, None)
    own = joules_from(record.energy_kwh), record.emissions_g, record.basis
    before = parts.get(record.parent_id)
    parts[record.parent_id] = own if before is None else _sum([before, own])
    joules, grams, basis = _sum(list(parts.values()))
    span.set_attribute("carbontrack.record_id", record.record_id)
    if joules is not None:
        span.set_attribute("carbontrack.energy_j", joules)
    if grams is not None:
        span.set_attribute("carbontrack.emissions_g", grams)
    if basis is not None:
        span.set_attribute("carbontrack.basis", basis)


def _sum(figures: Sequence[Figures]) -> Figures:
    joules = [j for j, _, _ in figures if j is not None]
    grams = [g for _, g, _ in figures if g is not None]
    bases = [basis for _, _, basis in figures if basis is not None]
    return (
        sum(joules) if joules else None,
        sum(grams) if grams else None,
        max(bases, key=BASES.index) if bases else None,
    )
