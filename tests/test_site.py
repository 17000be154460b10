"""The built site: what people look for is found, and what they read fits onto their screens.

It needs the extra `docs`, which `.ci/run` installs after the other tests and then runs these.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsers import chromium

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[1]
PATIENCE_MS = 60_000

SOUGHT = {
    "double counting": {"reference/glossary", "explanation/faq", "explanation/adding-up-intervals"},
    "market-based": {"reference/glossary", "explanation/grid", "explanation/faq"},
    "location-based": {"reference/glossary", "explanation/grid", "explanation/faq"},
    "Scope 2": {"reference/glossary", "explanation/faq", "explanation/grid"},
    "embodied emissions": {"explanation/embodied"},
    "DDP": {"how-to/torchrun"},
    "distributed data parallel": {"how-to/torchrun"},
    "uncertainty": {"reference/glossary", "explanation/faq", "explanation/accuracy"},
    "kubernetes": {"how-to/kubernetes"},
    "docker": {"how-to/docker"},
    "windows": {"explanation/platforms", "explanation/faq"},
    "vulnerability": {"security"},
    "read_records": {"reference/api-records"},
}
"""What people type, and the pages of which one has to be among the first five answers."""
NARROW = [
    "index",
    "explanation/faq",
    "how-to/docker",
    "how-to/kubernetes",
    "how-to/install",
    "reference/api-tracking",
    "reference/api-extend",
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `.ci/run` builds it, or where that has put it."""
    built = os.environ.get("BUILT_SITE")
    if built:
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    command = ["mkdocs", "build", "--strict", "--quiet", "-f", "docs/mkdocs.yml", "-d", folder]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on this machine: the search needs a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def answers_to(term: str, page: Any) -> list[str]:
    """The pages that the search box offers, the best first, each once."""
    box = page.locator(".md-search__input")
    for text, is_answered in (("", False), (term, True)):
        box.fill(text)
        box.press("End")  # the search begins when a key is released
        page.wait_for_function(
            "([meta, said]) => document.querySelector(meta).innerText.includes('match') == said",
            arg=[".md-search-result__meta", is_answered],
            timeout=PATIENCE_MS,
        )
    links = page.locator(".md-search-result__item > .md-search-result__link").all()
    names = [re.findall(r"/([\w/-]+)\.html", str(link.get_attribute("href"))) for link in links]
    return list(dict.fromkeys(name for (name,) in names))


@pytest.mark.xdist_group("browser")
def test_the_search_finds_the_terms_of_the_field(address: str, browser: Any) -> None:
    """Typed into the site's own search box, each term has a page about it among the first five."""
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    missed = {}
    for term, wanted in SOUGHT.items():
        found = answers_to(term, page)[:5]
        if not wanted.intersection(found):
            missed[term] = found
    assert missed == {}


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("name", NARROW)
def test_no_page_is_wider_than_a_phone(name: str, address: str, browser: Any) -> None:
    """The page itself does not scroll sideways, and no signature does."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{address}/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = page.evaluate(
        "[...document.querySelectorAll('.doc-signature code')]"
        ".filter(code => code.scrollWidth > code.clientWidth + 1).map(code => code.innerText)"
    )
    assert cut == []


def test_each_page_leads_to_the_next(site: Path) -> None:
    """At the foot of each page but the last is a link to the one behind it."""
    without = [
        path.relative_to(site).as_posix()
        for path in site.rglob("*.html")
        if 'class="md-footer__link md-footer__link--next"' not in path.read_text(encoding="utf-8")
    ]
    assert sorted(without) == ["404.html", "changelog.html"]


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Pages load scripts, styles, fonts and pictures from the site alone."""
    foreign = {
        url
        for path in site.rglob("*.html")
        for url in re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?(https?://[^\"'\s>]+)",
            path.read_text(encoding="utf-8"),
        )
    }
    assert foreign == set()
