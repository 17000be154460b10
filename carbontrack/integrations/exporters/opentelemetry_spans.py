"""OpenTelemetry: energy and emissions of blocks, added to the span in which they were closed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import ref

from opentelemetry import trace

from carbontrack.api.live import Span
from carbontrack.record import BASES, Record
from carbontrack.system.forking import PerProcess
from carbontrack.system.interrupts import attempt, reentrant_lock
from carbontrack.system.log import OnceLog
from carbontrack.units import joules_from

Figures = tuple[float | None, float | None, str | None]
_WRITTEN: dict[int, tuple[ref[trace.Span], dict[str | None, Figures]]] = {}
_MANY = 256
"""The number of spans above which finished ones are dropped."""
_LOCK, _LOG = PerProcess(reentrant_lock), OnceLog()


def annotate(block: Span) -> None:
    """Add a block's energy and emissions to the span that is recording here, if there is one.

    The values of several blocks are added up; a block nested in another one of the same span is
    already included in it.
    """
    _, error = attempt(_annotate, block)
    if error is not None:
        _LOG.say("a span of OpenTelemetry could not be annotated", logging.ERROR, error)


def _annotate(block: Span) -> None:
    span = trace.get_current_span()
    record = block.record if span.is_recording() else None
    if record is not None and record.status != "disabled":
        with _LOCK.get():  # blocks of several threads may end in one span
            _write(span, record)


def _parts_of(span: trace.Span) -> dict[str | None, Figures]:
    """The values on a span so far, by the enclosing block that will include them."""
    known = _WRITTEN.get(id(span))
    if known is None or known[0]() is not span:
        if len(_WRITTEN) >= _MANY:
            for key, (living, _) in list(_WRITTEN.items()):
                if living() is None:
                    _WRITTEN.pop(key, None)
        known = _WRITTEN[id(span)] = ref(span), {}
    return known[1]


def _write(span: trace.Span, record: Record) -> None:
    parts = _parts_of(span)
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
