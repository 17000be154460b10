"""What launchers and batch systems say of a process: rank, size, local rank, job and attempt."""

from __future__ import annotations

import pytest

from carbontrack.config import environment
from carbontrack.config.environment import NOT_LAUNCHED, Environment, Launch

SLURM_STEP = {
    "SLURM_CLUSTER_NAME": "alps", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "3", "SLURM_PROCID": "2",
    "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_NAMESPACE": "523042817",
    "OMPI_MCA_orte_hnp_uri": "523042816.0;tcp://192.0.2.2:55323",
}  # fmt: skip
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "5e1c",
    "TORCHELASTIC_RESTART_COUNT": "0",
}  # fmt: skip


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in environ.items() if name not in names}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, NOT_LAUNCHED),
        (TORCHRUN, Launch(3, 8, 1, "5e1c", 0)),
        ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"}, Launch(3, 8, 1, "5e1c", 2)),
        (SLURM_STEP, Launch(2, 4, 0, "alps/17/3", 0)),
        ({**SLURM_STEP, "SLURM_RESTART_COUNT": "1"}, Launch(2, 4, 0, "alps/17/3", 1)),
        ({**HYDRA, "PBS_JOBID": "5.server"}, Launch(1, 2, 1, "5.server")),
        (HYDRA, Launch(1, 2, 1)),
        ({"PALS_RANKID": "5", "PMI_SIZE": "8", "PALS_LOCAL_RANKID": "1", "PALS_APID": "9a",
          "PBS_JOBID": "5.server"}, Launch(5, 8, 1, "9a")),
        ({"JSM_NAMESPACE_RANK": "5", "JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_LOCAL_RANK": "1",
          "LSB_JOBID": "77", "LSB_JOBINDEX": "0"}, Launch(5, 6, 1, "77")),
        ({"PMIX_RANK": "3"}, NOT_LAUNCHED),  # left by a launcher that is not around this process
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0"}, Launch(1, 2, 0)),
        # DeepSpeed has torchrun's variables, and no job
        (without(TORCHRUN, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"), Launch(3, 8, 1)),
        # a world size that belongs to no rank is left out
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, Launch(None, None, 1)),
        ({"LOCAL_RANK": "0"}, Launch(None, None, 0)),
    ],
    ids=["none", "torchrun", "torchrun restarted", "srun", "srun restarted", "PBS", "MPICH",
         "PALS", "jsrun", "a lone rank of PMIx", "Horovod", "DeepSpeed", "Lightning's ddp",
         "Lightning's ddp_spawn"],
)  # fmt: skip
def test_launchers_say_which_process_of_which_job_this_is(
    environ: dict[str, str], expected: Launch
) -> None:
    """Rank, world size, local rank, job and attempt, as each launcher names them."""
    assert environment.launch(environ).columns() == expected.columns()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}, 4),
        (TORCHRUN, None),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 2),
        (HYDRA, 2),
        ({**HYDRA, "MPI_LOCALNRANKS": "x"}, None),
        ({"PALS_RANKID": "5", "PMI_SIZE": "8", "PALS_LOCAL_RANKID": "1", "PMI_LOCAL_SIZE": "4"}, 4),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_SIZE": "2"}, 2),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NODEID": "0"}, 4),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "2"}, 2),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "3"}, 1),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_NODEID": "4"}, None),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x3),1"}, None),
        ({**SLURM_STEP, "SLURM_STEP_TASKS_PER_NODE": "((x,", "SLURM_NODEID": "0"}, None),
    ],
)  # fmt: skip
def test_how_many_ranks_are_on_this_node(environ: dict[str, str], expected: int | None) -> None:
    """It is no column, and says how many may use the same boards."""
    found = Environment.take(environ=environ).launch
    assert found.local_size == expected
    names = ["rank", "world_size", "local_rank", "job_id", "attempt"]
    assert list(found.columns()) == names


