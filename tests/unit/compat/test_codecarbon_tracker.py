"""CodeCarbon's trackers, row by row of what they promise, on simulated hardware."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

from carbontrack.compat.codecarbon import EmissionsTracker, OfflineEmissionsTracker, log
from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData
from carbontrack.compat.codecarbon.outputs import OutputMethod
from tests.unit.compat.simulated import CPU_W, G_PER_KWH, GPU_W, RAM_W, WATTS, Kept, Machine

HOUR = 3600.0
COLUMNS = [
    *("timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions"),
    *("emissions_rate", "cpu_power", "gpu_power", "ram_power", "cpu_energy", "gpu_energy"),
    *("ram_energy", "energy_consumed", "water_consumed", "country_name", "country_iso_code"),
    *("region", "cloud_provider", "cloud_region", "os", "python_version", "codecarbon_version"),
    *("cpu_count", "cpu_model", "gpu_count", "gpu_model", "longitude", "latitude"),
    *("ram_total_size", "tracking_mode", "cpu_utilization_percent", "gpu_utilization_percent"),
    *("ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue"),
]


def kwh(seconds: float, watts: float = WATTS) -> Any:
    """The energy of so many seconds."""
    return pytest.approx(watts * seconds / HOUR / 1000.0, rel=1e-9)


def kg(seconds: float, watts: float = WATTS) -> Any:
    """The emissions of so many seconds."""
    return pytest.approx(watts * seconds / HOUR / 1000.0 * G_PER_KWH / 1000.0, rel=1e-9)


# -- the row -------------------------------------------------------------------------------------


def test_a_row_has_codecarbons_units() -> None:
    """Emissions in kg, energies in kWh, powers in W, seconds; the place and the project."""
    machine = Machine()
    tracker = machine.tracker(
        project_name="p", country_iso_code="FRA", experiment_id="e", wue=0.5, pue=1.0
    )
    tracker.start()
    machine.clock.advance(HOUR)
    assert tracker.stop() == kg(HOUR)
    [(total, delta)] = machine.output.rows
    assert total == delta == tracker.final_emissions_data
    assert tracker.final_emissions == total.emissions == kg(HOUR)
    assert (total.duration, total.emissions_rate) == (HOUR, kg(1.0))
    assert (total.cpu_power, total.ram_power, total.gpu_power) == (CPU_W, RAM_W, GPU_W)
    assert total.cpu_energy == kwh(HOUR, CPU_W)
    assert total.gpu_energy == kwh(HOUR, GPU_W)
    assert total.ram_energy == kwh(HOUR, RAM_W)
    assert (total.energy_consumed, total.water_consumed) == (kwh(HOUR), pytest.approx(0.05))
    assert (total.project_name, total.experiment_id) == ("p", "e")
    assert (total.country_name, total.country_iso_code) == ("France", "FRA")
    assert total.run_id == str(tracker.run_id)
    assert total.codecarbon_version.startswith("carbontrack ")
    assert (total.tracking_mode, total.pue, total.wue) == ("machine", 1.0, 0.5)


def test_the_pue_multiplies_energies_and_powers() -> None:
    """Of each component, as in CodeCarbon's rows; water is per kWh of the result."""
    machine = Machine(pue=1.5)
    with machine.tracker(wue=2.0):
        machine.clock.advance(HOUR)
    [(total, _)] = machine.output.rows
    assert (total.cpu_power, total.cpu_energy) == (1.5 * CPU_W, kwh(HOUR, 1.5 * CPU_W))
    assert (total.energy_consumed, total.emissions) == (
        kwh(HOUR, 1.5 * WATTS),
        kg(HOUR, 1.5 * WATTS),
    )
    assert total.water_consumed == pytest.approx(0.3)


def test_the_columns_are_codecarbons_in_their_order() -> None:
    """In `values`, in JSON, and for tasks without three and with a name."""
    assert [one.name for one in dataclasses.fields(EmissionsData)] == COLUMNS
    tasks = [c for c in COLUMNS if c not in ("experiment_id", "pue", "wue")]
    assert [one.name for one in dataclasses.fields(TaskEmissionsData)] == ["task_name", *tasks]
    machine = Machine()
    with machine.tracker():
        machine.clock.advance(1.0)
    total = machine.output.rows[0][0]
    assert list(total.values) == COLUMNS
    assert '"emissions": ' in total.toJSON()


