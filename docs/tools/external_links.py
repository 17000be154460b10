"""List the links of README and pages that lead out of the project, and the pages that have them.

    python docs/tools/external_links.py            every address, with its pages
    python docs/tools/external_links.py --urls     addresses alone, for a link checker

Nothing is fetched. A link checker needs a network, and addresses come and go, so this is not part
of the tests. Before a release: python docs/tools/external_links.py --urls | xargs -n1 curl -sfIL
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.doc_links import links_of  # noqa: E402 - found only now


def external_links() -> dict[str, list[str]]:
    """Address -> the pages that link to it, both in order."""
    found = defaultdict(set)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in links_of(page.read_text(encoding="utf-8")):
            if link.is_external:
                found[link.target].add(page.relative_to(ROOT).as_posix())
    return {address: sorted(found[address]) for address in sorted(found)}


def main(arguments: list[str]) -> int:
    """Print them."""
    if arguments not in ([], ["--urls"]):
        print(__doc__, file=sys.stderr)
        return 2
    for address, pages in external_links().items():
        print(address)
        if not arguments:
            print(*(f"    {page}" for page in pages), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
