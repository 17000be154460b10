"""The regression check of `--carbon-fail-on`: it gives a verdict, or says why it cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.budget_project import Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


def saved(project: Project, joules: float, **changes: Any) -> None:
    """A baseline of one test with three rounds; `changes` are made to its entry."""
    project.file(f"def test_it(): burn({joules})\n")
    project.run("--carbon-save=base.json", "--carbon-repeat=3")
    path = project.path / "base.json"
    content = json.loads(path.read_text())
    content["tests"][0].update(changes)
    path.write_text(json.dumps(content))


def limited(project: Project, *more: str) -> pytest.RunResult:
    """A run with a regression limit of 10 %."""
    return project.run("--carbon-compare=base.json", "--carbon-fail-on=10%", *more)


@pytest.mark.parametrize(
    ("changes", "repeat", "reason", "choice"),
    [
        ({}, 1, "no interval with fewer than 3 rounds", "pass"),
        ({}, 1, "no interval with fewer than 3 rounds", "warn"),
        ({}, 1, "no interval with fewer than 3 rounds", "fail"),
        ({"pins": "1 W, 1 g/kWh"}, 3, "the baseline has other pins", "fail"),
        ({"metric": "measured"}, 3, "the baseline is by measured", "fail"),
        ({"rounds_joules": [[0.0, 0.0, 0.0]]}, 3, "the baseline is zero", "fail"),
        (
            {"rounds_joules": [[2.0, 2.5, 2.5], [3.5, 3.5, 3.5]]},
            3,
            "possibly over",
            "fail",
        ),
    ],
)
def test_a_comparison_that_may_hide_a_regression_is_not_sure(
    project: Project, changes: dict[str, Any], repeat: int, reason: str, choice: str
) -> None:
    """Where no verdict can be given, the user decides what that means; the reason is told."""
    saved(project, 2.0, **changes)
    project.file("def test_it(): burn(4)\n")
    result = limited(
        project, f"--carbon-repeat={repeat}", f"--carbon-inconclusive={choice}",
        "--carbon-json=o.json",
    )  # fmt: skip

    letter = {"pass": ".", "warn": "c", "fail": "C"}[choice]
    result.stdout.fnmatch_lines([f"test_it.py {letter} *"])
    assert reason in " ".join(" ".join(result.stdout.lines).split())
    result.assert_outcomes(failed=int(choice == "fail"), passed=int(choice != "fail"))
    (test,) = json.loads((project.path / "o.json").read_text())["tests"]
    assert test["verdict"] == "inconclusive"
    assert reason in test["reason"]


def test_an_inconclusive_regression_does_not_soften_a_budget(project: Project) -> None:
    """What is over its budget stays over, whatever the baseline has to say."""
    saved(project, 2.0)
    project.file('@pytest.mark.carbon_budget("1 J")\ndef test_it(): burn(4)\n')
    result = limited(project, "--carbon-inconclusive=pass")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*over the budget of 1.00 J*"])


def test_without_a_limit_a_comparison_gives_no_verdict(project: Project) -> None:
    """--carbon-compare alone only shows the change."""
    saved(project, 2.0)
    result = project.run("--carbon-compare=base.json", "--carbon-inconclusive=fail")
    result.assert_outcomes(passed=1)


def test_new_tests_are_counted(project: Project) -> None:
    """Without a past they pass, and the summary says how many they are."""
    saved(project, 2.0)
    project.file("def test_it(): burn(2)\ndef test_a(): burn(1)\ndef test_b(): burn(1)\n")
    result = limited(project, "--carbon-repeat=3", "--carbon-inconclusive=fail")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["2 tests are not in the baseline, so the change is not checked"])


@pytest.mark.parametrize("verbosity", [(), ("-qq",)])
def test_a_baseline_of_other_tests_is_said_loudly(
    project: Project, verbosity: tuple[str, ...]
) -> None:
    """Where no test is known nothing is checked; changed ids are the likely reason."""
    saved(project, 2.0)
    project.file("def test_other(): burn(2)\n")
    result = limited(project, "--color=yes", *verbosity)

    shown = "\n".join(result.stdout.lines)
    assert "\x1b[33mnothing was compared: " in shown
    assert "--carbon-compare=PATH with '='" in shown


def test_the_step_summary_says_it_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a job says so too when nothing, or not everything, was checked."""
    saved(project, 2.0)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    project.file("def test_other(): burn(2)\n")
    limited(project)
    project.file("def test_it(): burn(2)\ndef test_other(): burn(2)\n")
    limited(project)

    text = (project.path / "summary.md").read_text()
    assert "**nothing was compared: " in text
    assert "**1 test is not in the baseline, so the change is not checked**" in text


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "workers"])
def test_the_first_run_begins_the_baseline_that_it_is_added_to(
    project: Project, workers: tuple[str, ...]
) -> None:
    """Later ones are compared with the earlier ones alone, and what is over is not added."""
    both = ("--carbon-compare=base.json", "--carbon-add=./base.json", "--carbon-fail-on=10%",
            "--carbon-repeat=3", *workers)  # fmt: skip
    counts, shown = [], []
    for joules in (2.0, 2.0, 4.0, 2.0):
        project.file(f"def test_it(): burn({joules})\n")
        shown.append(project.run_apart(*both).stdout)
        (test,) = json.loads((project.path / "base.json").read_text())["tests"]
        counts.append(len(test["rounds_joules"]))

    assert counts == [1, 2, 2, 3]
    assert "did not exist" in shown[0]
    assert "base.json did not exist; this run creates it" in shown[0]
    assert "1 passed" in shown[0]
    assert "+0.0 %" in shown[1]
    assert "+100.0 %" in shown[2]
    assert "1 failed" in shown[2]
    assert all("did not exist" not in later for later in shown[1:])


