"""The front door: what is refused before anything starts, and which way a block is counted."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

import pytest

import carbontrack
from carbontrack.api.track import auto, current_span, track
from carbontrack.errors import ConfigError, QuantityError, UnknownRegion, UnknownSettingError
from carbontrack.system.host import calibration_path, host_id
from tests.support.bench import Bench, joules


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [
        ({"regoin": "FR"}, UnknownSettingError, "region"),
        ({"region": "Atlantis"}, UnknownRegion, "Atlantis"),
        ({"interval_s": 0}, ConfigError, "interval_s"),
        ({"cpu_tdp_w": -1}, ConfigError, "cpu_tdp_w"),
        ({"budget": "5 bananas"}, QuantityError, "bananas"),
        ({"window_s": -1}, ConfigError, "window_s"),
        ({"window_s": float("nan")}, ConfigError, "window_s"),
        ({"name": ""}, ConfigError, "name"),
        ({"output": "/no/such/folder/runs.csv"}, ConfigError, "/no/such/folder"),
        ({"intensity_source": "nope"}, ConfigError, "nope"),
        ({"intensity_source": "electricitymaps", "region": "FR"}, ConfigError, "live_token"),
        ({"intensity_source": "eia", "region": "FR"}, ConfigError, "does not cover"),
        ({"tracker": 3}, ConfigError, "tracker must be a Tracker"),
        ({"window": 5}, UnknownSettingError, "window_s"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(given, error, named):
    """A misspelt setting, an unknown place, a bad quantity: an error that names it, at once."""
    with pytest.raises(error, match=named):
        track(**given)


@pytest.mark.parametrize("thing", [int, object, type("Mine", (), {})])
def test_classes_are_refused(thing):
    """A class is no function; the error says what to decorate instead."""
    with pytest.raises(ConfigError, match="methods"):
        track(output=None)(thing)


@pytest.mark.parametrize("thing", [property(lambda self: 1), "text", 3.5])
def test_what_cannot_be_called_is_refused(thing):
    """Only functions, and what is like them, can be decorated."""
    with pytest.raises((ConfigError, TypeError)):
        track(output=None)(thing)


def test_a_tracker_brings_its_own_settings():
    """`tracker=` and settings exclude each other."""
    with Bench() as bench, pytest.raises(ConfigError, match="region"):
        track("a", tracker=bench.tracker, region="FR")


def test_inside_an_open_span_a_block_is_its_child():
    """Without `tracker=` the block belongs to what is open around it."""
    with Bench() as bench, bench.tracker.span("outer") as outer, track("inner") as inner:
        assert inner.parent is outer


def test_equal_settings_inside_an_open_span_are_no_news(caplog):
    """What holds anyway is not warned of."""
    with track("outer", region="FR", output=None):
        for _ in range(2):
            with track("inner", region="FR", output=None):
                pass
    assert "ignored" not in caplog.text


def test_settings_that_agree_with_those_around_are_no_news(caplog):
    """Only what differs is warned of, though the block around was given more."""
    with track("outer", region="FR", pue=1.5, output=None):
        with track("inner", region="FR"), track("inner", pue=1.5):
            pass
        assert "ignored" not in caplog.text
        with track("inner", region="FR", pue=1.2):
            pass
    assert "track(pue)" in caplog.text


def test_settings_inside_an_open_span_are_ignored_with_one_warning(caplog):
    """The settings of the span around hold; a loop is told so once, not each time round."""
    with Bench() as bench, bench.tracker.span("outer"), caplog.at_level(logging.WARNING):
        inner = track("inner", pue=1.5, output=None)
        for _ in range(5):
            with inner:
                pass
    assert caplog.text.count("ignored") == 1


def test_a_decorated_functions_own_settings_are_warned_of_too(caplog):
    """Once, where it is called inside of a span with others."""

    @track(region="SE", scope="machine", output=None)
    def inner():
        return 1

    with track("outer", region="FR", output=None):
        inner()
        inner()
    assert caplog.text.count("track(region, scope)") == 1


def test_inside_an_open_span_nothing_outside_can_make_it_fail(tmp_path, monkeypatch, caplog):
    """Not a working directory that cannot be written to, nor a file of settings that broke."""
    with track("outer", region="FR", output=None):
        monkeypatch.chdir("/proc")
        with track("inner"):
            pass
        (tmp_path / "pyproject.toml").write_text("[tool.carbontrack]\nregoin = 'FR'\n")
        monkeypatch.chdir(tmp_path)
        with track("inner", scope="machine"):
            pass
        with pytest.raises(ConfigError, match="scope"):
            track("inner", scope="planet")
    assert "regoin" in caplog.text


@pytest.mark.parametrize("output", [None, "a.csv"])
def test_a_record_says_how_its_own_region_was_known(tmp_path, monkeypatch, output):
    """Two blocks with the same region may know it from two places."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARBONTRACK_REGION", "DE")
    with track("first", output=output) as first:
        pass
    with track("second", region="DE", output=output) as second:
        pass
    assert (first.record.region_basis, second.record.region_basis) == ("environment", "argument")


