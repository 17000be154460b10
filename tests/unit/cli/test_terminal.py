"""Printing on whatever stands at the other end."""

from __future__ import annotations

import io
import os
import pty
from pathlib import Path

import pytest

from carbontrack.cli.terminal import Terminal

TERM = {"TERM": "xterm"}


def test_a_file_gets_plain_text(tmp_path: Path) -> None:
    """Escape sequences in a log file help nobody."""
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        terminal = Terminal(file, environ=TERM)

        assert not terminal.moves_cursor
        assert terminal.bold("x") == "x"
        assert terminal.size == (80, 24)


@pytest.mark.parametrize(
    ("environ", "moves", "colour"),
    [
        (TERM, True, True),
        ({**TERM, "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({}, False, False),
    ],
)
def test_a_terminal_gets_what_it_can_show(
    environ: dict[str, str], moves: bool, colour: bool
) -> None:
    """NO_COLOR takes the colours, a dumb terminal takes the cursor too."""
    controller, side = pty.openpty()
    with os.fdopen(side, "w", encoding="utf-8") as stream:
        terminal = Terminal(stream, environ=environ)

        assert (terminal.moves_cursor, terminal.colour) == (moves, colour)
        assert (terminal.dim("x") != "x") is colour
    os.close(controller)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252", "koi8-r"])
def test_every_encoding_gets_something_readable(encoding: str) -> None:
    """A letter that the encoding lacks is replaced, and never an error."""
    sink = io.BytesIO()
    stream = io.TextIOWrapper(sink, encoding=encoding, newline="\n")

    Terminal(stream, environ=TERM).say("3 µg · 日本\n")

    shown = sink.getvalue().decode(encoding)
    assert shown in {"3 µg · 日本\n", "3 ug - \\u65e5\\u672c\n"}
    assert ("µ" in shown) is (encoding == "utf-8")


def test_a_closed_or_full_stream_is_not_the_end() -> None:
    """The command has run; that its summary cannot be read changes no exit code."""
    stream = io.StringIO()
    stream.close()
    Terminal(stream, environ=TERM).say("x")

    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space"), open("/dev/full", "w") as full:  # noqa: PTH123
            Terminal(full, environ=TERM).say("x")


def test_long_texts_are_wrapped_under_their_label() -> None:
    """Two columns stay two columns."""
    terminal = Terminal(io.StringIO(), environ=TERM)

    text = terminal.table([("how", "word " * 30), ("record", "emissions.csv")])

    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("  how     word word")
    assert lines[1].startswith("          word")
    assert lines[-1] == "  record  emissions.csv"


def test_a_name_cannot_steer_the_terminal() -> None:
    """Escape sequences in a table are shown as text, in labels too, and columns stay aligned."""
    rows = [("a\x1b[2J", "b\a\nc"), ("日本", "d")]

    text = Terminal(io.StringIO(), environ=TERM).table(rows)

    assert text == "  a\\x1b[2J  b\\x07\\nc\n  日本      d"


@pytest.mark.parametrize("width", range(20, 60))
def test_no_line_is_broken_between_a_number_and_its_unit(width: int) -> None:
    """Amounts stay whole at any width; other spaces may become line ends."""

    class Narrow(Terminal):
        size = (width, 24)  # type: ignore[assignment]

    text = "56.6 µg CO2e (17.5 to 140 µg), 24 GiB, 3 min 05 s, 41 g CO2e/kWh in 2025 (Ember)"
    told = Narrow(io.StringIO(), environ={}).table([("emissions", text)])
    assert " ".join(told.split()) == f"emissions {text}"
    for amount in ("56.6 µg", "140 µg", "24 GiB", "3 min", "05 s", "41 g"):
        assert amount in told
