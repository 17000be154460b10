"""What the environment says; the package reads it here and nowhere else.

`Environment.take` is one snapshot of what decides, besides the settings, how a tracker is put
together. A bad value is as good as none here, since it is not ours to complain about; settings are
checked by `carbontrack.config.load`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from operator import methodcaller
from pathlib import Path
from typing import NamedTuple

PREFIX = "CARBONTRACK_"
"""Before the name of a setting, in capitals."""
PARENT_ID = f"{PREFIX}PARENT_ID"
"""The record that this process's own records belong to; set for child processes."""
PYTEST = f"{PREFIX}PYTEST_"
"""Before the name of an option of the pytest plugin."""
_begins_with_prefix = methodcaller("startswith", PREFIX)


class Environment(NamedTuple):
    """What the process stands in: immutable, hashable, equal where nothing has changed.

    Attributes:
        working_folder: "" when it has been removed while the program runs.
        variables: the settings' own variables, CARBONTRACK_<NAME>, by name.
        config_folder, state_folder: the user's own for carbontrack; None for a user without a home.
        time_zone: what TZ names; None where it is not set.
        visible_gpus: CUDA_VISIBLE_DEVICES as it stands.
        rank, world_size: as a launcher says; None where there is none.
        cloud_hints: the clouds' own variables that are set.
        parent_id: the record of the run that this process was started in.
    """

    working_folder: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    config_folder: str | None = None
    state_folder: str | None = None
    time_zone: str | None = None
    visible_gpus: str | None = None
    rank: int | None = None
    world_size: int | None = None
    cloud_hints: tuple[tuple[str, str], ...] = ()
    parent_id: str | None = None

    @classmethod
    def take(
        cls,
        hints: Iterable[str] = (),
        *,
        environ: Mapping[str, str] | None = None,
        working_folder: str | None = None,
    ) -> Environment:
        """The environment as it is now.

        Args:
            hints: the names of the variables by which clouds name their regions.
            environ: the variables; the process's own by default.
            working_folder: where the program stands; the process's own by default.
        """
        environ = os.environ if environ is None else environ
        # a look-up of a variable that is not set costs much more than going over those that are
        names = set(environ)
        found = {name: environ[name] for name in names & _FACTS.union(hints)}
        ours = [name for name in filter(_begins_with_prefix, names) if _is_setting(name)]
        return cls(
            _working_folder() if working_folder is None else working_folder,
            tuple(sorted((name, environ[name]) for name in ours)),
            _user_folder("config", found),
            _user_folder("state", found),
            tz(found),
            visible_gpus(found),
            *(rank_and_world(found) if _RANKS & names else (None, None)),
            tuple(sorted(cloud_hints(names.intersection(hints), found).items())),
            parent_id(found),
        )

    def for_tracker(self, *, has_relative_output: bool) -> Environment:
        """What of it a tracker depends on, its settings being known.

        Args:
            has_relative_output: an output path is relative, so the working folder matters.
        """
        folder = self.working_folder if has_relative_output else ""
        return self._replace(working_folder=folder, variables=(), config_folder=None)

    def state_path(self, state_dir: str | None) -> Path:
        """The folder of journals and caches: the setting's, or the user's; it need not exist."""
        if state_dir is not None:
            return Path(state_dir)
        if self.state_folder is not None:
            return Path(self.state_folder)
        import tempfile  # a container's user without a home

        return Path(tempfile.gettempdir(), f"carbontrack-{os.getuid()}")


def _is_setting(name: str) -> bool:
    return name != PARENT_ID and not name.startswith(PYTEST)


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - text is enough
    except OSError:
        return ""


_XDG = {"config": ("XDG_CONFIG_HOME", ".config"), "state": ("XDG_STATE_HOME", ".local/state")}


def _user_folder(kind: str, environ: Mapping[str, str]) -> str | None:
    """What platformdirs would say, whose import takes 11 ms; Linux's rule is short."""
    if sys.platform == "linux":
        variable, below_home = _XDG[kind]
        base = environ.get(variable, "").strip()
        if not base.startswith("/"):  # the XDG specification has relative paths ignored
            home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - never raises
            base = f"{home}/{below_home}"
        return f"{base.rstrip('/')}/carbontrack" if base.startswith("/") else None
    import platformdirs

    find = platformdirs.user_config_dir if kind == "config" else platformdirs.user_state_dir
    return find("carbontrack", appauthor=False)


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


_RANKS = frozenset(rank for rank, _, _ in _LAUNCHERS)
_FACTS = frozenset(
    {"HOME", "TZ", "CUDA_VISIBLE_DEVICES", PARENT_ID, *chain.from_iterable(_XDG.values())}
    | set(chain.from_iterable(_LAUNCHERS))
)
"""The variables of other programs that are read."""


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


def set_parent_id(record_id: str | None) -> None:
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


def pytest_variables(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Collect the CARBONTRACK_PYTEST_* variables that are set, by the rest of their names."""
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
