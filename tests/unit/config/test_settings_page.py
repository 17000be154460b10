"""The settings' reference page says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from carbontrack.config.settings import FILE_SUFFIXES, READERS, Settings

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"
ROW = re.compile(r"\| `(\w+)` \| (.+?) \| (.+) \|")


def _rows() -> dict[str, tuple[str, str]]:
    table = PAGE.read_text(encoding="utf-8").partition("## All settings")[2].partition("\n## ")[0]
    return {name: (default, text) for name, default, text in ROW.findall(table)}


def _default(setting: object) -> str:
    if setting is None:
        return "not set"
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    if isinstance(setting, tuple):
        return ", ".join(f"`{item}`" for item in setting) or "none"
    return f"`{setting:g}`" if isinstance(setting, float) else f"`{setting}`"


def test_the_page_has_every_setting_with_its_default() -> None:
    """Nothing is missing, nothing is left over, nothing is different."""
    expected = {f.name: _default(getattr(Settings(), f.name)) for f in fields(Settings)}
    del expected["origins"]

    assert {name: default for name, (default, _) in _rows().items()} == expected
    assert list(_rows()) == list(READERS)


def test_the_page_tells_every_choice_and_every_limit() -> None:
    """The words and numbers that a reader accepts stand in its row."""
    for name, (_, text) in _rows().items():
        try:
            READERS[name]("\0no such thing")
        except ValueError as refusal:
            said = str(refusal).partition(";")[0]
            for word in re.findall(r"none of (.+)", said):
                assert all(f"`{choice}`" in text for choice in word.split(", ")), name
            for number in re.findall(r"\b\d[\d.]*\b", said):
                assert re.search(rf"\b{re.escape(number)}\b", text), (name, number)
    assert all(f"`{suffix}`" in _rows()["output"][1] for suffix in FILE_SUFFIXES)
