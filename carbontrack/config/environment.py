"""The environment of the process; no other module reads environment variables.

`Environment.take` is a snapshot of everything except the settings that determines how a tracker is
assembled. An invalid value counts as unset, because most variables belong to other programs; the
settings are checked by `carbontrack.config.load`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from operator import methodcaller
from pathlib import Path
from types import ModuleType
from typing import Any

from carbontrack.values import NamedTuple

PREFIX = "CARBONTRACK_"
"""The prefix of a setting's variable, before its name in capitals."""
PARENT_ID = f"{PREFIX}PARENT_ID"
"""The variable with the parent id for this process's records; set for child processes."""
JOB_ID = f"{PREFIX}JOB_ID"
"""The variable with the id of the job that this process belongs to; `carbontrack run` sets it."""
PYTEST = f"{PREFIX}PYTEST_"
"""The prefix of an option of the pytest plugin."""
AS_CODECARBON = f"{PREFIX}AS_CODECARBON"
"""The variable that is set if carbontrack replaces CodeCarbon and has logged it."""
CODECARBON = "CODECARBON_"
"""The prefix of CodeCarbon's own variables."""
_begins_with_prefix = methodcaller("startswith", PREFIX)


class Launch(NamedTuple):
    """The facts that launchers and batch systems report of this process, by column of the record.

    Attributes:
        rank, world_size: the number of this process in its job, and how many there are.
        local_rank: the number of this process on its own node.
        job_id: the same text in all processes of a job.
        attempt: how often the job has been restarted.
        labels: the array that the job is a task of, as labels of its records.
        local_size: how many processes of the job run on this node; no column.
    """

    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    job_id: str | None = None
    attempt: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    local_size: int | None = None

    def columns(self) -> dict[str, Any]:
        """What is a column of the record, by its name."""
        return dict(zip(self._fields[:5], self[:5], strict=True))


NOT_LAUNCHED = Launch()


class Environment(NamedTuple):
    """A snapshot of the process's environment: immutable and hashable.

    Attributes:
        working_folder: the current directory; "" if it has been removed.
        variables: the variables of settings, CARBONTRACK_<NAME>, by name.
        config_folder, state_folder: the user's folders for carbontrack; None for a user without a
            home directory.
        time_zone: the time zone in TZ; None if it is not set.
        visible_gpus: the value of CUDA_VISIBLE_DEVICES; None if it is not set.
        launch: what launchers and batch systems report of this process.
        cloud_hints: variables by which clouds name their regions, if they are set.
        parent_id: the description of the run that started this process.
        has_fake_files: whether a test has replaced the file system. What is found there, such as
            the meters, must not be cached.
        gpu_variables: the other variables that say which GPUs are visible, and in which order, by
            name, if they are set.
        home: the directory that "~" stands for; "" if the variables are not the process's own.
    """

    working_folder: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    config_folder: str | None = None
    state_folder: str | None = None
    time_zone: str | None = None
    visible_gpus: str | None = None
    launch: Launch = NOT_LAUNCHED
    cloud_hints: tuple[tuple[str, str], ...] = ()
    parent_id: str | None = None
    has_fake_files: bool = False
    gpu_variables: tuple[tuple[str, str], ...] = ()
    home: str = ""

    @classmethod
    def now(cls, hints: tuple[str, ...] = ()) -> Environment:
        """The current environment of the process; unchanged parts are not read again."""
        data = getattr(os.environ, "_data", None)  # what is behind the mapping, as bytes
        if type(data) is not dict or type(os) is not ModuleType:
            return cls.take(hints)
        variables, folder = dict(data), _working_folder()
        said = variables.pop(os.environ.encodekey(PARENT_ID), None)  # which each root changes
        last = _Last.seen
        if last is None or last.variables != variables or last.hints != hints:
            found = cls.take(hints, working_folder=folder)
            home = os.path.expanduser("~")  # noqa: PTH111 - never raises
            last = _Seen(variables, hints, said, found._replace(home=home))
        elif last.said != said or last.environment.working_folder != folder:
            text = {} if said is None else {PARENT_ID: os.environ.decodevalue(said)}
            changed = last.environment._replace(working_folder=folder, parent_id=parent_id(text))
            last = last._replace(said=said, environment=changed)
        _Last.seen = last
        return last.environment

    @classmethod
    def take(
        cls,
        hints: Iterable[str] = (),
        *,
        environ: Mapping[str, str] | None = None,
        working_folder: str | None = None,
    ) -> Environment:
        """The current environment.

        Args:
            hints: the names of the variables by which clouds name their regions.
            environ: the variables; the process's own by default.
            working_folder: the current directory; the process's own by default.
        """
        environ = os.environ if environ is None else environ
        # looking up a variable that is not set costs much more than iterating over all names
        names = set(environ)
        settings = filter(_begins_with_prefix, names)
        found = _values(environ, names & _FACTS.union(hints, settings))
        ours = filter(_is_setting, filter(_begins_with_prefix, found))
        return cls(
            _working_folder() if working_folder is None else working_folder,
            tuple(sorted((name, found[name]) for name in ours)),
            _user_folder("config", found),
            _user_folder("state", found),
            tz(found),
            visible_gpus(found),
            launch(found) if _LAUNCH & names else NOT_LAUNCHED,
            tuple(sorted(cloud_hints(names.intersection(hints), found).items())),
            parent_id(found),
            type(os) is not ModuleType,
            gpu_variables(found) if _GPUS & names else (),
        )

    def for_tracker(self, *, state_dir: str | None, has_relative_output: bool) -> Environment:
        """The part of the environment that distinguishes trackers with equal settings.

        Without the rank and the job: a tracker keeps those of its start.

        Args:
            state_dir: the setting.
            has_relative_output: an output path is relative, so the working folder matters.
        """
        return Environment(
            self.working_folder if has_relative_output else "",
            state_folder=str(self.state_path(state_dir)),
            time_zone=self.time_zone,
            visible_gpus=self.visible_gpus,
            cloud_hints=self.cloud_hints,
            parent_id=self.parent_id,
            has_fake_files=self.has_fake_files,
            gpu_variables=self.gpu_variables,
        )

    def in_a_job(self) -> Environment:
        """The same with the id of a new job, if it has none.

        Not if it is one of several ranks: each of them would make a job of its own.
        """
        if self.launch.job_id is not None or (self.launch.world_size or 1) > 1:
            return self
        return self._replace(launch=self.launch._replace(job_id=os.urandom(16).hex()))

    def state_path(self, state_dir: str | None) -> Path:
        """The directory of journals and caches, from the setting or the user's default.

        It need not exist. Only that of a user without a home is created at once, before another
        user creates one of its name.
        """
        if state_dir is not None:
            return Path(state_dir)
        folder = self.state_folder or ""
        if type(os) is not ModuleType:  # in a faked file system, which ends
            return Path(folder) if folder else _elsewhere(folder)
        found = _places.get(folder)
        if found is None:
            if len(_places) >= _MOST_PLACES:
                _places.clear()
            found = _places[folder] = _usable(folder)
        return found


