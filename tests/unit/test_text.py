"""Texts from outside as people see them."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.text import (
    cut_front,
    cut_to,
    markdown_code,
    padded,
    visible,
    visible_html,
    visible_json,
    visible_markdown,
    width_of,
)
from tests.support.hostile_texts import SHOWN, TEXTS

texts = st.one_of(
    st.text(alphabet=st.characters()),  # surrogates as well
    st.lists(st.sampled_from([*TEXTS, "\u200d", "\ufe0f", "👩", "\U000e0067", "a"])).map("".join),
)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_controls_and_what_hides_are_escapes_and_all_else_stays(text: str) -> None:
    """The table says how each text is shown."""
    assert visible(text) == SHOWN[text]


@given(texts)
def test_what_is_visible_stays_as_it_is(text: str) -> None:
    """On one line, without any control character, and no second time another text."""
    shown = visible(text)

    assert visible(shown) == shown
    assert len(shown.splitlines()) <= 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    shown.encode()


def test_every_control_character_and_every_mark_of_direction_is_an_escape() -> None:
    """By Unicode's own properties, whatever else becomes one."""
    from unicodedata import bidirectional, category

    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in range(sys.maxunicode + 1):
        sign = chr(code)
        if category(sign) in ("Cc", "Cs", "Co", "Zl", "Zp") or bidirectional(sign) in directions:
            assert visible(sign) == sign.encode("unicode_escape").decode()
        elif category(sign) in ("Lu", "Ll", "Nd", "Zs", "Sm", "Sc", "Pd"):
            assert visible(sign) == sign


@given(texts)
def test_json_is_the_same_with_escapes(text: str) -> None:
    """A parser reads what was written; the text of the JSON is visible, line by line."""
    for indent in (None, 1):
        written = visible_json(json.dumps({text: [text]}, ensure_ascii=False, indent=indent))

        assert json.loads(written) == {text: [text]}
        assert all(visible(line) == line for line in written.split("\n"))


@given(texts)
def test_html_is_the_visible_text(text: str) -> None:
    """No markup, no quotes that end an attribute."""
    escaped = visible_html(text)

    assert html.unescape(escaped) == visible(text)
    assert not set(escaped) & set("<>\"'")


@given(texts, st.integers(5, 40))
def test_cut_texts_are_visible_and_fit(text: str, width: int) -> None:
    """No wider than asked for, and what is left of an emoji that was cut through is cut off."""
    shown = visible(text)
    for cut, mark in ((cut_to(shown, width), "…"), (cut_front(shown, width), "...")):
        assert width_of(cut) <= width
        assert visible(cut) == cut
        assert cut == shown or mark in cut
    assert cut_to(shown, width).removesuffix("…") == shown[: len(cut_to(shown, width)) - 1] or (
        cut_to(shown, width) == shown
    )


@pytest.mark.parametrize(
    ("text", "columns"),
    [("abc", 3), ("日本", 4), ("e\u0301", 1), ("👩‍💻", 4), ("\u0e01\u0e31", 1), ("", 0)],
)
def test_columns_are_those_of_a_terminal(text: str, columns: int) -> None:
    """Wide characters take two, combining ones and joiners none."""
    assert width_of(text) == columns
    assert width_of(padded(text, 6)) == 6


def test_a_plain_text_costs_no_import(tmp_path: Path) -> None:
    """Neither tables of Unicode nor `html` and `json` are loaded before they are needed."""
    code = (
        "import sys\n"
        "from carbontrack.text import cut_to, padded, visible, visible_json, width_of\n"
        "visible('train.py'), visible('\\x1b'), width_of('a'), padded('a', 3), cut_to('ab', 1)\n"
        "visible_json('{}')\n"
        "print(*{'unicodedata', 'html', 'json'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_block_does_not_load_the_rule(tmp_path: Path) -> None:
    """What is shown to nobody is not made visible: a measured block pays nothing for it."""
    from tests.support.costs import run

    done = run(
        "import sys, carbontrack\n"
        "with carbontrack.track('a\\x1bb', region='FR', output='runs.csv'): pass\n"
        "print(*{'carbontrack.text', 'unicodedata'} & set(sys.modules))",
        tmp_path,
    )
    assert done.stdout.strip() == ""


def test_links_are_no_links_in_markdown() -> None:
    """An address from outside is text, in the dialect that links bare addresses too."""
    assert visible_markdown("see http://a.b, www.c.d") == r"see http\://a.b, www\.c.d"
    assert markdown_code("a`b|c") == r"``a`b\|c``"
