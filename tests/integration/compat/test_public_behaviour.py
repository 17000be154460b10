r"""What public code expects of CodeCarbon, tried from outside: the same tests run against both.

What is known to differ is marked `ours`, and stands in docs/how-to/from-codecarbon.md. Where the
real package is installed, they try that one so, without what conftest.py does to the environment:

    COMPAT_PACKAGE=codecarbon python -m pytest --noconftest -c /dev/null --rootdir=. \
        --import-mode=importlib tests/integration/compat/test_public_behaviour.py
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

import asyncio
import csv
import importlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PACKAGE = os.environ.get("COMPAT_PACKAGE", "carbontrack.compat.codecarbon")
IS_OURS = PACKAGE != "codecarbon"
cc: Any = importlib.import_module(PACKAGE)
ours = pytest.mark.skipif(not IS_OURS, reason="CodeCarbon is known to differ here")
QUIET = {"country_iso_code": "FRA", "measure_power_secs": 60, "log_level": "critical"}


def module(theirs: str, here: str) -> Any:
    """A submodule, by CodeCarbon's name for it or by ours."""
    return importlib.import_module(f"{PACKAGE}.{here if IS_OURS else theirs}")


BaseOutput: Any = module("output_methods.base_output", "outputs").BaseOutput
FileOutput: Any = module("output_methods.file", "outputs").FileOutput
LoggerOutput: Any = module("output_methods.logger", "outputs").LoggerOutput
TaskEmissionsTracker: Any = module("emissions_tracker", "decorators").TaskEmissionsTracker
track_task_emissions: Any = module("emissions_tracker", "decorators").track_task_emissions


