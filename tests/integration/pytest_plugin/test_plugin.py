"""Budgets on tests, end to end: markers, verdicts, the fixture, and what must stay untouched."""

from __future__ import annotations

import json
import textwrap

import pytest

from tests.support.budget_project import Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


# -- verdicts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("quantity", ["5 J", "5 mg", "5 mg CO2e", "0.005 kJ"])
def test_under_at_and_over_the_budget(project: Project, quantity: str) -> None:
    """A budget is kept up to and including its limit, in joules and in grams."""
    project.file(f"""
@pytest.mark.carbon_budget("{quantity}")
@pytest.mark.parametrize("joules", [4.999, 5.0, 5.001])
def test_it(joules): burn(joules)
""")
    result = project.run("-v")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*4.999* PASSED*", "*5.0* PASSED*", "*5.001* CARBON BUDGET*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("joules", "verdict"),
    [(10.0, "within"), (10.001, "inconclusive"), (11.111, "inconclusive"), (11.112, "over")],
)
def test_only_the_lower_bound_exceeds_a_budget(
    project: Project, joules: float, verdict: str
) -> None:
    """With an interval of 10 %, a limit of 10 J is surely exceeded above 10 / 0.9."""
    project.metric(width=0.1)
    project.file(f"""
@pytest.mark.carbon_budget("10 J")
def test_it(): burn({joules})
""")
    result = project.run("--carbon-json", "out.json")

    found = json.loads((project.path / "out.json").read_text())
    assert found["tests"][0]["verdict"] == verdict
    result.assert_outcomes(
        failed=1 if verdict == "over" else 0, passed=0 if verdict == "over" else 1
    )


@pytest.mark.parametrize("joules", [0.0, 0.5])
def test_what_cannot_be_resolved_never_passes_as_zero(project: Project, joules: float) -> None:
    """A figure below the resolution does not pass where the limit is below it as well."""
    project.metric(resolution=1.0)
    project.file(f"""
@pytest.mark.carbon_budget("0.9 J")
def test_unseen(): burn({joules})
@pytest.mark.carbon_budget("1 J")
def test_seen_to_be_small(): burn({joules})
""")
    result = project.run("--carbon-json", "out.json", "-v")

    tests = json.loads((project.path / "out.json").read_text())["tests"]
    assert [test["verdict"] for test in tests] == ["within", "inconclusive"]
    result.stdout.fnmatch_lines(["*test_unseen PASSED, CARBON BUDGET INCONCLUSIVE*"])


@pytest.mark.parametrize(("choice", "failed"), [("pass", 0), ("warn", 0), ("fail", 1)])
def test_the_user_decides_what_inconclusive_means(
    project: Project, choice: str, failed: int
) -> None:
    """pass is silent, warn has a letter of its own, fail fails."""
    project.metric(width=0.5)
    project.file("""
@pytest.mark.carbon_budget("10 J")
def test_it(): burn(12)
""")
    result = project.run("--carbon-inconclusive", choice)

    result.assert_outcomes(failed=failed, passed=1 - failed)
    letter = {"pass": ".", "warn": "c", "fail": "C"}[choice]
    result.stdout.fnmatch_lines([f"test_it.py {letter} *"])


def test_the_tests_own_failure_wins(project: Project) -> None:
    """A failing test is reported as its own failure; its energy is still in the table."""
    project.file("""
@pytest.mark.carbon_budget("1 J")
def test_it():
    burn(5)
    assert 1 == 2
""")
    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2", "*5.00 J*test_it.py::test_it"])
    result.stdout.no_fnmatch_line("*over the budget*")


def test_a_failure_says_used_interval_metric_and_limit(project: Project) -> None:
    """One sentence says everything one needs."""
    project.metric(width=0.05)
    project.file("""
@pytest.mark.carbon_budget("5 J")
def test_it(): burn(7.1)
""")
    result = project.run()

    result.stdout.fnmatch_lines(
        ["carbon budget: used 7.10 J (6.7* to 7.4*, reference), over the budget of 5.00 J"]
    )


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("pytest.skip('no')", {"skipped": 1}),
        ("pytest.xfail('no')", {"xfailed": 1}),
    ],
)
def test_skips_and_expected_failures_stay_what_they_are(
    project: Project, body: str, outcome: dict[str, int]
) -> None:
    """A budget judges tests that pass, and no others."""
    project.file(f"""
@pytest.mark.carbon_budget("1 J")
def test_it():
    burn(9)
    {body}
""")
    project.run("-W", "error").assert_outcomes(**outcome)


