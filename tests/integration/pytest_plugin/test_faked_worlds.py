"""The pytest plugin beside tests that fake files and time, and errors of ours in its hooks."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.support.budget_project import Project
from tests.support.costs import needs

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


def found(project: Project) -> dict[str, dict[str, Any]]:
    """The JSON report's tests by the function's name."""
    tests = json.loads((project.path / "o.json").read_text())["tests"]
    return {test["nodeid"].split("::")[-1]: test for test in tests}


def assert_no_internal_error(done: subprocess.CompletedProcess[str]) -> None:
    """The run came to its summary."""
    assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    assert " passed" in done.stdout, done.stdout + done.stderr


FAKED = {
    "pyfakefs": "def test_faked(fs): work()",
    "freezegun": "@freezegun.freeze_time('2031-05-01')\ndef test_faked(): work()",
    "time_machine": "@time_machine.travel('2031-05-01', tick=False)\ndef test_faked(): work()",
}


@pytest.mark.parametrize("metric", ["measured", "reference"])
@pytest.mark.parametrize("faker", FAKED)
def test_a_test_in_a_faked_world_is_judged(project, faker, metric):
    """Its figure is known and its budget kept, and so are the next one's."""
    needs(faker)
    project.real_metric()
    project.file(f"""
import {faker}
def work(): return sum(range(3_000_000))
pytestmark = pytest.mark.carbon_budget("500 J")
{FAKED[faker]}
def test_next(): work()
""")
    done = project.run_apart("--carbon-metric", metric, "--carbon-json", "o.json")
    assert_no_internal_error(done)
    assert done.returncode == 0
    for test in found(project).values():
        assert test["verdict"] == "within", done.stdout
        assert test["energy_joules"] > 0.0
        assert test["duration_s"] > 0.0
        assert not test["started_at"].startswith("2031")


def test_what_a_test_tracks_in_a_faked_file_system_is_its_own(project):
    """The program's rows go to the faked files; the plugin's figure is known all the same."""
    needs("pyfakefs")
    project.real_metric()
    project.file("""
import carbontrack, pathlib
@pytest.mark.carbon_budget("500 J")
def test_faked(fs):
    with carbontrack.track("mine", region="FR"):
        sum(range(1_000_000))
    assert "mine" in pathlib.Path("emissions.csv").read_text()
""")
    done = project.run_apart("--carbon-json", "o.json")
    assert_no_internal_error(done)
    assert found(project)["test_faked"]["verdict"] == "within"
    assert not (project.path / "emissions.csv").exists()


BROKEN = {
    "the hook": "def pytest_carbon_metric(config): raise RuntimeError('broken')",
    **{
        f"{name}": f"""
class Broken(FakeMetric):
    def {name}(self, *args): raise RuntimeError('broken')
def pytest_carbon_metric(config): return Broken()
"""
        for name in ("open", "speed_now", "describe", "statistic", "close")
    },
    "window.close": """
class Broken(FakeMetric):
    def open(self, name):
        window = super().open(name)
        def close(): raise RuntimeError('broken')
        window.close = close
        return window
def pytest_carbon_metric(config): return Broken()
""",
}


@pytest.mark.parametrize(
    ("part", "options"),
    [*((part, ()) for part in BROKEN), ("open", ("-W", "error")), ("the hook", ("-n", "2"))],
)
def test_an_error_of_ours_ends_no_run(project, part, options):
    """Every test runs; one warning tells of the error, however many tests meet it."""
    (project.path / "conftest.py").write_text(
        f"from tests.support.fake_energy import FakeMetric\n{BROKEN[part]}"
    )
    project.file("""
pytestmark = pytest.mark.carbon_budget("5 J")
def test_a(): burn(1.0)
def test_b(carbon): burn(1.0)
@pytest.mark.carbon_budget("5 J", repeat=2)
def test_c(): burn(1.0)
@pytest.mark.carbon_budget("5 J", scope="all")
def test_d(): burn(1.0)
""")
    done = project.run_apart("--carbon-json", "o.json", *options)
    assert_no_internal_error(done)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    told = done.stdout.count("carbontrack could not measure (RuntimeError: broken")
    workers = 2 if "-n" in options else 1
    assert told <= workers
    if part != "close":  # by then the summary is written
        assert told >= 1, done.stdout
        assert {test["verdict"] for test in found(project).values()} == {"inconclusive"}


def test_what_is_not_sure_because_of_us_fails_where_that_was_asked_for(project):
    """`--carbon-inconclusive fail` holds for what could not be measured as well."""
    (project.path / "conftest.py").write_text(
        f"from tests.support.fake_energy import FakeMetric\n{BROKEN['open']}"
    )
    project.file("@pytest.mark.carbon_budget('5 J')\ndef test_a(): burn(1.0)\ndef test_b(): pass")
    done = project.run_apart("--carbon-inconclusive", "fail")
    assert_no_internal_error(done)
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
