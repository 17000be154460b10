"""The episode: whatever hooks come, each run is one record, and every joule is in one of them."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import CodeType, ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.api.track import current_span, track
from carbontrack.errors import BudgetExceeded, ConfigError
from carbontrack.integrations import stack_watch
from carbontrack.integrations.episode import GONE, Episode, guarded
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.record_builder import Resource
from carbontrack.tracking.tracker import Tracker
from tests.support.costs import without_collections
from tests.support.raising import Raiser, without_a_trace

WATTS = 100.0


class World:
    """A tracker on a clock that only the test turns."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = MemorySink()
        meters = [FakeMeter(watts=WATTS)]
        self.tracker = Tracker(meters=meters, sinks=[self.sink], clock=self.clock)

    @property
    def records(self) -> list[tuple[str, str, float]]:
        """Name, status and joules of each row."""
        return [
            (one.name, one.status, round((one.energy_kwh or 0.0) * 3.6e6, 6))
            for one in self.sink.records
        ]


@pytest.fixture
def world() -> Iterator[World]:
    """A world that is closed again."""
    made = World()
    yield made
    made.tracker.close()
    assert not stack_watch._open


def framework(**sources: str) -> dict[str, ModuleType]:
    """Modules of a small framework, from their source, by name."""
    made = {}
    for name, source in sources.items():
        module = ModuleType(f"small_framework.{name}")
        module.__dict__.update(made)
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)
        made[name] = module
    return made


FRAMEWORK = framework(
    callback="""
def call_event(callbacks, event):
    for one in callbacks:
        getattr(one, event)()
""",
    trainer="""
def train(callbacks, work):
    callback.call_event(callbacks, "on_begin")
    work()
    callback.call_event(callbacks, "on_end")
""",
)
train = FRAMEWORK["trainer"].train


class Callback:
    """What an integration is: hooks that are translated."""

    def __init__(self, tracker: Tracker | None = None, **settings: Any) -> None:
        self.episode = Episode(tracker, **settings)

    @guarded
    def on_begin(self) -> None:
        """The first hook."""
        self.episode.begin("train")

    @guarded
    def on_end(self) -> None:
        """The last one, unless the work raises."""
        self.episode.end()


def stop() -> None:
    """What ends a training without a last hook."""
    raise ArithmeticError


# -- the order of events ---------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "child", "end_child", "end", "error", "tick", "work"]),
        st.booleans(),
    ),
    max_size=25,
)


@pytest.mark.slow
@given(events=EVENTS)
def test_whatever_hooks_come_each_run_is_one_record(events: list[tuple[str, bool]]) -> None:
    """Any order, any thread: one row a run, no joule lost or counted twice, nothing left open."""
    world = World()
    episode = Episode(world.tracker)
    expected: list[tuple[str, str, float]] = []
    seconds: float | None = None  # of the run that is open
    actions: dict[str, Callable[[], object]] = {
        "begin": lambda: episode.begin("run", {"n": 1}, loop=code_of_this_test),
        "child": lambda: episode.child("epoch"),
        "end_child": episode.end_child,
        "end": episode.end,
        "error": lambda: episode.end("error", "ValueError: no\nsuch number"),
        "tick": lambda: world.clock.advance(1.0),
        "work": lambda: world.clock.advance(0.25),
    }
    code_of_this_test = sys._getframe().f_code
    with ThreadPoolExecutor(1) as elsewhere:
        for event, is_elsewhere in [*events, ("end", False)]:
            if is_elsewhere and event not in ("begin", "tick", "work"):
                elsewhere.submit(actions[event]).result()
            else:
                actions[event]()
            if event in ("begin", "end", "error") and seconds is not None:
                status = "ok" if event == "end" else "error"
                expected.append(("run", status, round(seconds * WATTS, 6)))
                seconds = None
            if event == "begin":
                seconds = 0.0
            elif seconds is not None:
                seconds += {"tick": 1.0, "work": 0.25}.get(event, 0.0)
            assert episode.is_open is (seconds is not None)
            so_far = episode.snapshot()
            assert (so_far is None) is (seconds is None)
            assert (episode.record and episode.record.record_id) == (
                world.sink.records[-1].record_id if expected else None
            )
    assert world.records == expected
    assert current_span() is None
    assert not stack_watch._open
    world.tracker.close()
    assert world.records == expected


