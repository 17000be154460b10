"""Links of Markdown pages, and the anchors that they may lead to."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^( *)(```+).*?^\1\2`*[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_INLINE = re.compile(r"!?\[[^\[\]]*(?:\[[^\]]*\][^\[\]]*)*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_HTML = re.compile(r"""<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=["']([^"']+)["']""")
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)
_OWN_ID = re.compile(r"\{[^}]*#([\w.-]+)[^}]*\}\s*$")
_HTML_ID = re.compile(r"""<\w+[^>]*?\b(?:id|name)=["']([^"']+)["']""")
_OBJECT = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


class Link(NamedTuple):
    """Where a link leads, without what is behind `#`, and that."""

    target: str
    anchor: str

    @property
    def is_external(self) -> bool:
        return re.match(r"[a-z][a-z0-9+.-]*:", self.target) is not None


def _shown(text: str) -> str:
    """A page without blocks of code and comments, which hold no links."""
    return _COMMENT.sub("", _FENCE.sub("", text))


def links_of(text: str) -> list[Link]:
    """Every link and picture of a page, in no particular order."""
    # the words of a link may be code, its target is none
    shown = _CODE.sub(lambda found: "" if "](" in found[0] else "`code`", _shown(text))
    found = [*_INLINE.findall(shown), *_REFERENCE.findall(shown), *_HTML.findall(shown)]
    return [Link(target, anchor) for target, _, anchor in (one.partition("#") for one in found)]


def anchors_of(text: str) -> set[str]:
    """What `#…` may follow the page's name, as both the site and forges make it of headings."""
    shown = _shown(text)
    anchors = {*_HTML_ID.findall(shown), *_OBJECT.findall(shown)}
    seen: dict[str, int] = {}
    for heading in _HEADING.findall(shown):
        own = _OWN_ID.search(heading)
        slug = own[1] if own else slug_of(heading)
        again = seen.get(slug, 0)
        seen[slug] = again + 1
        anchors.add(f"{slug}_{again}" if again else slug)
    return anchors


def slug_of(heading: str) -> str:
    """The anchor of a heading: that of Python-Markdown, which is GitHub's for plain titles."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link's words only
    words = re.sub(r"<[^>]+>", "", words)
    words = re.sub(r"[^\w\s-]", "", words).strip().lower()
    return re.sub(r"[-\s]+", "-", words)


def forge_slug_of(heading: str) -> str:
    """The same on forges, which keep each blank of a gap that a sign has left."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\s-]", "", re.sub(r"<[^>]+>", "", words)).strip().lower().replace(" ", "-")


@cache
def _anchors_in(page: Path) -> frozenset[str]:
    return frozenset(anchors_of(page.read_text(encoding="utf-8")))


def trouble_with(link: Link, page: Path) -> str | None:
    """Why a link of a page leads nowhere; None if it does lead somewhere."""
    where = (page.parent / link.target).resolve() if link.target else page
    if not where.exists():
        return "no such file"
    if link.anchor and where.suffix == ".md" and link.anchor not in _anchors_in(where):
        return f"no heading #{link.anchor}"
    return None