def test_an_unexpected_pass_stays_one(project: Project) -> None:
    """xfail's own verdict is not turned into ours."""
    project.file("""
@pytest.mark.xfail
@pytest.mark.carbon_budget("1 J")
def test_it(): burn(9)
""")
    project.run().assert_outcomes(xpassed=1)


# -- markers -----------------------------------------------------------------------------------


def test_the_nearest_marker_wins_for_each_quantity(project: Project) -> None:
    """Module, class and function are read from far to near, energy and emissions apart."""
    project.file("""
pytestmark = pytest.mark.carbon_budget("3 J", emissions="100 mg")
@pytest.mark.carbon_budget(energy="6 J")
class TestIt:
    def test_class_wins(self): burn(5)
    @pytest.mark.carbon_budget("9 J")
    def test_function_wins(self): burn(8)
    @pytest.mark.carbon_budget("50 J")
    def test_module_holds_emissions(self): burn(45)
    @pytest.mark.carbon_budget("500 J")
    def test_module_stops_emissions(self): burn(101)
def test_module_wins(): burn(5)
""")
    result = project.run("-v")

    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        ["*module_stops_emissions CARBON BUDGET*", "*test_module_wins CARBON BUDGET*"]
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ('"5 bananas"', "unknown unit 'bananas'"),
        ('"five"', "is not a quantity"),
        ("5", "is not a quantity"),
        ('"-1 J"', "zero or more"),
        ('emissions="5 J"', "is a quantity of energy"),
        ('"5 J", energy="6 J"', "two values of energy"),
        ('"5 J", repeats=3', "did you mean 'repeat'"),
        ('"5 J", repeat=0', "whole number"),
        ('"5 J", scope="none"', "neither 'call' nor 'all'"),
        ("", "has no arguments"),
    ],
)
def test_a_bad_marker_is_a_usage_error_that_names_its_place(
    project: Project, arguments: str, complaint: str
) -> None:
    """Exit code 4, before any test runs, with file and line."""
    project.file(f"""
def test_first(): print("I RAN")
@pytest.mark.carbon_budget({arguments})
def test_it(): pass
""")
    result = project.run("-s")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*test_it.py:5: @pytest.mark.carbon_budget*{complaint}*"])
    result.stdout.no_fnmatch_line("*I RAN*")


def test_the_marker_is_registered(project: Project) -> None:
    """--strict-markers and --markers know it."""
    project.file("""
@pytest.mark.carbon_budget("5 J")
def test_it(): pass
""")
    project.run("--strict-markers").assert_outcomes(passed=1)
    project.run("--markers").stdout.fnmatch_lines(["@pytest.mark.carbon_budget(*"])


def test_fixtures_are_billed_only_on_request(project: Project) -> None:
    """scope="all" adds set-up and teardown; by default the test's own call counts."""
    project.file("""
@pytest.fixture
def costly():
    burn(3)
    yield
    burn(4)
@pytest.mark.carbon_budget("5 J")
def test_call(costly): burn(2)
@pytest.mark.carbon_budget("8.9 J", scope="all")
def test_all(costly): burn(2)
""")
    result = project.run("-v", "--carbon-json", "out.json")

    tests = json.loads((project.path / "out.json").read_text())["tests"]
    assert [test["energy_joules"] for test in tests] == [9.0, 2.0]
    result.stdout.fnmatch_lines(["*test_call PASSED*", "*test_all CARBON BUDGET*"])


# -- repeats -----------------------------------------------------------------------------------


def test_the_least_of_the_repeats_counts(project: Project) -> None:
    """Noise only adds, so one quiet run is enough."""
    project.file("""
COSTS = [9, 7, 4, 8]
@pytest.mark.carbon_budget("5 J", repeat=4)
def test_it(): burn(COSTS.pop(0))
""")
    result = project.run("--carbon-json", "out.json")

    result.assert_outcomes(passed=1)
    (test,) = json.loads((project.path / "out.json").read_text())["tests"]
    # differences of a count that other tests of this process have driven up
    assert test["rounds_joules"] == pytest.approx([9.0, 7.0, 4.0, 8.0], rel=1e-12)
    assert test["energy_joules"] == pytest.approx(4.0, rel=1e-12)


