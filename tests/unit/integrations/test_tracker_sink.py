"""Sinks of experiment trackers: which records count, and what is added up."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import pytest

from carbontrack.errors import SinkError
from carbontrack.integrations.tracker_sink import Background, RunSums, TrackerSink
from carbontrack.record import Record
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker
from carbontrack.values import replace


class ListSink(TrackerSink[str]):
    """Reports to lists, one for each run."""

    def __init__(
        self, run: str | None = "first", *, named: bool = False, sums: RunSums | None = None
    ) -> None:
        super().__init__(sums)
        self.run = run
        self.takes_recovered = named
        self.finished = 0
        self.reports: list[tuple[str, dict[str, float], dict[str, str], int]] = []

    def find_run(self) -> tuple[str, str] | None:
        return None if self.run is None else (self.run, self.run)

    def report(self, run: str, numbers: Any, facts: Any, step: int) -> None:
        self.reports.append((run, numbers, facts, step))

    def finish(self) -> None:
        self.finished += 1


def a_record(**changes: Any) -> Record:
    """A record of this process: 100 W for 36 s, which are 0.001 kWh."""
    clock = FakeClock()
    tracker = Tracker(meters=[FakeMeter(watts=100.0)], grid=500.0, clock=clock)
    with tracker.span("train") as span:
        clock.advance(36.0)
    assert span.record is not None
    return replace(span.record, **changes)


def test_records_of_a_run_are_added_up() -> None:
    """Two trainings of 1 Wh are 2 Wh; the power is the mean over both."""
    sink = ListSink()
    sink.write(a_record())
    sink.write(a_record(energy_kwh=0.003, duration_s=4.0))
    (_, one, facts, first), (_, both, _, second) = sink.reports
    assert one["carbontrack/energy_kwh"] == pytest.approx(0.001)
    assert one["carbontrack/power_w"] == pytest.approx(100.0)
    assert facts["basis"] == "measured"
    assert both["carbontrack/energy_kwh"] == pytest.approx(0.004)
    assert both["carbontrack/emissions_g"] == pytest.approx(1.0)
    assert both["carbontrack/duration_s"] == 40.0
    assert both["carbontrack/power_w"] == pytest.approx(0.004 * 3.6e6 / 40.0)
    assert (first, second) == (1, 2)


def test_each_run_has_its_own_sums() -> None:
    """A search with a run for each trial: none has the energy of those before it."""
    sink = ListSink()
    for trial in range(3):
        sink.run = f"trial {trial}"
        sink.write(a_record())
    assert [numbers["carbontrack/energy_kwh"] for _, numbers, _, _ in sink.reports] == (
        [pytest.approx(0.001)] * 3
    )
    assert [run for run, *_ in sink.reports] == ["trial 0", "trial 1", "trial 2"]


def test_sinks_of_several_trackers_add_to_the_sums_of_one_run() -> None:
    """`track` with another region has another sink; the run has the energy of both blocks."""
    sums = RunSums()
    one, other = ListSink(sums=sums), ListSink(sums=sums)
    one.write(a_record())
    other.write(a_record())
    one.write(a_record())
    reports = [*one.reports[:1], *other.reports, *one.reports[1:]]
    values = [numbers["carbontrack/energy_kwh"] for _, numbers, _, _ in reports]
    assert values == pytest.approx([0.001, 0.002, 0.003])
    assert [step for *_, step in reports] == [1, 2, 3]


def test_a_record_that_comes_twice_is_counted_once() -> None:
    """A tracker may have two sinks for one run, and a block may be logged after it has ended."""
    sums, record = RunSums(), a_record()
    one, other = ListSink(sums=sums), ListSink(sums=sums)
    one.write(record)
    other.write(record)
    one.log(record, step=7)
    for _, numbers, _, _ in one.reports + other.reports:
        assert numbers["carbontrack/energy_kwh"] == pytest.approx(0.001)


def test_what_is_under_way_is_added_for_this_once() -> None:
    """Live numbers go up to the final one; their steps are the user's, and the final is last."""
    sink = ListSink()
    sink.write(a_record())
    for epoch in (1, 2):
        sink.log(a_record(energy_kwh=0.001 * epoch), step=epoch * 10)
    sink.write(a_record(energy_kwh=0.003))
    values = [numbers["carbontrack/energy_kwh"] for _, numbers, _, _ in sink.reports]
    assert values == pytest.approx([0.001, 0.002, 0.003, 0.004])
    assert [step for *_, step in sink.reports] == [1, 10, 20, 21]
    assert [bool(facts) for _, _, facts, _ in sink.reports] == [True, False, False, True]


