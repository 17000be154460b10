"""The output of the pytest plugin, in files and in the terminal, in unusual cases."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from carbontrack.integrations.pytest_plugin import table
from carbontrack.integrations.pytest_plugin.commit import head_commit
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
    result.stderr.fnmatch_lines(["*a.json is not a baseline of carbontrack*"])
    result.stdout.no_fnmatch_line("*I RAN*")
    assert (project.path / "a.json").read_text() == "[1, 2]"


@pytest.mark.skipif(os.access("/proc/version", os.W_OK), reason="may write everywhere")
@pytest.mark.parametrize("option", ["json", "benchmark", "save", "add"])
def test_an_output_that_may_not_be_written_is_a_usage_error(project: Project, option: str) -> None:
    """Not a line at the end of a run of an hour, with exit code 0."""
    project.file("def test_it(): print('I RAN')\n")
    result = project.run(f"--carbon-{option}=/proc/version", "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--carbon-{option}=/proc/version cannot be written: *"])
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


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100])
def test_a_test_is_one_line_whatever_the_width(width: int) -> None:
    """No line is wider than the terminal or wraps, and each result is shown."""
    name = "tests/integration/test_module.py::TestClass::test_of_something"
    rows = [
        row(name, "+1234.5 % (no interval with fewer than 3 rounds)"),
        row("test_b.py::b", "new"),
    ]
    header, first, second = table.lines(rows, width=width)

    for text in (header, first, second):
        assert "\n" not in text
        assert len(text) <= width
    assert "inconclusive" in first
    if width >= 40:
        assert first.endswith("something")
        assert second.endswith("test_b.py::b")
    if width >= 60:
        assert first.endswith("::test_of_something")


def test_columns_give_way_to_names_in_the_order_of_their_use() -> None:
    """The quantity that no budget limits goes first; the one that is limited stays."""
    name = "tests/integration/test_module.py::TestClass::test_of_something"
    joules = dataclasses.replace(row(name, "+12.0 % (+10.0 to +14.0)"), budget="5.00 J")
    grams = dataclasses.replace(joules, budget="5.00 mg CO2e")

    assert table.lines([joules], width=120)[0].split() == [
        "energy", "CO2e", "budget", "result", "change", "test",
    ]  # fmt: skip
    assert "CO2e" not in table.lines([joules], width=90)[0]
    assert "energy" not in table.lines([grams], width=90)[0]
    assert "CO2e" in table.lines([grams], width=90)[0]


@pytest.mark.parametrize(
    ("nodeid", "width", "shown"),
    [
        ("test_a.py::test_b", 17, "test_a.py::test_b"),
        ("tests/test_a.py::TestC::test_b", 20, "::TestC::test_b"),
        ("tests/test_a.py::test_b[x::y]", 18, "::test_b[x::y]"),
        ("test_a.py::test_of_much_more_than_fits[2]", 22, "test_of_mu...n_fits[2]"),
    ],
)
def test_an_id_that_is_cut_keeps_the_test_s_name(nodeid: str, width: int, shown: str) -> None:
    """The path goes first; a name that is too long loses its middle, not its ends."""
    found = table.short_id(nodeid, width)
    assert len(found) <= width
    assert found.endswith(shown)


@pytest.mark.parametrize("flags", [("-q",), ("-qq",), ("-q", "--tb=no", "-rN")])
def test_quiet_has_a_line_for_each_exceeded_budget(
    project: Project, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where pytest itself names no failure; nothing of the tests within their budgets."""
    monkeypatch.setenv("COLUMNS", "80")
    project.file("def test_one(): burn(1)\ndef test_three(): burn(3)\ndef test_four(): burn(4)\n")
    lines = project.run("--carbon-budget=2 J", "--color=no", *flags).stdout.lines

    rows = sorted(line.split() for line in lines if "  over  " in line)
    assert [(found[0], found[-1]) for found in rows] == [
        ("3.00", "test_it.py::test_three"),
        ("4.00", "test_it.py::test_four"),
    ]
    assert not any("test_one" in line for line in lines)
    assert all(len(line) <= 80 for line in lines if "  over  " in line)