def test_each_repeat_has_fixtures_of_its_own_and_shares_the_wider_ones(project: Project) -> None:
    """tmp_path is fresh each time; a module's fixture is set up and torn down once."""
    project.file("""
@pytest.fixture(scope="module")
def module():
    print("\\nMODULE UP")
    yield
    print("\\nMODULE DOWN")
@pytest.fixture(autouse=True)
def function():
    print("\\nFUNCTION UP")
    yield
@pytest.mark.carbon_budget("5 J", repeat=3)
def test_it(module, tmp_path): (tmp_path / "new").mkdir()
""")
    project.file("def test_next(): pass", "test_next.py")
    result = project.run("-s")

    result.assert_outcomes(passed=2)
    lines = result.stdout.lines
    counts = [sum(text in line for line in lines) for text in ("MODULE UP", "DOWN", "FUNCTION UP")]
    assert counts == [1, 1, 3]


def test_a_test_that_cannot_run_twice_is_judged_by_its_first_run(project: Project) -> None:
    """The plugin repeats it, so what breaks only when repeated is no failure."""
    project.file("""
RAN = []
@pytest.mark.carbon_budget("5 J", repeat=3)
def test_it():
    burn(2)
    assert not RAN
    RAN.append(1)
""")
    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*2.00 J*within*", "*round 2 failed, so the result is from 1 round"]
    )


def test_a_failure_ends_the_repeats_and_the_fixtures(project: Project) -> None:
    """The next module starts from a clean state."""
    project.file("""
@pytest.mark.carbon_budget("5 J", repeat=3)
def test_it():
    print("RUN")
    assert 0
""")
    project.file("def test_next(): pass", "test_next.py")
    result = project.run("-s")

    result.assert_outcomes(passed=1, failed=1)
    assert str(result.stdout).count("RUN\n") == 1


def test_a_wider_fixtures_broken_teardown_is_told_after_repeats(project: Project) -> None:
    """It is an error of the last test, as without the plugin."""
    project.file("""
@pytest.fixture(scope="module")
def module():
    yield
    raise RuntimeError("broken teardown")
@pytest.mark.carbon_budget("5 J", repeat=2)
def test_it(module): pass
""")
    result = project.run()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: broken teardown*"])


# -- the fixture -------------------------------------------------------------------------------


def test_the_fixture_tells_what_was_used_so_far(project: Project) -> None:
    """Figures grow while the test runs; a phase has figures of its own."""
    project.file("""
def test_it(carbon):
    burn(1)
    assert carbon.energy_joules == pytest.approx(1)
    with carbon.measure("second") as span:
        burn(2)
        assert span.energy_joules == pytest.approx(2)
    burn(4)
    assert span.energy_joules == pytest.approx(2)
    assert span.record.emissions_g == pytest.approx(0.002)
    assert (span.name, span.record.name) == ("second", "second")
    assert carbon.energy_joules == pytest.approx(7)
    assert carbon.emissions_g == pytest.approx(0.007)
    assert carbon.basis == "modelled"
""")
    project.run("-W", "error").assert_outcomes(passed=1)


def test_the_fixture_works_when_asked_for_late(project: Project) -> None:
    """getfixturevalue in a test that nobody planned to measure."""
    project.file("""
def test_it(request):
    burn(5)
    carbon = request.getfixturevalue("carbon")
    burn(2)
    assert carbon.energy_joules == pytest.approx(2)
""")
    project.run("-W", "error").assert_outcomes(passed=1)


def test_a_fixture_may_use_the_fixture(project: Project) -> None:
    """In set-up it counts from the fixture on; in teardown it keeps the figures of the call."""
    project.file("""
@pytest.fixture
def watching(carbon):
    burn(1)
    assert carbon.energy_joules == pytest.approx(1)
    yield
    burn(50)
    assert carbon.energy_joules == pytest.approx(4)
def test_it(watching): burn(4)
""")
    project.run("-W", "error").assert_outcomes(passed=1)


# -- other kinds of tests ------------------------------------------------------------------------


