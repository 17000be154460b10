"""`report --by job`: ranks, hosts and attempts, and useful against used energy."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.record import Record
from carbontrack.report.frame import load
from carbontrack.report.jobs import Job
from carbontrack.report.read import iter_records
from carbontrack.report.totals import totals
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.task import RunningTask, in_task
from carbontrack.tracking.tracker import Tracker
from carbontrack.units import JOULES_PER_KWH
from carbontrack.values import replace

KWH = 1e-6


def row(number: int, kwh: float = 1.0, **columns: object) -> Record:
    """A record of a job, of one minute in the order of its number."""
    defaults = {
        "record_id": f"run{number}-1",
        "run_id": f"run{number}",
        "name": "train",
        "started_at": f"2026-01-01T00:{number:02}:00.000000Z",
        "ended_at": f"2026-01-01T00:{number:02}:30.000000Z",
        "duration_s": 30.0,
        "energy_kwh": kwh * KWH,
        "energy_low_kwh": kwh * KWH * 0.9,
        "energy_high_kwh": kwh * KWH * 1.1,
        "cpu_kwh": kwh * KWH,
        "basis": "measured",
        "cpu_basis": "measured",
        "emissions_g": kwh * KWH * 50.0,
        "intensity_g_per_kwh": 50.0,
        "intensity_low_g_per_kwh": 40.0,
        "intensity_high_g_per_kwh": 60.0,
        "scope": "process",
        "host_id": "h1",
        "job_id": "job",
    }
    return Record(**{**defaults, **columns})


def write(folder: Path, *records: Record) -> str:
    """A file of them."""
    path = folder / "runs.csv"
    sink = CsvSink(path)
    for record in records:
        sink.write(record)
    sink.close()
    return str(path)


def jobs(folder: Path, *records: Record) -> dict[str | None, Job]:
    """The jobs of the records, by their ids."""
    return {job.key: job for job in load([write(folder, *records)], with_jobs=True).jobs}


def useful(job: Job) -> float:
    """What was useful, in the unit of `row`."""
    assert job.useful_energy_kwh is not None
    return job.useful_energy_kwh / KWH


def ranks(world_size: int, *numbers: int, **columns: object) -> list[Record]:
    """A row for each of these ranks."""
    size = {"world_size": world_size}
    return [row(number, rank=number, host_id=f"h{number // 4}", **size, **columns)
            for number in numbers]  # fmt: skip


def test_a_missing_rank_is_seen(tmp_path: Path):
    """Seven of eight, on two hosts; the other one may have been killed."""
    job = jobs(tmp_path, *ranks(8, *range(7)))["job"]
    assert (job.ranks, job.expected_ranks, job.world_size, job.missing_ranks) == (7, 8, 8, 1)
    assert (job.hosts, job.attempts, job.tasks) == (2, None, None)
    assert useful(job) == pytest.approx(7.0)


def test_rows_of_a_rank_are_one_rank(tmp_path: Path):
    """A program may have any number of blocks."""
    second = [row(20 + number, rank=number, world_size=2) for number in range(2)]
    job = jobs(tmp_path, *ranks(2, 0, 1), *second)["job"]
    assert (job.ranks, job.expected_ranks) == (2, 2)
    assert useful(job) == pytest.approx(4.0)


def test_ranks_that_are_held_by_our_run_are_seen(tmp_path: Path):
    """They are left out of the sum, as `carbontrack run` has their energy in its row."""
    outer = row(0, 5.0, started_at="2026-01-01T00:00:00.000000Z",
                ended_at="2026-01-01T01:00:00.000000Z", name="mpirun")  # fmt: skip
    inner = [replace(one, parent_id=outer.record_id, parent_holds=True)
             for one in (row(1, rank=0, world_size=2), row(2, rank=1, world_size=2))]  # fmt: skip
    job = jobs(tmp_path, *inner, outer)["job"]
    assert (job.ranks, job.expected_ranks) == (2, 2)
    assert useful(job) == pytest.approx(5.0)


def test_a_launcher_without_a_size_leaves_it_open(tmp_path: Path):
    """As PMIx alone does."""
    job = jobs(tmp_path, row(1, rank=0), row(2, rank=1))["job"]
    assert (job.ranks, job.expected_ranks, job.world_size, job.missing_ranks) == (2, None, None, 0)


def test_a_restart_is_another_attempt_of_all_ranks(tmp_path: Path):
    """Each attempt's ranks count; the first one's energy was used, and was of no use."""
    first = [row(1, rank=0, world_size=2, attempt=0, status="error"),
             row(2, rank=1, world_size=2, attempt=0, status="interrupted")]  # fmt: skip
    second = [row(n, 3.0, rank=n - 3, world_size=2, attempt=1) for n in (3, 4)]
    job = jobs(tmp_path, *first, *second)["job"]
    assert (job.ranks, job.expected_ranks, job.attempts) == (4, 4, 2)
    assert useful(job) == pytest.approx(6.0)


def test_a_restart_of_another_size_expects_its_own(tmp_path: Path):
    """An elastic job may go on with fewer ranks."""
    first = [row(n, rank=n, world_size=4, attempt=0, status="interrupted") for n in range(3)]
    second = [row(10 + n, rank=n, world_size=2, attempt=1) for n in range(2)]
    job = jobs(tmp_path, *first, *second)["job"]
    assert (job.ranks, job.expected_ranks, job.world_size) == (5, 6, 4)
    assert useful(job) == pytest.approx(2.0)


def test_a_retried_task_is_used_twice_and_useful_once(tmp_path: Path):
    """Wherever the retry runs, and whatever rank its worker has."""
    job = jobs(
        tmp_path,
        row(1, 2.0, task_id="3/0", attempt=0, status="error", host_id="h1"),
        row(2, 5.0, task_id="3/0", attempt=1, host_id="h2"),
        row(3, 1.0, task_id="3/1", attempt=0),
    )["job"]
    assert (job.tasks, job.attempts, job.hosts, job.ranks) == (2, 2, 2, None)
    assert useful(job) == pytest.approx(6.0)


def test_a_program_that_retries_a_task_has_a_row_for_each_attempt(tmp_path: Path):
    """From the task that an integration names to the report: 100 W for 2 s, and then for 3 s."""
    path, clock = tmp_path / "runs.csv", FakeClock()
    with Tracker(meters=[FakeMeter(watts=100.0)], clock=clock, sinks=[CsvSink(path)]) as tracker:
        for attempt, seconds in enumerate((2.0, 3.0)):
            task = RunningTask("3/0", attempt, "spark-1")
            with suppress(ValueError), in_task(task), tracker.span("partition"):
                clock.advance(seconds)
                if attempt == 0:
                    raise ValueError("a bad row")
    loaded = load([path], with_jobs=True)
    assert [record.attempt for record in iter_records(path)] == [0, 1]
    (job,), (total,) = loaded.jobs, totals(loaded.frame, "job")
    assert (job.key, job.attempts, job.tasks) == (total.key, 2, 1) == ("spark-1", 2, 1)
    assert total.energy_kwh == pytest.approx(500.0 / JOULES_PER_KWH)
    assert job.useful_energy_kwh == pytest.approx(300.0 / JOULES_PER_KWH)


def test_of_two_successful_attempts_the_last_is_useful(tmp_path: Path):
    """A speculative copy of a slow task, for example."""
    rows = [row(n, n, task_id="3/0", attempt=n - 1) for n in (1, 2)]
    assert useful(jobs(tmp_path, *rows)["job"]) == pytest.approx(2.0)


@pytest.mark.parametrize("status", ["error", "interrupted", "recovered"])
def test_what_never_succeeds_is_not_useful(tmp_path: Path, status: str):
    """A job that failed in all its attempts has used energy, and none of use."""
    rows = [row(n, task_id="3/0", attempt=n, status=status) for n in range(2)]
    assert useful(jobs(tmp_path, *rows)["job"]) == 0.0


def test_an_attempt_ends_as_its_last_row_does(tmp_path: Path):
    """A block may fail on the way, and the program go on."""
    handled = [row(1, rank=0, world_size=1, status="error"), row(2, rank=0, world_size=1)]
    assert useful(jobs(tmp_path, *handled)["job"]) == pytest.approx(2.0)


def test_an_outer_row_decides_over_one_that_ends_with_it(tmp_path: Path):
    """A child's row that ends in the same moment says nothing of its task."""
    outer = row(1, 3.0, task_id="a", attempt=0)
    inner = replace(row(1, task_id="a", attempt=0), record_id="run1-2", status="error",
                    parent_id="run1-1", parent_holds=True)  # fmt: skip
    assert useful(jobs(tmp_path, outer, inner)["job"]) == pytest.approx(3.0)