class _Seen(NamedTuple):
    """The variables of the process, but for the one of its parent, and what was made of all."""

    variables: dict[Any, Any]
    hints: tuple[str, ...]
    said: Any
    environment: Environment


class _Last:
    seen: _Seen | None = None


_places: dict[str, Path] = {}
"""By the user's folder of state the one that is used, which is looked for once."""
_MOST_PLACES = 64
CLOSED: set[str] = set()
"""Directories that this user may not enter, which have been reported already."""
_told: set[str] = set()


def _usable(folder: str) -> Path:
    """The user's state directory; a temporary one if there is none, or it belongs to another user.

    As where HOME is that of another user, or its disk is read-only.
    """
    # few have no home; pytest's plugin loads this module in every run, and no other
    from carbontrack.system.files import trouble_of_own_folder

    trouble = trouble_of_own_folder(Path(folder)) if folder else ""
    return Path(folder) if trouble is None else _elsewhere(folder, trouble)


def _elsewhere(folder: str, trouble: str = "") -> Path:
    """A private directory in a temporary one.

    If there is none either, one that cannot be created.
    """
    from carbontrack.system.files import closed_part, folder_without_home

    found = folder_without_home()
    cure = "set CARBONTRACK_STATE_DIR to a directory that you own"
    if found is None:
        found = Path(os.devnull, "carbontrack")
        what = f"{folder} cannot be used ({trouble})" if folder else "there is no home directory"
        _tell(
            f"{what}, and there is no temporary directory that other users cannot change, so "
            f"nothing is kept for recovery after a crash: {cure}"
        )
    elif folder and closed_part(folder) not in CLOSED:
        _tell(f"{folder} cannot be used ({trouble}); journals are kept in {found}: {cure}")
    return found


def _tell(note: str) -> None:
    if note not in _told:
        from carbontrack.system.log import warn_user

        _told.add(note)
        warn_user(note)


