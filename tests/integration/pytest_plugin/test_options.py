"""The plugin's options at work, each door to them (command line, ini, environment), and -n2.

What each value means, in each place, is held by the unit tests of the resolver.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any

import pytest

from carbontrack.integrations.pytest_plugin.baseline import Occasion, save
from carbontrack.integrations.pytest_plugin.options import Options
from tests.support.budget_project import Project

pytest_plugins = ["pytester"]

PLACES = ("option", "ini", "environment")
_TESTS = """
{mark}
def test_more(): burn(3)
{mark}
def test_less():
    print("LESS RAN")
    burn(1)
"""
Check = Callable[[Project, pytest.RunResult], None]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


def told(*lines: str) -> Check:
    """Lines that the terminal shows."""
    return lambda _, result: result.stdout.fnmatch_lines(list(lines))


def failed(number: int) -> Check:
    """So many tests fail."""
    return lambda _, result: result.assert_outcomes(failed=number, passed=2 - number)


def written(name: str, look: Callable[[str], object]) -> Check:
    """A file, and what is in it."""

    def check(project: Project, result: pytest.RunResult) -> None:
        assert result.ret == 0
        assert look((project.path / name).read_text(encoding="utf-8"))

    return check


def session_over(_: Project, result: pytest.RunResult) -> None:
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["the session is over budget: 4.00 J of 3.00 J"])


def one_row(_: Project, result: pytest.RunResult) -> None:
    result.stdout.fnmatch_lines(["*3.00 J*test_more"])
    result.stdout.no_fnmatch_line("*1.00 J*test_less")


def ran_three_times(_: Project, result: pytest.RunResult) -> None:
    assert str(result.stdout).count("LESS RAN") == 3


_MARKED = '@pytest.mark.carbon_budget("50 J")'
_REAL = '@pytest.mark.carbon_budget("5 MJ")'

ALONE: list[Any] = [
    pytest.param("carbon", "true", "", told("2 tests used 4.00 J, 4.00 mg CO2e"), id="carbon"),
    pytest.param("carbon_budget", "2 J", "", failed(1), id="budget"),
    pytest.param("carbon_session_budget", "3 J", "", session_over, id="session-budget"),
    pytest.param("carbon_repeat", "3", _MARKED, ran_three_times, id="repeat"),
    pytest.param("carbon_top", "1", _MARKED, one_row, id="top"),
    pytest.param(
        "carbon_csv",
        "a.csv",
        "",
        written("a.csv", lambda text: len(list(csv.DictReader(text.splitlines()))) == 2),
        id="csv",
    ),
    pytest.param(
        "carbon_json",
        "a.json",
        "",
        written("a.json", lambda text: json.loads(text)["tests"][1]["energy_joules"] == 3.0),
        id="json",
    ),
    pytest.param(
        "carbon_benchmark",
        "b.json",
        "",
        written("b.json", lambda text: {"name", "unit", "value"} <= set(json.loads(text)[0])),
        id="benchmark",
    ),
    pytest.param(
        "carbon_save",
        "s.json",
        "",
        written("s.json", lambda text: json.loads(text)["tests"][1]["rounds_joules"] == [[3.0]]),
        id="save",
    ),
    pytest.param(
        "carbon_add",
        "s.json",
        "",
        written("s.json", lambda text: json.loads(text)["tests"][1]["rounds_joules"] == [[3.0]]),
        id="add",
    ),
    pytest.param("carbon_inconclusive", "fail", "unsure", failed(1), id="inconclusive"),
    pytest.param(
        "carbon_metric", "reference", _REAL, told("reference metric, *"), id="metric-reference"
    ),
    pytest.param(
        "carbon_metric", "measured", _REAL, told("measured metric*"), id="metric-measured"
    ),
    pytest.param(
        "carbon_reference_watts", "9.5", _REAL, told("reference metric, 9.5 W *"), id="watts"
    ),
    pytest.param(
        "carbon_reference_intensity", "123", _REAL, told("* 123 g CO2e/kWh*"), id="intensity"
    ),
]


def run_with(
    project: Project, monkeypatch: pytest.MonkeyPatch, place: str, name: str, value: str, *more: str
) -> pytest.RunResult:
    """Run with one option given in one place."""
    option = give(project, monkeypatch, place, name, value)
    return project.run("-W", "error", "-s", *option, *more)


def give(
    project: Project, monkeypatch: pytest.MonkeyPatch, place: str, name: str, value: str
) -> list[str]:
    """Write one option into one place; returns what the command line needs for it."""
    if place == "option":
        option = f"--{name.replace('_', '-')}"
        return [option] if name == "carbon" else [option, value]
    if place == "ini":
        project.ini(**{name: value})
    else:
        variable = name.removeprefix("carbon_").upper()
        monkeypatch.setenv(f"CARBONTRACK_PYTEST_{variable}", value)
    return []


@pytest.mark.parametrize(("name", "value", "mark", "check"), ALONE)
def test_each_option_works_alone(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    mark: str,
    check: Check,
) -> None:
    """Without help from any other."""
    if mark == _REAL:
        project.real_metric()
    if mark == "unsure":  # 3 J of 2.5 J, known to a half
        project.metric(width=0.5)
        mark = '@pytest.mark.carbon_budget("2.5 J")'
    project.file(_TESTS.format(mark=mark))

    check(project, run_with(project, monkeypatch, "option", name, value))


@pytest.mark.parametrize("place", ["ini", "environment"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *dict.fromkeys(case.values[:2] for case in ALONE),
        ("carbon_compare", "base.json"),
        ("carbon_fail_on", "19%"),
    ],
)
def test_an_ini_key_and_a_variable_are_heard_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch, place: str, name: str, value: str
) -> None:
    """Each starts the plugin, and reaches it as the option of the same name does."""
    save(project.path / "base.json", [], Occasion(""))
    give(project, monkeypatch, place, name, value)
    config = project.pytester.parseconfigure("-p", "no:cacheprovider", "-p", "no:asyncio")
    plugin = config.pluginmanager.get_plugin("carbontrack-budgets")

    field = name.removeprefix("carbon_")
    changed = {
        one for one in Options.__slots__ if getattr(plugin.options, one) != getattr(Options(), one)
    }
    assert changed == {field}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "value", "mark", "check"),
    [case for case in ALONE if case.id in ("carbon", "budget", "json")],
)
def test_a_run_does_the_same_wherever_it_is_told(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    name: str,
    value: str,
    mark: str,
    check: Check,
) -> None:
    """From each door to the verdict, the table and a file."""
    project.file(_TESTS.format(mark=mark))
    check(project, run_with(project, monkeypatch, place, name, value))


def test_a_baseline_is_compared_with_and_judged_by(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--carbon-compare tells the change; --carbon-fail-on fails what is surely over the limit."""
    project.file(_TESTS.format(mark=""))
    project.run("--carbon-save", "base.json", "--carbon-repeat", "3")
    project.file(_TESTS.format(mark="").replace("burn(3)", "burn(3.6)"))
    again = ("--carbon-repeat", "3")

    result = run_with(project, monkeypatch, "option", "carbon_compare", "base.json", *again)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*+20.0 % (+20.0 to +20.0)*test_more", "*+0.0 %*test_less"])

    compared = ("--carbon-compare", "base.json", *again)
    for limit, number in (("19%", 1), ("20.001%", 0)):
        result = run_with(project, monkeypatch, "option", "carbon_fail_on", limit, *compared)
        result.assert_outcomes(passed=2 - number, failed=number)


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two-workers"])
def test_processes_are_added_up_and_compared_together(
    project: Project, workers: tuple[str, ...]
) -> None:
    """What earlier processes added is part of the new side; each is kept with its rounds."""
    project.file("def test_it(): burn(2)\n")
    for _ in range(3):
        project.run("--carbon-add=before.json")
    for joules in (2.0, 2.2):
        project.file(f"def test_it(): burn({joules})\n")
        project.run("--carbon-add=after.json")
    project.file("def test_it(): burn(3)\n")

    compared = ("--carbon-add=after.json", "--carbon-compare=before.json", "--carbon-json=o.json")
    result = project.run(*compared, "--carbon-fail-on=500%", *workers)
    result.assert_outcomes(passed=1)
    (test,) = json.loads((project.path / "o.json").read_text())["tests"]
    assert test["ratio"] == pytest.approx(1.2)
    assert 0.9 < test["ratio_low"] < 1.2 < test["ratio_high"] < 1.5
    (kept,) = json.loads((project.path / "after.json").read_text())["tests"]
    assert kept["rounds_joules"] == [[2.0], [pytest.approx(2.2)], [3.0]]


