"""CodeCarbon's decorators: each kind of function is measured from its first step to its end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from carbontrack.compat.codecarbon import (
    TaskEmissionsTracker,
    track_emissions,
    track_task_emissions,
)
from carbontrack.compat.codecarbon.decorators import WholeCall
from carbontrack.tracking.decorate import wrap
from tests.unit.compat.simulated import Kept, Machine, Simulated

KG_PER_S = 100.0 / 3.6e6 * 0.5


def emissions(machine: Machine) -> list[float]:
    """Those of each row, in seconds of the machine."""
    return [round(total.emissions / KG_PER_S, 6) for total, _ in machine.output.rows]


def tracked(machine: Machine, function: Any) -> Any:
    """The function as `track_emissions` makes it, on a simulated machine."""
    return wrap(function, lambda: WholeCall(machine.tracker()))


def test_each_call_has_a_row() -> None:
    """Results, arguments and names are the function's."""
    machine = Machine()

    def work(seconds: float, *, more: float = 0.0) -> float:
        """Work."""
        machine.clock.advance(seconds + more)
        return seconds

    measured = tracked(machine, work)
    assert [measured(1.0), measured(2.0, more=3.0)] == [1.0, 2.0]
    assert emissions(machine) == [1.0, 5.0]
    assert (measured.__name__, measured.__doc__) == ("work", "Work.")


def test_an_exception_passes_and_leaves_a_row() -> None:
    """As CodeCarbon's; carbontrack's own record says that the call failed."""
    machine = Machine()

    def work() -> None:
        machine.clock.advance(1.0)
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        tracked(machine, work)()
    assert emissions(machine) == [1.0]
    assert machine.sink.records[0].status == "error"


def test_a_coroutine_is_measured_while_it_is_awaited() -> None:
    """Not only while it is made; two at the same time each count the machine."""
    machine = Machine()

    async def work(seconds: float) -> float:
        await asyncio.sleep(0)
        machine.clock.advance(seconds)
        await asyncio.sleep(0)
        return seconds

    measured = tracked(machine, work)
    assert inspect.iscoroutinefunction(measured)

    async def both() -> list[float]:
        return await asyncio.gather(measured(1.0), measured(2.0))

    assert asyncio.run(both()) == [1.0, 2.0]
    assert emissions(machine) == [3.0, 3.0]


def test_a_generator_is_measured_over_its_life() -> None:
    """The consumer's time included, to its end, what it returns, or `close`."""
    machine = Machine()

    def work() -> Iterator[int]:
        got = yield 1
        machine.clock.advance(got)
        yield 2

    measured = tracked(machine, work)
    steps = measured()
    assert emissions(machine) == []
    assert next(steps) == 1
    machine.clock.advance(4.0)
    assert steps.send(3) == 2
    steps.close()
    assert emissions(machine) == [7.0]
    measured()  # never begun: nothing to measure
    assert len(machine.output.rows) == 1


def test_an_asynchronous_generator_is_measured_over_its_life() -> None:
    """As a generator."""
    machine = Machine()

    async def work() -> AsyncIterator[int]:
        machine.clock.advance(1.0)
        yield 1
        machine.clock.advance(2.0)

    async def consume() -> list[int]:
        return [item async for item in tracked(machine, work)()]

    assert asyncio.run(consume()) == [1]
    assert emissions(machine) == [3.0]


def test_tasks_of_a_tracker_by_decorator_and_block() -> None:
    """A function's task has its name, or the one that is given; the tracker goes on."""
    machine = Machine()
    tracker = machine.tracker()

    @track_task_emissions(tracker=tracker)
    def load() -> None:
        machine.clock.advance(1.0)

    @track_task_emissions(tracker=tracker, task_name="fitting")
    async def fit() -> None:
        machine.clock.advance(2.0)

    with tracker:
        load()
        asyncio.run(fit())
        with TaskEmissionsTracker("block", tracker=tracker):
            machine.clock.advance(3.0)
    [rows] = machine.output.tasks
    assert [(row.task_name, round(row.duration, 6)) for row in rows] == [
        ("load", 1.0),
        ("fitting", 2.0),
        ("block", 3.0),
    ]


def test_a_task_inside_a_task_does_not_end_it() -> None:
    """The inner one is warned of and counted with the outer, which goes on."""
    machine = Machine()
    with machine.tracker() as tracker, TaskEmissionsTracker("outer", tracker=tracker):
        with TaskEmissionsTracker("inner", tracker=tracker):
            machine.clock.advance(1.0)
        machine.clock.advance(1.0)
    [[row]] = machine.output.tasks
    assert (row.task_name, round(row.duration, 6)) == ("outer", 2.0)


def test_a_tracker_of_its_own_is_stopped_with_the_task() -> None:
    """`is_default_tracker` says whose it is."""
    machine = Machine()
    block = TaskEmissionsTracker("a", tracker=machine.tracker())
    assert not block.is_default_tracker
    block.is_default_tracker = True
    with block:
        machine.clock.advance(1.0)
    assert emissions(machine) == [1.0]


def test_offline_without_a_place_is_an_error_at_the_call() -> None:
    """Not when the function is decorated, as in CodeCarbon; the function is not called."""

    @track_emissions(offline=True)
    def work() -> None:
        raise AssertionError

    with pytest.raises(Exception, match="ISO Code"):
        work()


def test_an_unknown_parameter_is_an_error_where_the_function_is_decorated() -> None:
    """With the nearest name."""
    with pytest.raises(TypeError, match="did you mean 'project_name'"):
        track_emissions(projct_name="x")


def test_a_place_is_taken_with_and_without_offline() -> None:
    """There is no look-up that it would be in the way of."""
    for offline in (False, True):
        kept = Kept()

        @track_emissions(
            offline=offline, country_iso_code="FRA", output_methods=[], output_handlers=[kept]
        )
        def work() -> int:
            return 3

        assert work() == 3
        assert [total.country_iso_code for total, _ in kept.rows] == ["FRA"]


def test_the_simulated_tracker_is_the_real_one() -> None:
    """These tests change where a tracker measures, and nothing else of it."""
    own = {name for name in vars(Simulated) if not name.startswith("__")}
    assert own - {"_abc_impl"} == {"_tracker"}