def test_children_are_inside_and_end_before_the_next(world: World) -> None:
    """The second epoch ends the first; what they use is in the run's row, once."""
    episode = Episode(world.tracker)
    episode.begin("train", {"model": "small"})
    episode.child("epoch 1")
    first = current_span()
    assert first is not None
    world.clock.advance(2.0)
    episode.child("epoch 2")
    world.clock.advance(3.0)
    assert first.record is not None
    assert first.record.energy_kwh == pytest.approx(2.0 * WATTS / 3.6e6)
    assert current_span().name == "epoch 2"  # type: ignore[union-attr]
    episode.end("interrupted", "KeyboardInterrupt: ")
    assert world.records == [("train", "interrupted", 500.0)]
    assert world.sink.records[0].labels == {"model": "small"}
    assert world.sink.records[0].error == "KeyboardInterrupt:"
    assert current_span() is None


def test_a_child_without_a_run_is_nothing(world: World) -> None:
    """Hooks that come before the first and after the last one change nothing."""
    episode = Episode(world.tracker)
    episode.child("epoch")
    episode.end_child()
    episode.end()
    episode.check()
    assert episode.snapshot() is None
    assert episode.record is None
    assert world.records == []


def test_a_run_is_a_child_of_what_is_open_around(world: World) -> None:
    """`with track("job")` around it has the one row, which includes the run."""
    with world.tracker.span("job") as job:
        episode = Episode()
        episode.begin("train")
        assert current_span().parent is job  # type: ignore[union-attr]
        world.clock.advance(1.0)
        episode.end()
        assert episode.record is not None
        assert current_span() is job
    assert world.records == [("job", "ok", 100.0)]


def test_names_and_labels_of_the_user_go_first(world: World) -> None:
    """`name` replaces the framework's, and labels are joined."""
    episode = Episode(world.tracker, name="bert", labels={"seed": 3, "model": "mine"})
    episode.begin("train", {"model": "theirs", "steps": 4})
    episode.end()
    assert world.sink.records[0].name == "bert"
    assert world.sink.records[0].labels == {"model": "mine", "steps": 4, "seed": 3}


def test_a_wrong_setting_is_said_where_it_is_given() -> None:
    """Nothing starts: the error comes from the constructor, not from the first hook."""
    with pytest.raises(ConfigError, match="region"):
        Episode(reggion="FR")
    with pytest.raises(ConfigError, match="name"):
        Episode(name=3)
    with pytest.raises(ConfigError, match="name"):
        Episode(name="")
    with pytest.raises(ConfigError, match="on_exceed"):
        Episode(on_exceed="raise")


def test_a_copy_has_the_settings_and_no_run() -> None:
    """Pickled and copied while a run is open: the copy has none, and begins its own."""
    with Tracker(meters=[], clock=FakeClock()).span("job"):
        episode = Episode(region="SE", labels={"n": 1})
        episode.begin("train")
        for other in (pickle.loads(pickle.dumps(episode)), copy.deepcopy(episode)):
            assert not other.is_open
            assert other._settings == {"region": "SE", "labels": {"n": 1}}
        episode.end()


def test_a_tracker_is_not_pickled() -> None:
    """An episode with a tracker says why it cannot go to another process."""
    with pytest.raises(TypeError, match="Tracker cannot be pickled"):
        pickle.dumps(Episode(Tracker(meters=[], clock=FakeClock())))


# -- hooks that fail -------------------------------------------------------------------------------


class Failing:
    """A callback whose hooks raise what they are told to."""

    @guarded
    def on_step(self, error: BaseException) -> int:
        """Raise it."""
        raise error