def test_what_is_not_known_is_zero_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A row of CodeCarbon's has no other word for it; carbontrack's own record keeps None."""
    log._said.clear()
    machine = Machine(without=["ram"])
    tracker = machine.tracker()
    for _ in range(2):
        with tracker:
            machine.clock.advance(1.0)
    assert tracker.final_emissions_data is not None
    assert tracker.final_emissions_data.ram_energy == 0.0
    assert [r.getMessage() for r in caplog.records if "RAM" in r.getMessage()] == (
        ["the energy of the RAM is not known; the row says 0.0"]
        if machine.sink.records[0].ram_gib
        else []
    )
    assert machine.sink.records[0].ram_kwh is None


def test_an_instant_has_a_rate() -> None:
    """The duration is above 0 even where no time has passed."""
    machine = Machine()
    tracker = machine.tracker()
    tracker.start()
    assert tracker.stop() == 0.0
    assert machine.output.rows[0][0].duration > 0.0


# -- start, flush and stop -----------------------------------------------------------------------


def test_a_second_start_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on as it was."""
    machine = Machine()
    tracker = machine.tracker()
    tracker.start()
    machine.clock.advance(10.0)
    tracker.start()
    machine.clock.advance(10.0)
    assert tracker.stop() == kg(20.0)
    assert [r.getMessage() for r in caplog.records] == ["Already started tracking"]


def test_a_start_after_stop_begins_anew() -> None:
    """Time, energy, tasks and the id of the run; `final_emissions` is that of the last run."""
    machine = Machine()
    tracker = machine.tracker()
    first = tracker.run_id
    with tracker:
        tracker.start_task("a")
        machine.clock.advance(10.0)
    machine.clock.advance(1000.0)
    tracker.start()
    machine.clock.advance(3.0)
    assert tracker.stop() == tracker.final_emissions == kg(3.0)
    (one, _), (two, delta) = machine.output.rows
    assert (one.run_id, two.run_id) == (str(first), str(tracker.run_id))
    assert one.run_id != two.run_id
    assert (two.duration, two.energy_consumed) == (pytest.approx(3.0), kwh(3.0))
    assert two == delta
    assert isinstance(first, uuid.UUID)
    assert tracker._tasks == {}


def test_stop_twice_has_one_row(caplog: pytest.LogCaptureFixture) -> None:
    """The second returns the same and is warned of; one that was never started returns None."""
    machine = Machine()
    tracker = machine.tracker()
    assert tracker.stop() is None
    with tracker:
        machine.clock.advance(1.0)
    assert tracker.stop() == kg(1.0)
    assert len(machine.output.rows) == machine.output.exits == 1
    assert len(caplog.records) == 2


def test_flush_writes_a_row_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """It returns the emissions so far; the second row of the output has what came since."""
    machine = Machine()
    tracker = machine.tracker()
    assert tracker.flush() is None
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    tracker.start()
    machine.clock.advance(10.0)
    assert tracker.flush() == kg(10.0)
    machine.clock.advance(5.0)
    assert tracker.stop() == kg(15.0)
    (_, first), (total, second) = machine.output.rows
    assert (first.emissions, second.emissions, total.emissions) == (kg(10.0), kg(5.0), kg(15.0))
    assert (second.duration, second.energy_consumed) == (pytest.approx(5.0), kwh(5.0))
    assert second.emissions_rate == kg(1.0)


def test_trackers_that_overlap_each_count_the_machine() -> None:
    """In any order, as CodeCarbon's do; carbontrack's own records still add up to what was used."""
    machine = Machine(pue=1.2)
    one, two = machine.tracker(), machine.tracker()
    one.start()
    machine.clock.advance(10.0)
    two.start()
    machine.clock.advance(10.0)
    assert one.stop() == kg(20.0, 1.2 * WATTS)
    machine.clock.advance(10.0)
    assert two.stop() == kg(20.0, 1.2 * WATTS)
    for total, _ in machine.output.rows:
        assert (total.energy_consumed, total.cpu_energy, total.ram_energy) == (
            kwh(20.0, 1.2 * WATTS),
            kwh(20.0, 1.2 * CPU_W),
            kwh(20.0, 1.2 * RAM_W),
        )
    assert sum(r.energy_kwh or 0.0 for r in machine.sink.records) == kwh(30.0, 1.2 * WATTS)


