"""Ranks under real launchers: one job, each rank once, and the sum of all of them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records
from tests.integration.launchers import found, mpirun, slurm, why_no_slurm

pytestmark = pytest.mark.xdist_group("serial")  # the launchers count processors

ROOT = Path(__file__).parents[3]
BURN = """
import sys, time
import carbontrack
with carbontrack.track("rank", output="runs.csv", region="FR"):
    end = time.process_time() + float(sys.argv[1])
    while time.process_time() < end:
        sum(range(10_000))
"""
FAILS_ONCE = """
import os
import carbontrack
with carbontrack.track("rank", output="runs.csv", region="FR"):
    pass
raise SystemExit(os.environ["TORCHELASTIC_RESTART_COUNT"] == "0")
"""
Start = Callable[..., "subprocess.CompletedProcess[str]"]


def launcher_named(name: str) -> list[str]:
    """The command that starts two ranks of what follows; skips where it is not installed."""
    if name == "srun":
        if reason := why_no_slurm():
            pytest.skip(reason)
        return ["srun", "-n", "2"]
    if name == "torchrun":
        program = found("torchrun")
        options = ["--standalone", "--nproc-per-node", "2", "--no-python"]
    else:
        program = mpirun({"Open MPI": "Open MPI", "MPICH": "HYDRA"}[name])
        options = ["-n", "2", *(["--oversubscribe"] if name == "Open MPI" else [])]
    if program is None:
        pytest.skip(f"{name} is not installed")
    return [program, *options]


@pytest.fixture(scope="module")
def slurm_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """SLURM on this machine, where it can be started."""
    if why_no_slurm():
        yield {}
        return
    with slurm(tmp_path_factory.mktemp("slurm")) as environ:
        yield environ


@pytest.fixture
def start(tmp_path: Path, slurm_environ: Mapping[str, str]) -> Start:
    """Run a command to its end, in an environment without any job."""
    (tmp_path / "burn.py").write_text(BURN)
    (tmp_path / "fails_once.py").write_text(FAILS_ONCE)

    def go(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "CARBONTRACK_REGION": "FR",
            "CARBONTRACK_OUTPUT": str(tmp_path / "runs.csv"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMP_NUM_THREADS": "1",
            **slurm_environ,
        }
        return subprocess.run(
            command, cwd=tmp_path, env={**environ, **variables}, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    return go


def rows(folder: Path) -> list[Record]:
    """The rows of the ranks, in their order, and that of `carbontrack run` after them."""
    records = iter_records(folder / "runs.csv")
    return sorted(records, key=lambda record: (record.rank is None, record.rank))


@pytest.mark.parametrize("name", ["torchrun", "srun", "Open MPI", "MPICH"])
def test_the_ranks_of_a_launch_are_one_job(start: Start, tmp_path: Path, name: str) -> None:
    """Each has a row with its rank; only MPICH outside of a batch system names no job."""
    done = start(*launcher_named(name), sys.executable, "burn.py", "0")
    assert done.returncode == 0, done.stderr

    first, second = rows(tmp_path)
    assert (first.rank, second.rank) == (first.local_rank, second.local_rank) == (0, 1)
    assert first.world_size == second.world_size == 2
    assert first.job_id == second.job_id
    assert (first.job_id is None) == (name == "MPICH")
    assert first.attempt == second.attempt == (0 if name in ("torchrun", "srun") else None)

    (job,) = report(start)["groups"]
    assert job["key"] == first.job_id
    assert (job["ranks"], job["expected_ranks"]) == ((None,) * 2 if name == "MPICH" else (2, 2))
    energy_kwh = sum(record.energy_kwh or 0.0 for record in (first, second))
    assert job["energy_kwh"] == pytest.approx(energy_kwh, rel=1e-12)


@pytest.mark.parametrize("name", ["torchrun", "srun", "Open MPI", "MPICH"])
def test_two_launches_are_two_jobs(start: Start, tmp_path: Path, name: str) -> None:
    """Also in one allocation of the same launcher, where the launcher names jobs."""
    for _ in range(2):
        done = start(*launcher_named(name), sys.executable, "burn.py", "0")
        assert done.returncode == 0, done.stderr

    assert len({record.job_id for record in rows(tmp_path)}) == (1 if name == "MPICH" else 2)


@pytest.mark.parametrize("name", ["torchrun", "srun", "Open MPI", "MPICH"])
def test_a_launch_under_our_run_is_of_its_job(start: Start, tmp_path: Path, name: str) -> None:
    """Ranks and launcher have the id that `carbontrack run` has given to its command."""
    command = (*launcher_named(name), sys.executable, "burn.py", "0")
    done = start(sys.executable, "-m", "carbontrack", "run", "--", *command)
    assert done.returncode == 0, done.stderr

    first, second, run = rows(tmp_path)
    assert (first.rank, second.rank, run.rank) == (0, 1, None)
    assert first.job_id == second.job_id == run.job_id
    assert run.job_id is not None
    assert first.parent_id == second.parent_id == run.record_id
    (job,) = report(start)["groups"]
    assert (job["key"], job["ranks"], job["expected_ranks"]) == (run.job_id, 2, 2)


def test_a_restart_by_torchrun_is_another_attempt(start: Start, tmp_path: Path) -> None:
    """Of the same job: what the failed attempt used counts as well."""
    torchrun = [*launcher_named("torchrun")]
    torchrun[1:1] = ["--max-restarts", "1", "--monitor-interval", "0.1"]
    done = start(*torchrun, sys.executable, "fails_once.py")
    assert done.returncode == 0, done.stderr

    found = list(iter_records(tmp_path / "runs.csv"))
    assert len({record.job_id for record in found}) == 1
    attempts = sorted((record.attempt, record.rank) for record in found)
    # torchrun ends the other rank as soon as it sees that one has failed
    assert {(1, 0), (1, 1)} <= set(attempts)
    assert attempts[0][0] == 0
    (job,) = report(start)["groups"]
    assert (job["attempts"], job["ranks"], job["world_size"]) == (2, len(set(attempts)), 2)
    second_kwh = sum(record.energy_kwh or 0.0 for record in found if record.attempt == 1)
    assert job["useful_energy_kwh"] == pytest.approx(second_kwh)
    assert job["useful_energy_kwh"] < job["energy_kwh"]


def test_tasks_of_an_array_are_jobs(start: Start, tmp_path: Path) -> None:
    """A batch script has the job's id without a step; each task of an array has one of its own.

    What they have in common, and by what a report adds them up, is a label.
    """
    launcher_named("srun")
    script = tmp_path / "array.sh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} burn.py 0\n")
    done = start("sbatch", "--wait", "--array=0-1", "-o", "array.out", str(script))
    assert done.returncode == 0, (tmp_path / "array.out").read_text()

    first, second = iter_records(tmp_path / "runs.csv")
    assert str(first.job_id).startswith("here/")
    assert str(second.job_id).startswith("here/")
    assert first.job_id != second.job_id
    assert (first.rank, first.attempt) == (second.rank, second.attempt) == (None, 0)
    assert {record.labels["array_task_id"] for record in (first, second)} == {"0", "1"}
    array = first.labels["array_job_id"]
    groups = report(start, "label:array_job_id")["groups"]
    assert [(group["key"], group["runs"]) for group in groups] == [(array, 2)]


@pytest.mark.skipif(found("setsid") is None, reason="setsid is not there")
def test_a_child_that_has_left_the_session_is_of_our_job(start: Start, tmp_path: Path) -> None:
    """It is no descendant of ours any more, but has our environment."""
    script = f"setsid {sys.executable} burn.py 0 & wait"
    inner = f"setsid sh -c '({script}) &' ; while [ ! -s runs.csv ]; do sleep 0.05; done"
    done = start(sys.executable, "-m", "carbontrack", "run", "--", "sh", "-c", inner)
    assert done.returncode == 0, done.stderr

    by_name = {record.name: record for record in iter_records(tmp_path / "runs.csv")}
    assert by_name["rank"].job_id == by_name["sh"].job_id is not None
    assert by_name["rank"].parent_id == by_name["sh"].record_id


def counting(records: list[Record]) -> list[Record]:
    """Those whose energy is in no other row."""
    return [record for record in records if record.parent_id is None or not record.parent_holds]


def cpu_kwh(records: list[Record]) -> float:
    """What their processors used."""
    return sum(record.cpu_kwh or 0.0 for record in records)


def cpu_of_children_s() -> float:
    """What all processes used that this one has waited for, and those that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(start: Start, by: str = "job") -> dict[str, Any]:
    """What `carbontrack report` says of all rows."""
    command = ("-m", "carbontrack", "report", "--by", by, "--json", "runs.csv")
    done = start(sys.executable, *command)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def reported_kwh(start: Start) -> float:
    """The total of `carbontrack report`."""
    return float(report(start)["total"]["energy_kwh"])