def test_nothing_of_ours_leaves_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    """An exception is logged with its traceback, once for each hook and class; None is returned."""
    caplog.set_level(logging.ERROR, "carbontrack")
    for _ in range(3):
        assert Failing().on_step(ValueError("ours")) is None
    (said,) = caplog.records
    assert "Failing.on_step failed" in said.getMessage()
    assert said.exc_info is not None
    assert isinstance(said.exc_info[1], ValueError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), BudgetExceeded("over")])
def test_what_the_program_asked_for_leaves_a_hook(error: BaseException) -> None:
    """Ctrl-C, an exit and an exceeded budget are the program's."""
    with pytest.raises(type(error)):
        Failing().on_step(error)


def test_what_was_asked_for_before_lets_nothing_of_ours_through(world: World) -> None:
    """An exception may get the address of the one that `on_exceed` has raised, and that is gone."""

    class Callback:
        def __init__(self) -> None:
            self.episode = Episode(world.tracker, budget="1 J", on_exceed=refuse)

        @guarded
        def on_step(self) -> None:
            self.episode.begin("train")
            world.clock.advance(1.0)
            self.episode.check()

    ours = ValueError("at the same address")

    def refuse(_verdict: object) -> None:
        raise ours

    with pytest.raises(ValueError, match="at the same address"):
        Callback().on_step()
    assert Failing().on_step(ours) is None


class Budgeted:
    """A callback with a budget, as a framework calls it."""

    def __init__(self, tracker: Tracker, **settings: Any) -> None:
        self.episode = Episode(tracker, **settings)

    @guarded
    def on_begin(self) -> None:
        """The first hook."""
        self.episode.begin("train")

    @guarded
    def on_step(self) -> None:
        """A hook that comes often."""
        self.episode.check()


def test_an_exceeded_budget_ends_the_run_where_it_is_asked_for(world: World) -> None:
    """`on_exceed="raise"`: the next hook raises, and the row says `budget`."""
    callback = Budgeted(world.tracker, budget="1 kJ", on_exceed="raise")
    callback.on_begin()
    world.clock.advance(9.0)
    callback.on_step()
    world.clock.advance(2.0)
    with pytest.raises(BudgetExceeded):
        callback.on_step()
    assert not callback.episode.is_open
    assert world.records == [("train", "budget", 1100.0)]


def test_what_on_exceed_raises_is_the_programs(world: World) -> None:
    """A function that stops the program by an exception of its own does so through the hook."""

    def give_up(verdict: object) -> None:
        raise LookupError("stop here")

    callback = Budgeted(world.tracker, budget="1 kJ", on_exceed=give_up)
    callback.on_begin()
    world.clock.advance(20.0)
    with pytest.raises(LookupError, match="stop here"):
        callback.on_step()
    assert world.records == [("train", "error", 2000.0)]


def test_the_budget_of_a_block_around_ends_the_run_too(world: World) -> None:
    """A training inside `with track(budget=…, on_exceed="raise")` is stopped at its next hook."""
    callback = Callback()

    def job() -> None:
        with track("job", tracker=world.tracker, budget="1 kJ", on_exceed="raise"):
            callback.episode.begin("train")
            world.clock.advance(20.0)
            callback.episode.child("epoch")

    with pytest.raises(BudgetExceeded):
        job()
    assert not callback.episode.is_open
    assert world.records == [("job", "budget", 2000.0)]


def test_in_scope_machine_one_rank_of_a_node_measures() -> None:
    """Another rank of the same node would count the machine again: it opens nothing."""
    for local_rank, rows in ((0, 1), (1, 0), (None, 1)):
        world = World()
        builder = world.tracker.session.builder
        builder.resource = Resource(columns={"local_rank": local_rank})
        train([Callback(world.tracker)], lambda: None)
        assert len(world.records) == rows
        world.tracker.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("ok", None)),
        (ValueError("a\n b"), ("error", "ValueError: a b")),
        (KeyboardInterrupt(), ("interrupted", "KeyboardInterrupt:")),
        (SystemExit(143), ("interrupted", "SystemExit: 143")),
        (BudgetExceeded("job is over budget"), ("budget", "job is over budget")),
    ],
    ids=["none", "error", "Ctrl-C", "SIGTERM", "budget"],
)
def test_a_hook_for_exceptions_ends_the_run(
    world: World, error: BaseException | None, expected: tuple[str, str | None]
) -> None:
    """With the status that a `with` block would have, and `interrupted` for exits by a signal."""
    episode = Episode(world.tracker)
    episode.begin("train")
    episode.end_by(error)
    episode.end_by(ArithmeticError())  # a second one is nothing
    assert episode.record is not None
    assert (episode.record.status, episode.record.error) == expected