def test_a_sum_with_something_unknown_is_unknown() -> None:
    """A sum never leaves out a part in silence, and nothing unknown is 0."""
    sink = ListSink()
    sink.write(a_record())
    sink.write(a_record(emissions_g=None))
    sink.write(a_record())
    assert "carbontrack/emissions_g" in sink.reports[0][1]
    assert "carbontrack/gpu_kwh" not in sink.reports[0][1]
    for _, numbers, _, _ in sink.reports[1:]:
        assert "carbontrack/emissions_g" not in numbers
    assert sink.reports[2][1]["carbontrack/energy_kwh"] == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"rank": 0, "world_size": 2}, True),
        ({"rank": 1, "world_size": 2}, False),
        ({"pid": os.getpid() + 1}, False),
        ({"pid": os.getpid() + 1, "status": "recovered"}, False),
        ({"run_id": "a", "parent_id": "a-3"}, False),  # in the row of its parent
        ({"run_id": "a", "parent_id": "b-3", "parent_holds": True}, True),  # of another process
    ],
)
def test_a_joule_is_reported_once_and_by_one_rank(changes: dict[str, Any], counts: bool) -> None:
    """Records of other ranks, processes and earlier runs, and inner rows, are not the run's."""
    sink = ListSink()
    sink.write(a_record(**changes))
    sink.log(a_record(**changes))
    assert len(sink.reports) == (2 if counts else 0)


def test_what_was_recovered_belongs_to_a_run_that_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record of a killed process goes to the run it is for, not to the one that is active now."""
    active = ListSink()
    for _ in range(2):
        active.write(a_record(pid=os.getpid() + 1, status="recovered"))
    assert active.reports == []
    (said,) = caplog.records
    assert "another run may be active" in said.getMessage()
    sink = ListSink(named=True)
    sink.write(a_record(pid=os.getpid() + 1, status="recovered"))
    sink.write(a_record(pid=os.getpid() + 1))
    assert len(sink.reports) == 1


def test_without_a_run_nothing_is_reported_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The program goes on; one warning says what to do."""
    caplog.set_level(logging.WARNING, "carbontrack")
    sink = ListSink(run=None)
    for _ in range(3):
        sink.write(a_record())
    assert [r.getMessage() for r in caplog.records] == [TrackerSink.hint]
    sink.run = "later"
    sink.write(a_record())
    assert sink.reports[0][1]["carbontrack/energy_kwh"] == pytest.approx(0.001)


def test_the_end_does_not_wait_for_a_tracker_that_hangs() -> None:
    """`close` gives up, and says how many reports are lost."""
    goes_on = threading.Event()
    background = Background("the tracker", wait_s=0.05)
    background.do(goes_on.wait)
    background.do(goes_on.wait)
    with pytest.raises(SinkError, match=r"did not respond within 0\.05 s; 2 reports") as told:
        background.close()
    assert told.value.lost_records == 2
    goes_on.set()


def test_a_report_that_fails_does_not_keep_back_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and those behind it are made, all of them before `close` returns."""
    done: list[int] = []
    background = Background("the tracker")
    background.do(lambda: done.append(1))
    background.do(lambda: 1 // 0)
    background.do(lambda: done.append(3))
    background.close()
    assert done == [1, 3]
    assert "the tracker did not accept a report: ZeroDivisionError" in caplog.text


def test_a_forked_child_closes_nothing_of_its_parents() -> None:
    """Files and threads of a tracker are those of the process that has made the sink."""
    sink = ListSink()
    sink.close()
    assert sink.finished == 1
    sink._pid += 1
    sink.close()
    assert sink.finished == 1


def test_a_sink_that_was_closed_may_be_used_again() -> None:
    """Two trackers may have the same sink: the end of one does not silence the other."""
    done: list[int] = []
    background = Background("the tracker")
    for number in range(3):
        background.do(lambda number=number: done.append(number))
        background.close()
    background.close()
    assert done == [0, 1, 2]


def test_what_waits_for_a_slow_tracker_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """The newest reports are kept, as they have the sums of the oldest; it is said once."""
    goes_on, runs = threading.Event(), threading.Event()
    done: list[int] = []
    background = Background("the tracker", most=10)
    background.do(lambda: (runs.set(), goes_on.wait()))
    runs.wait()
    for number in range(100):
        background.do(lambda number=number: done.append(number))
    goes_on.set()
    background.close()
    assert done == list(range(90, 100))
    assert caplog.text.count("the oldest are discarded") == 1