def test_one_file_is_not_saved_and_added_to(project: Project) -> None:
    """The one replaces what the other would keep."""
    project.file("def test_it(): burn(2)\n")
    result = project.run("--carbon-add=a.json", "--carbon-save=a.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a.json cannot be both replaced and added to*"])


def test_what_is_no_baseline_is_not_added_to(project: Project) -> None:
    """It is said before any test runs, and the file stays."""
    project.file("def test_it(): print('I RAN')\n")
    (project.path / "a.json").write_text("[1, 2]")
    result = project.run("--carbon-add=a.json", "-s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.no_fnmatch_line("*I RAN*")
    assert (project.path / "a.json").read_text() == "[1, 2]"


def test_the_stronger_place_wins(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line over environment over ini."""
    project.file(_TESTS.format(mark=""))
    project.ini(carbon_budget="0.5 J")
    project.run().assert_outcomes(failed=2)
    monkeypatch.setenv("CARBONTRACK_PYTEST_BUDGET", "2 J")
    project.run().assert_outcomes(failed=1, passed=1)
    project.run("--carbon-budget", "5 J").assert_outcomes(passed=2)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("carbon_budget", "5 bananas", "unknown unit 'bananas'"),
        ("carbon_top", "-1", "whole number from 0"),
        ("carbon_compare", "nowhere.json", "there is no file"),
    ],
)
def test_a_value_that_cannot_be_used_is_a_usage_error_with_its_place(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    name: str,
    value: str,
    complaint: str,
) -> None:
    """Exit code 4 before any test; the message says where the value stands."""
    project.file(_TESTS.format(mark=""))
    if place == "option":  # a value may begin with a dash
        result = project.run("-s", f"--{name.replace('_', '-')}={value}")
    else:
        result = run_with(project, monkeypatch, place, name, value)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    spelt = {
        "option": f"--{name.replace('_', '-')}",
        "ini": f"ini {name}",
        "environment": f"CARBONTRACK_PYTEST_{name.removeprefix('carbon_').upper()}",
    }
    result.stderr.fnmatch_lines([f"*carbontrack: {spelt[place]}={value}*{complaint}*"])
    result.stdout.no_fnmatch_line("*LESS RAN*")


def test_a_misspelt_variable_is_a_usage_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would do nothing, and nobody would know."""
    monkeypatch.setenv("CARBONTRACK_PYTEST_BUGET", "5 J")
    project.file(_TESTS.format(mark=""))
    result = project.run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*CARBONTRACK_PYTEST_BUGET*did you mean 'budget'*"])


# -- pytest-xdist --------------------------------------------------------------------------------

_MANY = """
@pytest.mark.carbon_budget("5 J")
@pytest.mark.parametrize("joules", [4.5, 5.0, 5.5, 6.0])
def test_judged(joules): burn(joules)
@pytest.mark.carbon_budget("5 J", repeat=3)
def test_repeated(): burn(2)
@pytest.mark.parametrize("joules", range(6))
def test_plain(joules): burn(joules)
def test_broken():
    burn(1)
    assert 0
def test_skipped(): pytest.skip("no")
"""


def _facts(project: Project, name: str) -> Any:
    content = json.loads((project.path / name).read_text())
    content["session"].pop("finished_at")
    for test in content["tests"]:
        for name in ("started_at", "ended_at", "pid"):
            assert test.pop(name)
    return content["tests"], content["session"]


def test_two_workers_tell_what_none_tells(project: Project) -> None:
    """JSON, CSV, junit, table, exit code and the session's verdict are those of a run without."""
    project.file(_MANY)
    found = {}
    for workers in ("0", "2"):
        done = project.run_apart(
            "-Werror", f"-n{workers}", "--carbon", "--carbon-session-budget", "30 J",
            "--carbon-json", f"{workers}.json", "--carbon-csv", f"{workers}.csv",
            f"--junit-xml={workers}.xml", "--carbon-benchmark", f"b{workers}.json",
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        begin = next(n for n, line in enumerate(lines) if line.startswith("energy"))
        table = [line for line in lines[begin:] if "::" in line or "session" in line]
        with (project.path / f"{workers}.csv").open(newline="") as file:
            rows = sorted((row["name"], row["energy_kwh"]) for row in csv.DictReader(file))
        found[workers] = (
            _facts(project, f"{workers}.json"),
            project.properties(f"{workers}.xml"),
            json.loads((project.path / f"b{workers}.json").read_text()),
            rows,
            [line for line in table if not line.startswith(("FAILED", "="))],
        )
    for without, with_two in zip(found["0"], found["2"], strict=True):
        assert without == with_two
    assert len(found["0"][3]) == 13
    assert "the session is over budget" in "\n".join(found["0"][4])


_GROUPED = """
@pytest.mark.xdist_group("serial")
@pytest.mark.parametrize("to", ["a@b", "a@serial", "c"])
def test_mail(to, carbon):
    with carbon.measure("part"): burn(2)
@pytest.mark.xdist_group(name="ports")
class TestPorts:
    def test_one(self): burn(2)
    @pytest.mark.xdist_group("serial")
    def test_two_groups(self): burn(3)
    @pytest.mark.xdist_group
    def test_without_a_name(self): burn(1)
def test_free(): burn(1)
"""
_WORDS = """
import pytest
from tests.support.fake_energy import burn

def pytest_collect_file(file_path, parent):
    if file_path.suffix == ".words":
        return Words.from_parent(parent, path=file_path)

class Words(pytest.File):
    def collect(self):
        for word in self.path.read_text().split():
            yield Word.from_parent(self, name=word)

class Word(pytest.Item):
    def setup(self): pass
    def runtest(self): burn(2)

def pytest_itemcollected(item):
    if item.name.endswith("grouped@serial"):
        item.add_marker(pytest.mark.xdist_group("serial"))
"""


def test_the_groups_of_xdist_are_in_no_id(project: Project) -> None:
    """JSON, CSV and baseline have the ids of a run without, also those with an @ of their own."""
    project.file(_GROUPED)
    with (project.path / "conftest.py").open("a") as conftest:
        conftest.write(_WORDS)
    (project.path / "mail.words").write_text("me@serial grouped@serial plain")
    found = {}
    for name, how in {"none": ("-n0",), "load": ("-n2", "--dist", "load"),
                      "group": ("-n2", "--dist", "loadgroup")}.items():  # fmt: skip
        done = project.run_apart(
            "-Werror", *how, "--carbon-json", f"{name}.json", "--carbon-csv", f"{name}.csv",
            f"--carbon-save={name}-base.json", "--carbon-repeat=2",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        with (project.path / f"{name}.csv").open(newline="") as file:
            rows = sorted(row["name"] for row in csv.DictReader(file))
        kept = json.loads((project.path / f"{name}-base.json").read_text())["tests"]
        tests, session = _facts(project, f"{name}.json")
        figures = [(test["nodeid"], test["energy_joules"]) for test in tests]
        found[name] = figures, session["tests"], rows, [test["nodeid"] for test in kept]
    for without, load, group in zip(*found.values(), strict=True):
        assert without == load == group
    assert found["group"][1] == len(rows) == 10
    assert "mail.words::grouped@serial" in rows


def test_a_baseline_without_groups_is_compared_in_groups(project: Project) -> None:
    """However the tests were run then and are now."""
    project.file(_GROUPED)
    limit = ("--carbon-repeat=3", "--carbon-compare=base.json", "--carbon-fail-on=10%")
    project.run("--carbon-save=base.json", "--carbon-repeat=3").assert_outcomes(passed=7)
    project.file(_GROUPED.replace("burn(3)", "burn(4)"))
    done = project.run_apart("-n2", "--dist", "loadgroup", *limit)

    assert "1 failed, 6 passed" in done.stdout
    assert "not in the baseline" not in done.stdout


def test_workers_start_for_a_marker_alone(project: Project) -> None:
    """Nothing was asked on the command line; the controller learns of it from a report."""
    project.file(_TESTS.format(mark='@pytest.mark.carbon_budget("2 J")'))
    done = project.run_apart("-W", "error", "-n2")

    assert "1 failed, 1 passed" in done.stdout
    assert "2 tests used 4.00 J" in done.stdout


def test_a_bad_marker_is_a_usage_error_with_workers_too(project: Project) -> None:
    """Exit code 4 and the place."""
    project.file(_TESTS.format(mark='@pytest.mark.carbon_budget("5 bananas")'))
    done = project.run_apart("-n2")

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_it.py:4: @pytest.mark.carbon_budget" in done.stdout + done.stderr


def test_without_xdist_it_is_the_same(project: Project) -> None:
    """The plugin needs nothing of it."""
    project.file(_TESTS.format(mark='@pytest.mark.carbon_budget("2 J")'))
    result = project.run("-p", "no:xdist", "-W", "error", "--carbon")

    result.assert_outcomes(passed=1, failed=1)


# -- what it looks like --------------------------------------------------------------------------


def shown(result: pytest.RunResult) -> str:
    return "\n".join(result.stdout.lines)


def test_a_narrow_terminal_is_not_overrun(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line of the table fits; the test's name loses its beginning, not its end."""
    monkeypatch.setenv("COLUMNS", "40")
    name = "test_" + "long_" * 12 + "name"
    project.file(f"def {name}(): burn(1)\n")
    result = project.run("--carbon")

    table = [line for line in result.stdout.lines if line.startswith("1.00 J")]
    assert len(table) == 1
    assert len(table[0]) <= 40
    assert table[0].endswith("name")


def test_quiet_says_one_line(project: Project) -> None:
    """-q: the sum; -qq: nothing, unless something is over."""
    project.file(_TESTS.format(mark=""))
    quiet = shown(project.run("--carbon", "-q"))
    assert "2 tests used 4.00 J" in quiet
    assert "test_more" not in quiet
    assert "4.00 J" not in shown(project.run("--carbon", "-qq"))
    assert "over" in shown(project.run("--carbon-session-budget", "3 J", "-qq"))


def test_colour_is_pytests_to_switch(project: Project) -> None:
    """Red for what is over with --color=yes; no escape with --color=no."""
    project.file(_TESTS.format(mark=""))
    coloured = shown(project.run("--carbon-budget", "2 J", "--color=yes"))
    assert "\x1b[31m3.00 J" in coloured
    assert "\x1b" not in shown(project.run("--carbon-budget", "2 J", "--color=no"))


def test_the_step_summary_is_markdown(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appended to, as the steps before have written there."""
    page = project.path / "summary.md"
    page.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    project.file(_TESTS.format(mark=""))
    project.run("--carbon-budget", "2 J")

    text = page.read_text()
    assert text.startswith("# before\n### Emissions of the tests\n")
    assert "| `test_it.py::test_more` | 3.00 J | 3.00 mg | 2.00 J | over |" in text
