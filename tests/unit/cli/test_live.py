"""The live line: its text, its place, and its going away."""

from __future__ import annotations

import io
import os
import pty
from typing import Any

import pytest

from carbontrack.cli.live import LiveLine, is_ours, live_text
from carbontrack.cli.terminal import Terminal
from carbontrack.record import Record


def record(duration_s: float | None, joules: float | None, grams: float | None) -> Record:
    columns: dict[str, Any] = {
        "duration_s": duration_s,
        "energy_kwh": None if joules is None else joules / 3.6e6,
        "emissions_g": grams,
    }
    return Record(
        record_id="r-1", run_id="r", name="n",
        started_at="2026-01-01T00:00:00.000000Z", ended_at="2026-01-01T00:00:01.000000Z",
        **columns,
    )  # fmt: skip


def test_the_line_tells_time_watts_and_grams() -> None:
    """The watts are those of now, not the mean since the beginning."""
    before, now = record(60.0, 600.0, 0.01), record(65.0, 800.0, 0.02)

    assert live_text(now, before) == "carbontrack  1 min 05 s · 40.0 W · 20.0 mg CO2e"
    assert live_text(before) == "carbontrack  1 min 00 s · 10.0 W · 10.0 mg CO2e"


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [
        (record(5.0, None, None), None, "carbontrack  5.0 s"),
        (record(None, None, None), None, "carbontrack  "),
        (record(5.0, 50.0, None), record(5.0, 50.0, None), "carbontrack  5.0 s"),
        (record(6.0, 40.0, None), record(5.0, 50.0, None), "carbontrack  6.0 s · 0 mW"),
        (record(6.0, 60.0, None), record(5.0, None, None), "carbontrack  6.0 s · 10.0 W"),
    ],
)
def test_the_line_leaves_out_what_is_not_known(
    now: Record, before: Record | None, text: str
) -> None:
    """No division by nothing, no negative power."""
    assert live_text(now, before) == text


def line_on(stream: io.StringIO) -> LiveLine:
    terminal = Terminal(stream, environ={"TERM": "xterm"})
    return LiveLine(terminal, lambda: record(1.0, 1.0, 1.0))


def test_the_command_keeps_its_cursor() -> None:
    """Whatever is drawn is drawn between saving the cursor and putting it back."""
    stream = io.StringIO()
    line = line_on(stream)

    line.draw("first")
    first = stream.getvalue()
    line.draw("second")
    second = stream.getvalue()[len(first) :]

    assert "\x1b[1;23r" in first, "the last line does not scroll with the others"
    assert "r" not in second.replace("carbontrack", ""), "the region is set once"
    assert second == "\x1b7\x1b[24;1H\x1b[2Ksecond\x1b8"


def test_the_line_goes_away_without_a_trace() -> None:
    """At the end all lines scroll again and the last one is empty."""
    stream = io.StringIO()
    line = line_on(stream)
    line.erase()
    assert stream.getvalue() == "", "nothing drawn, nothing to take back"

    line.draw("text")
    drawn = stream.getvalue()
    line.erase()
    line.erase()

    assert stream.getvalue()[len(drawn) :] == "\x1b7\x1b[r\x1b[24;1H\x1b[2K\x1b8"


def test_a_long_line_is_cut_at_the_margin() -> None:
    """A line that wraps would scroll the screen."""
    stream = io.StringIO()
    line_on(stream).draw("x" * 200)

    assert stream.getvalue().count("x") == 79


def test_on_a_narrow_terminal_our_name_is_the_first_to_go() -> None:
    """What has been used is shown as long as there is room for anything."""
    stream = io.StringIO()
    line_on(stream).draw("carbontrack  " + "x" * 70)

    assert "carbontrack" not in stream.getvalue()
    assert stream.getvalue().count("x") == 70


def test_only_a_terminal_in_line_mode_is_drawn_on() -> None:
    """A file is none, and one that another program reads key by key is not ours."""
    assert not is_ours(Terminal(io.StringIO(), environ={"TERM": "xterm"}))

    controller, side = pty.openpty()
    with os.fdopen(side, "w", encoding="utf-8") as stream:
        # it is nobody's controlling terminal here, so there is no foreground to be in
        assert not is_ours(Terminal(stream, environ={"TERM": "xterm"}))
    os.close(controller)