def test_rows_of_no_rank_and_no_task_are_useful(tmp_path: Path):
    """Nothing says that a driver's work was repeated."""
    rows = [row(1, status="recovered"), row(2, status="error")]
    job = jobs(tmp_path, *rows)["job"]
    assert (job.attempts, job.ranks, job.tasks) == (None, None, None)
    assert useful(job) == pytest.approx(2.0)


def test_a_failed_attempt_inside_a_workers_row_is_taken_from_it(tmp_path: Path):
    """The worker's row has the energy of its tasks; what is nested in a failed one goes with it."""
    ends = {"ended_at": "2026-01-01T01:00:00.000000Z"}
    worker = row(0, 10.0, name="worker", **ends)

    def inside(number: int, kwh: float, parent: str, **columns: object) -> Record:
        return row(number, kwh, parent_id=parent, parent_holds=True, **columns)

    job = jobs(
        tmp_path,
        inside(2, 1.0, "run1-1", task_id="a", attempt=0, status="error"),
        inside(1, 3.0, "run0-1", task_id="a", attempt=0, status="error"),
        inside(3, 4.0, "run0-1", task_id="a", attempt=1),
        worker,
    )["job"]
    assert useful(job) == pytest.approx(7.0)


def test_what_two_runs_of_a_machine_share_is_wasted_by_its_share(tmp_path: Path):
    """Two rows of the machine at the same time count half each, useful or not."""
    both = {"world_size": 2, "scope": "machine"}
    rows = [
        row(0, 4.0, record_id=f"r{n}-1", run_id=f"r{n}", rank=n, status=status, **both)
        for n, status in enumerate(("ok", "error"))
    ]
    assert useful(jobs(tmp_path, *rows)["job"]) == pytest.approx(2.0)


