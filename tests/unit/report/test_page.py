"""The page as text; in a browser it is tried by tests/integration/report/test_page.py."""

from __future__ import annotations

from carbontrack.report.page import _bundled


def test_the_library_of_the_charts_is_made_once() -> None:
    """Making it takes a second of CPU time, and the second page of a process needs no other."""
    made = []

    def bundle(snippet: str) -> str:
        made.append(snippet)
        return "<script>library</script>"

    assert _bundled(bundle) is _bundled(bundle)
    assert _bundled(bundle) == "<script>library<\\/script>"
    assert len(made) == 1
