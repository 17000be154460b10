"""The line of small bars in the summary of a run."""

from __future__ import annotations

import io
from itertools import pairwise

from carbontrack.cli.live import sparkline
from carbontrack.cli.terminal import Terminal
from carbontrack.tracking.timeline import PowerRow


def rows(*watts, component="cpu"):
    return [
        PowerRow(float(n), n + 1.0, component, w or 0.0, 0.0 if w is None else 1.0, w)
        for n, w in enumerate(watts)
    ]


def test_bars_stand_for_shares_of_the_highest_power():
    """From nothing to the highest, and the figures at both ends."""
    assert sparkline(rows(0.0, 50.0, 100.0, 25.0)) == "▁▅█▃  0 to 100 W"


def test_components_are_added():
    """A bar is the power of all components together."""
    both = rows(10.0, 30.0) + rows(10.0, 10.0, component="ram")
    assert sparkline(both) == "▅█  20.0 to 40.0 W"


def test_a_gap_is_a_space():
    """Where no meter answered there is no bar."""
    assert sparkline(rows(50.0, None, 50.0)) == "█ █  50.0 to 50.0 W"


def test_uneven_bins_make_no_gap():
    """A part of the time that only a longer bin reaches into has that bin's power."""
    edges_s = (0.0, 0.2, 1.2, 2.2, 3.2, 4.2, 4.3)
    uneven = [PowerRow(a, b, "cpu", 30.0 * (b - a), b - a, 30.0) for a, b in pairwise(edges_s)]
    assert sparkline(uneven) == "██████  30.0 to 30.0 W"


def test_a_long_run_fits_a_narrow_terminal():
    """At most 24 bars, however many bins."""
    bars, _, _ = sparkline(rows(*range(1, 361))).partition("  ")
    assert len(bars) == 24


def test_without_a_figure_it_says_so():
    """One bin needs no bars; none known is unknown."""
    assert sparkline(rows(7.0)) == "7.00 W throughout"
    assert sparkline(rows(None, None)) == "unknown"


def test_ascii_has_bars_of_its_own():
    """A terminal without these characters gets eight others, rising."""
    terminal = Terminal(io.TextIOWrapper(io.BytesIO(), encoding="ascii"), environ={})
    assert terminal.fit("▁▂▃▄▅▆▇█") == "_.-~=+*#"