# -- what a comparison is with ---------------------------------------------------------------------


def test_a_comparison_names_what_it_is_with(project: Project) -> None:
    """The file, when it was saved and at which commit, processes, workers and machine."""
    commit = "0123456789abcdef" * 2 + "01234567"
    (project.path / ".git").mkdir()
    (project.path / ".git" / "HEAD").write_text(f"{commit}\n")
    project.file("def test_a(): burn(2)\ndef test_b(): burn(3)\n")
    for _ in range(2):
        project.run("--carbon-add=base.json")
    done = project.run_apart("-n2", "--carbon-compare=base.json", COLUMNS="80")

    lines = done.stdout.splitlines()
    (head,) = [line for line in lines if line.startswith("compared with")]
    assert re.fullmatch(
        r"compared with base\.json, saved \d{4}-\d\d-\d\d \d\d:\d\d UTC, commit 0123456789", head
    )
    assert "processes per test: 2 in the baseline, 1 now (2 xdist workers)" in lines
    assert any(re.fullmatch("machine: .*, as in the baseline", line) for line in lines)


def test_another_machine_is_named(project: Project) -> None:
    """Both are, since the interval is wider then; a file without a date has none."""
    project.file("def test_a(): burn(2)\n")
    project.run("--carbon-save=base.json")
    path = project.path / "base.json"
    content = json.loads(path.read_text())
    content["tests"][0]["machine"] = "a processor x8"
    path.write_text(json.dumps({key: content[key] for key in ("schema", "kind", "tests")}))
    lines = project.run("--carbon-compare=base.json").stdout.lines

    assert "compared with base.json" in lines
    assert "baseline's machine: a processor x8" in lines


def test_notes_are_told_once_and_fit(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the table, where the tests that share one are counted."""
    monkeypatch.setenv("COLUMNS", "80")
    project.file("".join(f"def test_{name}(): burn(2)\n" for name in "abc"))
    project.run("--carbon-save=base.json")
    lines = project.run("--carbon-compare=base.json", "--carbon-fail-on=5%").stdout.lines

    ours = lines[next(n for n, line in enumerate(lines) if "= carbontrack =" in line) :]
    assert all(len(line) <= 80 for line in ours)
    rows = [line for line in ours if line.endswith(("::test_a", "::test_b", "::test_c"))]
    assert len(rows) == 3
    assert all("+0.0 %  test_it" in line for line in rows)
    assert "3 tests: not checked against +5 %: no interval with fewer than 3 rounds" in ours


def test_the_commit_is_read_from_git_s_files(tmp_path: Path) -> None:
    """As git itself says: on a branch, packed, detached, in a worktree; None elsewhere."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    assert head_commit(tmp_path / "nowhere") is None

    def commit_of(place: Path) -> str:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=place, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    repository = tmp_path / "repository"
    (repository / "tests").mkdir(parents=True)
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], cwd=repository, check=True)
    assert head_commit(repository / "tests") == commit_of(repository)
    subprocess.run([*git, "pack-refs", "--all"], cwd=repository, check=True)
    assert head_commit(repository) == commit_of(repository)
    subprocess.run([*git, "worktree", "add", "-q", "../tree"], cwd=repository, check=True)
    subprocess.run(
        [*git, "commit", "-q", "--allow-empty", "-m", "second"], cwd=tmp_path / "tree", check=True
    )
    assert head_commit(tmp_path / "tree") == commit_of(tmp_path / "tree")
    assert head_commit(tmp_path / "tree") != head_commit(repository)
    subprocess.run([*git, "switch", "-q", "--detach"], cwd=repository, check=True)
    assert head_commit(repository) == commit_of(repository)