def test_trackers_of_the_process_that_overlap_share_its_energy_and_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once; what the process used has no other sum that could be told apart."""
    log._said.clear()
    machine = Machine()
    for _ in range(2):
        with machine.tracker(tracking_mode="process"), machine.tracker(tracking_mode="process"):
            machine.clock.advance(1.0)
    assert len([r for r in caplog.records if "share the energy" in r.getMessage()]) == 1


def test_own_records_carry_the_run_and_the_failure() -> None:
    """The label names CodeCarbon's row; the status of a `with` block that raised is "error"."""
    machine = Machine()
    tracker = machine.tracker(project_name="p")
    tracker.start()
    machine.clock.advance(1.0)
    with pytest.raises(KeyError), tracker:
        raise KeyError
    [record] = machine.sink.records
    assert record.labels == {"codecarbon_run_id": str(tracker.run_id)}
    assert (record.name, record.status, record.error) == ("p", "error", "KeyError")
    assert len(machine.output.rows) == 1


def test_what_people_read_of_a_tracker() -> None:
    """While it runs and after it: energies with `kWh`, emissions, outputs."""
    machine = Machine()
    tracker = machine.tracker()
    assert tracker._total_energy.kWh == 0.0
    tracker.start()
    machine.clock.advance(HOUR)
    for _ in range(2):
        assert tracker._total_energy.kWh == kwh(HOUR)
        assert float(tracker._total_energy) == kwh(HOUR)
        assert tracker._total_cpu_energy.kWh == kwh(HOUR, CPU_W)
        assert tracker._total_gpu_energy.kWh == kwh(HOUR, GPU_W)
        assert tracker._total_ram_energy.kWh == kwh(HOUR, RAM_W)
        assert tracker._total_emissions == kg(HOUR)
        tracker.stop()
    assert tracker._output_handlers == [machine.output]
    for name in ("_total_energy", "_total_emissions", "_tasks"):
        with pytest.raises(AttributeError):
            setattr(tracker, name, 1.0)


def test_a_handler_of_signals_may_stop_it() -> None:
    """`service_shutdown` is there for `signal.signal`; it stops, and raises nothing."""
    machine = Machine()
    tracker = machine.tracker()
    tracker.start()
    machine.clock.advance(1.0)
    tracker.service_shutdown(signal.SIGTERM, None)
    assert tracker.final_emissions == kg(1.0)


@pytest.mark.parametrize("name", ["", " ", "n" * 5000, "two\nlines", "grün 🌍", "\0", 7])
def test_a_project_may_have_any_name(name: Any) -> None:
    """The row has it as it is; only the name of carbontrack's own record has limits."""
    machine = Machine()
    with machine.tracker(project_name=name) as tracker:
        machine.clock.advance(1.0)
        task = tracker.start_task(name)
        tracker.stop_task(name)
    [(total, _)] = machine.output.rows
    assert (total.project_name, total.emissions) == (str(name), kg(1.0))
    assert [row.task_name for row in machine.output.tasks[0]] == [task]


# -- outputs -------------------------------------------------------------------------------------


class Broken(Kept):
    """An output that fails."""

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Fail."""
        raise ZeroDivisionError


def test_an_output_that_fails_takes_nothing_from_the_others() -> None:
    """Nor from the program: `stop` returns the emissions."""
    machine = Machine()
    tracker = machine.tracker(output_handlers=[Broken(), machine.output, object()])
    tracker.start()
    machine.clock.advance(1.0)
    assert tracker.flush() == kg(1.0)
    assert tracker.stop() == kg(1.0)
    assert len(machine.output.rows) == 2


class Interrupted(Kept):
    """An output in which a signal arrives, once."""

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Keep the row, and raise the signal the first time."""
        super().out(total, delta)
        if len(self.rows) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="signals of POSIX")