def test_rows_without_a_job_are_none(tmp_path: Path):
    """Their ranks are those of any number of launches."""
    found = jobs(tmp_path, row(1, rank=0, world_size=2, job_id=None), row(2))
    assert list(found) == ["job"]


def test_unknown_energy_is_not_useful_energy(tmp_path: Path):
    """Unknown is unknown, not 0."""
    assert jobs(tmp_path, row(1, energy_kwh=None))["job"].useful_energy_kwh is None


def test_a_repeated_row_counts_once(tmp_path: Path):
    """A checkpoint that was recovered too early yields to the finished row."""
    finished = row(1, 2.0, rank=0, world_size=1)
    early = replace(finished, status="recovered", energy_kwh=KWH)
    assert useful(jobs(tmp_path, finished, early)["job"]) == pytest.approx(2.0)


@pytest.fixture
def two_jobs(tmp_path: Path) -> str:
    """A job of which a rank is missing, one with a retry, and a row of no job."""
    return write(
        tmp_path,
        *ranks(8, *range(7)),
        row(20, 2.0, job_id="=spark", task_id="0/0", attempt=0, status="error"),
        row(21, 3.0, job_id="=spark", task_id="0/0", attempt=1),
        row(22, 1.0, job_id=None),
    )


def test_the_table_has_a_line_for_each_job(two_jobs: str, capsys: pytest.CaptureFixture[str]):
    """With ranks of all, hosts, attempts, and useful energy beside the energy."""
    assert main(["report", "--by", "job", two_jobs]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = lines[0].split()
    assert heads[:7] == ["job", "ranks", "hosts", "attempts", "runs", "energy", "interval"]
    assert heads[7] == "useful"
    job, spark, unknown = lines[1:4]
    assert job.startswith("job")
    assert "7 of 8" in job
    assert "18.0 J" in spark
    assert "10.8 J" in spark
    assert unknown.startswith("(unknown)")
    assert "1 rank has no row here" in "\n".join(lines)
    assert "Useful is the energy without the attempts" in "\n".join(lines)


def test_json_and_csv_have_the_same_figures(two_jobs: str, capsys: pytest.CaptureFixture[str]):
    """By the names of `Job`; a group without a job has none."""
    assert main(["report", "--by", "job", "--json", two_jobs]) == 0
    content = json.loads(capsys.readouterr().out)
    groups = {group["key"]: group for group in content["groups"]}
    names = ("ranks", "expected_ranks", "world_size", "hosts", "attempts", "tasks")
    assert [groups["job"][name] for name in names] == [7, 8, 8, 2, None, None]
    assert [groups["=spark"][name] for name in names] == [None, None, None, 1, 2, 1]
    assert [groups[None][name] for name in names] == [None] * 6
    assert groups["=spark"]["useful_energy_kwh"] == pytest.approx(3.0 * KWH)
    assert "ranks" not in content["total"]

    assert main(["report", "--by", "job", "--format", "csv", two_jobs]) == 0
    cells = {each["key"]: each for each in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert cells["job"]["ranks"] == "7"
    assert cells["'=spark"]["attempts"] == "2"
    assert float(cells["'=spark"]["useful_energy_kwh"]) == pytest.approx(3.0 * KWH)
    assert cells[""]["useful_energy_kwh"] == ""


def test_markdown_latex_and_the_page_know_jobs(
    two_jobs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A line for each in every form."""
    assert main(["report", "--by", "job", "--format", "markdown", two_jobs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| 7 of 8 | 2 |" in lines[2]
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert main(["report", "--by", "job", "--format", "latex", two_jobs]) == 0
    assert "7 of 8 & 2 &" in capsys.readouterr().out
    assert main(["report", "--by", "job", "--html", str(tmp_path / "page.html"), two_jobs]) == 0
    assert "job" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_sum_of_the_jobs_is_that_of_the_report(
    two_jobs: str, capsys: pytest.CaptureFixture[str]
):
    """Looking at jobs changes no sum."""
    totals = []
    for way in ("job", "name"):
        assert main(["report", "--by", way, "--json", two_jobs]) == 0
        content = json.loads(capsys.readouterr().out)
        totals.append(content["total"])
        parts = sum(group["energy_kwh"] for group in content["groups"])
        assert parts == pytest.approx(content["total"]["energy_kwh"], rel=1e-12)
    by_job, by_name = totals
    assert by_job.keys() == by_name.keys()
    for figure, value in by_job.items():
        # summed in another order
        expected = None if value is None else pytest.approx(value, rel=1e-12)
        assert by_name[figure] == expected, figure
