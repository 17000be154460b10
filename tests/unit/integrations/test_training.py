"""A training: epochs, evaluations inside and outside, its forecast and its card, in any order."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.errors import ConfigError
from carbontrack.integrations import stack_watch
from carbontrack.integrations.training import Training, TrainingCallback
from carbontrack.record import Record
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.tracker import Tracker

WATTS = 10.0
GRAMS_PER_KWH = 360.0
"""So that 10 J are 1 mg."""


class World:
    """A tracker on a clock that only the test turns."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = MemorySink()
        meters = [FakeMeter(watts=WATTS)]
        self.tracker = Tracker(
            meters=meters, sinks=[self.sink], grid=GRAMS_PER_KWH, clock=self.clock
        )

    def training(self, **settings: Any) -> Training:
        """A training of this world."""
        return Training(tracker=self.tracker, **settings)

    def rows(self) -> list[tuple[str, str, float]]:
        """Name, status and joules of each row."""
        return [(one.name, one.status, joules_of(one)) for one in self.sink.records]


@pytest.fixture
def world() -> Iterator[World]:
    """A world that is closed again."""
    made = World()
    yield made
    made.tracker.close()
    assert not stack_watch._open


def joules_of(record: Record) -> float:
    """The energy of a record."""
    return round((record.energy_kwh or 0.0) * 3.6e6, 6)


def evaluate(training: Training, world: World, batches: int = 2) -> None:
    """An evaluation as a framework runs it: the batch, then the hook."""
    data = object()
    for _ in range(batches):
        world.clock.advance(1.0)
        training.take_batch(data, "evaluate")
    training.end_evaluation()


STEPS = ("begin", "begin_epoch", "end_epoch", "end", "evaluate", "half", "log", "check")


@given(order=st.lists(st.sampled_from(STEPS), max_size=12))
def test_in_any_order_each_second_is_in_at_most_one_row(order: list[str]) -> None:
    """Nothing raises; of what is between the first row's beginning and the end nothing is twice."""
    world = World()
    training = world.training()
    for step, what in enumerate(order):
        if what == "begin":
            training.begin({"n": step}, step=step, steps=len(order))
        elif what == "evaluate":
            evaluate(training, world)
        elif what == "half":
            training.take_batch(object(), "evaluate")
        elif what == "log":
            training.log(step)
        else:
            getattr(training, what)()
        world.clock.advance(1.0)
    training.end()
    world.tracker.close()
    rows = world.rows()
    assert sum(joules for _, _, joules in rows) <= (world.clock.monotonic_s() - 1000.0) * WATTS
    assert {name for name, _, _ in rows} <= {"train", "evaluate"}
    assert [name for name, _, _ in rows].count("train") == order.count("begin")
    trained = [joules for name, _, joules in rows if name == "train"]
    card = training.model_card()
    if card is not None:
        assert card["emissions"] * 1e4 in [pytest.approx(joules) for joules in trained]


def test_the_card_is_the_last_training_whatever_is_evaluated_later(world: World) -> None:
    """An evaluation, or two, have records of their own and leave the card as it is."""
    training = world.training()
    assert training.model_card() is None
    training.begin({})
    world.clock.advance(3.0)
    training.end()
    card = training.model_card()
    for _ in range(2):
        evaluate(training, world)
    assert card is not None
    assert card["emissions"] == pytest.approx(30.0 / 3.6e6 * GRAMS_PER_KWH)
    assert training.model_card() == card
    assert world.rows() == [
        ("train", "ok", 30.0),
        ("evaluate", "ok", 10.0),
        ("evaluate", "ok", 10.0),
    ]


def test_a_part_of_a_training_has_no_card(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It says where the sum of the parts is to be had."""
    training = world.training()
    training.begin({}, step=5, steps=9)
    world.clock.advance(1.0)
    training.end()
    assert training.model_card() is None
    assert "carbontrack report … --format modelcard" in caplog.text


def test_labels_that_nothing_is_known_of_are_left_out(world: World) -> None:
    """Also the number of epochs of a stream without an end; a resumed one names the row before."""
    training = world.training()
    history = [{"loss": 1.0}, {"carbontrack/record_id": "a"}, {"carbontrack/record_id": "b"}, {}]
    training.begin({"trial": None, "epochs": sys.maxsize, "n": 0}, 3, 9, history)
    training.end()
    assert training.record is not None
    assert training.record.labels == {"n": 0, "resumed_at_step": 3, "resumes": "b"}


def test_an_evaluation_in_an_epoch_leaves_the_rest_of_it_a_child(world: World) -> None:
    """Within the training there are no rows but its own; the kernels end at each edge."""
    edges: list[str] = []
    training = world.training(synchronize=True, finish=lambda: edges.append("wait"))
    training.begin({})
    training.begin_epoch()
    evaluate(training, world)
    training.end_epoch()
    training.end()
    assert edges == ["wait"] * 4  # the epoch, the evaluation, what is left, and its end
    assert world.rows() == [("train", "ok", 20.0)]


def test_nobody_waits_for_kernels_unasked(world: World) -> None:
    """`synchronize` is off by default."""

    def fail() -> None:
        raise AssertionError

    training = world.training(finish=fail)
    training.begin({})
    training.begin_epoch()
    training.end_epoch()
    training.end()
    assert world.rows() == [("train", "ok", 0.0)]


def test_a_log_tells_what_was_used_and_what_will_have_been(world: World) -> None:
    """From a checkpoint on, only the steps that are left are foreseen; after the last, none."""
    training = world.training()
    assert training.log(1) == {}
    training.begin({}, step=10, steps=14)
    for step in (11, 12, 13):
        world.clock.advance(1.0)
        found = training.log(step)
    assert found["carbontrack/energy_kwh"] == pytest.approx(30.0 / 3.6e6)
    assert found["carbontrack/forecast_energy_kwh"] == pytest.approx(40.0 / 3.6e6)
    assert training.record_id
    world.clock.advance(1.0)
    assert "carbontrack/forecast_energy_kwh" not in training.log(14)
    training.take_batch(object(), "evaluate")
    assert training.log(14) == {}
    training.end()


def test_copies_and_pickles_have_the_settings() -> None:
    """Before and after a run; nothing that is open or was measured goes along."""
    training = Training(region="FR", output=None, synchronize=True)
    training.begin({})
    for copied in (copy.deepcopy(training), pickle.loads(pickle.dumps(training))):
        assert copied.record is None
        copied.begin({})
        copied.end()
        assert copied.record.region == "FR"
    training.end()


def test_a_misspelt_setting_is_raised_when_the_callback_is_made() -> None:
    """Before the model is loaded and hours are spent."""
    with pytest.raises(ConfigError, match="region"):
        TrainingCallback(regoin="FR")
    with pytest.raises(ConfigError, match="name"):
        TrainingCallback(name=3)


def test_forecasts_of_many_logs_cost_little(world: World) -> None:
    """After a hundred at each log there is one for each hundredth of the time, as good."""
    training = world.training()
    training.begin({}, steps=1000)
    made: list[object] = []
    for step in range(1, 501):
        world.clock.advance(1.0)
        training.log(step)
        if not made or made[-1] is not training.forecast:
            made.append(training.forecast)
    training.end()
    forecast = training.forecast
    assert forecast is not None
    assert forecast.energy_kwh == pytest.approx(10_000.0 / 3.6e6)
    assert 100 < len(made) < 320