def _values(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    try:
        return {name: environ[name] for name in names}
    except KeyError:  # another thread has just removed one
        return {name: text for name in names if (text := environ.get(name)) is not None}


def _is_setting(name: str) -> bool:
    return name not in (PARENT_ID, JOB_ID, AS_CODECARBON) and not name.startswith(PYTEST)


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - text is enough
    except OSError as error:
        from carbontrack.system.interrupts import pass_on

        pass_on(error)
        return ""


_XDG = {"config": ("XDG_CONFIG_HOME", ".config"), "state": ("XDG_STATE_HOME", ".local/state")}


def _user_folder(kind: str, environ: Mapping[str, str]) -> str | None:
    """As platformdirs returns it; on Linux without its import, which takes 11 ms."""
    if sys.platform == "linux":
        variable, below_home = _XDG[kind]
        base = environ.get(variable, "").strip()
        if not base.startswith("/"):  # the XDG specification has relative paths ignored
            home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - never raises
            base = f"{home}/{below_home}"
        return f"{base.rstrip('/')}/carbontrack" if base.startswith("/") else None
    import platformdirs

    from carbontrack.system.interrupts import suppressed

    find = platformdirs.user_config_dir if kind == "config" else platformdirs.user_state_dir
    with suppressed(RuntimeError):  # a user without a home directory
        return find("carbontrack", appauthor=False)
    return None


def cloud_hints(
    names: Iterable[str], environ: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """Those of the variables named, by which clouds name their regions, that are set."""
    environ = os.environ if environ is None else environ
    found = ((name, environ.get(name, "").strip()) for name in names)
    return {name: text for name, text in found if text}


_LAUNCHERS = (
    # (rank, world size, variable that must be set too, local rank), the innermost launcher first
    ("RANK", "WORLD_SIZE", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, DeepSpeed, Kubeflow
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK"),
    # mpirun starts one daemon on each node, on some of them by srun, with that step's variables
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALRANKID"),  # MPICH, Intel MPI
    ("PALS_RANKID", "PMI_SIZE", "PMI_SIZE", "PALS_LOCAL_RANKID"),  # Cray
    # a batch script has SLURM_PROCID=0 as well; only inside a step (srun) is it a rank
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID", "SLURM_LOCALID"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_LOCALID"),
    ("PMI_RANK", "PMI_SIZE", "PMI_SIZE", "PMI_LOCAL_RANK"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_SIZE",
     "JSM_NAMESPACE_LOCAL_RANK"),  # LSF
)  # fmt: skip
_LOCAL_SIZES = {
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "HOROVOD_LOCAL_RANK": "HOROVOD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALRANKID": "MPI_LOCALNRANKS",
    "PALS_LOCAL_RANKID": "PMI_LOCAL_SIZE",
    "PMI_LOCAL_RANK": "PMI_LOCAL_SIZE",
    "SLURM_LOCALID": "SLURM_STEP_TASKS_PER_NODE",  # of all nodes: 2(x3),1
}
"""By the variable of the local rank that of the number of ranks on this node."""
_IN_SLURM_STEP = ("RANK", "SLURM_PROCID")
"""The ranks whose processes are all in one step of SLURM, if they are in any."""

_LAUNCH = frozenset({rank for rank, *_ in _LAUNCHERS}).union(
    {JOB_ID, "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PALS_APID", "LSB_JOBID", "PBS_JOBID"},
    {"PMIX_NAMESPACE", "PMIX_RANK", "LOCAL_RANK"},
)
"""Without one of these there is neither a launcher nor a batch system."""
_GPUS = frozenset(
    {"CUDA_DEVICE_ORDER", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"}
)
_FACTS = frozenset({"HOME", "TZ", "CUDA_VISIBLE_DEVICES", PARENT_ID}).union(
    _GPUS,
    chain.from_iterable(_XDG.values()),
    chain.from_iterable(_LAUNCHERS),
    _LOCAL_SIZES.values(),
    _LAUNCH,
    {"SLURM_CLUSTER_NAME", "SLURM_NODEID", "LSB_JOBINDEX", "OMPI_MCA_orte_hnp_uri"},
    {"TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"},
    {"SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "PBS_ARRAY_ID", "PBS_ARRAY_INDEX"},
)
"""The variables of other programs that are read."""


def launch(environ: Mapping[str, str] | None = None) -> Launch:
    """What launchers and batch systems report of this process; invalid values count as unset."""
    environ = os.environ if environ is None else environ
    # an interactive shell is a step too, whose number is close to 2**32
    step = _whole(environ.get("SLURM_STEP_ID"))
    counted, labels = attempt(environ), array_labels(environ)
    for rank_name, world_name, also, local_name in _LAUNCHERS:
        rank, world = _whole(environ.get(rank_name)), _whole(environ.get(world_name))
        if also in environ and rank is not None and world is not None and rank < world:
            local_rank = _whole(environ.get(local_name))
            step = step if rank_name in _IN_SLURM_STEP else None
            size = _local_size(environ, local_name)
            return Launch(rank, world, local_rank, job_id(environ, step), counted, labels, size)
    # PMIx alone does not say how many there are; Lightning's launchers number the processes of each
    # node, and leave the rank to the program
    rank = _whole(environ.get("PMIX_RANK")) if environ.get("PMIX_NAMESPACE") else None
    local_rank = _whole(environ.get("LOCAL_RANK"))
    return Launch(rank, None, local_rank, job_id(environ, step), counted, labels)


def _local_size(environ: Mapping[str, str], local_name: str) -> int | None:
    text = environ.get(_LOCAL_SIZES.get(local_name, ""), "")
    if local_name != "SLURM_LOCALID":
        return _whole(text)
    node = _whole(environ.get("SLURM_NODEID"))
    for part in text.split(","):
        tasks, _, times = part.partition("(x")
        number = _whole(times.rstrip(")")) or 1
        if node is not None and node < number:
            return _whole(tasks)
        node = None if node is None else node - number
    return None


def job_id(environ: Mapping[str, str], slurm_step: int | None) -> str | None:
    """The text that all processes of a job share, from the narrowest job that has one.

    `slurm_step`: the step of SLURM, if all of them are in one.
    """
    torch_run, slurm_job = environ.get("TORCHELASTIC_RUN_ID", ""), environ.get("SLURM_JOB_ID")
    candidates = (
        environ.get(JOB_ID),
        torch_run if torch_run.strip().lower() != "none" else None,  # torchrun without an id
        slurm_job and _slurm_id(environ, slurm_job, slurm_step),
        environ.get("PALS_APID"),
        _lsf_id(environ),
        environ.get("PBS_JOBID"),
        _pmix_id(environ),
    )
    return next(filter(None, map(_checked_id, candidates)), None)


def array_labels(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The array that this job is a task of, and which one: each task is a job of its own."""
    slurm, of_lsf = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("LSB_JOBINDEX")
    candidates = (
        (slurm and _slurm_id(environ, slurm, None), environ.get("SLURM_ARRAY_TASK_ID")),
        (environ.get("LSB_JOBID") if _whole(of_lsf) else None, of_lsf),  # 0: it is not an array
        (environ.get("PBS_ARRAY_ID"), environ.get("PBS_ARRAY_INDEX")),
    )
    for array, task in candidates:
        array_id, number = _checked_id(array), _whole(task)
        if array_id is not None and number is not None:
            return ("array_job_id", array_id), ("array_task_id", str(number))
    return ()


def _slurm_id(environ: Mapping[str, str], job: str, step: int | None) -> str:
    parts = (environ.get("SLURM_CLUSTER_NAME"), job, None if step is None else str(step))
    return "/".join(filter(None, parts))


def _lsf_id(environ: Mapping[str, str]) -> str | None:
    job, index = environ.get("LSB_JOBID"), _whole(environ.get("LSB_JOBINDEX"))
    return f"{job}[{index}]" if job and index else job  # 0: it is not an array


def _pmix_id(environ: Mapping[str, str]) -> str | None:
    """A hash of the namespace and the launcher's address; a namespace recurs on other hosts."""
    namespace = environ.get("PMIX_NAMESPACE")
    if not namespace:
        return None
    from hashlib import blake2b  # an address does not belong in a record

    launcher = f"{namespace} {environ.get('OMPI_MCA_orte_hnp_uri', '')}"
    return blake2b(launcher.encode(errors="replace"), digest_size=8).hexdigest()


def attempt(environ: Mapping[str, str]) -> int | None:
    """How often the job has been restarted, if a launcher or batch system counts that."""
    of_torch = _whole(environ.get("TORCHELASTIC_RESTART_COUNT"))
    if of_torch is not None or not environ.get("SLURM_JOB_ID"):
        return of_torch
    return _whole(environ.get("SLURM_RESTART_COUNT", "0"))  # not set before the first restart


def _whole(text: str | None) -> int | None:
    digits = (text or "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def parent_id(environ: Mapping[str, str] | None = None) -> str | None:
    """The description of the run that started this process: its `record_id`, and what counts it.

    None where nothing is; see `carbontrack.tracking.remote_parent.ParentContext`.
    """
    text = (os.environ if environ is None else environ).get(PARENT_ID, "").strip()
    if not text:
        return None
    record_id = text.partition("@")[0]
    is_one = 0 < len(record_id) <= 128 and len(text) <= 256
    return text if is_one and text.isascii() and text.isprintable() else None


def _checked_id(text: str | None) -> str | None:
    """The id without white space around it; None if it does not look like one."""
    text = (text or "").strip()
    return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else None


def set_parent_id(text: str | None) -> None:
    """Set what processes that start from now on find of their parent; None removes it."""
    if text is not None:
        os.environ[PARENT_ID] = text
    else:
        os.environ.pop(PARENT_ID, None)


def set_job_id(text: str) -> None:
    """Set the job that this process, and processes that start from now on, belong to."""
    os.environ[JOB_ID] = text


def child_environ(
    parent: str | None,
    environ: Mapping[str, str] | None = None,
    *,
    job_id: str | None = None,
    first_folder: str | None = None,
) -> dict[str, str]:
    """A copy of the environment for a child process, with the description of its parent.

    Args:
        parent: as in `parent_id`.
        environ: what is copied; by default the process's own.
        job_id: the job that the child belongs to, if any.
        first_folder: where a child that is a Python looks for modules first.
    """
    copied = dict(os.environ if environ is None else environ)
    if first_folder is not None:
        folders = filter(None, (first_folder, copied.get("PYTHONPATH")))
        copied["PYTHONPATH"] = os.pathsep.join(folders)
    ours = {PARENT_ID: parent, JOB_ID: job_id}
    return {**copied, **{name: text for name, text in ours.items() if text is not None}}


def visible_gpus(environ: Mapping[str, str] | None = None) -> str | None:
    """The value of CUDA_VISIBLE_DEVICES: None if unset, "" if no GPU is visible."""
    return (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")


def gpu_variables(environ: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
    """The other variables that say which GPUs are visible, and in which order, by name."""
    environ = os.environ if environ is None else environ
    return tuple((name, environ[name]) for name in sorted(_GPUS) if name in environ)


def tz(environ: Mapping[str, str] | None = None) -> str | None:
    """The time zone in TZ ("Europe/Paris"), without the colon that POSIX allows."""
    return (os.environ if environ is None else environ).get("TZ", "").lstrip(":").strip() or None


def no_color(environ: Mapping[str, str] | None = None) -> bool:
    """Whether NO_COLOR asks for output without colours (https://no-color.org)."""
    return bool((os.environ if environ is None else environ).get("NO_COLOR"))


def dumb_terminal(environ: Mapping[str, str] | None = None) -> bool:
    """Whether the terminal, if there is one, cannot move its cursor."""
    return (os.environ if environ is None else environ).get("TERM", "") in {"", "dumb"}


def pytest_variables(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """The CARBONTRACK_PYTEST_* variables that are set, by the rest of their names."""
    environ = os.environ if environ is None else environ
    found = ((key.removeprefix(PYTEST), key) for key in environ if key.startswith(PYTEST))
    return {rest.lower(): environ[key] for rest, key in found if environ[key].strip()}


def codecarbon_variables(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """The CODECARBON_* variables, in any case, by the rest of their names in small letters."""
    environ = os.environ if environ is None else environ
    found = ((key, key.upper()) for key in environ)
    return {
        name.removeprefix(CODECARBON).lower(): environ[key]
        for key, name in found
        if name.startswith(CODECARBON)
    }


def is_first_to_say_codecarbon() -> bool:
    """Whether no process above has said yet that CodeCarbon is replaced; those below need not."""
    is_first = AS_CODECARBON not in os.environ
    os.environ[AS_CODECARBON] = "said"
    return is_first


def step_summary(environ: Mapping[str, str] | None = None) -> Path | None:
    """The file of the step summary in a GitHub workflow; None outside of one."""
    path = (os.environ if environ is None else environ).get("GITHUB_STEP_SUMMARY", "").strip()
    return Path(path) if path else None


def is_switched_off(given: Mapping[str, object]) -> bool:
    """Whether CARBONTRACK_DISABLE turns off what has these settings; its own `disable` wins."""
    return given.get("disable") is None and is_disabled()


def is_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """Whether CARBONTRACK_DISABLE is set to true; an invalid value counts as false."""
    text = (os.environ if environ is None else environ).get("CARBONTRACK_DISABLE", "")
    return text.strip().lower() in {"1", "true", "yes", "on"}
