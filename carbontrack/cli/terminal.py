"""Output of the commands: text for a terminal, a pipe or a file, of any width and encoding."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

from carbontrack.config.environment import dumb_terminal, no_color
from carbontrack.system.log import unharmed_stderr
from carbontrack.text import padded, visible, visible_json, width_of

_PLAIN = str.maketrans(
    {"µ": "u", "·": "-", "–": "-", "—": "-", "…": "...", "×": "x", "₂": "2"}
) | dict(zip(map(ord, "▁▂▃▄▅▆▇█"), "_.-~=+*#", strict=True))
_BOLD, _DIM, _END = "\x1b[1m", "\x1b[2m", "\x1b[22m"
_WIDEST = 100
_AMOUNT = re.compile(r"(?<=\d) (?=(?:[µumkM]?(?:g|J|W|Wh)|t|m?s|min|h|GiB)\b)")
"""The space between a number and its unit, where a line must not break."""
_KEPT = "\x00"


class Terminal:
    """A stream, and what its other end can show: colour, cursor movement, encoding and size."""

    def __init__(self, stream: TextIO | None, *, environ: Mapping[str, str] | None = None) -> None:
        self.stream = stream
        self.is_terminal = _is_terminal(stream)
        self.moves_cursor = self.is_terminal and not dumb_terminal(environ)
        self.colour = self.moves_cursor and not no_color(environ)
        self.encoding = getattr(stream, "encoding", None) or "ascii"

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal; elsewhere COLUMNS and LINES, else 80 by 24."""
        columns = lines = 0
        if self.is_terminal and self.stream is not None:
            with suppress(OSError, ValueError):
                columns, lines = os.get_terminal_size(self.stream.fileno())
        if not (columns and lines):
            from shutil import get_terminal_size

            shown = get_terminal_size()
            columns, lines = columns or shown.columns, lines or shown.lines
        return columns, lines

    def say(self, text: str) -> None:
        """Print a text; a stream that is closed, full or absent is ignored."""
        if self.stream is not None:
            with suppress(OSError, ValueError), unharmed_stderr():
                self.stream.write(self.fit(text))
                self.stream.flush()

    def fit(self, text: str) -> str:
        """The text in characters of the stream's encoding."""
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            plain = text.translate(_PLAIN)
            return plain.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return text

    def json(self, content: object, *, indent: int | None = None) -> str:
        """The content as JSON for this stream, in ASCII where it has no Unicode."""
        import json

        is_unicode = self.encoding.lower().startswith("utf")
        return visible_json(
            json.dumps(content, indent=indent, default=str, ensure_ascii=not is_unicode)
        )

    def bold(self, text: str) -> str:
        """The text in bold."""
        return f"{_BOLD}{text}{_END}" if self.colour else text

    def dim(self, text: str) -> str:
        """The text, dimmed."""
        return f"{_DIM}{text}{_END}" if self.colour else text

    def table(self, rows: Sequence[tuple[str, str]]) -> str:
        """Labels and texts in two columns, the texts wrapped to the width of the terminal."""
        from textwrap import wrap

        shown = [(visible(label), visible(text)) for label, text in rows]
        margin = 4 + max((width_of(label) for label, _ in shown), default=0)
        width = max(20, min(self.size[0], _WIDEST) - margin)
        lines = []
        for label, text in shown:
            kept = _AMOUNT.sub(_KEPT, text)
            for number, part in enumerate(wrap(kept, width, break_on_hyphens=False)):
                head = padded(label if number == 0 else "", margin - 4)
                lines.append(f"  {self.dim(head)}  {part.replace(_KEPT, ' ')}")
        return "\n".join(lines)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect the warnings of the block as texts, instead of printing or raising them."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += [str(warning.message).removeprefix("carbontrack: ") for warning in caught]


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # a closed one
        return False
