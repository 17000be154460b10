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
}
"""Folder -> title, in the order of the navigation."""
GROUPS = {
    "tutorials": {"": ["first-record", "test-budget"]},
    "how-to": {
        "": ["install"],
        "Measure": [
            "measure-a-command",
            "measure-a-function",
            "measure-a-notebook-or-script",
            "timeline",
            "top",
            "stop-at-a-budget",
            "test-your-own-code",
            "budgets-in-ci",
        ],
        "More accurate": ["enable-rapl", "calibrate", "choose-a-region", "live-intensity"],
        "Training": [
            "pytorch",
            "torchrun",
            "transformers",
            "accelerate",
            "lightning",
            "keras",
            "scikit-learn",
            "boosting",
            "experiment-trackers",
        ],
        "Servers and queues": ["servers", "flask", "django", "queues"],
        "Clusters and containers": ["docker", "kubernetes", "slurm", "dask", "ray", "spark"],
        "Reports": ["report", "papers", "energy-label", "archive", "prometheus", "opentelemetry"],
        "Many machines": ["send-records-over-http", "relay", "team-server"],
        "From CodeCarbon": ["from-codecarbon", "both-side-by-side"],
        "Extend": ["add-a-meter", "add-a-sink"],
    },
    "reference": {
        "": ["record", "commands", "settings", "outputs"],
        "Python API": [
            "api",
            "api-tracking",
            "api-tracker",
            "api-records",
            "api-grid",
            "api-extend",
            "api-errors",
            "integrations",
            "testing",
        ],
    },
    "explanation": {
        "": ["faq", "how-a-joule-becomes-a-gram"],
        "Accuracy": [
            "accuracy",
            "what-we-cannot-see",
            "meters",
            "adding-up-intervals",
            "accuracy-compared",
            "published-runs",
            "faults",
        ],
        "Emissions": ["grid", "attribution", "embodied", "forecast"],
        "In your program": [
            "what-it-does-to-your-program",
            "overhead",
            "comparison",
            "comparing",
            "nothing-lost",
        ],
        "Where it runs": ["platforms", "any-machine", "which-size", "store"],
    },
}
"""Folder -> title of a group -> its pages, in order; "" stands before the groups, without a title.
What no group names follows them by name."""

BOOST = {
    "reference/glossary.md": 2.0,
    "explanation/faq.md": 2.0,
    "decisions/": 0.5,
    "changelog.md": 0.2,
    "gallery.md": 0.5,
}
"""Beginning of a page's path -> its weight in the search; 1 for all others."""


def on_config(config: Any) -> Any:
    """Take all of this folder as the pages, and every page into the navigation."""
    docs = Path(__file__).parent
    config.docs_dir = str(docs)
    config.nav = ["index.md", "gallery.md"]
    for folder, title in SECTIONS.items():
        names = {path.stem for path in (docs / folder).glob("*.md")}
        if names:
            config.nav.append({title: _entries(folder, names)})
    config.nav.append("security.md")
    decisions = sorted(f"decisions/{path.name}" for path in (docs / "decisions").glob("*.md"))
    development = ["architecture.md", "contributing.md", {"Decisions": decisions}]
    config.nav.append({"Development": development})
    config.nav.append("changelog.md")
    return config


def _entries(folder: str, names: set[str]) -> list[Any]:
    """The pages of a folder, in their groups."""
    entries: list[Any] = []
    for title, wanted in GROUPS.get(folder, {}).items():
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(f"mkdocs_site.py: docs/{folder} has no {', '.join(missing)}")
        pages = [f"{folder}/{name}.md" for name in wanted]
        entries += [{title: pages}] if title else pages
        names = names.difference(wanted)
    return entries + [f"{folder}/{name}.md" for name in sorted(names)]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leave out the line that says what a page's code needs: a title stands first."""
    for begin, boost in BOOST.items():
        if page.file.src_uri.startswith(begin):
            page.meta["search"] = {"boost": boost}
    return re.sub(r"\A<!-- needs:[^>]*-->\n", "", markdown)