def test_what_is_known_later_becomes_a_label(world: World) -> None:
    """Those of the settings go before it; where no run is open it is nothing."""
    episode = Episode(world.tracker, labels={"n": 1})
    episode.add_labels({"before": True})
    episode.begin("train", {"model": "M"})
    episode.add_labels({"resumes": "a-1", "n": 2})
    known = episode.record_id
    world.clock.advance(3.6)
    assert episode.metrics("so far: ")["so far: energy_kwh"] == pytest.approx(1e-4)
    episode.end()
    episode.add_labels({"after": True})
    assert episode.record_id is None
    assert episode.record is not None
    assert episode.record.record_id == known
    assert episode.record.labels == {"resumes": "a-1", "n": 1, "model": "M"}
    assert episode.metrics()["carbontrack/energy_kwh"] == pytest.approx(1e-4)


# -- a framework without a last hook ---------------------------------------------------------------


def test_a_run_whose_loop_is_gone_is_closed(world: World) -> None:
    """After an exception the second tick closes the run: an error, and nothing is open any more."""
    callback = Callback(world.tracker)

    def work() -> None:
        world.clock.advance(5.0)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        train([callback], work)
    assert callback.episode.is_open
    world.clock.advance(1.0)
    assert callback.episode.is_open  # one look is no proof
    world.clock.advance(1.0)
    assert not callback.episode.is_open
    assert current_span() is None
    assert world.records == [("train", "error", 700.0)]
    assert callback.episode.record is not None
    assert callback.episode.record.error == GONE
    with world.tracker.span("next cell"):
        world.clock.advance(1.0)
    train([callback], lambda: world.clock.advance(1.0))
    assert world.records[1:] == [("next cell", "ok", 100.0), ("train", "ok", 100.0)]


def test_the_next_run_closes_an_earlier_one(world: World) -> None:
    """The same callback is used again before a tick: two rows, and the first is an error."""
    callback = Callback(world.tracker)
    with pytest.raises(ArithmeticError):
        train([callback], stop)
    train([callback], lambda: world.clock.advance(1.0))
    assert world.records == [("train", "error", 0.0), ("train", "ok", 100.0)]


def test_a_run_of_another_callback_is_no_child_of_one_that_is_over(world: World) -> None:
    """A search that goes on after a failed training, with a new callback each: a row for each."""
    for _ in range(20):  # the frame of the loop often has the place of the one before
        callback = Callback(world.tracker)

        def work(callback: Callback = callback) -> None:
            callback.episode.child("epoch")
            world.clock.advance(0.25)
            stop()

        with pytest.raises(ArithmeticError):
            train([callback], work)
    train([Callback(world.tracker)], lambda: world.clock.advance(10.0))
    assert world.records == [("train", "error", 25.0)] * 20 + [("train", "ok", 1000.0)]
    assert {one.parent_id for one in world.sink.records} == {None}


def test_what_begins_in_a_loop_that_runs_closes_nothing(world: World) -> None:
    """Two callbacks of one training, and a training of the same code within: all of them go on."""
    first, second, inner = (Callback(world.tracker) for _ in range(3))

    def work() -> None:
        first.episode.child("epoch")
        train([inner], lambda: world.clock.advance(1.0))
        assert (inner.episode.is_open, first.episode.is_open) == (False, True)
        world.clock.advance(5.0)
        assert second.episode.is_open

    train([first, second], work)
    records = [one.episode.record for one in (first, second, inner)]
    assert [one.status for one in records if one] == ["ok", "ok", "ok"]