@pytest.mark.parametrize("name", ["torchrun", "Open MPI", "MPICH"])
def test_a_run_holds_what_its_launcher_starts_below_it(
    start: Start, tmp_path: Path, name: str
) -> None:
    """Its row has the ranks' rows and what the launcher itself used, within 5 %.

    As much as that is: MPICH's launcher is busy while it waits for the last rank.
    """
    command = (*launcher_named(name), sys.executable, "burn.py", "4")
    # without idle energy, whose share depends on what else the machine does in each second
    run = (sys.executable, "-m", "carbontrack", "run", "--quiet", "--")
    used_s = cpu_of_children_s()
    done = start(*run, *command, CARBONTRACK_IDLE="none")
    used_s = cpu_of_children_s() - used_s
    assert done.returncode == 0, done.stderr

    *ranks, outer = rows(tmp_path)
    assert counting([*ranks, outer]) == [outer]
    assert reported_kwh(start) == pytest.approx(outer.energy_kwh, rel=1e-9)
    kwh_per_cpu_s = cpu_kwh(ranks) / 8.0
    assert 0.95 * cpu_kwh(ranks) <= cpu_kwh([outer]) <= 1.05 * kwh_per_cpu_s * used_s


@pytest.mark.parametrize("name", ["srun", "setsid"])
def test_a_run_does_not_hold_what_is_started_elsewhere(
    start: Start, tmp_path: Path, name: str
) -> None:
    """Tasks of srun are children of SLURM's daemon; a fork of setsid is left to init."""
    waits = "while [ $(wc -l < runs.csv) -lt 2 ]; do sleep 0.1; done"
    if name == "setsid" and found("setsid") is None:
        pytest.skip("setsid is not there")
    launcher = (
        launcher_named("srun")
        if name == "srun"
        else ["sh", "-c", f'touch runs.csv; setsid -f "$@"; {waits}', "sh"]
    )
    run = (sys.executable, "-m", "carbontrack", "run", "--quiet", "--")
    done = start(*run, *launcher, sys.executable, "burn.py", "2", CARBONTRACK_IDLE="none")
    assert done.returncode == 0, done.stderr

    *ranks, outer = rows(tmp_path)
    assert len(ranks) == (2 if name == "srun" else 1)
    assert counting([*ranks, outer]) == [*ranks, outer]
    assert cpu_kwh([outer]) < 0.25 * cpu_kwh(ranks)
    energy_kwh = sum(record.energy_kwh or 0.0 for record in (*ranks, outer))
    assert reported_kwh(start) == pytest.approx(energy_kwh, rel=1e-9)
