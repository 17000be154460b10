r"""Text from outside as people see it: what controls or hides is made visible, all else stays.

Names, paths, labels, models, regions and errors come from programs, files and hosts. A terminal
obeys some of their characters, and a page hides or reorders others; `visible` writes those as
escapes: "\x1b", "\u202e". The other functions are the same rule for one format each. What is data
(CSV, JSON, SQLite) is not altered: JSON has escapes of its own, which `visible_json` uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

_CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""C0, DEL and C1, which terminals obey (ECMA-48), and Unicode's separators of lines."""
_IGNORABLE = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""What is not seen itself and changes what is: direction, width, joining, tags (Unicode's property
Default_Ignorable_Code_Point, and its other format characters that have no shape)."""
_NO_CHARACTERS = r"\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000f0000-\U0010ffff" + (
    "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(1, 15))
)
"""Lone surrogates, noncharacters, and private characters, which no two fonts agree on."""

_EMOJI = r"\xa9\xae\u203c\u2049\u2100-\u214f\u2190-\u2bff\u3030\u303d\u3297\u3299" + (
    r"\U0001f000-\U0001faff"
)
_IDEOGRAPHS = r"\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fffd\U00030000-\U0003fffd"
_JOINING = (
    r"\u0620-\u109f\u1780-\u17b3\u17b6-\u17ff\u1820-\u18af\u1a20-\u1cff\ua800-\uabff"
    r"\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc\U00010a00-\U00011fff"
)
"""Scripts that are spelt with joiners and non-joiners: Arabic, those of India and their kin."""
_SPELLING = (
    # the flags of England, Scotland and Wales, the only tags that emoji are made of
    r"\U0001f3f4\U000e0067\U000e0062"
    r"(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)"
    r"\U000e007f",
    rf"(?<=[{_EMOJI}])[\ufe0e\ufe0f]",
    r"(?<=[0-9#*])\ufe0f(?=\u20e3)",  # keycaps
    rf"(?:(?<=[{_EMOJI}])|(?<=[{_EMOJI}]\ufe0f))\u200d(?=[{_EMOJI}])",
    rf"(?<=[{_JOINING}])[\u200c\u200d]",
    rf"(?<=[{_IDEOGRAPHS}])[\ufe00-\ufe02\U000e0100-\U000e01ef]",
    r"(?<=[\u1820-\u18aa])[\u180b-\u180f]",
)
"""Where a character that is not seen itself is part of how a word or an emoji is spelt."""


_NOT_PLAIN = re.compile("[^ -~]+")


@cache
def _hidden() -> re.Pattern[str]:
    """What is to be made visible; the group `kept` holds what only looks like it."""
    hidden = f"[{_CONTROLS}{_IGNORABLE}{_NO_CHARACTERS}]"
    return re.compile(f"(?P<kept>{'|'.join(_SPELLING)})|{hidden}")


def visible(text: str) -> str:
    r"""The text on one line, with an escape such as "\x1b" for each character that is not seen.

    Those are control characters with line feeds and tabs, marks of direction, characters without
    width or shape, and lone surrogates. Where an emoji, or a word in a script that joins its
    letters, is spelt with such a character, it stays.
    """
    if text.isascii() and text.isprintable():
        return text
    return _with_escapes(text, _escape)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def visible_json(text: str) -> str:
    """JSON of the same content, with its own escapes for all that `visible` makes visible."""
    if text.isascii() and "\x7f" not in text:
        return text  # in JSON a control character stands between values only
    return _with_escapes(text, _json_escape)


def _json_escape(character: str) -> str:
    import json  # takes 2 ms

    return character if character in "\t\n\r" else json.dumps(character)[1:-1]


def _with_escapes(text: str, escape: Callable[[str], str]) -> str:
    """The text with an escape for each character that is to be made visible."""

    def of_one(found: re.Match[str]) -> str:
        return found["kept"] or escape(found[0])

    def of_run(found: re.Match[str]) -> str:
        # how a character is to be taken depends on the one before it
        before = text[max(0, found.start() - 1) : found.start()]
        return _hidden().sub(of_one, before + found[0])[len(before) :]

    # plain letters are passed over ten times as fast as by the pattern for what is hidden
    return _NOT_PLAIN.sub(of_run, text)


def visible_html(text: str) -> str:
    """The text for HTML and XML, in elements and in attributes; no markup is in it."""
    from html import escape  # takes 1 ms

    return escape(visible(text))


def visible_markdown(text: str, longest: int | None = None) -> str:
    """The text in a paragraph or a table of Markdown; no markup, no link and no HTML is in it.

    With `longest`, it is cut to so many columns.
    """
    plain = visible(text) if longest is None else cut_to(visible(text), longest)
    plain = re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", plain)
    return re.sub(r"(?i)(?<=[a-z])(?=://)|(?<=\bwww)(?=\.)", r"\\", plain)


def markdown_code(text: str) -> str:
    """The text as code in a table of Markdown, where every character but "|" stands for itself."""
    plain = visible(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    space = " " if plain.startswith(("`", " ")) or plain.endswith(("`", " ")) else ""
    return f"{fence}{space}{plain}{space}{fence}".replace("|", r"\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "µ": r"\textmu{}",
    "×": r"\texttimes{}",
    "…": r"\textellipsis{}",
    "{": r"\textbraceleft{}",  # BibTeX counts braces, those behind a backslash too
    "}": r"\textbraceright{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{char: f"\\{char}" for char in "&%$#_"},
}


def visible_latex(text: str, longest: int | None = None) -> str:
    """The text for LaTeX and BibTeX, where no character of it has a meaning of its own.

    With `longest`, it is cut to so many columns.
    """
    plain = visible(text) if longest is None else cut_to(visible(text), longest)
    return "".join(_LATEX.get(character, character) for character in plain)


def width_of(text: str) -> int:
    """The columns of a text on a terminal: two for a wide character, none for a combining one."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(character: str) -> int:
    if character.isascii():
        return 1
    from unicodedata import category, east_asian_width  # few texts need it

    if category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(character) in "WF" else 1


def cut_to(text: str, width: int, mark: str = "…") -> str:
    """A visible text in `width` columns at most; a shortened text ends in the mark."""
    if width_of(text) <= width:
        return text
    room, end = width - len(mark), 0
    for character in text:
        room -= _width(character)
        if room < 0:
            break
        end += 1
    return _whole(text[:end]) + mark


def cut_front(text: str, width: int, mark: str = "...") -> str:
    """The end of a visible text that is too wide, after the mark."""
    if width_of(text) <= width:
        return text
    room, begin = width - len(mark), len(text)
    while begin and (room := room - _width(text[begin - 1])) >= 0:
        begin -= 1
    end = text[begin:]
    while end and visible(end) != end:
        end = end[1:]
    return mark + end


def padded(text: str, width: int) -> str:
    """The text with spaces behind it, up to so many columns."""
    return text + " " * (width - width_of(text))


def _whole(text: str) -> str:
    """A cut text without what is left of an emoji that was cut through."""
    while text and visible(text) != text:
        text = text[:-1]
    return text
