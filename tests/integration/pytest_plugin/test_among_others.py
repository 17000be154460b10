"""The pytest plugin beside other plugins: nested figures, reruns, protocols, forks, files."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from subprocess import PIPE
from typing import Any
from xml.etree import ElementTree

import pytest

from carbontrack.integrations.pytest_plugin.reference import ReferenceMetric
from carbontrack.testing import build_powercap
from tests.support.budget_project import Project

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


def found(project: Project, name: str = "o.json") -> dict[str, dict[str, Any]]:
    """The JSON report's tests by the function's name."""
    tests = json.loads((project.path / name).read_text())["tests"]
    return {test["nodeid"].split("::")[-1]: test for test in tests}


# -- figures within figures ------------------------------------------------------------------------

_METERED = """
import os, pathlib, threading, time
SYSFS = pathlib.Path(os.environ["CARBONTRACK_SYSFS_PATH"])
COUNTERS = {  # both move, as a machine's do: one that stands still is no meter
    SYSFS / "class/powercap/intel-rapl:0/energy_uj": 900_000,
    SYSFS / "class/powercap/intel-rapl:0:2/energy_uj": 100_000,
}
LOCK = threading.Lock()
def move(part):
    # over the old text, as a truncated file is a meter that fails
    with LOCK:
        for counter, used_uj in COUNTERS.items():
            text = f"{int(counter.read_text()) + round(part * used_uj):020d}\\n"
            with counter.open("r+b", buffering=0) as file: file.write(text.encode())
def use():
    # for so long that the meter's mean power is known from here on
    time.sleep(0.06)
    move(1.0)
# from before the meter is opened: on a busy machine a counter that has stood still beside work is
# set aside, within 50 ms where it has never moved
DONE = threading.Event()
def idle():
    while not DONE.wait(0.01): move(0.0001)
IDLE = threading.Thread(target=idle, daemon=True)
IDLE.start()
def pytest_unconfigure():
    DONE.set()
    IDLE.join()
"""
_PHASES = """
import time
from conftest import use
def test_plain(): use()
def test_measure(carbon):
    with carbon.measure("a") as span: use()
    assert 0.9 < span.energy_joules / carbon.energy_joules <= 1.0
def test_nested(carbon):
    with carbon.measure("a") as outer, carbon.measure("b") as inner: use()
    assert 0.9 < inner.energy_joules / outer.energy_joules <= 1.0
@pytest.fixture
def held(carbon):
    with carbon.measure("held") as span:
        yield span
def test_phase_of_a_fixture(held):
    use()
    assert held.energy_joules > 0.9
@pytest.fixture
def broken(carbon): raise RuntimeError
def test_broken(broken): pass
def test_after_a_broken_set_up(): use()
@pytest.fixture
def longer_than_a_refresh():
    # a shorter set-up or teardown is billed the last known power, although nothing is used
    time.sleep(0.01)
    yield
    time.sleep(0.01)
@pytest.mark.carbon_budget("0.7 J", scope="all")
def test_all(carbon, longer_than_a_refresh):
    with carbon.measure("a"): use()
"""


def test_a_phase_takes_nothing_away_from_its_test(project: Project) -> None:
    """With real meters too: no phase, and no window left open, halves what a test has used."""
    project.real_metric()
    project.file(_METERED, "conftest.py")
    project.file(_PHASES)
    sysfs = build_powercap(project.path / "tree").sysfs
    done = project.run_apart(
        *("--carbon", "--carbon-metric=measured", "--carbon-json=o.json"),
        CARBONTRACK_SYSFS_PATH=str(sysfs),
        CARBONTRACK_SCOPE="machine",
    )

    assert "1 failed, 5 passed" in done.stdout, done.stdout
    tests = found(project)
    assert tests["test_all"]["verdict"] == "over"
    used = [test["energy_joules"] for test in tests.values()]
    assert used == pytest.approx([1.0] * 6, rel=0.02), used


# -- children that live on -------------------------------------------------------------------------

_SERVANT = """
import sys, time
for _ in sys.stdin:
    begun = time.process_time()
    while time.process_time() < begun + 0.003: pass
    print(time.process_time() - begun, flush=True)