@pytest.mark.parametrize("more", [(), ("--carbon-add=other.json",), ("--carbon-save=base.json",)])
def test_a_baseline_that_is_not_there_is_told_how_to_make(
    project: Project, more: tuple[str, ...]
) -> None:
    """A path with a mistake in it must not switch the check off."""
    project.file("def test_it(): burn(2)\n")
    result = limited(project, *more)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    path = project.path / "base.json"
    assert f"there is no file {path}; make it with --carbon-add={path}" in str(result.stderr)
    assert not path.exists()


def test_a_folder_is_no_baseline_to_begin(project: Project) -> None:
    """What is there and is no file is an error, with --carbon-add too."""
    (project.path / "base.json").mkdir()
    project.file("def test_it(): burn(2)\n")
    result = limited(project, "--carbon-add=base.json")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*base.json*is a directory; add a file name*"])


def test_ids_that_moved_with_the_root_directory_are_said(project: Project) -> None:
    """A path with a space before it moves the root; with `=` the same file compares."""
    saved(project, 2.0)
    elsewhere = project.path.parent / f"{project.path.name}-baseline"
    elsewhere.mkdir()
    path = (project.path / "base.json").rename(elsewhere / "base.json")
    limit = ("--carbon-repeat=3", "--carbon-fail-on=10%")
    moved = project.run_apart("--carbon-compare", str(path), *limit)
    kept = project.run_apart(f"--carbon-compare={path}", *limit)

    assert "has none of the 1 test of this run" in moved.stdout
    assert "nothing was compared" not in kept.stdout
    assert "+0.0 %" in kept.stdout


def test_a_regression_limit_needs_a_baseline(project: Project) -> None:
    """--carbon-fail-on alone would check nothing; in the ini it waits for a run that compares."""
    project.file("def test_it(): print('I RAN')\n")
    result = project.run("--carbon-fail-on=10%", "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--carbon-fail-on needs a baseline*"])
    result.stdout.no_fnmatch_line("*I RAN*")

    project.ini(carbon_fail_on="10%")
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize(("option", "value"), [("compare", ""), ("fail-on", " ")])
def test_an_empty_value_on_the_command_line_is_a_usage_error(
    project: Project, option: str, value: str
) -> None:
    """A variable of CI that is not set must not switch the check off."""
    project.file("def test_it(): pass\n")
    result = project.run(f"--carbon-{option}", value)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--carbon-{option} has an empty value*"])


def test_an_empty_value_in_ini_or_environment_is_not_given(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There an empty value takes nothing away."""
    project.ini(carbon_budget="", carbon_repeat="")
    monkeypatch.setenv("CARBONTRACK_PYTEST_BUDGET", "")
    project.file("def test_it(): burn(1)\n")
    project.run().assert_outcomes(passed=1)