def test_pmix_alone_says_the_rank_and_not_how_many_there_are() -> None:
    """As Open MPI 5 started by srun with another plugin; what knows more comes before it."""
    alone = {"PMIX_RANK": "3", "PMIX_NAMESPACE": "slurm.pmix.17.0"}
    found = environment.launch(alone)
    assert found[:3] == (3, None, None)
    assert found.job_id is not None
    assert environment.launch({**alone, **SLURM_STEP})[:3] == (2, 4, 0)
    assert environment.launch({**alone, **OPEN_MPI})[:3] == (1, 2, 1)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "0"}, ("16", "0")),
        ({**SLURM_STEP, "SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "4"}, ("alps/16", "4")),
        ({"LSB_JOBID": "77", "LSB_JOBINDEX": "4"}, ("77", "4")),
        ({"PBS_JOBID": "5[7].server", "PBS_ARRAY_ID": "5[].server", "PBS_ARRAY_INDEX": "7"},
         ("5[].server", "7")),
        ({"LSB_JOBID": "77", "LSB_JOBINDEX": "0"}, None),
        ({"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": ""}, None),
        ({"SLURM_ARRAY_JOB_ID": "a\nb", "SLURM_ARRAY_TASK_ID": "1"}, None),
    ],
)  # fmt: skip
def test_a_task_of_an_array_has_the_arrays_id_as_a_label(
    environ: dict[str, str], expected: tuple[str, str] | None
) -> None:
    """Its job is the task; the label is what all tasks of the array have in common."""
    environ = {"SLURM_JOB_ID": "17", **environ}  # else there is no launch to be looked at
    labels = dict(Environment.take(environ=environ).launch.labels)
    names = ("array_job_id", "array_task_id")
    assert labels == ({} if expected is None else dict(zip(names, expected, strict=True)))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"RANK": "3"}, (None, None)),
        ({"RANK": "8", "WORLD_SIZE": "8"}, (None, None)),
        ({"RANK": "x", "WORLD_SIZE": "8", "PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"RANK": "-1", "WORLD_SIZE": "8"}, (None, None)),
        ({"RANK": "9" * 5000, "WORLD_SIZE": "8"}, (None, None)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (None, None)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, (2, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0",
          "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
        ({"JSM_NAMESPACE_RANK": "5", "JSM_NAMESPACE_SIZE": "6"}, (5, 6)),
        ({"RANK": "1", "WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0",
          "OMPI_COMM_WORLD_SIZE": "1"}, (1, 2)),
    ],
)  # fmt: skip
def test_a_rank_is_believed_where_it_makes_sense(
    environ: dict[str, str], expected: tuple[int | None, int | None]
) -> None:
    """The innermost launcher's; nonsense is no rank and never raises."""
    assert environment.launch(environ)[:2] == expected


@pytest.mark.parametrize("text", ["", " ", "x", "-1", "1.5", "9" * 5000])
def test_a_number_that_is_none_is_not_known(text: str) -> None:
    """A launcher that names the rank may leave out the rest."""
    environ = {**TORCHRUN, "LOCAL_RANK": text, "TORCHELASTIC_RESTART_COUNT": text}
    assert environment.launch(environ) == Launch(3, 8, None, "5e1c", None)


JOBS = [
    ({"CARBONTRACK_JOB_ID": "mine"}, "mine"),
    ({"TORCHELASTIC_RUN_ID": "5e1c"}, "5e1c"),
    ({"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "alps"}, "alps/17"),
    ({"PALS_APID": "9a"}, "9a"),
    ({"LSB_JOBID": "77"}, "77"),
    ({"PBS_JOBID": "5.server"}, "5.server"),
    ({"PMIX_NAMESPACE": "1"}, environment.launch({"PMIX_NAMESPACE": "1"}).job_id),
]


@pytest.mark.parametrize("first", range(len(JOBS)))
def test_the_first_job_that_is_named_counts(first: int) -> None:
    """From the one that the user gives to the one that only the launcher of MPI knows."""
    environ = {name: text for names, _ in JOBS[first:] for name, text in names.items()}
    assert environment.launch(environ).job_id == JOBS[first][1]


@pytest.mark.parametrize("text", ["", " ", "none", "None", "x" * 129, "a\nb", "\x1b[31m"])
def test_a_run_id_that_is_none_leaves_the_batch_job(text: str) -> None:
    """torchrun without an id says "none"; a text that is no id counts as unset."""
    environ = {**TORCHRUN, "TORCHELASTIC_RUN_ID": text, "SLURM_JOB_ID": "17"}
    assert environment.launch(environ).job_id == "17"


@pytest.mark.parametrize(
    ("environ", "job_id"),
    [
        (without(SLURM_STEP, "SLURM_CLUSTER_NAME"), "17/3"),
        (without(SLURM_STEP, "SLURM_STEP_ID"), "alps/17"),  # a batch script
        ({**SLURM_STEP, "SLURM_STEP_ID": "4294967290"}, "alps/17"),  # an interactive shell
        ({**SLURM_STEP, "SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "1"}, "alps/17/3"),
        ({**SLURM_STEP, **TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, "alps/17/3"),
        ({"LSB_JOBID": "77", "LSB_JOBINDEX": "4"}, "77[4]"),
    ],
)  # fmt: skip
def test_a_batch_job_is_named_with_its_step_or_task(environ: dict[str, str], job_id: str) -> None:
    """So that neither two steps nor two tasks of an array are taken for one job."""
    assert environment.launch(environ).job_id == job_id


@pytest.mark.parametrize("ranks", [OPEN_MPI, HYDRA], ids=["Open MPI", "MPICH"])
def test_ranks_of_mpirun_in_a_batch_job_are_one_job(ranks: dict[str, str]) -> None:
    """mpirun starts its daemons by srun on all nodes but the first, or on all of them."""
    batch = without(SLURM_STEP, "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
    first, other = (
        environment.launch({**batch, **ranks}),
        environment.launch({**SLURM_STEP, **ranks}),
    )

    assert (first.rank, first.world_size, first.job_id) == (1, 2, "alps/17")
    assert other == first


def test_a_namespace_of_mpi_is_told_from_the_same_on_another_host() -> None:
    """All ranks of a launch have one id, which does not show the launcher's address."""
    other = {**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": "523042816.0;tcp://192.0.2.3:55323"}
    second = {**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    job_id = environment.launch(OPEN_MPI).job_id

    assert environment.launch(OPEN_MPI) == Launch(1, 2, 1, job_id)
    assert environment.launch(second).job_id == job_id != environment.launch(other).job_id
    assert "192.0.2.2" not in str(job_id)


def test_a_snapshot_holds_the_launch(tmp_path) -> None:
    """Whichever variable is the only one."""
    for environ in (TORCHRUN, SLURM_STEP, OPEN_MPI, HYDRA, *(names for names, _ in JOBS)):
        taken = Environment.take(environ=environ, working_folder=str(tmp_path))
        assert taken.launch == environment.launch(environ) != NOT_LAUNCHED
    assert Environment.take(environ={"HOME": "/root"}).launch is NOT_LAUNCHED


def test_a_job_of_its_own_is_for_who_has_none() -> None:
    """One of several ranks has none of its own: it cannot know the others' choice."""
    launches = (NOT_LAUNCHED, NOT_LAUNCHED, Launch(0, 1), Launch(job_id="j"), Launch(0, 2))
    first, second, alone, named, rank = (
        Environment(launch=launch).in_a_job().launch.job_id for launch in launches
    )

    assert None not in (first, second, alone)
    assert first != second
    assert (named, rank) == ("j", None)