"""


@pytest.mark.xdist_group("serial")
def test_a_child_that_lives_on_is_billed_to_the_nanosecond() -> None:
    """A server's 3 ms for a test count as 3 ms, though the kernel reports ticks of 10 ms."""
    metric = ReferenceMetric(watts=1.0, speed=lambda _: 1.0)
    command = [sys.executable, "-S", "-c", _SERVANT]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for number in range(12):
            window = metric.open("a test")
            begun_s = time.process_time()
            child.stdin.write("work\n")
            child.stdin.flush()
            worked_s = float(child.stdout.readline())
            own_s = time.process_time() - begun_s
            found = window.close()
            if number == 0:
                continue  # the servant has started meanwhile
            assert found.joules == pytest.approx(own_s + worked_s, abs=0.002)
            assert found.resolution_joules < 0.001
        child.stdin.close()


# -- reruns and other plugins' protocols -----------------------------------------------------------

_FLAKY = """
RAN = []
@pytest.fixture
def costly():
    burn(100)
@pytest.mark.carbon_budget("5 J", {how})
def test_it(costly):
    burn(9 if not RAN else {joules})
    RAN.append(1)
    assert len(RAN) == 2
"""


needs_force = pytest.mark.skipif(
    int(version("pytest-rerunfailures").split(".")[0]) < 16, reason="the option is newer"
)


@pytest.mark.parametrize(
    ("how", "left_out"),
    [("scope='all'", "fixtures not included"), ("repeat=3", "not repeated")],
)
@pytest.mark.parametrize(
    ("options", "ini"),
    [
        (("--reruns", "2"), {}),
        pytest.param(("--force-reruns", "2"), {}, marks=needs_force),
        ((), {"reruns": "2"}),
    ],
)
def test_what_is_rerun_is_left_to_its_plugin(
    project: Project, how: str, left_out: str, options: tuple[str, ...], ini: dict[str, str]
) -> None:
    """Asked for by option or ini: the test is rerun, its call gets a verdict, the table says so."""
    project.file(_FLAKY.format(how=how, joules=2))
    project.ini(**ini)
    result = project.run("-W", "error", *options)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*2.00 J*within*", f"*{left_out}: another plugin runs or reruns it", "*1 passed, 1 rerun*"]
    )


def test_a_rerun_asked_for_by_marker_wins_over_none_by_option(project: Project) -> None:
    """As in pytest-rerunfailures: --reruns 0 takes precedence over an ini of 2."""
    project.ini(reruns="2")
    project.file("""
RAN = []
@pytest.mark.flaky(reruns=1)
@pytest.mark.carbon_budget("5 J", repeat=2)
def test_marked(): RAN.append(1); assert len(RAN) == 2
@pytest.mark.carbon_budget("5 J", repeat=2)
def test_plain(): burn(1)
""")
    result = project.run("--reruns", "0", "--carbon-json", "o.json")

    result.stdout.fnmatch_lines(["*2 passed, 1 rerun*"])
    rounds = {name: len(test["rounds_joules"]) for name, test in found(project).items()}
    assert rounds == {"test_marked": 1, "test_plain": 2}


@pytest.mark.parametrize("how", ["repeat=3", "scope='all'", "repeat=2, scope='all'"])
def test_a_budget_holds_where_another_plugin_runs_the_tests(project: Project, how: str) -> None:
    """Whatever plugin runs it, its call gets a verdict, and the table says what is left out."""
    conftest = project.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + """
import pytest
from _pytest.runner import runtestprotocol
class Runner:
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        runtestprotocol(item, nextitem=nextitem)
        return True
def pytest_collection_finish(session):
    session.config.pluginmanager.register(Runner())
"""
    )
    project.file(f"""
@pytest.fixture
def costly():
    burn(1)
@pytest.mark.carbon_budget("5 J", {how})
@pytest.mark.parametrize("joules", [4.5, 6])
def test_it(joules, costly): burn(joules)
""")
    result = project.run()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*4.50 J*within*", "*: another plugin runs or reruns it"])


def test_other_plugins_get_tests_as_the_next_ones(project: Project) -> None:
    """Between rounds too, so that they may ask it for its module, function and marks."""
    conftest = project.path / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + """
def pytest_runtest_teardown(item, nextitem):
    assert nextitem is not item
    assert nextitem is None or nextitem.function.__name__ == "test_it"
"""
    )
    project.file("""
@pytest.mark.carbon_budget("5 J", repeat=3)
def test_it(tmp_path): burn(1)
""")
    project.run("-W", "error").assert_outcomes(passed=1)


# -- what is told once -----------------------------------------------------------------------------


def names_in(xml: str) -> list[str]:
    """The names of all properties."""
    return sorted(found.attrib["name"] for found in ElementTree.fromstring(xml).iter("property"))


