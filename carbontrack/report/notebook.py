"""The frame that `read_records` returns: a pandas frame that notebooks show as a summary."""

from __future__ import annotations

from copy import copy
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from carbontrack.record import (
    BASES,
    COLUMNS,
    COMPONENTS,
    boundary_text,
    emissions_text,
    energy_text,
)
from carbontrack.report.nesting import NotAdded, counted_once, one_row_per_id
from carbontrack.text import cut_to, visible, visible_html
from carbontrack.units import format_grams, format_joules, format_seconds, kwh_from

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20
_LONGEST_NAME = 60
COUNTED_ONCE = "without_double_counting"
"""The attribute of a frame whose rows can be added up as they are."""
_HEADS = ("started (UTC)", "name", "time", "energy", "CO2e", "region", "basis", "status")


@cache
def frame_class() -> type[pd.DataFrame]:
    """The class of the frame; made at the first use, because it needs pandas."""
    import pandas as pd

    class RecordsFrame(pd.DataFrame):
        """Records as `read_records` returns them.

        Every operation on it returns a plain frame, and so does unpickling it.
        """

        def _repr_html_(self) -> str | None:
            if not set(COLUMNS) <= set(self.columns):  # changed in place
                whole: str | None = pd.DataFrame(self).to_html(max_rows=MOST_ROWS)
                return whole
            return frame_html(self)

        def __reduce_ex__(self, protocol: Any) -> Any:
            plain = pd.DataFrame(self)
            plain.attrs = self.attrs
            return copy, (plain,)

    return RecordsFrame


def frame_html(frame: pd.DataFrame) -> str:
    """The first records as a table, and sums in which nothing counts twice."""
    known = frame.astype(object).where(frame.notna(), None)
    rows = "".join(_row(record) for record in known.head(MOST_ROWS).itertuples(index=False))
    heads = "".join(f'<th style="text-align:left">{visible_html(head)}</th>' for head in _HEADS)
    more = len(frame) - MOST_ROWS
    shown = f"<p>{more:,} more records; <code>.describe()</code> and the like see all.</p>"
    return (
        f"<p>{visible_html(_sums(frame))}</p><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table>{shown if more > 0 else ''}"
    )


def _row(record: Any) -> str:
    cells = (
        "" if record.started_at is None else f"{record.started_at:%Y-%m-%d %H:%M:%S}",
        cut_to(visible(record.name), _LONGEST_NAME),
        "" if record.duration_s is None else format_seconds(record.duration_s),
        energy_text(record),
        emissions_text(record),
        record.region or "",
        record.basis or "",
        record.status,
    )
    inner = "".join(f'<td style="text-align:left">{visible_html(str(cell))}</td>' for cell in cells)
    return f"<tr>{inner}</tr>"


def _sums(frame: pd.DataFrame) -> str:
    is_once = frame.attrs.get(COUNTED_ONCE, False)
    outer, left_out = (frame, NotAdded()) if is_once else counted_once(one_row_per_id(frame)[0])
    count = f"{len(frame):,} record{'s' * (len(frame) != 1)}"
    if left_out.nested:
        count += f", {left_out.nested:,} of them nested in others"
    if left_out.overlapping:
        count += f", {left_out.overlapping:,} that overlap on a machine counted once"
    joules = outer["energy_kwh"].sum(min_count=1) / kwh_from(1.0)
    grams = outer["emissions_g"].sum(min_count=1)
    energy = "unknown energy" if joules != joules else format_joules(float(joules))  # noqa: PLR0124
    emissions = "unknown" if grams != grams else format_grams(float(grams))  # noqa: PLR0124 - NaN
    return f"{count}: {energy}, {emissions} CO2e{_boundary(outer)}"


def _boundary(outer: pd.DataFrame) -> str:
    """What the sum is of, where not all of it is measured."""
    if not outer["basis"].isin(BASES[1:]).any():
        return ""
    columns = (f"{part}_kwh" for part in COMPONENTS)
    known = {name: 0.0 if outer[name].notna().any() else None for name in columns}
    ends_at = boundary_text(SimpleNamespace(**known))
    return f"; {ends_at}" if ends_at else ""
