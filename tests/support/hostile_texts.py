"""One table of texts that break careless outputs; every output of the package is tried with each.

Names, paths, labels, models, regions and errors come from programs, files and hosts, and any of
these may be in them.
"""

from __future__ import annotations

CONTROLS = {
    "window title": ("\x1b]0;PWNED\x07a.py", r"\x1b]0;PWNED\x07a.py"),
    "cleared screen": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "8-bit sequence": ("a\x9b2Jb\x85c", r"a\x9b2Jb\x85c"),
    "backspaces": ("bad\b\b\bgood\x7f", r"bad\x08\x08\x08good\x7f"),
    "line feed": ("one\ntwo\n", r"one\ntwo\n"),
    "carriage return": ("one\rtwo\r\n", r"one\rtwo\r\n"),
    "tabs": ("\tone\ttwo\x0b\x0c", r"\tone\ttwo\x0b\x0c"),
    "separators": ("a\x1cb\x1db\x1ec\x1fd", r"a\x1cb\x1db\x1ec\x1fd"),
    "Unicode's lines": ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
    "override": ("gpj\u202eexe.\u202c", r"gpj\u202eexe.\u202c"),
    "isolates": ("\u2066a\u2067b\u2068c\u2069", r"\u2066a\u2067b\u2068c\u2069"),
    "marks": ("a\u200eb\u200fc\u061cd", r"a\u200eb\u200fc\u061cd"),
    "embeddings": ("a\u202ab\u202bc\u202d", r"a\u202ab\u202bc\u202d"),
    "no width": ("pass\u200bword\u2060\ufeff\xad", r"pass\u200bword\u2060\ufeff\xad"),
    "joiners": ("a\u200db\u200cc", r"a\u200db\u200cc"),
    "dangling joiner": ("👩\u200d", r"👩\u200d"),
    "selectors": ("a\ufe0fb\U000e0100👍\ufe0f\ufe0f", r"a\ufe0fb\U000e0100👍️\ufe0f"),
    "tags": ("a\U000e0068\U000e0069\U000e007f", r"a\U000e0068\U000e0069\U000e007f"),
    "fillers": ("\u3164\u115f\uffa0", r"\u3164\u115f\uffa0"),
    "private": ("\ue000\U000f0000\U0010fffd", r"\ue000\U000f0000\U0010fffd"),
    "annotation": ("\ufff9a\ufffab\ufffb", r"\ufff9a\ufffab\ufffb"),
    "no character": ("\uffff\ufdd0\U0001fffe", r"\uffff\ufdd0\U0001fffe"),
}
"""What a terminal obeys, or a page hides or reorders; and how a person is shown it."""

BINARY = {
    "NUL": ("a\0b", r"a\x00b"),
    "no UTF-8": ("a\udcff\udc9bb", r"a\udcff\udc9bb"),
}
"""The same for what no text file can hold: CSV and SQLite keep these as they are shown."""

MARKUP = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "</text></svg><b a='b' c=\"d\">&lt;&#x1b;&amp;",
    "<!-- ]]> -->",
    "a|b \\| `c` ``d`` **e** _f_ ~~g~~ [h](http://i.j) ![k](l)",
    "http://example.com www.example.com https://example.com",
    "# a",
    "`",
    "` ```",
    "\\",
    "\\input{x} $a$ 100% #1 & b_c^d~e \\\\ %",
    "}{",
    "}}, note = {{",
    "% {end}",
    '"}, {"key": "a',
    'a,"b",c;d',
    "=HYPERLINK(A1)",
    "'quoted",
    "@SUM(A1)",
    "+1",
    "- a: b",
    "::error::a",
    "${a} {b} %s %(c)s {0}",
    "null",
    "..\\..\\a/../b",
]
"""What is markup, code or a separator somewhere, and is shown as it is."""

ORDINARY = [
    "train é à ü ñ ß ł",
    "日本語のモデル",
    "한국어 모델",
    "Ελληνικά кириллица",
    "עברית עם ניקוד שָׁלוֹם",
    "العربية ﷺ",
    "می‌خواهم",
    "हिन्दी क्‍ष ශ්‍රී ന്‍ ไทย",
    "👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️‍🔥 👍🏽 🇫🇷 1️⃣ ☀︎",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "葛\U000e0100城",
    "ᠮᠣᠩ\u180bᠭᠣᠯ",
    "e\u0301 combining",
    "no\xa0break\u202fspace\u3000wide",
    "µg · CO₂ – 10 × 5 ≥ 3 ∑",
]
"""How people write, which is shown as it is."""

SAME = {text: text for text in (*MARKUP, *ORDINARY)}
SHOWN: dict[str, str] = dict(CONTROLS.values()) | dict(BINARY.values()) | SAME
"""Each text of the table, and how a person is shown it."""
TEXTS = list(SHOWN)
ALL_IN_ONE = " / ".join(text for text in TEXTS if text not in dict(BINARY.values()))
"""All in one text, for what takes long."""


def stored(text: str) -> str:
    """The text as a text file in UTF-8 can hold it: NUL and lone surrogates are escapes there."""
    return SHOWN[text] if text in dict(BINARY.values()) else text