def test_unittest_doctest_and_parametrised_tests_are_measured(project: Project) -> None:
    """Whatever pytest runs as a test has a figure."""
    project.file('''
import unittest
class TestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls): burn(100)
    def setUp(self): burn(10)
    def test_method(self): burn(1)
def documented():
    """
    >>> burn(2)
    """
@pytest.mark.parametrize("joules", [3, 4])
def test_param(joules): burn(joules)
''')
    result = project.run(
        "--carbon", "--doctest-modules", "--carbon-json", "o.json", "--carbon-repeat", "2"
    )

    result.assert_outcomes(passed=4)
    tests = json.loads((project.path / "o.json").read_text())["tests"]
    used = {test["nodeid"].split("::")[-1]: test["energy_joules"] for test in tests}
    assert used == {
        "test_it.documented": 2.0,
        "test_method": 11.0,  # pytest runs setUp within the call
        "test_param[3]": 3.0,
        "test_param[4]": 4.0,
    }


def test_subtests_belong_to_their_test(project: Project) -> None:
    """One figure, one verdict and one set of properties, however many subtests there are."""
    project.file("""
import unittest
class TestCase(unittest.TestCase):
    @pytest.mark.carbon_budget("5 J")
    def test_method(self):
        for number in range(6):
            with self.subTest(number=number):
                burn(1)
""")
    result = project.run("--carbon-json", "o.json", "--junit-xml=junit.xml")

    result.stdout.fnmatch_lines(["carbon budget: used 6.00 J*", "1 test used 6.00 J*"])
    assert "1 failed" in str(result.stdout)
    (test,) = json.loads((project.path / "o.json").read_text())["tests"]
    assert test["rounds_joules"] == [6.0]
    assert (project.path / "junit.xml").read_text().count('"carbon_energy_joules"') == 1


def test_tests_of_anyio_are_measured(project: Project) -> None:
    """The whole of a coroutine is within the call."""
    project.file("""
import anyio
@pytest.fixture
def anyio_backend(): return "asyncio"
@pytest.mark.anyio
@pytest.mark.carbon_budget("5 J")
@pytest.mark.parametrize("joules", [4, 6])
async def test_it(joules):
    await anyio.sleep(0)
    burn(joules)
""")
    project.run("-W", "error").assert_outcomes(passed=1, failed=1)


def test_tests_of_pytest_asyncio_are_measured(project: Project) -> None:
    """As those of anyio."""
    project.ini(asyncio_default_fixture_loop_scope="function")
    project.file("""
import asyncio
@pytest.mark.asyncio
@pytest.mark.carbon_budget("5 J", repeat=2)
@pytest.mark.parametrize("joules", [4, 6])
async def test_it(joules):
    await asyncio.sleep(0)
    burn(joules)
""")
    project.run("-W", "error", asyncio=True).assert_outcomes(passed=1, failed=1)


def test_reruns_are_left_to_their_plugin(project: Project) -> None:
    """A flaky test passes at its second run, is not repeated, and its last run is judged."""
    project.file("""
RAN = []
@pytest.mark.carbon_budget("5 J", repeat=3)
def test_it():
    burn(9 if not RAN else 2)
    RAN.append(1)
    assert len(RAN) == 2
""")
    result = project.run("-W", "error", "--reruns", "2")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*2.00 J*within*", "*1 passed, 1 rerun*"])


def test_pdb_sees_failures_and_no_budgets(project: Project) -> None:
    """An exceeded budget has no traceback to debug; nothing waits for input."""
    project.file("""
@pytest.mark.carbon_budget("1 J", repeat=2)
def test_it(): burn(5)
""")
    done = project.run_apart("--pdb")

    assert "(Pdb)" not in done.stdout
    assert "1 failed" in done.stdout


def test_last_failed_runs_what_was_over_budget(project: Project) -> None:
    """--lf knows an exceeded budget as a failure."""
    project.file("""
@pytest.mark.carbon_budget("1 J")
def test_over(): burn(5)
def test_fine(): burn(5)
""")
    project.pytester.runpytest_inprocess("-p", "no:asyncio")
    again = project.pytester.runpytest_inprocess("-p", "no:asyncio", "--lf")

    again.assert_outcomes(failed=1)


def test_exit_first_stops_after_an_exceeded_budget(project: Project) -> None:
    """-x counts it as a failure."""
    project.file("""
@pytest.mark.carbon_budget("1 J", repeat=2)
def test_1(): burn(5)
def test_2(): pass
""")
    project.run("-x").assert_outcomes(failed=1)


