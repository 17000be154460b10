"""The words that readers of carbontrack should not meet, each with what to write instead.

Pages, messages, help texts and docstrings are checked by `tests/test_words.py`. A phrase is a
regular expression that is looked for without regard to case, at the limits of words; a space in it
matches any run of blanks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

INSTEAD = {
    # quaint, or a metaphor where a plain word exists
    r"weigh(s|ed|ing)?": "multiply; 'weighted' for a weighted mean",
    r"reckon\w*": "calculate, compute",
    r"honest\w*": "(leave out)",
    r"convict\w*": "exceeds",
    r"surely": "clearly, certainly",
    r"for want of": "without, because there is no",
    r"for ever": "forever, indefinitely",
    r"likewise": "also, too",
    r"whoever": "anyone who; or name the actor",
    r"newcomers?": "new user",
    r"mend(s|ed|ing)?": "fix, repair",
    r"teach(es)?|taught": "set up, configure, calibrate",
    r"neighbours?": "other tools; other processes",
    r"one behind the other": "one after the other",
    r"by and by": "gradually",
    r"a good deal": "a lot, much",
    r"thus|hence|whereby|thereby|wherein|therein|herein": "so, by which, in which",
    r"makes? do": "use",
    r"says? so": "reports it, logs it",
    r"(is|are|was|were) said( so)?": "is reported, is logged",
    r"(is|are) told( so)?": "is reported, is informed, is notified",
    r"not the wall|(sees?|seen) (at|by) the wall": "not wall power",
    r"what (a|the) wall (meter )?sees": "wall power",
    r"(greenest|dirtiest)": "lowest-carbon, highest-carbon",
    r"in no sum": "not added again",
    r"lies? inside (an)?others?": "is nested in another",
    r"nothing tells": "could not be detected",
    r"stands? beside": "is next to, is in addition to",
    r"beside (that|this|these|those|it|them)": "in addition, next to it",
    r"whose energy it is": "which share of the energy is attributed to you",
    r"the making of": "manufacturing, embodied emissions",
    r"(is|are) begun": "is started",
    r"may be off by|(how far|what) (it|a figure|each meter|the (meter|grid)) may be off":
        "uncertainty, interval",
    # terms of the field
    r"bill(s|ed|ing)?": "attribute, charge; 'counted twice' for double counting",
    r"making of (the )?hardware": "embodied emissions, manufacturing",
    r"emission of the place": "location-based emissions",
}  # fmt: skip

INSTEAD_IN_PAGES = INSTEAD | {
    r"somebody( else)?('s)?": "someone, another user",
    r"nobody('s)?": "no one; or name the actor",
    r"folders?": "directory",
}
"""Pages keep to one word for a thing, where those who read a source do not mind."""


def _expressions(phrases: dict[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(rf"\b(?:{phrase.replace(' ', chr(92) + 's+')})\b", re.IGNORECASE), instead)
        for phrase, instead in phrases.items()
    ]


_EVERYWHERE = _expressions(INSTEAD)
_IN_PAGES = _expressions(INSTEAD_IN_PAGES)


def found_in(text: str, *, is_page: bool = False) -> Iterator[tuple[int, str, str]]:
    """The phrases in a text: at which character, as written, and what to write instead."""
    for expression, instead in _IN_PAGES if is_page else _EVERYWHERE:
        for match in expression.finditer(text):
            yield match.start(), match[0], instead
