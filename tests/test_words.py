"""What was written in plain English stays so, in every text that a user reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doc_pages import PAGES, ROOT, name_of
from tests.support.plain_words import found_in

MODULES = sorted((ROOT / "carbontrack").rglob("*.py"))
_CODE = re.compile(r"^( *)(```+).*?^\1\2 *$|`[^`\n]*`|\]\([^)\n]*\)", re.MULTILINE | re.DOTALL)


def complaints(text: str, where: str, line: int = 1, *, is_page: bool = False) -> list[str]:
    """One line for each phrase in a text that should be another."""
    return [
        f"{where}:{line + text.count(chr(10), 0, at)}: {phrase!r}: {instead}"
        for at, phrase, instead in found_in(text, is_page=is_page)
    ]


def prose_of(page: str) -> str:
    """A page without its code and the addresses of its links, line by line where it was."""
    return _CODE.sub(lambda match: "\n" * match[0].count("\n"), page)


def texts_of(module: Path) -> Iterator[tuple[int, str]]:
    """Every docstring and every other text of a module that has more than one word."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_in_plain_english(page: Path) -> None:
    """No page has a word of the list outside of its code."""
    prose = prose_of(page.read_text(encoding="utf-8"))
    assert complaints(prose, name_of(page), is_page=True) == []


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_messages_help_and_docstrings_are_in_plain_english(module: Path) -> None:
    """No text of a module has a word of the list: messages, help texts and docstrings."""
    found = [
        complaint
        for line, text in texts_of(module)
        for complaint in complaints(text, name_of(module), line)
    ]
    assert found == []


def test_the_check_finds_what_it_looks_for() -> None:
    """Across lines, whatever the case, at the limits of words, and not in code."""
    page = "It weighs\nfor  want\nof `weigh` words.\n\n```text\nweigh\n```\nHonest, outweighed.\n"
    assert [text.split(": ")[1] for text in complaints(prose_of(page), "page")] == [
        "'weighs'",
        "'Honest'",
        "'for  want\\nof'",
    ]
