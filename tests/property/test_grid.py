"""Of all series and all names: windows are the least, means are integrals, codes are stable."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.errors import UnknownRegion
from carbontrack.grid.advice import greenest_window
from carbontrack.grid.names import normalise
from carbontrack.grid.series import Slot, gapless_runs, in_order

GRAMS = st.floats(0.0, 1000.0)
LENGTHS = st.integers(1, 5)


@st.composite
def runs(draw: st.DrawFn) -> list[Slot]:
    """A run of slots without a gap, of whole quarter hours."""
    slots, at_s = [], 0.0
    for length, g in draw(st.lists(st.tuples(LENGTHS, GRAMS), min_size=2, max_size=12)):
        slots.append(Slot(at_s, at_s + 900.0 * length, g))
        at_s += 900.0 * length
    return slots


@given(runs(), st.floats(0.01, 0.99), st.floats(0.0, 1.0))
def test_no_window_is_greener_than_the_one_that_is_found(
    slots: list[Slot], share: float, start_share: float
) -> None:
    """Whatever start is tried."""
    (run,) = gapless_runs(slots)
    hours = share * run.end_s / 3600.0
    found = greenest_window(slots, hours)
    start_s = start_share * (run.end_s - hours * 3600.0)

    assert found.g_per_kwh <= run.mean_g_per_kwh(start_s, start_s + hours * 3600.0) + 1e-6
    at_s = found.start.timestamp()
    assert found.g_per_kwh == pytest.approx(
        run.mean_g_per_kwh(at_s, at_s + hours * 3600.0), abs=1e-3
    )


@given(runs(), st.floats(0.05, 0.95))
def test_the_mean_of_the_whole_is_that_of_its_parts(slots: list[Slot], share: float) -> None:
    """Split anywhere, the parts add up."""
    (run,) = gapless_runs(slots)
    split_s = share * run.end_s
    parts = run.mean_g_per_kwh(0.0, split_s) * split_s
    parts += run.mean_g_per_kwh(split_s, run.end_s) * (run.end_s - split_s)

    assert parts == pytest.approx(run.mean_g_per_kwh(0.0, run.end_s) * run.end_s, abs=1e-3)


@given(st.lists(st.builds(Slot, st.floats(), st.floats(), st.floats()), max_size=20))
def test_whatever_a_service_sends_comes_out_in_order(slots: list[Slot]) -> None:
    """Possible figures only, each ended where the next begins."""
    ordered = in_order(slots)

    for slot in ordered:
        assert slot.start_s < slot.end_s
        assert 0.0 <= slot.g_per_kwh <= 2500.0
    for before, after in pairwise(ordered):
        assert before.end_s <= after.start_s


@given(st.text(max_size=30))
def test_any_text_is_a_place_or_no_place(text: str) -> None:
    """Nothing else comes out, and a code that came out means itself."""
    code = place_of(text)

    assert code is None or normalise(code) == code


def place_of(text: str) -> str | None:
    """The code that a text means, or None where that is refused as it should be."""
    try:
        return normalise(text)
    except UnknownRegion:
        return None
