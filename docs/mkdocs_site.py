"""What mkdocs is told beyond mkdocs.yml: where the pages lie, and in which order they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SECTIONS = {
    "tutorials": "Tutorials",
    "how-to": "How to",
    "reference": "Reference",
    "explanation": "Explanation",
    "decisions": "Decisions",
}
"""Folder -> title, in the order of the navigation."""
FIRST = {
    "tutorials": ["first-record.md", "test-budget.md"],
    "explanation": ["how-a-joule-becomes-a-gram.md", "accuracy.md"],
    "reference": ["record.md", "api.md", "integrations.md"],
}
"""Pages that come before the others of their section; the rest follows by name."""


def on_config(config: Any) -> Any:
    """Take all of this folder as the pages, and every page into the navigation."""
    docs = Path(__file__).parent
    config.docs_dir = str(docs)
    config.nav = ["index.md", "gallery.md"]
    for folder, title in SECTIONS.items():
        names = [path.name for path in (docs / folder).glob("*.md")]
        first = [name for name in FIRST.get(folder, ()) if name in names]
        rest = sorted(name for name in names if name not in first)
        if names:
            config.nav.append({title: [f"{folder}/{name}" for name in [*first, *rest]]})
    config.nav.append({"Development": ["architecture.md", "contributing.md"]})
    config.nav.append("changelog.md")
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave out the line that says what a page's code needs: a title stands first."""
    return re.sub(r"\A<!-- needs:[^>]*-->\n", "", markdown)
