"""The place of a benchmark's tables in a page of the documentation: between two marks."""

from __future__ import annotations

from pathlib import Path

BEGIN, END = "<!-- costs begin -->", "<!-- costs end -->"


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the page's two marks.

    Raises:
        ValueError: the page does not have them.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the tables: {BEGIN} … {END}")
    page.write_text(f"{before}{begin}\n\n{text.rstrip()}\n\n{end}{after}")