OURS = ["carbon_budget", "carbon_emissions_g", "carbon_energy_joules", "carbon_metric"]


def test_properties_of_several_rounds_are_told_once(project: Project) -> None:
    """The test's own properties are those of its first round."""
    project.ini(junit_family="xunit1")
    project.file("""
@pytest.mark.carbon_budget("5 J", repeat=3)
def test_it(record_property): record_property("mine", 1)
""")
    project.run("--junit-xml=junit.xml")

    assert names_in((project.path / "junit.xml").read_text()) == [*OURS, "mine"]


def test_our_properties_are_replaced_when_a_test_is_rerun(project: Project) -> None:
    """The outcome comes with the figures of the last run only."""
    project.file("""
RAN = []
@pytest.mark.carbon_budget("5 J")
def test_it():
    RAN.append(1)
    burn(len(RAN))
    assert len(RAN) == 2
def test_last(request): print(request.session.items[0].user_properties)
""")
    result = project.run("--reruns", "2", "--junit-xml=junit.xml", "-s")

    result.stdout.fnmatch_lines(["*[[]('carbon_energy_joules', 2.0), *"])
    assert str(result.stdout).count("'carbon_metric'") == 1


def test_expected_failures_have_pytests_words(project: Project) -> None:
    """In the JSON report as in the record's labels."""
    project.file("""
@pytest.mark.xfail
def test_fails(): assert 0
@pytest.mark.xfail
def test_passes(): pass
@pytest.mark.xfail(strict=True)
def test_strict(): pass
def test_skips(): pytest.skip("no")
""")
    project.run("--carbon-json=o.json", "--carbon-csv=o.csv")

    outcomes = {name: test["outcome"] for name, test in found(project).items()}
    assert outcomes == {
        "test_fails": "xfailed",
        "test_passes": "xpassed",
        "test_strict": "failed",
        "test_skips": "skipped",
    }
    with (project.path / "o.csv").open(newline="") as file:
        labels = [json.loads(row["labels"])["outcome"] for row in csv.DictReader(file)]
    assert labels == ["xfailed", "xpassed", "skipped", "failed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_leaves_by_exit_writes_nothing(project: Project) -> None:
    """The child reaches the session's end as well; the session is its parent's."""
    project.file("""
import os, sys
@pytest.mark.carbon_budget("5 J")
def test_it():
    child = os.fork()
    if not child: sys.exit(0)
    os.waitpid(child, 0)
""")
    project.run_apart("--carbon-csv=o.csv", GITHUB_STEP_SUMMARY=str(project.path / "page.md"))

    assert (project.path / "o.csv").read_text().count("test_it.py::test_it") == 1
    assert (project.path / "page.md").read_text().count("test_it.py::test_it") == 1


def test_records_tell_when_where_and_within_which_run(project: Project) -> None:
    """A report adds up the run or its tests, not both; each test has its own time and process."""
    project.file("""
import carbontrack, time
def test_first(tmp_path):
    burn(1)
    with carbontrack.track("other", output=tmp_path / "a.csv"): time.sleep(0.1)
def test_second(): burn(1)
""")
    variables = {"CARBONTRACK_PARENT_ID": "outer-1", "CARBONTRACK_HOST_ID": "ci-7"}
    project.run_apart("--carbon", "--carbon-csv=o.csv", **variables)

    with (project.path / "o.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert {(row["parent_id"], row["host_id"]) for row in (first, second)} == {("outer-1", "ci-7")}
    assert first["started_at"] < first["ended_at"] < second["started_at"] < second["ended_at"]
    assert first["pid"] == second["pid"] != ""
    assert first["parent_holds"] == second["parent_holds"] == "", "nothing is said of who it is"


def test_a_run_around_the_tests_holds_them(project: Project) -> None:
    """Under `carbontrack run` the records of the tests are in no sum beside the run's own."""
    project.file("def test_it(): burn(1)")
    command = [sys.executable, "-m", "carbontrack", "run", "--quiet", "--output", "all.csv", "--"]
    pytest_too = [sys.executable, "-m", "pytest", "--carbon", "--carbon-csv=all.csv"]
    environ = os.environ | {"CARBONTRACK_STATE_DIR": str(project.path / "state")}
    done = subprocess.run(
        [*command, *pytest_too], cwd=project.path, env=environ, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr

    with (project.path / "all.csv").open(newline="") as file:
        test, run = csv.DictReader(file)
    assert (test["parent_id"], test["parent_holds"]) == (run["record_id"], "true")
