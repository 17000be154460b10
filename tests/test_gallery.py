"""The gallery shows what the code draws today, and nothing else."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SCRIPT = DOCS / "gallery_pictures.py"
MOST_BYTES = 2_000_000
DRAWN = ("power.png", "runs-30.png", "report-80.png", "label.svg")
"""What the test draws again: a page of one run and one of many, a terminal, and the label. The
others are the same pages in other sizes and colours, which tests/integration/report/test_page.py
opens, and a command that takes seconds to measure."""
_PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?://)([^)\s]+)\)")
README_PICTURE = DOCS / "gallery" / "readme.png"  # tests/test_readme.py draws it


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The names of the script, which draws nothing when it is only read."""
    return runpy.run_path(str(SCRIPT))


def pictures_of(page: Path) -> list[tuple[str, Path]]:
    """What a page says of its pictures, and where they lie."""
    found = _PICTURE.findall(page.read_text(encoding="utf-8"))
    return [(words, (page.parent / target).resolve()) for words, target in found]


def test_pages_show_only_pictures_that_the_script_draws(script: dict[str, Any]) -> None:
    """No picture of the docs is made by hand, so none goes stale unseen; each is put in words."""
    drawn = {(script["FOLDER"] / name).resolve() for name in script["PICTURES"]}
    drawn.add(README_PICTURE)
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        for words, picture in pictures_of(page):
            assert picture in drawn, f"{page.name} shows {picture.name}"
            assert len(words.split()) >= 3, f"{page.name} says nothing of {picture.name}"


def test_the_gallery_shows_every_picture_once(script: dict[str, Any]) -> None:
    """What the script draws lies in its folder, and stands on the page of the gallery."""
    shown = sorted(picture.name for _words, picture in pictures_of(DOCS / "gallery.md"))
    assert shown == sorted(script["PICTURES"])
    lying = sorted(path.name for path in script["FOLDER"].iterdir() if path != README_PICTURE)
    assert shown == lying


def test_the_pictures_are_light(script: dict[str, Any]) -> None:
    """A clone of the project is not made slow by its pictures."""
    assert sum(path.stat().st_size for path in script["FOLDER"].iterdir()) < MOST_BYTES


@pytest.mark.xdist_group("browser")  # two browsers at once are slow
def test_the_script_still_draws_them(script: dict[str, Any], tmp_path: Path) -> None:
    """With the code of today the script ends well and makes one picture of each kind."""
    if find_spec("playwright") is None or find_spec("vl_convert") is None:
        pytest.skip("playwright or vl-convert-python is not installed")
    if script["find_chromium"]() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "new"), *DRAWN],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert sorted(made) == sorted(DRAWN)
    assert set(DRAWN) < set(script["PICTURES"])
    for name, content in made.items():
        begin = b"\x89PNG\r\n" if name.endswith(".png") else b"<svg"
        assert content.lstrip().startswith(begin), name
