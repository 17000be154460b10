"""Baselines: what is kept, what is compared, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.integrations.pytest_plugin.baseline import (
    KIND,
    MOST_PROCESSES,
    Baseline,
    Occasion,
    add,
    save,
)
from carbontrack.integrations.pytest_plugin.results import TestResult
from tests.support.fake_energy import FakeMetric

HERE, THERE = "a processor x2", "another processor x8"
NOW_HERE, NOW_THERE = Occasion(HERE), Occasion(THERE)


def result(
    *joules: float, nodeid: str = "test_it.py::test_it", pins: str = "", outcome: str = "passed"
) -> TestResult:
    """A test that used this much in its rounds."""
    return TestResult(
        nodeid=nodeid,
        outcome=outcome,
        metric="reference",
        basis="modelled",
        energy_joules=min(joules),
        energy_low_joules=None,
        energy_high_joules=None,
        emissions_g=None,
        emissions_low_g=None,
        emissions_high_g=None,
        duration_s=1.0,
        rounds_joules=list(joules),
        pins=pins,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "baseline.json"


def rounds(path: Path) -> list[list[list[float]]]:
    """What the file holds, test by test and process by process."""
    return [test["rounds_joules"] for test in json.loads(path.read_text())["tests"]]


def test_saving_replaces_what_is_there_of_the_same_test(path: Path) -> None:
    """Others stay."""
    save(path, [result(1.0, 1.1), result(5.0, nodeid="b")], NOW_HERE)
    save(path, [result(2.0, 2.1)], NOW_HERE)
    assert rounds(path) == [[[5.0]], [[2.0, 2.1]]]


def test_adding_keeps_what_is_there(path: Path) -> None:
    """Each process has a list of its own, the latest last; a file is made where there is none."""
    add(path, [result(1.0, 1.1)], NOW_HERE)
    add(path, [result(2.0)], NOW_HERE)
    assert rounds(path) == [[[1.0, 1.1], [2.0]]]


def test_only_so_many_processes_are_kept(path: Path) -> None:
    """The latest."""
    for number in range(MOST_PROCESSES + 2):
        add(path, [result(float(number + 1))], NOW_HERE)
    (kept,) = rounds(path)
    assert len(kept) == MOST_PROCESSES
    assert kept[-1] == [MOST_PROCESSES + 2.0]


def test_figures_of_other_pins_are_not_added_to(path: Path) -> None:
    """They could not be compared; the new ones replace them."""
    add(path, [result(1.0, pins="4 W")], NOW_HERE)
    add(path, [result(2.0, pins="5 W")], NOW_HERE)
    assert rounds(path) == [[[2.0]]]


def test_only_tests_that_passed_are_kept(path: Path) -> None:
    """The figures of a failing test are not kept."""
    save(path, [result(1.0, outcome="failed")], NOW_HERE)
    assert rounds(path) == []


def test_machines_stand_side_by_side_and_ones_own_is_taken(path: Path) -> None:
    """A laptop and a runner can share a file."""
    save(path, [result(1.0, 1.0, 1.0)], NOW_THERE)
    save(path, [result(2.0, 2.0, 2.0)], NOW_HERE)
    baseline = Baseline.load(path)

    here = baseline.compare(result(2.0, 2.0, 2.0), FakeMetric(), machine=HERE)
    assert (here.ratio, here.low, here.high) == (1.0, 1.0, 1.0)


def test_another_machines_figures_are_compared_with_a_wider_interval(path: Path) -> None:
    """Only by a metric whose figures mean the same on every machine."""
    save(path, [result(1.0, 1.0, 1.0)], NOW_THERE)
    baseline, metric = Baseline.load(path), FakeMetric()

    found = baseline.compare(result(1.0, 1.0, 1.0), metric, machine=HERE)
    assert (found.low, found.high) == pytest.approx((0.868, 1.152), abs=0.001)
    metric.same_everywhere = False
    found = baseline.compare(result(1.0, 1.0, 1.0), metric, machine=HERE)
    assert found.text == "the baseline is another machine's"


def test_earlier_processes_count_as_this_ones(path: Path) -> None:
    """What was added of the same code is part of now."""
    save(path, [result(1.0, 1.0, 1.0)], NOW_HERE)
    earlier = path.with_name("now.json")
    add(earlier, [result(1.0, 1.0, 1.0), result(9.0, nodeid="b")], NOW_HERE)
    add(earlier, [result(1.0, 1.0, 1.0)], NOW_HERE)
    now = result(1.6, 1.6, 1.6)
    processes = Baseline.load(earlier).processes(now, HERE)
    assert processes == ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))

    found = Baseline.load(path).compare(now, FakeMetric(), machine=HERE, earlier=processes)
    assert found.ratio == pytest.approx(1.2)


@pytest.mark.parametrize("machine", [HERE, THERE])
@pytest.mark.parametrize("pins", ["4 W", "5 W"])
def test_processes_of_other_machines_and_pins_do_not_count(
    path: Path, machine: str, pins: str
) -> None:
    """Only those that measured the same thing in the same way."""
    add(path, [result(1.0, pins="4 W")], NOW_HERE)
    found = Baseline.load(path).processes(result(1.0, pins=pins), machine)
    assert found == (((1.0,),) if (machine, pins) == (HERE, "4 W") else ())


def test_where_nothing_can_be_compared_it_says_why(path: Path) -> None:
    """New, other metric, other pins, too small, nothing measured."""
    save(path, [result(1.0, 1.0, 1.0, pins="4 W")], NOW_HERE)
    baseline, metric = Baseline.load(path), FakeMetric()

    def note(of: TestResult, resolution_joules: float = 0.0) -> str:
        found = baseline.compare(of, metric, machine=HERE, resolution_joules=resolution_joules)
        return found.text

    assert note(result(1.0, nodeid="b")) == "new"
    assert note(result(1.0, pins="5 W")) == "the baseline has other pins"
    assert note(result(1.0, pins="4 W"), 0.11) == "too small to compare"
    silent = result(1.0, pins="4 W")
    silent.rounds_joules.clear()
    assert note(silent) == "nothing measured"
    metric.name = "measured"
    assert note(result(1.0, pins="4 W")) == "the baseline is by reference"


def test_a_baseline_of_the_first_schema_is_read(path: Path) -> None:
    """It knew one process of each test."""
    row = {"nodeid": "a", "metric": "reference", "pins": "", "machine": HERE}
    tests = [row | {"rounds_joules": [1.0, 2.0, 3.0]}]
    path.write_text(json.dumps({"schema": 1, "kind": KIND, "tests": tests}))

    entry = Baseline.load(path).entries["a", "reference", HERE]
    assert entry.rounds_joules == ((1.0, 2.0, 3.0),)
    add(path, [result(4.0, nodeid="a")], NOW_HERE)
    assert rounds(path) == [[[1.0, 2.0, 3.0], [4.0]]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": 3, "kind": "carbontrack baseline", "tests": []}',
        '{"schema": 2, "kind": "something else", "tests": []}',
        '{"schema": 2, "kind": "carbontrack baseline", "tests": [{"nodeid": "a"}]}',
        '{"schema": 2, "kind": "carbontrack baseline", "tests": [{"nodeid": "a", "metric": "m",'
        ' "machine": "x", "pins": "", "rounds_joules": [[]]}]}',
    ],
)
def test_what_is_no_baseline_is_refused(path: Path, text: str) -> None:
    """The error names the file and comes before any test runs."""
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"baseline\.json is not a baseline of carbontrack"):
        Baseline.load(path)
