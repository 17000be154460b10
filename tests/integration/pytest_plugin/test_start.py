"""How a run of the pytest plugin starts: which tests it measures, and errors before any test."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.budget_project import Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


def refused(done: subprocess.CompletedProcess[str], complaint: str) -> None:
    """Exit code 4 with a complaint, and neither a test nor an internal error."""
    told = done.stdout + done.stderr
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, told
    assert complaint in told
    assert "INTERNALERROR" not in told
    assert "passed" not in told
    assert "I RAN" not in told


def conftest(project: Project, text: str) -> None:
    """Add to the project's conftest."""
    with (project.path / "conftest.py").open("a") as file:
        file.write(text)


# -- markers -----------------------------------------------------------------------------------

_MARKING = """
import pytest
@pytest.hookimpl({when})
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.carbon_budget({quantity!r}))
"""


@pytest.mark.parametrize("when", ["", "trylast=True"])
def test_markers_added_by_a_conftest_count(project: Project, when: str) -> None:
    """They are read after all other plugins have changed the collection."""
    conftest(project, _MARKING.format(when=when, quantity="2 J"))
    project.file("def test_it(): burn(3)\n")
    project.run().assert_outcomes(failed=1)


def test_a_bad_marker_added_by_a_conftest_is_a_usage_error(project: Project) -> None:
    """As one that is written on the test, before any test runs."""
    conftest(project, _MARKING.format(when="", quantity="2 bananas"))
    project.file("def test_it(): print('I RAN')\n")
    refused(project.run_apart("-s"), "test_it.py:3: @pytest.mark.carbon_budget: ")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_with_a_bad_marker_no_test_runs_in_workers_either(project: Project, workers: str) -> None:
    """The worker that finds it runs no test, so no failure of a test is lost."""
    project.file("""
from pathlib import Path
@pytest.mark.carbon_budget("2 bananas")
def test_it(): pass
@pytest.mark.parametrize("number", range(4))
def test_other(number): Path(f"ran-{number}").touch()
""")
    refused(project.run_apart(f"-n{workers}"), "test_it.py:5: @pytest.mark.carbon_budget: ")
    assert list(project.path.glob("ran-*")) == []


@pytest.mark.parametrize("arguments", ["repeat=3", 'scope="all"'])
def test_a_marker_without_a_quantity_measures(project: Project, arguments: str) -> None:
    """The test is measured in the way it says; without a limit there is no verdict."""
    project.file(f"""
@pytest.fixture
def costly(): burn(1)
@pytest.mark.carbon_budget({arguments})
def test_it(costly):
    burn(2)
    print("RUN")
def test_other(): burn(9)
""")
    result = project.run("-s", "-rA")

    result.assert_outcomes(passed=2)
    used, rounds = ("2.00 J", 3) if "repeat" in arguments else ("3.00 J", 1)
    result.stdout.fnmatch_lines([f"1 test used {used}*"])
    assert sum("RUN" in line for line in result.stdout.lines) == rounds


# -- settings ------------------------------------------------------------------------------------

_ASKING = {
    "marker": '@pytest.mark.carbon_budget("2 J")\ndef test_it(): print("I RAN")\n',
    "fixture": "def test_it(carbon): print('I RAN')\n",
    "option": "def test_it(): print('I RAN')\n",
}


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("asking", list(_ASKING))
def test_a_bad_setting_is_told_before_any_test_runs(
    project: Project, asking: str, workers: str
) -> None:
    """Exit code 4 and the setting's name, whatever started the plugin and wherever tests run."""
    project.real_metric()
    project.file("def test_first(): print('I RAN')\n" + _ASKING[asking])
    more = ("--carbon",) if asking == "option" else ()
    done = project.run_apart("-s", f"-n{workers}", *more, CARBONTRACK_REGOIN="FR")
    refused(done, "CARBONTRACK_REGOIN")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_broken_file_of_settings_is_told_with_its_place(project: Project, workers: str) -> None:
    """`[tool.carbontrack]` is read where pytest was started, and before anything runs."""
    project.real_metric()
    (project.path / "pyproject.toml").write_text("[tool.carbontrack]\nregoin = 'FR'\n")
    project.file(_ASKING["marker"])
    refused(project.run_apart("-s", f"-n{workers}"), "pyproject.toml")


