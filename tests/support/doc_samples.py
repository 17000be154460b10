"""Whether an output that a page shows is like one that was printed: same words, other figures.

A sample of a real run is compared by what does not change between runs. Each of these counts as
equal to any other of its kind:

- a number, with the sign, thousands separators, exponent and percent sign that it may have, and the
  `<` before one that is too small to be shown;
- the prefix of a unit after a number (mJ, J, kJ), and a duration (0.3 s, 2 min 5 s);
- a date or a time;
- an identifier of eight or more hexadecimal digits, and what an address or a token has before it;
- a run of blanks, and a run of two or more of the characters that rules and bars are drawn with.

Everything else has to be the same text.
"""

from __future__ import annotations

import re

_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?"
_DATE = re.compile(rf"\b\d{{4}}-\d\d-\d\d(?:[T ]{_CLOCK})?|\b{_CLOCK}\b")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_IDENTIFIER = re.compile(
    rf"\b(?:{_UUID}|(?:0x|ct_)?(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{{8,}}(?:[-_][0-9a-f]{{4,}})*)\b"
)
_RULE = re.compile(r"[-=─━═▁-█░▒▓·]{2,}")
_NUMBER = re.compile(
    r"(?<![\w.])(?:<(?=0\.))?[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?(?:\s?%)?"
)
_UNIT = re.compile(r"(0 ?)(?:[nµumkMGT]|[KMGT]i)?(J|Wh|W|g|t|L|B|V|Hz|m3)\b")
_MASS = re.compile(r"(0 ?)t\b")
_TIME = r"0 ?(?:ns|µs|us|ms|s|min|h|days?|seconds?|minutes?|hours?)\b"
_DURATION = re.compile(rf"{_TIME}(?: {_TIME})*")


def alike(shown: str, printed: str, free: tuple[str, ...] = ()) -> bool:
    """Whether two outputs differ in nothing but figures.

    Args:
        shown: the output on the page; `…` matches anything in it as well.
        printed: what was printed.
        free: texts in `shown`, whatever their figures, that match anything, since they name the
            machine.
    """
    shown = pattern_of(shown)
    for text in sorted(map(pattern_of, free), key=len, reverse=True):
        shown = shown.replace(text, "…")
    pieces = (re.escape(piece.strip()) for piece in shown.split("…"))
    pattern = r"\s*(?:.*?)\s*".join(pieces)
    return re.fullmatch(pattern, pattern_of(printed), re.DOTALL) is not None


def pattern_of(output: str) -> str:
    """An output with one and the same text for all figures of a kind."""
    for expression, instead in (
        (_DATE, "DATE"),
        (_IDENTIFIER, "ID"),
        (_RULE, "---"),
        (_NUMBER, "0"),
        (_MASS, r"\1g"),
        (_UNIT, r"\1\2"),
        (_DURATION, "TIME"),
    ):
        output = expression.sub(instead, output)
    return " ".join(output.split())