def test_a_loop_that_runs_is_left_alone(world: World) -> None:
    """An hour without a hook, in the depths of the program, closes nothing."""

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            world.clock.advance(3600.0)

    train([Callback(world.tracker)], lambda: deep(50))
    assert world.records == [("train", "ok", 360000.0)]


class Derived(Callback):
    """The user's own callback, which adds something to ours."""

    def on_begin(self) -> None:
        """First ours."""
        super().on_begin()


class Delegating:
    """A callback of the user's that has one of ours."""

    def __init__(self, ours: Callback) -> None:
        self.on_begin = ours.on_begin
        self.ours = ours

    def on_end(self) -> None:
        """Ours too."""
        self.ours.on_end()


@pytest.mark.parametrize("wrap", [Callback, Derived, lambda tracker: Delegating(Callback(tracker))])
def test_callbacks_around_ours_do_not_hide_the_loop(world: World, wrap: Any) -> None:
    """The loop is the framework's, not the method or the module that has called our hook."""
    train([wrap(world.tracker)], lambda: world.clock.advance(10.0))
    with pytest.raises(ArithmeticError):
        train([wrap(world.tracker)], stop)
    world.clock.advance(3.0)
    assert world.records == [("train", "ok", 1000.0), ("train", "error", 200.0)]


def test_each_run_is_watched_in_its_own_thread(world: World) -> None:
    """Of two trainings in two threads, the one that has died is closed, the other one goes on."""
    died, alive = Callback(world.tracker), Callback(world.tracker)
    goes_on, is_there = threading.Event(), threading.Event()

    def run() -> None:
        train([alive], lambda: (is_there.set(), goes_on.wait(30.0)))

    def fail() -> None:
        with pytest.raises(ArithmeticError):
            train([died], stop)

    threads = [threading.Thread(target=run), threading.Thread(target=fail)]
    threads[0].start()
    assert is_there.wait(30.0)
    threads[1].start()
    threads[1].join()
    world.clock.advance(10.0)
    assert (died.episode.is_open, alive.episode.is_open) == (False, True)
    goes_on.set()
    threads[0].join()
    # two leaves share the power for two seconds
    assert world.records == [("train", "error", 100.0), ("train", "ok", 900.0)]


def test_a_callback_that_is_gone_leaves_no_run_open(world: World) -> None:
    """The callback was made in the call and is collected: its run is closed all the same."""
    with pytest.raises(ArithmeticError):
        train([Callback(world.tracker)], stop)
    gc.collect()
    world.clock.advance(2.0)
    assert world.records == [("train", "error", 200.0)]


def test_the_watch_keeps_no_model_alive(world: World) -> None:
    """What the loop's frames held goes with them, while the run is still watched."""

    class Model:
        pass

    found: list[weakref.ref[Model]] = []

    def work() -> None:
        model = Model()
        found.append(weakref.ref(model))
        stop()

    callback = Callback(world.tracker)
    with suppress(ArithmeticError):  # no traceback is kept
        train([callback], work)
    world.clock.advance(1.0)
    assert callback.episode.is_open
    assert found[0]() is None
    world.clock.advance(1.0)


def test_what_does_not_stay_on_the_stack_is_not_watched(world: World) -> None:
    """A coroutine that waits is on no stack, and is not over."""

    async def loop(code: CodeType) -> None:
        episode.begin("train", loop=code)

    def gone() -> None:
        """On no stack."""

    episode = Episode(world.tracker)
    for code in (loop.__code__, gone.__code__):
        with pytest.raises(StopIteration):
            loop(code).send(None)
        assert not stack_watch._open
        world.clock.advance(5.0)
        assert episode.is_open
    episode.end()


