"""The output of the pytest plugin, in files and in the terminal, in unusual cases."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from carbontrack.integrations.pytest_plugin import output as table
from carbontrack.integrations.pytest_plugin.metrics import Measurement
from carbontrack.integrations.pytest_plugin.results import TestResult
from tests.support.budget_project import Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tests", "code"),
    [
        ("@pytest.mark.skip\ndef test_it(): pass\n", pytest.ExitCode.OK),
        ("", pytest.ExitCode.NO_TESTS_COLLECTED),
    ],
    ids=["all-skipped", "no-tests"],
)
def test_files_are_written_though_nothing_was_measured(
    project: Project, tests: str, code: pytest.ExitCode
) -> None:
    """The next step of a job finds them, with empty lists; without results there is no verdict."""
    project.file(tests)
    result = project.run(
        "--carbon-json=o.json", "--carbon-benchmark=b.json", "--carbon-session-budget=1 J",
        "--carbon-inconclusive=fail",
    )  # fmt: skip

    assert result.ret == code
    content = json.loads((project.path / "o.json").read_text())
    assert content["tests"] == []
    assert content["session"]["tests"] == 0
    assert content["session"]["energy_joules"] is None
    assert json.loads((project.path / "b.json").read_text()) == []
    result.stdout.fnmatch_lines(["0 tests used *"])


def test_a_run_that_only_collects_leaves_files_alone(project: Project) -> None:
    """The results of the run before are still there."""
    project.file("def test_it(): burn(1)\n")
    project.run("--carbon-json=o.json")
    before = (project.path / "o.json").read_bytes()
    project.run("--carbon-json=o.json", "--collect-only")
    assert (project.path / "o.json").read_bytes() == before


@pytest.mark.parametrize("option", ["json", "benchmark"])
def test_a_pipe_is_written_to(project: Project, option: str) -> None:
    """A device, or a pipe with a reader, is written to and not replaced."""
    project.file("def test_it(): burn(1)\n")
    pipe = project.path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    project.run(f"--carbon-{option}=pipe")
    reader.join(60.0)

    assert pipe.is_fifo()
    assert json.loads(read[0])


def test_what_a_link_leads_to_is_written(project: Project) -> None:
    """The link stays, and its target is replaced."""
    project.file("def test_it(): burn(1)\n")
    (project.path / "there").mkdir()
    link = project.path / "o.json"
    link.symlink_to("there/real.json")
    for _ in range(2):
        project.run("--carbon-json=o.json")
        assert link.is_symlink()
        assert json.loads((project.path / "there" / "real.json").read_text())["tests"]
    assert [path.name for path in (project.path / "there").iterdir()] == ["real.json"]


def test_names_of_files_that_are_no_utf8_are_written(project: Project) -> None:
    """Every file is there, and the tests that passed have passed."""
    try:
        odd = Path(os.fsdecode(os.fsencode(project.path) + b"/test_\xff.py"))
        odd.write_text("from tests.support.fake_energy import burn\ndef test_it(): burn(1)\n")
    except OSError:
        pytest.skip("this file system has none")
    page = project.path / "summary.md"
    done = project.run_apart(
        "-p", "no:cacheprovider", "--import-mode=importlib", "--carbon-json=o.json",
        "--carbon-benchmark=b.json", "--carbon-csv=o.csv", "--carbon-save=s.json",
        GITHUB_STEP_SUMMARY=str(page),
        PYTHONIOENCODING="utf-8:backslashreplace",
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "was not written" not in done.stdout
    for name in ("o.json", "s.json"):
        (test,) = json.loads((project.path / name).read_text(encoding="utf-8"))["tests"]
        assert test["nodeid"] == "test_\udcff.py::test_it"
    assert "\\udcff" in page.read_text(encoding="utf-8")
    assert "::test_it" in (project.path / "o.csv").read_text(encoding="utf-8")


def test_a_baseline_is_not_saved_over_another_file(project: Project) -> None:
    """The error comes before any test runs, as for --carbon-add, and the file is kept."""
    project.file("def test_it(): print('I RAN')\n")
    (project.path / "a.json").write_text("[1, 2]")
    result = project.run("--carbon-save=a.json", "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a.json is no baseline of carbontrack*"])
    result.stdout.no_fnmatch_line("*I RAN*")
    assert (project.path / "a.json").read_text() == "[1, 2]"


@pytest.mark.skipif(os.access("/proc/version", os.W_OK), reason="may write everywhere")
@pytest.mark.parametrize("option", ["json", "benchmark", "save", "add"])
def test_an_output_that_may_not_be_written_is_a_usage_error(project: Project, option: str) -> None:
    """Not a line at the end of a run of an hour, with exit code 0."""
    project.file("def test_it(): print('I RAN')\n")
    result = project.run(f"--carbon-{option}=/proc/version", "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--carbon-{option}=/proc/version: cannot be written: *"])
    result.stdout.no_fnmatch_line("*I RAN*")


@pytest.mark.parametrize("option", ["json", "csv", "save", "add", "compare"])
def test_a_name_that_is_too_long_is_a_usage_error(project: Project, option: str) -> None:
    """The system's own objection, before any test runs, and no traceback."""
    project.file("def test_it(): print('I RAN')\n")
    result = project.run(f"--carbon-{option}={'x' * 300}.csv", "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--carbon-{option}=xxx*: File name too long*"])
    result.stdout.no_fnmatch_line("*I RAN*")


# -- terminal ------------------------------------------------------------------------------------


def test_the_summary_of_failures_has_a_word(project: Project) -> None:
    """Also in versions of pytest that take no colour there."""
    project.file('@pytest.mark.carbon_budget("1 J")\ndef test_it(): burn(5)\n')
    lines = project.run("--color=no").stdout.lines
    assert any(line.startswith("CARBON BUDGET test_it.py::test_it") for line in lines)


def row(nodeid: str, change: str) -> TestResult:
    measured = Measurement(metric="reference", energy_joules=12.3, emissions_g=0.0123)
    found = TestResult.of(nodeid, "passed", measured).to_row()
    limits = "5.00 J and 5.00 mg CO2e"
    return TestResult.from_row(
        found | {"budget": limits, "verdict": "inconclusive", "change": change}
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_ids_are_never_cut_to_nothing(width: int) -> None:
    """Where figures leave too little room the id has a line of its own; all lines fit."""
    name = "tests/integration/test_module.py::TestClass::test_of_something"
    rows = [
        row(name, "+1234.5 % (no interval with fewer than 3 rounds)"),
        row("test_b.py::b", "new"),
    ]
    header, first, second = table.lines(rows, width=width)

    for text in (header, first, second):
        assert max(map(len, text.split("\n"))) <= width
    assert first.endswith("::TestClass::test_of_something")
    assert second.endswith("test_b.py::b")
    if width > 60:
        assert f"\n    {name}" in first
        assert "+1234.5 % (no interval with fewer than 3 rounds)" in first
