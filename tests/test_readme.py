"""What the README promises at first sight: its commands, its picture, its figures of others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from carbontrack.system.version import VERSION

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = DOCS / "readme_picture.py"
# what .ci/run looks for, and runs as a visitor would
COMMANDS = ('".[test]"', '-m "not slow"', "carbontrack run -- python docs/examples/train_digits.py")
COSTS = (DOCS / "explanation" / "comparison.md").read_text(encoding="utf-8")
ERRORS = (DOCS / "explanation" / "accuracy-compared.md").read_text(encoding="utf-8")


def table_with(page: str, column: str) -> dict[str, dict[str, str]]:
    """The first table of a page that has this column, by the tool's name in lower case."""
    lines = page.splitlines()
    begin = next(
        n for n, line in enumerate(lines) if line.startswith("|") and f"| {column} |" in line
    )
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[begin:]]
    head, rows = table[0], table[2 : next((n for n, row in enumerate(table) if row == [""]), None)]
    names = (re.sub(r" [\d.]+(, .*)?$|[*]", "", row[0]).lower() for row in rows)
    return {name: dict(zip(head, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def number(cell: str) -> float:
    """The first number of a cell."""
    return float(re.findall(r"[\d.,]+", cell)[0].replace(",", ""))


CALL = "decorated call p50, µs"
SHOWN = table_with(README, "packages")


@pytest.mark.parametrize("part", COMMANDS)
def test_each_command_stands_there_once(part: str) -> None:
    """A visitor has one line to copy, and .ci/run runs the same line."""
    lines = [line for line in README.splitlines() if line.startswith("$ ") and part in line]
    assert len(lines) == 1


def test_it_is_short_and_says_first_what_it_never_does() -> None:
    """What it never does comes before the first table."""
    assert len(README.splitlines()) < 150
    assert README.index("## What it never does") < README.index("\n|")


@pytest.mark.parametrize("tool", SHOWN)
def test_costs_are_those_of_the_measured_page(tool: str) -> None:
    """Size, packages, first measurement and call are what the comparison has measured."""
    shown = SHOWN[tool]
    size = table_with(COSTS, "distributions")[tool]
    assert shown["installed, MiB"] == size["installed, MiB"]
    assert shown["packages"] == size["distributions"]
    first = number(size["import, ms"]) + number(size["first start to stop, ms"])
    assert number(shown["import and first measurement, ms"]) == pytest.approx(first, rel=0.02)
    call = table_with(COSTS, CALL)[tool][CALL]
    if call == "—":
        assert not re.search(r"\d", shown["short decorated call, µs"])
    else:
        assert number(shown["short decorated call, µs"]) == number(call)


@pytest.mark.parametrize("tool", SHOWN)
def test_errors_are_those_of_the_measured_page(tool: str) -> None:
    """The median error is that of the page on accuracy, and a tool that it lacks has none."""
    shown = SHOWN[tool]["median error of a 1 s span, %"]
    measured = table_with(ERRORS, "1 s").get(tool)
    if measured is None:
        assert shown == "—"
        return
    assert number(shown) == number(measured["1 s"])
    if longer := re.search(r"\((.*) at (\d+ s)\)", shown):
        assert number(longer[1]) == number(measured[longer[2]])


@pytest.mark.xdist_group("browser")  # two browsers at once are slow
def test_the_script_draws_the_picture(tmp_path: Path) -> None:
    """With the code of today, from one short epoch instead of eight."""
    if find_spec("playwright") is None or find_spec("vl_convert") is None:
        pytest.skip("playwright or vl-convert-python is not installed")
    if not any(map(shutil.which, ("chromium", "chromium-browser"))):
        pytest.skip("no Chromium here: apt-get install chromium")
    target = tmp_path / "readme.png"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--epochs", "1", str(target)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for picture in (target, DOCS / "gallery" / "readme.png"):
        width, height, colours = header_of(picture.read_bytes())
        assert width > 1.5 * height  # side by side
        assert colours == 6  # with an alpha channel: no ground of its own on a dark page


def header_of(png: bytes) -> tuple[int, int, int]:
    """Width, height and kind of colours of a PNG."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"), png[25]


def test_the_citation_is_valid() -> None:
    """It has what the Citation File Format 1.2.0 requires, and this version of the package."""
    cited = yaml.safe_load((DOCS / "CITATION.cff").read_text(encoding="utf-8"))
    known = {"cff-version", "message", "type", "title", "abstract", "authors", "version", "license"}
    assert {"cff-version", "message", "title", "authors"} <= set(cited) <= known | {"keywords"}
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert all(author.get("name") for author in cited["authors"])
    assert str(cited["version"]) == VERSION
    assert cited["license"] == "Apache-2.0"
    texts = [cited["message"], cited["title"], cited["abstract"], *cited["keywords"]]
    assert all(isinstance(text, str) and text for text in texts)
    assert len(set(cited["keywords"])) == len(cited["keywords"])