def test_trackers_with_other_meters_at_the_same_time_are_warned_of(caplog):
    """They cannot share what the machine used, so their records must not be added up."""
    with carbontrack.auto(output=None, region="FR") as one, one.span("a"):
        carbontrack.auto(output=None, region="SE").close()
        assert "double counting" not in caplog.text
        carbontrack.auto(output=None, region="FR", cpu_tdp_w=65.25).close()
    assert "double counting" in caplog.text


@pytest.mark.parametrize("setting", [{"boundary": "wall"}, {"gpu_model": True}])
def test_a_tracker_with_another_boundary_has_meters_of_its_own(setting):
    """Two trackers of one process that differ in this setting alone do not share a sampler."""
    same = {"output": None, "region": "FR", "cpu_tdp_w": 100.0, "gpu_ids": ()}
    with carbontrack.auto(**same) as plain, carbontrack.auto(**same, **setting) as other:
        with plain.span("a"), other.span("b"):
            pass
        plain_ids, other_ids = (
            [meter.id for meter in tracker.session.sampler.meters] for tracker in (plain, other)
        )
        assert plain.session.sampler is not other.session.sampler
    more = ["model:wall"] if "boundary" in setting else []
    assert other_ids == [*plain_ids, *more]


def test_tracker_makes_a_separate_root():
    """`tracker=` opens a root of that tracker inside another's span."""
    with Bench() as one, Bench() as other, one.tracker.span("outer"):
        with track("mine", tracker=other.tracker) as mine:
            other.clock.advance(1.0)
        assert mine.parent is None
        assert mine.record.parent_id is None
        assert other.records == [mine.record]


def test_one_object_may_be_open_many_times_at_once():
    """The same `track(...)` object nests in itself and runs in several threads."""
    with Bench() as bench:
        block = track("block", tracker=bench.tracker)
        meet = threading.Barrier(4)
        spans = []

        def work():
            with block as outer:
                meet.wait(60.0)
                with block as inner:
                    meet.wait(60.0)
                    spans.append((outer, inner))
                    assert current_span() is inner
                assert current_span() is outer
                meet.wait(60.0)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(span) for pair in spans for span in pair}) == 8
        assert all(inner.parent is outer for outer, inner in spans)
        assert all(span.record is not None for pair in spans for span in pair)
        assert len(bench.records) == 4
        assert bench.sampler.leaves == 0


def test_a_budget_marks_the_record_and_warns(caplog):
    """A block over its budget is warned of, and its record says so; under it nothing is said."""
    with Bench() as bench, caplog.at_level(logging.WARNING):
        with track("under", tracker=bench.tracker, budget="200 J") as under:
            bench.clock.advance(1.0)
        assert caplog.text == ""
        with track("over", tracker=bench.tracker, budget="50 J") as over:
            bench.clock.advance(1.0)
    assert under.record.status == "ok"
    assert over.record.status == "budget"
    assert "over is over budget" in caplog.text


def test_a_failure_wins_over_a_budget():
    """A block that failed says that it failed, over its budget or not."""
    with Bench() as bench:
        with suppress(KeyError), track("a", tracker=bench.tracker, budget="1 J") as span:
            bench.clock.advance(1.0)
            raise KeyError
        assert span.record.status == "error"


def test_the_name_of_a_function_is_its_address():
    """Module and qualified name, unless another is given."""
    with Bench() as bench:

        @track(tracker=bench.tracker)
        def function():
            bench.clock.advance(0.1)

        function()
    assert bench.records[0].name == f"{__name__}.{function.__qualname__}"


def test_the_public_names_work_together():
    """A decorated function, a block and a snapshot, by the names that users write."""
    with Bench() as bench, carbontrack.track("a", tracker=bench.tracker) as run:
        bench.clock.advance(1.0)
        assert carbontrack.current_span() is run
        assert joules(run.snapshot()) == pytest.approx(100.0)


def test_settings_that_have_worked_are_kept_whatever_else_changes(tmp_path, monkeypatch, caplog):
    """A half-written file of settings stops no block, though a variable of others has changed."""
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text('[tool.carbontrack]\nregion = "DE"\n', encoding="utf-8")
    with track("before", output=None) as before:
        pass
    project.write_text('[tool.carbontrack]\nregion = "D', encoding="utf-8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with caplog.at_level(logging.WARNING, "carbontrack"), track("after", output=None) as after:
        pass
    assert before.record.region == after.record.region == "DE"
    assert "the last settings that worked stay in use" in caplog.text


def test_a_wrong_argument_inside_an_open_span_is_raised_and_nothing_is_said_to_be_kept(caplog):
    """The error says all: a log of settings that are kept would contradict it."""
    with Bench() as bench, track("outer", tracker=bench.tracker):
        with (
            caplog.at_level(logging.WARNING, "carbontrack"),
            pytest.raises(ConfigError, match="reg"),
        ):
            track("inner", regoin="FR").__enter__()
        assert not caplog.records


def test_a_calibration_is_read_once_for_a_tracker(tmp_path, caplog):
    """One that cannot be used is said to be so in one line of the log."""
    kept = calibration_path(tmp_path, host_id())
    kept.write_text("{}", encoding="utf-8")
    with pytest.warns(UserWarning, match="the calibration is not used"):
        auto(region="FR", state_dir=str(tmp_path), output=None).close()

    assert caplog.text.count("the calibration is not used") == 1