def test_the_table_begins_below_its_heading(project: Project) -> None:
    """The blank line is above the heading, as for pytest's own sections."""
    project.file("def test_it(): burn(5)")
    lines = project.run_apart("--carbon", "--carbon-metric=reference").stdout.splitlines()
    heading = next(n for n, line in enumerate(lines) if "= carbontrack =" in line)

    assert lines[heading - 1] == ""
    assert lines[heading + 1] != ""


def test_switched_off_nothing_is_judged(project: Project) -> None:
    """CARBONTRACK_DISABLE makes it all a no-op, the fixture included."""
    project.file("""
@pytest.mark.carbon_budget("1 J")
def test_it(carbon):
    burn(5)
    assert carbon.energy_joules is None
""")
    done = project.run_apart("--carbon", CARBONTRACK_DISABLE="1")

    assert "1 passed" in done.stdout
    assert "carbontrack: off, CARBONTRACK_DISABLE is set; no budget is checked" in done.stdout
    assert "carbontrack ===" not in done.stdout


def test_blocked_by_name_nothing_is_left(project: Project) -> None:
    """-p no:carbontrack: no option, no marker, no verdict."""
    (project.path / "conftest.py").unlink()
    project.file("def test_it(): pass")

    project.run("-p", "no:carbontrack").assert_outcomes(passed=1)
    assert project.run("-p", "no:carbontrack", "--carbon").ret == pytest.ExitCode.USAGE_ERROR


# -- cost, when not asked for ---------------------------------------------------------------------

_LOOK = textwrap.dedent("""
    import sys
    def pytest_sessionfinish(session):
        names = [n for n in sys.modules if n.split(".")[0] in ("carbontrack", "psutil", "pynvml")]
        print("\\nLOADED", *sorted(names))
        plugin = session.config.pluginmanager.get_plugin("carbontrack")
        hooks = [n for n in dir(plugin) if n.startswith("pytest_runtest")]
        added = session.config.pluginmanager.has_plugin("carbontrack-budgets")
        print("\\nHOOKS", len(hooks), added)
""")


def test_unasked_it_loads_next_to_nothing_and_has_no_hook_on_tests(project: Project) -> None:
    """Its own module, the one that reads the environment, and what that is made of.

    `carbontrack.values` is among these, as it makes named tuples in less time than `typing` does.
    No hook runs per test.
    """
    (project.path / "conftest.py").write_text(_LOOK)
    (project.path / "test_it.py").write_text("def test_it(): pass\n")
    done = project.run_apart("-s")

    (loaded,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert sorted(loaded.split()[1:]) == [
        "carbontrack",
        "carbontrack.config",
        "carbontrack.config.environment",
        "carbontrack.integrations",
        "carbontrack.integrations.pytest_plugin",
        "carbontrack.values",
    ]
    assert "HOOKS 0 False" in done.stdout


# -- in earnest ------------------------------------------------------------------------------------


@pytest.mark.xdist_group("serial")
def test_the_reference_metric_counts_children_and_threads(project: Project) -> None:
    """CPU seconds of the whole process tree count, whichever thread or child used them."""
    project.real_metric()
    work = "sum(i * i for i in range(1_500_000))"
    project.file(f"""
import subprocess, sys, threading
def work(): {work}
def test_nothing(): pass
def test_here(): work()
def test_thread():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
def test_child(): subprocess.run([sys.executable, "-S", "-c", {work!r}], check=True)
""")
    done = project.run_apart("--carbon", "--carbon-metric=reference", "--carbon-json=o.json")

    assert done.returncode == 0, done.stdout
    tests = json.loads((project.path / "o.json").read_text())["tests"]
    used = {test["nodeid"].split("::test_")[-1]: test["energy_joules"] for test in tests}
    assert used["nothing"] < 0.05 * used["here"]
    for kind in ("thread", "child"):
        assert 0.5 < used[kind] / used["here"] < 2.0


def test_tracked_code_in_a_measured_test_stays_as_it_is(project: Project) -> None:
    """A `track` under test is a root of its own and writes its record."""
    project.real_metric()
    project.file("""
import carbontrack
def test_it(tmp_path, carbon):
    assert carbontrack.current_span() is None
    with carbontrack.track("mine", output=tmp_path / "a.csv", region="FR") as run:
        pass
    assert run.record.parent_id is None
    assert (tmp_path / "a.csv").read_text().count("mine") == 1
""")
    done = project.run_apart("--carbon-metric=measured", "--carbon")

    assert "1 passed" in done.stdout, done.stdout