def test_what_a_test_does_to_its_process_decides_no_setting(project: Project) -> None:
    """Environment and working directory are not read again once the run has started."""
    project.real_metric()
    project.file("""
def test_first(monkeypatch, tmp_path):
    monkeypatch.setenv("CARBONTRACK_REGOIN", "FR")
    (tmp_path / "pyproject.toml").write_text("[tool.carbontrack]\\nregoin = 'FR'\\n")
    monkeypatch.chdir(tmp_path)
def test_measured(monkeypatch, request):
    monkeypatch.setenv("CARBONTRACK_REGOIN", "FR")
    request.getfixturevalue("late")
@pytest.fixture
def late(carbon): return carbon
@pytest.mark.carbon_budget("5 MJ")
def test_it(): pass
""")
    done = project.run_apart()
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


# -- the ini -------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["maybe", "2"])
def test_a_word_that_is_neither_true_nor_false_is_a_usage_error(
    project: Project, word: str
) -> None:
    """`carbon = maybe` is checked like every other value, and the error names its place."""
    project.ini(carbon=word)
    project.file("def test_it(): print('I RAN')\n")
    refused(project.run_apart("-s"), f"ini carbon={word} is neither true nor false")


@pytest.mark.parametrize("word", ["false", "no", "0"])
def test_false_in_the_ini_asks_for_nothing(project: Project, word: str) -> None:
    """The plugin is not even started."""
    project.ini(carbon=word)
    project.file("def test_it(request): print('STARTED', request.config.pluginmanager.has_plugin("
                 "'carbontrack-budgets'))\n")  # fmt: skip
    project.run("-s").stdout.fnmatch_lines(["*STARTED False*"])


@pytest.mark.skipif(pytest.version_tuple < (9, 2), reason="before, TOML's types were one a key")
def test_native_toml_takes_numbers_and_booleans(project: Project) -> None:
    """As in every TOML file; the error for a bad one names its place."""
    project.file("def test_it():\n    print('RUN')\n    burn(1)\n")
    toml = project.path / "pytest.toml"
    toml.write_text("[pytest]\ncarbon = true\ncarbon_repeat = 3\ncarbon_reference_watts = 9.5\n")
    result = project.run("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 test used 1.00 J*"])
    assert str(result.stdout).count("RUN") == 3

    toml.write_text("[pytest]\ncarbon_repeat = 0\n")
    refused(project.run_apart("-s"), "ini carbon_repeat=0 is ")


@pytest.mark.parametrize("option", ["--help", "--markers"])
def test_help_is_given_whatever_is_wrong(project: Project, option: str) -> None:
    """A bad value must not prevent --help from showing the right one."""
    project.ini(carbon_repeat="often", carbon="maybe")
    assert project.run(option).ret == 0


def test_switched_off_no_option_is_looked_at(project: Project) -> None:
    """CARBONTRACK_DISABLE works in a job whose baseline was not fetched."""
    project.file("def test_it(): pass\n")
    done = project.run_apart("--carbon-compare=nowhere.json", CARBONTRACK_DISABLE="1")
    assert done.returncode == 0, done.stdout + done.stderr


# -- the fixture's name --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own",
    [
        "@pytest.fixture\ndef carbon(): return 12",
        "@pytest.mark.parametrize('carbon', [12])",
    ],
    ids=["fixture", "argument"],
)
def test_a_projects_own_carbon_starts_nothing(project: Project, own: str) -> None:
    """The name is common in chemistry; only our fixture asks for a measurement."""
    project.file(f"{own}\ndef test_it(carbon): burn(carbon)\n")
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*12.0 J*")


def test_a_fixture_made_of_ours_is_ours(project: Project) -> None:
    """A project may override `carbon` and use it."""
    project.file("""
@pytest.fixture
def carbon(carbon): return carbon
def test_it(carbon):
    burn(1)
    assert carbon.energy_joules == 1.0
""")
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 test used 1.00 J*"])
