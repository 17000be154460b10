"""The environment of the process; no other module reads environment variables.

`Environment.take` is a snapshot of everything besides the settings that decides how a tracker is
assembled. An invalid value counts as unset, since most variables belong to other programs; the
settings are checked by `carbontrack.config.load`.
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
"""The prefix of a setting's variable, before its name in capitals."""
PARENT_ID = f"{PREFIX}PARENT_ID"
"""The variable with the parent id for this process's records; set for child processes."""
PYTEST = f"{PREFIX}PYTEST_"
"""The prefix of an option of the pytest plugin."""
_begins_with_prefix = methodcaller("startswith", PREFIX)


class Environment(NamedTuple):
    """A snapshot of the process's environment: immutable and hashable.

    Attributes:
        working_folder: the current directory; "" if it has been removed.
        variables: the variables of settings, CARBONTRACK_<NAME>, by name.
        config_folder, state_folder: the user's folders for carbontrack; None for a user without a
            home directory.
        time_zone: the time zone in TZ; None if it is not set.
        visible_gpus: the value of CUDA_VISIBLE_DEVICES; None if it is not set.
        rank, world_size: as set by a launcher; None without one.
        cloud_hints: variables by which clouds name their regions, if they are set.
        parent_id: the record of the run that started this process.
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
            *(rank_and_world(found) if _RANKS & names else (None, None)),
            tuple(sorted(cloud_hints(names.intersection(hints), found).items())),
            parent_id(found),
        )

    def for_tracker(self, *, state_dir: str | None, has_relative_output: bool) -> Environment:
        """The part of the environment that tells trackers with equal settings apart.

        Not the rank: a tracker keeps that of its beginning.

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
        )

    def state_path(self, state_dir: str | None) -> Path:
        """The folder of journals and caches, by the setting or the user's; it need not exist."""
        if state_dir is not None:
            return Path(state_dir)
        if self.state_folder is not None:
            return Path(self.state_folder)
        import tempfile  # e.g. a container's user without a home directory

        return Path(tempfile.gettempdir(), f"carbontrack-{os.getuid()}")


def _values(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    try:
        return {name: environ[name] for name in names}
    except KeyError:  # another thread has just removed one
        return {name: text for name in names if (text := environ.get(name)) is not None}


def _is_setting(name: str) -> bool:
    return name != PARENT_ID and not name.startswith(PYTEST)


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - text is enough
    except OSError:
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

    find = platformdirs.user_config_dir if kind == "config" else platformdirs.user_state_dir
    return find("carbontrack", appauthor=False)


def cloud_hints(
    names: Iterable[str], environ: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """Those of the variables named, by which clouds name their regions, that are set."""
    environ = os.environ if environ is None else environ
    found = ((name, environ.get(name, "").strip()) for name in names)
    return {name: text for name, text in found if text}


_LAUNCHERS = (
    # (rank, world size, variable that must be set too), the innermost launcher first
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
    """The rank of this process and the world size, as set by a launcher, else Nones."""
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
    """The `record_id` of the run that started this process, if any."""
    text = (os.environ if environ is None else environ).get(PARENT_ID, "").strip()
    return text if 0 < len(text) <= 128 and text.isascii() and text.isprintable() else None


def set_parent_id(record_id: str | None) -> None:
    """Set the parent id for processes that start from now on; None removes it."""
    if record_id is not None:
        os.environ[PARENT_ID] = record_id
    else:
        os.environ.pop(PARENT_ID, None)


def child_environ(
    record_id: str | None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A copy of the environment with `record_id` as the parent id, for a child process."""
    copied = dict(os.environ if environ is None else environ)
    return copied if record_id is None else {**copied, PARENT_ID: record_id}


def visible_gpus(environ: Mapping[str, str] | None = None) -> str | None:
    """The value of CUDA_VISIBLE_DEVICES: None if unset, "" if no GPU is visible."""
    return (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")


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