def test_what_a_handler_raises_passes_and_the_rows_are_written_by_the_next_stop() -> None:
    """An output that has its row already is the only one that may get it again."""

    def handler(number: int, frame: Any) -> None:
        raise TimeoutError("time limit")

    machine = Machine()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        tracker = machine.tracker(output_handlers=[Interrupted(), machine.output])
        tracker.start()
        machine.clock.advance(1.0)
        with pytest.raises(TimeoutError, match="time limit"):
            tracker.stop()
        machine.clock.advance(9.0)
        assert tracker.stop() == kg(1.0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [total.emissions for total, _ in machine.output.rows] == [kg(1.0)]
    assert len(machine.sink.records) == 1


@pytest.mark.parametrize(
    ("each", "steps", "calls"),
    [
        (2, "", 1),
        (1, "", 2),
        (8, "", 0),
        (-1, "", 0),
        (2, "f", 1),
        (1, "f", 3),
        (2, "ff", 2),
        (1, "t", 3),
    ],
)
def test_live_rows_come_each_so_many_measures(each: int, steps: str, calls: int) -> None:
    """One measure at the start, at each flush and end of a task, and at the end."""
    machine = Machine()
    tracker = machine.tracker(api_call_interval=each)
    tracker.start()
    for step in steps:
        machine.clock.advance(10.0)
        if step == "f":
            tracker.flush()
        else:
            tracker.start_task("a")
            tracker.stop_task()
    machine.clock.advance(10.0)
    tracker.stop()
    assert len(machine.output.live) == calls


def test_a_list_of_outputs_is_the_programs_own() -> None:
    """What is appended to it later takes part."""
    machine = Machine()
    late, outputs = Kept(), [machine.output]
    tracker = machine.tracker(output_handlers=outputs)
    with tracker:
        outputs.append(late)
        machine.clock.advance(1.0)
    assert len(late.rows) == len(machine.output.rows) == 1


# -- tasks ---------------------------------------------------------------------------------------


def test_tasks_have_what_was_used_in_them() -> None:
    """And the total keeps the time between them."""
    machine = Machine()
    tracker = machine.tracker(experiment_name="x")
    tracker.start()
    machine.clock.advance(5.0)
    tracker.start_task("load")
    machine.clock.advance(2.0)
    load = tracker.stop_task()
    machine.clock.advance(7.0)
    tracker.start_task("fit")
    machine.clock.advance(3.0)
    fit = tracker.stop_task("fit")
    assert load is not None
    assert fit is not None
    assert (load.energy_consumed, load.duration) == (kwh(2.0), pytest.approx(2.0))
    assert (fit.energy_consumed, fit.emissions) == (kwh(3.0), kg(3.0))
    assert tracker._tasks["load"].emissions_data == load
    assert not tracker._tasks["load"].is_active
    assert tracker.stop() == kg(17.0)
    [rows] = machine.output.tasks
    assert [(row.task_name, row.emissions) for row in rows] == [("load", kg(2.0)), ("fit", kg(3.0))]
    assert machine.output.experiments == ["x"]
    assert {row.run_id for row in rows} == {str(tracker.run_id)}
    assert [*tracker._tasks] == ["load", "fit"]


def test_a_task_needs_no_start(caplog: pytest.LogCaptureFixture) -> None:
    """The run begins with the first task; one that is open is stopped with it."""
    machine = Machine()
    tracker = machine.tracker()
    assert tracker.stop_task() is None
    assert tracker.start_task("a") == "a"
    machine.clock.advance(2.0)
    assert tracker.start_task("b") is None
    machine.clock.advance(2.0)
    assert tracker.stop() == kg(4.0)
    [[row]] = machine.output.tasks
    assert (row.task_name, row.emissions) == ("a", kg(4.0))
    assert len(caplog.records) == 2


def test_a_repeated_or_missing_name_is_made_unique() -> None:
    """So each task has a row."""
    machine = Machine()
    with machine.tracker() as tracker:
        names = []
        for name in ("a", "a", None):
            names.append(tracker.start_task(name))
            tracker.stop_task()
        assert tracker.stop_task("other") is None
    assert names[0] == "a"
    assert names[1] is not None
    assert names[1].startswith("a_")
    assert [row.task_name for row in machine.output.tasks[0]] == names


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EmissionsTracker, OfflineEmissionsTracker])
@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"output_dir": "/nowhere/at/all"}, OSError),
        ({"on_csv_write": "overwrite"}, ValueError),
        ({"tracking_mode": "cluster"}, AssertionError),
        ({"output_methods": "csv,carrier-pigeon"}, ValueError),
        ({"projct_name": "x"}, TypeError),
    ],
)
def test_both_trackers_refuse_what_cannot_be(
    kind: Any, parameters: dict[str, Any], error: type[Exception]
) -> None:
    """When they are made, before anything is measured."""
    with pytest.raises(error):
        kind(**parameters)


def test_positional_arguments_are_codecarbons(tmp_path: Path) -> None:
    """In its order; one too many, or one given twice, is an error as of any function."""
    tracker = EmissionsTracker("p", 1, 8, output_dir=tmp_path, output_methods=[])
    assert tracker._project_name == "p"
    with pytest.raises(TypeError, match="twice"):
        EmissionsTracker("p", project_name="q")
    with pytest.raises(TypeError, match="positional"):
        EmissionsTracker(*range(100))


def test_the_switches_of_old_are_deprecated(tmp_path: Path) -> None:
    """The warning points to the program's line; the methods that replace them are not warned of."""
    for kind in (EmissionsTracker, OfflineEmissionsTracker):
        with pytest.warns(DeprecationWarning, match="output_methods") as caught:
            kind(save_to_file=False, output_dir=tmp_path)
        assert caught[0].filename == __file__
        kind(output_methods=[OutputMethod.CSV], output_dir=tmp_path)
