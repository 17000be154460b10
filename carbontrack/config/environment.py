"""What the environment says; the only room that reads it is this one.

A bad value is as good as none here, since it is not ours to complain about; settings are read and
checked by `carbontrack.config.load`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

PREFIX = "CARBONTRACK_"
"""Before the name of a setting, in capitals."""
PARENT_ID = f"{PREFIX}PARENT_ID"
"""The record that this process's own records belong to; set for child processes."""
PYTEST = f"{PREFIX}PYTEST_"
"""Before the name of an option of the pytest plugin."""


def cloud_hints(
    names: Iterable[str], environ: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """The variables of these names that are set, as clouds set them in their machines."""
    environ = os.environ if environ is None else environ
    found = ((name, environ.get(name, "").strip()) for name in names)
    return {name: text for name, text in found if text}


_LAUNCHERS = (
    # (rank, world size, what else must be set), from the launcher nearest to the process
    ("RANK", "WORLD_SIZE", "WORLD_SIZE"),  # torchrun, Kubeflow, Lightning
    # a batch script has SLURM_PROCID=0 as well; only inside a step (srun) is it a rank
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "PMI_SIZE"),  # MPICH, Intel MPI
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_SIZE"),  # LSF
)


def rank_and_world(environ: Mapping[str, str] | None = None) -> tuple[int | None, int | None]:
    """Tell this process's rank and how many there are, where a launcher says so, else Nones."""
    environ = os.environ if environ is None else environ
    for rank_name, world_name, also in _LAUNCHERS:
        rank, world = _whole(environ.get(rank_name)), _whole(environ.get(world_name))
        if also in environ and rank is not None and world is not None and rank < world:
            return rank, world
    return None, None


def _whole(text: str | None) -> int | None:
    digits = (text or "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def parent_id(environ: Mapping[str, str] | None = None) -> str | None:
    """Tell the `record_id` of the run that this process was started in, if any."""
    text = (os.environ if environ is None else environ).get(PARENT_ID, "").strip()
    return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else None


def tell_children(record_id: str | None) -> None:
    """Have processes that are started from now on find the record that theirs belong to, if any."""
    if record_id is not None:
        os.environ[PARENT_ID] = record_id
    else:
        os.environ.pop(PARENT_ID, None)


def child_environ(
    record_id: str | None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Copy the environment for a child whose records belong to the span `record_id`, if any."""
    copied = dict(os.environ if environ is None else environ)
    return copied if record_id is None else {**copied, PARENT_ID: record_id}


def visible_gpus(environ: Mapping[str, str] | None = None) -> str | None:
    """Tell CUDA_VISIBLE_DEVICES as it stands: None where unset, "" where no GPU is visible."""
    return (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")


def tz(environ: Mapping[str, str] | None = None) -> str | None:
    """Tell the time zone that TZ names ("Europe/Paris"), without the colon POSIX allows."""
    return (os.environ if environ is None else environ).get("TZ", "").lstrip(":").strip() or None


def no_color(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether the reader wants no colours (https://no-color.org)."""
    return bool((os.environ if environ is None else environ).get("NO_COLOR"))


def dumb_terminal(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether the terminal, if there is one, cannot move its cursor."""
    return (os.environ if environ is None else environ).get("TERM", "") in {"", "dumb"}


def pytest_twins(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Collect the CARBONTRACKPYTEST_… variables that are set, by the rest of their names."""
    environ = os.environ if environ is None else environ
    found = ((key.removeprefix(PYTEST), key) for key in environ if key.startswith(PYTEST))
    return {rest.lower(): environ[key] for rest, key in found if environ[key].strip()}


def step_summary(environ: Mapping[str, str] | None = None) -> Path | None:
    """Find the file that a step of a GitHub workflow shows as its summary, if we are in one."""
    path = (os.environ if environ is None else environ).get("GITHUB_STEP_SUMMARY", "").strip()
    return Path(path) if path else None


def is_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether CARBONTRACK_DISABLE turns everything off; a bad value does not."""
    text = (os.environ if environ is None else environ).get("CARBONTRACK_DISABLE", "")
    return text.strip().lower() in {"1", "true", "yes", "on"}
