"""The documentation is true: its code runs and prints what it shows, and no name is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import carbontrack
from carbontrack.cli import COMMANDS
from carbontrack.integrations.pytest_plugin import HELP
from carbontrack.integrations.pytest_plugin.options import OPTIONS
from carbontrack.meters import perf as perf_events
from carbontrack.meters import rapl as powercap
from carbontrack.record import COLUMNS
from tests.support.doc_blocks import (
    RUN,
    blocks_of,
    cut_outputs_of,
    matches,
    needs_of,
    steps_of,
)
from tests.support.doc_links import (
    Link,
    anchors_of,
    forge_slug_of,
    links_of,
    slug_of,
    trouble_with,
)
from tests.support.doc_pages import PAGES, ROOT, name_of, run_steps
from tests.support.doc_samples import alike
from tests.support.fault_codes import written_codes
from tests.support.frameworks import require
from tests.support.refresh_samples import refreshed

DOCS = ROOT / "docs"


def marks_of(page: Path) -> list[pytest.MarkDecorator]:
    """What pytest has to know of a page."""
    marks = []
    if page.stem == "stop-at-a-budget":
        # how fast a budget is used up depends on the processor that the page gets
        marks.append(pytest.mark.xdist_group("serial"))
    if needs_of(page.read_text(encoding="utf-8")):
        marks.append(pytest.mark.framework)
    return marks


@pytest.mark.skipif(os.name != "posix", reason="the shell blocks are for a POSIX shell")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=name_of(page),
            marks=marks_of(page),
        )
        for page in PAGES
    ],
)
def test_code_runs_and_prints_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    """Every code block of a page that is not excused runs, and prints what the page shows."""
    text = page.read_text(encoding="utf-8")
    steps = steps_of(blocks_of(text))
    if not steps:
        return
    require(needs_of(text))
    results = run_steps(steps, tmp_path)
    for step, result in zip(steps, results, strict=False):
        where = f"{name_of(page)}, line {step.line}:\n{step.text}"
        assert result["failure"] is None, f"{where}\n{result['failure']}"
        assert step.shows(result["printed"]), (
            f"{where}\nthe page shows\n{step.expected}\nand it printed\n{result['printed']}"
        )
    assert len(results) == len(steps)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_excuses_have_reasons(page: Path) -> None:
    """A block that is not run says why, and only blocks that would be run need to."""
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.excuse is not None:
            assert len(block.excuse.split()) >= 3, f"{name_of(page)}, line {block.line}"
            assert block.language in RUN, f"{name_of(page)}, line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_readers_see_whole_outputs(page: Path) -> None:
    """No output that a page shows has `…` for a number or a line; a sample has real ones."""
    assert cut_outputs_of(page.read_text(encoding="utf-8")) == [], name_of(page)


def test_an_output_that_is_cut_is_noticed() -> None:
    """In outputs only, with the line's number; not in commands, code or hidden blocks."""
    page = textwrap.dedent(
        """
        ```console
        $ carbontrack compact SOURCE …
        2 records, … MiB
        ```

        <!--
        ```text
        …
        ```
        -->

        ```python
        print("…")
        ```

        ```text
        whole
        …
        ```
        """
    )
    assert cut_outputs_of(page) == [(4, "2 records, … MiB"), (19, "…")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that exists, and a heading that is in it."""
    links = {link for link in links_of(page.read_text(encoding="utf-8")) if not link.is_external}
    broken = [(*link, why) for link in links if (why := trouble_with(link, page))]
    assert broken == [], name_of(page)


def test_headings_that_are_linked_to_have_one_anchor_everywhere() -> None:
    """The site and forges make anchors by different rules; linked headings agree in both."""
    wanted = {
        ((page.parent / link.target).resolve() if link.target else page, link.anchor)
        for page in PAGES
        for link in links_of(page.read_text(encoding="utf-8"))
        if link.anchor and not link.is_external
    }
    differ = [
        f"{name_of(page)}#{slug_of(heading)}: {heading}"
        for page in PAGES
        for heading in re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        if (page, slug_of(heading)) in wanted and slug_of(heading) != forge_slug_of(heading)
    ]
    assert differ == []


def test_links_and_anchors_are_found() -> None:
    """What the checks of links rest on: it would be no use if they found none."""
    page = textwrap.dedent(
        """
        # A title: with `code`

        [one](a.md#b), [`two`](c.md), ![a picture](d.png "its title") and `[no](link)`.
        <img src="e.svg"> [out](https://example.org/#x) [up](#a-title-with-code) [`[4]`](f.md)

        ```python
        x = "[no](link.md)"  # not a link
        ```

        ## Same
        ## Same
        ## Other { #mine }

        ::: carbontrack.track
        """
    )
    assert set(links_of(page)) == {
        Link("a.md", "b"),
        Link("c.md", ""),
        Link("d.png", ""),
        Link("e.svg", ""),
        Link("f.md", ""),
        Link("", "a-title-with-code"),
        Link("https://example.org/", "x"),
    }
    assert anchors_of(page) == {
        "a-title-with-code",
        "same",
        "same_1",
        "mine",
        "carbontrack.track",
    }


def test_a_link_to_nowhere_is_noticed(tmp_path: Path) -> None:
    """A missing file and a missing heading are told apart from good ones."""
    page = tmp_path / "page.md"
    page.write_text("# Here\n")
    assert trouble_with(Link("page.md", "here"), page) is None
    assert trouble_with(Link("", "here"), page) is None
    assert trouble_with(Link("page.md", "there"), page) == "no heading #there"
    assert trouble_with(Link("other.md", ""), page) == "no such file"


def test_the_list_of_external_links_has_those_of_a_page() -> None:
    """The script lists an address that a page links to, and nothing within the project."""
    script = DOCS / "tools" / "external_links.py"
    command = [sys.executable, str(script), "--urls"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    listed = done.stdout.splitlines()
    assert "https://github.com/advisories/GHSA-jq35-85cj-fj4p" in listed
    assert [line for line in listed if not re.match(r"(https?://|mailto:)", line)] == []


def test_every_public_name_has_its_place_in_the_reference() -> None:
    """The reference shows what `carbontrack.__all__` lists, each name once and nothing else."""
    pages = sorted((DOCS / "reference").glob("api*.md"))
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages}
    shown = {
        name: f"{page}#carbontrack.{name}"
        for page, text in texts.items()
        for name in re.findall(r"^::: carbontrack\.(\w+)$", text, re.MULTILINE)
    }
    everywhere = re.findall(r"^::: carbontrack\.(\w+)$", "\n".join(texts.values()), re.MULTILINE)
    assert sorted(everywhere) == sorted(carbontrack.__all__)
    overview = texts.pop("api.md")
    places = [*shown.values(), *texts]
    assert [place for place in places if f"]({place})" not in overview] == []


def test_the_install_page_names_every_extra() -> None:
    """Those for users, each once; not those for work on the package itself."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = pyproject.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([a-z]+) = \[", table, re.MULTILINE))
    for_work = {"test", "frameworks", "docs", "dev", "all", "examples"}
    text = (DOCS / "how-to" / "install.md").read_text(encoding="utf-8")
    section = text.partition("\n## Extras\n")[2].partition("\n## ")[0]
    cells = [row.rpartition(" | ")[2] for row in re.findall(r"^\| (.+) \|$", section, re.MULTILINE)]
    named = [name for cell in cells for name in re.findall(r"`([a-z]+)`", cell)]
    assert sorted(named) == sorted(extras - for_work)


def test_what_the_package_claims_of_platforms_is_on_their_page() -> None:
    """The classifiers name no system and no Python that the page does not call shown."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = (DOCS / "explanation" / "platforms.md").read_text(encoding="utf-8")
    shown = {
        version
        for row in re.findall(r"^\| Linux on x86-64, Python ([^|]+)\|", text, re.MULTILINE)
        for version in re.findall(r"3\.\d+", row)
    }
    claimed = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject)
    assert set(claimed) == shown
    assert re.findall(r'"Operating System :: ([^"]+)"', pyproject) == ["POSIX :: Linux"]


def test_the_record_page_explains_every_column_in_order() -> None:
    """The page of the record has a row for each column, in the order of the columns."""
    text = (DOCS / "reference" / "record.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` (?:\|[^|]*){3}\|$", text, re.MULTILINE)
    assert tuple(rows) == COLUMNS


def test_the_record_page_explains_every_fault_once() -> None:
    """In alphabetical order: the codes that the package writes into `faults`, and no other ones."""
    text = (DOCS / "reference" / "record.md").read_text(encoding="utf-8")
    table = text.partition("\n### Faults\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` (?:\|[^|]*){2}\|$", table, re.MULTILINE) == sorted(
        written_codes()
    )


def test_the_commands_page_has_a_section_for_each_command() -> None:
    """No command is missing in the reference, and none is there that does not exist."""
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^## (\S+)$", text, re.MULTILINE)) == sorted(COMMANDS)


def test_the_plugin_page_lists_every_option_with_its_twins() -> None:
    """The reference has a row for each option of the plugin, in the order of its help."""
    assert list(HELP) == [option.ini for option in OPTIONS]
    text = (DOCS / "reference" / "pytest-plugin.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`--carbon.*) \| (.*) \|$", text, re.MULTILINE)
    shown = [" ".join(filter(None, (option.flag, HELP[option.ini][0]))) for option in OPTIONS]
    assert [row for row, _ in rows] == [
        f"`{name}` | `{option.ini}` | `{option.variable}`"
        for name, option in zip(shown, OPTIONS, strict=True)
    ]


def test_the_plugin_page_and_the_help_know_the_defaults() -> None:
    """A default is declared once, with the option; where people are told of it, it is the same."""
    text = (DOCS / "reference" / "pytest-plugin.md").read_text(encoding="utf-8")
    for option in OPTIONS:
        if option.default in (None, False):
            continue
        (meaning,) = re.findall(rf"`{option.variable}` \| (.*) \|$", text, re.MULTILINE)
        for told in (meaning, HELP[option.ini][1]):
            assert re.search(rf"\b{option.default}\b.*\bdefault\b", told), option.flag


def test_the_cures_are_those_that_the_doctor_prints() -> None:
    """The how-to for RAPL shows the very lines that `carbontrack doctor` offers."""
    text = (DOCS / "how-to" / "enable-rapl.md").read_text(encoding="utf-8")
    for cure in (powercap.CURE, powercap.CONTAINER_CURE, perf_events.CURE):
        assert cure in text


def _matrix() -> list[list[str]]:
    """The rows of the page on any machine, by cell."""
    text = (DOCS / "explanation" / "any-machine.md").read_text(encoding="utf-8")
    rows = [line.strip().strip("|").split(" | ") for line in text.splitlines() if "::test_" in line]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_matrix_of_machines_has_a_test_for_each_row() -> None:
    """Each row has its four cells and names a test that exists, and that is run somewhere."""
    rows = _matrix()
    assert len(rows) >= 30
    assert [row for row in rows if len(row) != 4 or not all(row)] == []
    ids = [name for row in rows for name in re.findall(r"`(tests/\S+::test_\w+)`", row[3])]
    assert len(ids) >= len(rows)
    files = sorted({name.partition("::")[0] for name in ids})
    assert [file for file in files if not (ROOT / file).is_file()] == []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    collected = {line.partition("[")[0].strip() for line in done.stdout.splitlines()}
    assert [name for name in ids if name not in collected] == [], done.stderr
    for name in ids:
        file, _, test = name.partition("::")
        above = (ROOT / file).read_text(encoding="utf-8").partition(f"def {test}(")[0]
        decorators = above.rpartition("\n\n")[2]
        assert "pytest.mark.skip(" not in decorators, name
        assert "pytest.mark.xfail" not in decorators, name


def test_the_docs_run_a_good_deal_of_code() -> None:
    """The collector finds blocks: it would not pass by finding none."""
    steps = [s for page in PAGES for s in steps_of(blocks_of(page.read_text(encoding="utf-8")))]
    assert sum(step.kind == "python" for step in steps) >= 10
    assert sum(step.kind == "shell" for step in steps) >= 3
    assert sum(step.expected is not None for step in steps) >= 5


def test_the_collector_tells_blocks_apart() -> None:
    """Blocks are run, written, compared or excused as their fence and their surroundings say."""
    page = textwrap.dedent(
        """
        ```python
        print(1)
        ```

        ```text
        1
        ```

        ```python title="a.py"
        print(2)
        ```

        <!-- not run: needs a network -->
        ```console
        $ pip install it
        ```

        ```console
        $ echo a \\
        > b
        a b
        $ cat table.tex
        1 & 2 \\\\
        3 & 4 \\\\
        $ true
        ```
        """
    )
    steps = steps_of(blocks_of(page))
    assert [(step.kind, step.text.strip(), step.expected) for step in steps] == [
        ("python", "print(1)", "1\n"),
        ("write", "print(2)", None),
        ("shell", "echo a  b", "a b\n"),
        ("shell", "cat table.tex", "1 & 2 \\\\\n3 & 4 \\\\\n"),
        ("shell", "true", None),
    ]


def test_a_page_names_what_its_code_needs() -> None:
    """The first line of a page names the modules it is run with; no other line does."""
    assert needs_of("<!-- needs: torch transformers.trainer -->\n# Title\n") == [
        "torch",
        "transformers.trainer",
    ]
    assert needs_of("# Title\n\n<!-- needs: torch -->\n") == []
    misplaced = [
        name_of(page)
        for page in PAGES
        if (text := page.read_text(encoding="utf-8")).count("\n<!-- needs:")
        or (text.startswith("<!-- needs:") and not needs_of(text))
    ]
    assert misplaced == []


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a … c", "a b\nb c", True),
        ("a … c", "a b", False),
        ("1.5 g", "1x5 g", False),
        ("…", "", True),
        ("a\n  b", "a b\n", True),
    ],
)
def test_an_ellipsis_stands_for_anything_and_nothing_else_does(
    expected: str, printed: str, same: bool
) -> None:
    """`…` matches any text; every other character only itself, spaces and line breaks alike."""
    assert matches(expected, printed) is same


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("energy 6.37 J (2.77 to 14.5 J), 99%", "energy 12 mJ (0.5 to 14 mJ), 100 %", True),
        ("(<0.01 to 3.17)", "(0 to 6.22)", True),
        ("took 3 min 5 s, 1,200 rows", "took 0.4 s, 7 rows", True),
        (
            "host ea5edfb01d7f251a at 2026-11-29T02:45:16.56Z",
            "host 0a1b2c3d4e5f at 2027-01-02",
            True,
        ),
        ("name  energy\n----  ------", "name    energy\n------  --------", True),
        ("0 to 12.9 mJ", "<0.01 to 3.17 mJ", True),
        ("0 J", "<br> J", False),
        ("TDP 4.16 W", "TDP W", False),
        ("6.37 J", "6.37 g", False),
        ("6.37 J", "unknown", False),
        ("1 run", "2 runs", False),
        ("deadbeef", "a1b2c3d4", False),
        (
            "job 925375a1-6e8c-4aa6-b654-81df22fda1c5",
            "job 12345678-1234-4123-8123-123456789012",
            True,
        ),
        ("<f at 0x7ff2ef15dad0>", "<f at 0x55d0c0ffee00>", True),
        ("ct_42aba9d2f349_0adce0aa1481", "ct_0adce0aa1481_42aba9d2f349", True),
    ],
)
def test_a_sample_may_differ_in_its_figures_only(shown: str, printed: str, same: bool) -> None:
    """A sample has the words of what is printed; numbers, dates and identifiers may be others."""
    assert alike(shown, printed) is same


def test_a_sample_names_what_is_its_machines() -> None:
    """What the comment names may be anything; what it does not name may not."""
    shown = "CPU modelled from AMD EPYC (2 threads)\nnote none"
    printed = "CPU measured by RAPL, all packages (8 threads)\nnote none"
    assert not alike(shown, printed)
    assert alike(shown, printed, ("modelled from AMD EPYC",))
    assert alike(shown, printed, ("modelled from AMD EPYC (8 threads)",))
    assert not alike(shown, printed.replace("note none", ""), ("modelled from AMD EPYC",))


def test_samples_are_written_anew_where_they_stand() -> None:
    """New outputs replace the old ones behind the comment, and nothing else of the page changes."""
    page = textwrap.dedent(
        """
        - in a list:

          <!-- sample -->
          ```console
          $ report \\
          > --by day
          1 J
          $ true
          $ doctor
          2 W
          ```

        ```python
        print(3)
        ```

        <!-- sample: AMD -->
        ```text
        3 of AMD
        ```

        ```python
        print(4)
        ```

        ```text
        4
        ```
        """
    )
    blocks = blocks_of(page)
    assert [block.sample for block in blocks] == [(), ("AMD",), None]
    assert [block.expected for block in blocks] == [None, "3 of AMD\n", "4\n"]
    new = refreshed(page, blocks, [["5 J\n6 J\n", "", "7 W\n"], ["8 of Intel\n"], ["9\n"]])
    assert new == page.replace("1 J", "5 J\n  6 J").replace("2 W", "7 W").replace(
        "3 of AMD", "8 of Intel"
    )


def test_the_changelog_leads_deep_importers_to_what_is_there() -> None:
    """Each module and each name that its tables of the moves give exists, until it is released."""
    text = (DOCS / "changelog.md").read_text(encoding="utf-8")
    moves = text.partition("- The source tree is rearranged")[2].partition("\n### ")[0]
    modules, _, names = moves.partition("- Classes and functions inside")
    package = Path(carbontrack.__file__).parent

    def sources(cell: str) -> list[str]:
        dotted = re.findall(
            r"`([a-z_]+(?:\.[a-z_]+)*)`", cell.split(" (its function", maxsplit=1)[0]
        )
        paths = [package.joinpath(*name.split(".")) for name in dotted]
        files = [p / "__init__.py" if p.is_dir() else p.with_suffix(".py") for p in paths]
        assert [file for file in files if not file.exists()] == [], cell
        return [file.read_text(encoding="utf-8") for file in files]

    rows = [line.strip().strip("|").split("|") for line in modules.splitlines() if "| `" in line]
    assert len(rows) > 70
    for row in rows:
        if "no part of the package" not in row[1]:
            assert sources(row[1].replace("`OWN_ROW_S`", "").replace("`Joules`", ""))
    rows = [line.strip().strip("|").split("|") for line in names.splitlines() if "| `" in line]
    assert len(rows) > 30
    for _, new, where in rows:
        found = "\n".join(sources(where))
        missing = [
            name for name in re.findall(r"`(\w+)`", new) if not re.search(rf"\b{name}\b", found)
        ]
        assert missing == [], where