def test_where_nothing_is_open_nothing_is_looked_at(world: World) -> None:
    """The sampler has the watch as a listener only while a run is open."""
    listeners = world.tracker.session.sampler.tick_listeners
    before, during = len(listeners), []
    train([Callback(world.tracker)], lambda: during.append(len(listeners)))
    assert during == [before + 1]
    assert len(listeners) == before


def bytecodes(act: Callable[[], object]) -> int:
    """How many bytecodes of Python one act takes."""
    count = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    with without_collections():  # hypothesis has a function called at each, which is not the act's
        sys.settrace(trace)
        try:
            act()
        finally:
            sys.settrace(before)
    return count


def test_a_look_costs_a_few_bytecodes_for_each_frame(world: World) -> None:
    """193 bytecodes in Python 3.11, 134 in others, and 10 for each frame above the loop."""
    costs = []

    def deep(levels: int, do: Callable[[], None]) -> None:
        if levels:
            deep(levels - 1, do)
        else:
            do()

    def look() -> None:
        (watch,) = stack_watch._open
        costs.append(bytecodes(lambda: watch.after_tick(0.0)))

    for levels in (0, 100):
        train([Callback(world.tracker)], lambda levels=levels: deep(levels, look))
    assert costs[0] <= 200
    assert (costs[1] - costs[0]) / 100 <= 15


def test_the_loop_may_be_given(world: World) -> None:
    """A framework whose loop calls the hooks itself names it: after it, the run is over."""

    def direct(callback: Callback) -> CodeType:
        code = sys._getframe().f_code
        callback.episode.begin("train", loop=code)
        return code

    callback = Callback(world.tracker)
    direct(callback)
    world.clock.advance(2.0)
    assert not callback.episode.is_open


def is_interrupted_at(nth: int) -> bool:
    """Have Ctrl-C come at the nth point of ours in a training; False if that has no such point."""
    world = World()
    callback = Callback(world.tracker)
    raiser = Raiser(nth, KeyboardInterrupt("stop"), model="signal")

    def work() -> None:
        callback.episode.child("epoch")
        world.clock.advance(0.25)

    def interrupted() -> None:
        with suppress(KeyboardInterrupt), raiser:
            train([callback], work)

    without_a_trace(interrupted)
    world.clock.advance(3.0)
    assert not callback.episode.is_open, raiser.place
    assert current_span() is None, raiser.place
    assert len(world.records) <= 1, raiser.place
    world.tracker.close()
    assert not stack_watch._open, raiser.place
    return raiser.seen == nth


def test_one_callback_for_two_trainings_at_once_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one ends as an error where the second begins; one after the other is no fault."""
    callback = Callback(world.tracker)
    goes_on, is_there = threading.Event(), threading.Event()

    def run() -> None:
        train([callback], lambda: (is_there.set(), goes_on.wait(30.0)))

    for _ in range(2):
        with pytest.raises(ArithmeticError):
            train([callback], stop)
    assert "of its own" not in caplog.text
    thread = threading.Thread(target=run)
    thread.start()
    assert is_there.wait(30.0)
    train([callback], lambda: None)
    goes_on.set()
    thread.join()
    assert caplog.text.count("give each run a separate callback") == 1


@pytest.mark.slow
@pytest.mark.parametrize("first", range(4))
def test_ctrl_c_anywhere_in_a_hook_leaves_nothing_open(first: int) -> None:
    """It ends the training, as it is; whatever the hook had begun is closed three ticks later."""
    with without_collections():  # of the trackers of earlier trials, in the middle of this one
        nth = 1 + 25 * first
        while is_interrupted_at(nth):
            nth += 101
    assert nth > 4000


def test_greenlets_are_not_watched(world: World) -> None:
    """One that waits is on no stack, and its run goes on."""
    greenlet = pytest.importorskip("greenlet")
    main = greenlet.getcurrent()

    def loop() -> None:
        train([callback], main.switch)

    callback = Callback(world.tracker)
    other = greenlet.greenlet(loop)
    other.switch()
    world.clock.advance(10.0)
    assert callback.episode.is_open
    other.switch()
    assert world.records == [("train", "ok", 1000.0)]
