"""The support that raises inside carbontrack leaves nothing behind in its thread."""

from __future__ import annotations

from contextlib import suppress

import pytest

from carbontrack.attribution.process_tree import has_children
from tests.support.raising import Raiser, without_a_trace


def test_what_is_raised_where_an_exception_is_handled_is_no_context_of_later_ones() -> None:
    """Without the confinement every later exception of the thread had a context."""
    reached = set()
    for nth in range(1, 20):
        raiser = Raiser(nth, KeyboardInterrupt("stop"))
        with suppress(KeyboardInterrupt):
            without_a_trace(lambda raiser=raiser: _interrupted(raiser))
        if raiser.place is None:
            break
        reached.add(raiser.place.text)
        later = ValueError("later")
        with pytest.raises(ValueError, match="later"):
            raise later
        assert later.__context__ is None, raiser.place
    assert "look_for_children()" in reached


def _interrupted(raiser: Raiser) -> None:
    with raiser:
        has_children()