class Kept(BaseOutput):  # type: ignore[misc]
    """Keeps all that it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, Any]] = []
        self.live_rows: list[tuple[Any, Any]] = []
        self.tasks: list[tuple[Any, str]] = []
        self.exits = 0

    def out(self, total: Any, delta: Any) -> None:
        self.rows.append((total, delta))

    def live_out(self, total: Any, delta: Any) -> None:
        self.live_rows.append((total, delta))

    def task_out(self, data: Any, experiment_name: str) -> None:
        self.tasks.append((list(data), experiment_name))

    def exit(self) -> None:
        self.exits += 1


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a working folder of the test's own, and no settings."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    for name in [name for name in os.environ if name.startswith("CODECARBON_")]:
        monkeypatch.delenv(name)


def tracker(**more: Any) -> Any:
    """A tracker that needs no network."""
    return cc.OfflineEmissionsTracker(**(QUIET | more))


def rows(path: str = "emissions.csv") -> list[dict[str, str]]:
    """The rows of a file."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def work(seconds: float = 0.12) -> None:
    """Keep a core busy."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(2000))


# -- start, flush, stop -----------------------------------------------------------------------


def test_stop_returns_kilograms_and_writes_one_row() -> None:
    """The same figure is returned, kept as an attribute, and in the row."""
    one = tracker()
    one.start()
    work()
    emissions = one.stop()
    assert isinstance(emissions, float)
    assert emissions > 0
    assert one.final_emissions == emissions
    assert one.final_emissions_data.emissions == emissions
    (row,) = rows()
    assert float(row["emissions"]) == pytest.approx(emissions)
    assert row["run_id"] == str(one.run_id)
    assert row["country_iso_code"] == "FRA"
    assert row["country_name"] == "France"
    assert row["project_name"] == "codecarbon"
    assert row["tracking_mode"] == "machine"
    assert row["on_cloud"] == "N"


def test_the_columns_are_those_of_the_data_in_their_order() -> None:
    """A row's columns, the fields of the data, and what `.values` has are the same."""
    with tracker() as one:
        work()
    data = one.final_emissions_data
    columns = list(data.values)
    with Path("emissions.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == columns
    assert columns[:8] == [
        *("timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions"),
        *("emissions_rate", "cpu_power"),
    ]
    assert columns[-8:] == [
        *("tracking_mode", "cpu_utilization_percent", "gpu_utilization_percent"),
        *("ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue"),
    ]
    assert len(columns) == 38
    assert json.loads(data.toJSON())["run_id"] == data.run_id


def test_units_belong_together() -> None:
    """Parts add up to the whole, the rate is per second, and powers are watts."""
    with tracker(force_carbon_intensity_g_co2e_kwh=250) as one:
        work(0.3)
    data = one.final_emissions_data
    assert 0.3 <= data.duration < 30
    parts = data.cpu_energy + data.gpu_energy + data.ram_energy
    assert data.energy_consumed == pytest.approx(parts)
    assert data.emissions == pytest.approx(data.energy_consumed * 0.250)
    assert data.emissions_rate == pytest.approx(data.emissions / data.duration)
    assert data.ram_power == pytest.approx(data.ram_energy * 3.6e6 / data.duration, rel=0.5)
    assert data.timestamp[10] == "T"
    assert len(data.timestamp) == 19


def test_the_efficiency_of_the_building_multiplies_energies_and_makes_water() -> None:
    """`pue` and `wue` are in the row, and in its figures."""
    with tracker(pue=2.0, wue=1.5, force_carbon_intensity_g_co2e_kwh=100) as one:
        work()
    data = one.final_emissions_data
    assert (data.pue, data.wue) == (2.0, 1.5)
    assert data.water_consumed == pytest.approx(data.energy_consumed * 1.5)
    assert data.emissions == pytest.approx(data.energy_consumed * 0.1)
    assert data.energy_consumed == pytest.approx(data.cpu_energy + data.ram_energy)


def test_stop_again_returns_the_same_and_writes_no_more() -> None:
    """A second stop is harmless."""
    one = tracker()
    one.start()
    work()
    assert one.stop() == one.stop()
    assert len(rows()) == 1


def test_what_was_never_started_has_nothing() -> None:
    """Neither `stop` nor `flush` of a tracker that was not started returns or writes anything."""
    one = tracker()
    assert one.flush() is None
    assert one.stop() is None
    assert not Path("emissions.csv").exists()


def test_start_twice_keeps_the_first() -> None:
    """A second `start` while one is running changes nothing."""
    one = tracker()
    one.start()
    work()
    one.start()
    assert one.stop() > 0
    assert float(rows()[0]["duration"]) >= 0.12


def test_flush_writes_a_row_and_goes_on() -> None:
    """Each flush appends a row of the run so far."""
    one = tracker()
    one.start()
    work()
    first = one.flush()
    work()
    last = one.stop()
    assert 0 < first < last
    assert [float(row["emissions"]) for row in rows()] == pytest.approx([first, last])
    assert len({row["run_id"] for row in rows()}) == 1


def test_update_keeps_one_row_for_a_run() -> None:
    """With `on_csv_write="update"` the row of the same run is written anew, others stay."""
    with tracker(on_csv_write="update"):
        work()
    one = tracker(on_csv_write="update")
    one.start()
    work()
    one.flush()
    work()
    last = one.stop()
    assert len(rows()) == 2
    assert float(rows()[-1]["emissions"]) == pytest.approx(last)


def test_a_block_ends_the_run_and_lets_errors_through() -> None:
    """The row is written where the block raises."""

    def fails() -> None:
        with tracker():
            work()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert len(rows()) == 1


@ours
def test_a_second_start_after_stop_begins_anew() -> None:
    """Energy, duration and run_id are of the second run alone."""
    one = tracker()
    one.start()
    work(0.4)
    one.stop()
    one.start()
    work(0.1)
    one.stop()
    first, second = rows()
    assert float(second["duration"]) < float(first["duration"])
    assert float(second["energy_consumed"]) < float(first["energy_consumed"])
    assert first["run_id"] != second["run_id"]


def test_trackers_that_overlap_count_the_machine_each() -> None:
    """Neither takes anything from the other."""
    one, other = tracker(output_methods=[]), tracker(output_methods=[])
    one.start()
    other.start()
    work(0.3)
    for tracker_ in (one, other):
        tracker_.stop()
    first, second = one.final_emissions_data, other.final_emissions_data
    assert first.ram_energy == pytest.approx(second.ram_energy, rel=0.3)


def test_another_thread_may_stop_a_tracker() -> None:
    """As servers and notebooks do."""
    one = tracker()
    one.start()
    work()
    thread = threading.Thread(target=one.stop)
    thread.start()
    thread.join()
    assert one.final_emissions > 0
    assert len(rows()) == 1


def test_what_public_code_reads_of_a_tracker() -> None:
    """Private names that programs read have their values, and units, while it runs and after."""
    one = tracker()
    one.start()
    work()
    one.flush()
    assert one._total_energy.kWh > 0
    one.stop()
    data = one.final_emissions_data
    assert one._total_energy.kWh == pytest.approx(data.energy_consumed)
    assert one._total_cpu_energy.kWh == pytest.approx(data.cpu_energy)
    assert one._total_ram_energy.kWh == pytest.approx(data.ram_energy)
    assert one._total_gpu_energy.kWh == pytest.approx(data.gpu_energy)
    assert one._total_emissions == pytest.approx(data.emissions)


def test_the_hardware_is_told() -> None:
    """A dictionary with CodeCarbon's keys."""
    found = tracker().get_detected_hardware()
    assert set(found) == {
        *("ram_total_size", "cpu_count", "cpu_physical_count", "cpu_model"),
        *("gpu_count", "gpu_model", "gpu_ids"),
    }
    assert found["ram_total_size"] > 0
    assert found["cpu_count"] >= 1


# -- outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("interval", "calls"), [(2, 1), (-1, 0), (100, 0)])
def test_live_rows_come_at_every_so_many_measures(interval: int, calls: int) -> None:
    """There is a measure at the start and one at the end."""
    kept = Kept()
    one = tracker(output_handlers=[kept], api_call_interval=interval, output_methods=[])
    one.start()
    work()
    one.stop()
    assert len(kept.live_rows) == calls
    assert len(kept.rows) == 1
    assert kept.exits == 1


def test_live_rows_come_while_a_run_goes_on() -> None:
    """With a short time between measures there are more of them."""
    kept = Kept()
    one = tracker(output_handlers=[kept], api_call_interval=1, measure_power_secs=0.1)
    one.start()
    work(0.6)
    one.stop()
    assert len(kept.live_rows) >= 4
    total, _ = kept.live_rows[-1]
    assert total.run_id == str(one.run_id)


def test_an_output_gets_the_whole_and_what_was_added() -> None:
    """At flush and at stop; additions sum up to the whole."""
    kept = Kept()
    one = tracker(output_handlers=[kept], api_call_interval=-1)
    one.start()
    work()
    one.flush()
    work()
    one.stop()
    totals = [total.energy_consumed for total, _ in kept.rows]
    added = [delta.energy_consumed for _, delta in kept.rows]
    assert len(totals) == 2
    assert sum(added) == pytest.approx(totals[-1])


def test_the_list_of_outputs_is_extended_in_place() -> None:
    """A program may look for the file's output in the list that it gave."""
    handlers: list[Any] = [Kept()]
    tracker(output_handlers=handlers)
    assert len(handlers) == 2
    assert isinstance(handlers[1], FileOutput)


@pytest.mark.parametrize("off", [{"save_to_file": False}, {"output_methods": []}])
def test_no_file_if_none_is_wanted(off: dict[str, Any]) -> None:
    """Both ways to say so."""
    with pytest.deprecated_call() if "save_to_file" in off else nullcontext():
        one = tracker(**off)
    one.start()
    work()
    assert one.stop() > 0
    assert list(Path().iterdir()) == []


def test_a_logger_gets_the_row_as_json(caplog: pytest.LogCaptureFixture) -> None:
    """`logging_logger` takes a logger's output."""
    logger = logging.getLogger("rows of a test")
    with caplog.at_level(logging.INFO, "rows of a test"):
        one = tracker(
            output_methods=[cc.OutputMethod.LOGGER],
            logging_logger=LoggerOutput(logger, logging.INFO),
        )
        one.start()
        work()
        emissions = one.stop()
    lines = [r.getMessage() for r in caplog.records if r.name == "rows of a test"]
    assert json.loads(lines[-1])["emissions"] == pytest.approx(emissions)
    assert not Path("emissions.csv").exists()


def test_methods_may_be_a_text_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """As configurations have them."""
    monkeypatch.setenv("CODECARBON_OUTPUT_METHODS", "csv, logger")
    handlers = tracker()._output_handlers
    assert len(handlers) == 2
    assert isinstance(handlers[0], FileOutput)


def test_an_address_gets_the_row() -> None:
    """`emissions_endpoint` is posted the row as JSON."""
    with posted_rows() as (address, posted), tracker(emissions_endpoint=address) as one:
        work()
    (row,) = posted
    assert row["emissions"] == pytest.approx(one.final_emissions)
    assert set(one.final_emissions_data.values) <= set(row)
    assert not IS_OURS or "user" not in row  # CodeCarbon adds the login name


@contextmanager
def posted_rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server, and what is posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append(json.loads(body))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", posted
        finally:
            server.shutdown()
            thread.join()


def test_a_file_with_other_columns_is_put_aside() -> None:
    """Its rows are kept, in a file beside it."""
    Path("emissions.csv").write_text("a,b\n1,2\n")
    with tracker():
        work()
    assert len(rows()) == 1
    kept = [path for path in Path().iterdir() if path.name != "emissions.csv"]
    assert [path.read_text() for path in kept] == ["a,b\n1,2\n"]


def test_a_file_with_the_same_columns_in_another_order_goes_on() -> None:
    """The file's order stays."""
    with tracker():
        work()
    columns = list(rows()[0])[::-1]
    with Path("emissions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, columns).writeheader()
    with tracker() as one:
        work()
    (row,) = rows()
    assert list(row) == columns
    assert float(row["emissions"]) == pytest.approx(one.final_emissions)


# -- tasks --------------------------------------------------------------------------------------


def test_a_task_has_what_was_used_in_it() -> None:
    """`stop_task` returns the task's data; the run's file has one row for all."""
    one = tracker()
    one.start_task("first")
    work()
    first = one.stop_task()
    one.start_task("second")
    work(0.3)
    second = one.stop_task("second")
    one.stop()
    assert type(first).__name__ == "EmissionsData"
    assert 0.1 <= first.duration < second.duration
    assert first.energy_consumed > 0
    assert second.energy_consumed > first.energy_consumed
    assert set(one._tasks) == {"first", "second"}
    assert one._tasks["first"].emissions_data.emissions == first.emissions
    assert len(rows()) == 1
    whole = float(rows()[0]["energy_consumed"])
    assert whole >= (first.energy_consumed + second.energy_consumed) * 0.999


def test_tasks_have_a_file_of_their_own() -> None:
    """It is named after the experiment and the run, and has a row for each task."""
    one = tracker(experiment_name="mine")
    for name in ("a", "b"):
        one.start_task(name)
        work()
        one.stop_task(name)
    one.stop()
    path = f"emissions_mine_{one.run_id}.csv"
    assert [row["task_name"] for row in rows(path)] == ["a", "b"]
    assert next(iter(rows(path)[0])) == "task_name"
    assert "experiment_id" not in rows(path)[0]


def test_the_same_task_twice_is_two_tasks() -> None:
    """The second one's name gets a suffix."""
    one = tracker(output_methods=[])
    for _ in range(2):
        one.start_task("again")
        work(0.06)
        one.stop_task()
    one.stop()
    first, second = one._tasks
    assert first == "again"
    assert second.startswith("again_")


def test_no_task_to_stop() -> None:
    """It is nothing to fail for."""
    one = tracker(output_methods=[])
    one.start()
    assert one.stop_task("never begun") is None
    one.stop()


def test_a_task_as_a_block_and_as_a_decorator() -> None:
    """Both are tasks of the tracker that they were given."""
    one = tracker(output_methods=[])
    with TaskEmissionsTracker("block", tracker=one):
        work()

    @track_task_emissions(tracker=one, task_name="call")
    def called() -> str:
        work()
        return "done"

    assert called() == "done"
    one.stop()
    assert set(one._tasks) == {"block", "call"}
    assert all(task.emissions_data.energy_consumed > 0 for task in one._tasks.values())


# -- decorators ---------------------------------------------------------------------------------


def test_each_call_of_a_decorated_function_is_a_row() -> None:
    """It returns what it returns, and keeps its name."""

    @cc.track_emissions(offline=True, project_name="calls", **QUIET)
    def function(number: int) -> int:
        """What it does."""
        work()
        return number + 1

    assert [function(1), function(2)] == [2, 3]
    assert (function.__name__, function.__doc__) == ("function", "What it does.")
    assert [row["project_name"] for row in rows()] == ["calls", "calls"]


def test_a_decorated_function_raises_what_it_raises() -> None:
    """And its row is written."""

    @cc.track_emissions(offline=True, **QUIET)
    def function() -> None:
        work()
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        function()
    assert len(rows()) == 1


def test_offline_needs_a_place_when_it_is_called() -> None:
    """Not when it is decorated."""

    @cc.track_emissions(offline=True, output_methods=[])
    def function() -> None:
        pass

    with pytest.raises(Exception, match="ISO"):
        function()


@ours
def test_a_coroutine_is_measured_from_its_call_to_its_end() -> None:
    """What it waits for is in it."""

    @cc.track_emissions(offline=True, **QUIET)
    async def function() -> str:
        await asyncio.sleep(0.2)
        return "done"

    assert asyncio.run(function()) == "done"
    assert float(rows()[0]["duration"]) >= 0.2


@ours
def test_a_generator_is_measured_until_it_is_exhausted() -> None:
    """What it does between two values is in it."""

    @cc.track_emissions(offline=True, **QUIET)
    def function() -> Any:
        work(0.1)
        yield 1
        work(0.1)

    assert list(function()) == [1]
    assert float(rows()[0]["duration"]) >= 0.2


# -- parameters ---------------------------------------------------------------------------------


def test_what_is_wrong_is_said_before_anything_starts() -> None:
    """With CodeCarbon's own kinds of errors."""
    with pytest.raises(OSError, match="exist"):
        cc.EmissionsTracker(output_dir="no/such/folder")
    with pytest.raises(ValueError, match="append"):
        cc.EmissionsTracker(on_csv_write="replace")
    with pytest.raises(AssertionError):
        cc.EmissionsTracker(tracking_mode="galaxy")
    with pytest.raises(TypeError, match="projct_name"):
        cc.EmissionsTracker(projct_name="x")


@ours
def test_what_is_wrong_is_said_by_the_offline_tracker_too() -> None:
    """Where CodeCarbon logs it, and leaves a tracker that measures nothing."""
    with pytest.raises(TypeError, match="country_iso_code"):
        cc.OfflineEmissionsTracker(country_iso_cod="FRA")
    with pytest.raises(OSError, match="exist"):
        tracker(output_dir="no/such/folder")


def test_arguments_go_before_the_environment_and_that_before_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Argument, environment, the folder's file, the user's file."""
    section = "[codecarbon]\nlog_level=critical\ncountry_iso_code=FRA\n"
    Path("~/.codecarbon.config").expanduser().write_text(section + "project_name=user\n")
    assert _project() == "user"
    Path(".codecarbon.config").write_text("[codecarbon]\nproject_name=folder\n")
    assert _project() == "folder"
    monkeypatch.setenv("CODECARBON_PROJECT_NAME", "environment")
    assert _project() == "environment"
    assert _project(project_name="argument") == "argument"


def test_texts_from_outside_become_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All values of files and of the environment are texts."""
    monkeypatch.setenv("CODECARBON_FORCE_CARBON_INTENSITY_G_CO2E_KWH", "300")
    monkeypatch.setenv("CODECARBON_PUE", "1.5")
    monkeypatch.setenv("CODECARBON_MEASURE_POWER_SECS", "30")
    with tracker() as one:
        work()
    data = one.final_emissions_data
    assert data.emissions == pytest.approx(data.energy_consumed * 0.3)
    assert data.pue == 1.5


@pytest.mark.parametrize("wrong", [-5, "many"])
def test_an_intensity_that_is_none_is_ignored(wrong: Any) -> None:
    """The country's is used."""
    with tracker(force_carbon_intensity_g_co2e_kwh=wrong, output_methods=[]) as one:
        work()
    data = one.final_emissions_data
    assert 0.01 < data.emissions / data.energy_consumed < 0.2


def test_positional_arguments_have_their_order() -> None:
    """The first three are the project's name, the seconds and the interval."""
    with cc.OfflineEmissionsTracker("mine", 60, -1, country_iso_code="FRA", log_level="critical"):
        work()
    assert rows()[0]["project_name"] == "mine"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ({"country_iso_code": "USA", "region": "california"}, "United States"),
        ({"country_iso_code": "DEU"}, "Germany"),
        ({"country_iso_code": "CAN", "region": "quebec"}, "Canada"),
    ],
)
def test_places(place: dict[str, str], name: str) -> None:
    """A country, and one of its regions."""
    with tracker(**place) as one:
        work()
    data = one.final_emissions_data
    assert data.country_name == name
    assert data.country_iso_code == place["country_iso_code"]
    assert (data.region or "") == place.get("region", "")


def _project(**more: Any) -> str:
    with cc.OfflineEmissionsTracker(output_file="mine.csv", **more):
        work(0.06)
    return rows("mine.csv")[-1]["project_name"]
