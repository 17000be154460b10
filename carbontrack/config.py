"""Where settings come from; the only module of the package that reads the environment.

In order of precedence: an argument, the environment's `CARBONTRACK_<NAME>`, `[tool.carbontrack]`
in the nearest pyproject.toml, and `carbontrack/config.toml` in the user's config folder. A name
that no setting has and a value that cannot be used are errors, wherever they stand, even where
a stronger place overrides them.

The few other facts that others need from the environment are functions here as well; a bad value
there is as good as none, since it is not ours to complain about.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.variables import PARENT_ID, PREFIX, PYTEST

if TYPE_CHECKING:  # those who ask for a fact of the environment need no settings
    from carbontrack.places import Place
    from carbontrack.settings import Settings as Settings  # noqa: PLC0414 - for others


def __getattr__(name: str) -> object:
    if name == "Settings":  # the name by which they are known
        from carbontrack.settings import Settings as found  # noqa: N813

        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_NOTHING: Mapping[str, Any] = {}


def load(
    arguments: Mapping[str, object] = _NOTHING,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user_config: Path | None = None,
    writes: bool = True,
) -> Settings:
    """Find and check the settings that hold here, each with its origin.

    Args:
        arguments: settings by name; `output=None` is no output, any other None is "not given".
        environ: the environment; the process's own by default.
        cwd: where the search for pyproject.toml begins and relative outputs lie.
        user_config: the file that takes the place of the user's config.toml.
        writes: False where nothing will be written, so that outputs need not be writable.

    Raises:
        UnknownSettingError: a name that no setting has; names the place and the nearest right one.
        ConfigError: a value that cannot be used, with its place; an output that cannot be written;
            a pyproject.toml that would lead a token of yours to an address of its own.
    """
    from carbontrack import places

    environ = os.environ if environ is None else environ
    argument = places.from_arguments(arguments)
    switch = environ.get("CARBONTRACK_DISABLE", "").strip()
    off = places.Place("environment", "", {"disable": switch})
    if switch and "disable" not in argument.given and off.read("disable", switch):
        # the emergency switch works even where the rest of the configuration is broken
        return _settled(argument, off)
    folder = _working_folder() if cwd is None else str(cwd)
    project = places.from_project(folder) if folder else None
    user = user_config or _user_config(environ)
    mine = places.from_user_file(user) if user is not None else None
    settings = _settled(argument, places.from_environment(environ), project, mine)
    if project is not None:
        _keep_tokens_home(settings, project.origin)
    if writes and not settings.disable:
        _writable(settings, folder)
    return settings


def from_arguments(arguments: Mapping[str, object]) -> Settings:
    """Check the settings that are given here, and take the defaults for all others.

    Raises:
        ConfigError: as for `load`, of the arguments alone.
    """
    from carbontrack.places import from_arguments as given_here

    return _settled(given_here(arguments))


def _working_folder() -> str:
    """Tell the working directory; "" when it has been removed under the program's feet."""
    try:
        return os.getcwd()  # noqa: PTH109 - text is enough
    except OSError:
        return ""


def _settled(*strongest_first: Place | None) -> Settings:
    from carbontrack.settings import READERS, Settings

    found: dict[str, Any] = {}
    origins = dict.fromkeys(READERS, "default")
    for place in filter(None, reversed(strongest_first)):
        for name, given in place.given.items():
            found[name] = place.read(name, given)
            origins[name] = place.origin
    return Settings(**found, origins=origins)


def _keep_tokens_home(settings: Settings, project: str) -> None:
    """Refuse what lets a checked-out project receive a token that it does not own.

    The folder one happens to work in may hold a stranger's pyproject.toml. It must not name the
    address a token goes to, nor the folder whose journal holds addresses to send records to, nor
    put its own token beside an address of ours.
    """
    origins = settings.origins
    for token, destination, is_sent in (
        ("http_token", "output", any("://" in output for output in settings.output)),
        ("http_token", "state_dir", True),
        ("live_token", "intensity_source", any("://" in s for s in settings.intensity_source)),
    ):
        ends = {origins[token], origins[destination]}
        if is_sent and len(ends) == 2 and project in ends and "default" not in ends:
            raise ConfigError(
                f"{destination} comes from {origins[destination]} but {token} from "
                f"{origins[token]}: a project's file may not decide where a token goes; set "
                f"both in the environment or in your own config.toml"
            )


def _writable(settings: Settings, folder: str) -> None:
    """Say before anything starts that an output cannot be written."""
    for output in settings.output:
        path = Path(folder, output)
        if "://" in output:
            continue
        if not folder and not path.is_absolute():
            trouble = "cannot be written: the working directory is gone"
        elif path.is_dir():
            trouble = "is a directory; add a file name, such as emissions.csv"
        elif not path.parent.is_dir():
            trouble = f"cannot be written: there is no directory {path.parent}"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            trouble = "cannot be written: permission denied"
        else:
            continue
        raise ConfigError(f"output={output!r} ({settings.origins['output']}) {trouble}")


def check_outputs(settings: Settings) -> None:
    """Say now, before anything starts, that a file cannot be written.

    Raises:
        ConfigError: its directory is not there, or it or its directory must not be written.
    """
    if not settings.disable:
        _writable(settings, _working_folder())


def question(arguments: Mapping[str, object]) -> tuple[object, ...]:
    """Tell all that `load` goes by but the files, which may change or become unreadable."""
    ours = {name: text for name, text in os.environ.items() if name.startswith(PREFIX)}
    return repr(sorted(arguments.items())), _working_folder(), repr(sorted(ours.items()))


def surroundings(settings: Settings) -> tuple[object, ...]:
    """Tell what a tracker depends on besides settings: the working directory, the environment."""
    relative = any("://" not in o and not os.path.isabs(o) for o in settings.output)  # noqa: PTH117
    return (
        _working_folder() if relative else None,
        str(state_path(settings)),
        tz(),
        visible_gpus(),
        tuple(cloud_hints().items()),
    )


def state_path(settings: Settings, *, environ: Mapping[str, str] | None = None) -> Path:
    """Find the folder of journals and caches; it need not exist yet."""
    if settings.state_dir is not None:
        return Path(settings.state_dir)
    from carbontrack.places import user_folder

    folder = user_folder("state", os.environ if environ is None else environ)
    if folder is None:  # a container's user without a home
        import tempfile

        folder = Path(tempfile.gettempdir(), f"carbontrack-{os.getuid()}")
    return folder


def _user_config(environ: Mapping[str, str]) -> Path | None:
    from carbontrack.places import user_folder

    folder = user_folder("config", environ)
    return None if folder is None else folder / "config.toml"


def cloud_hints(environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Collect what clouds' own variables say, by name, for `carbontrack.grid.region` to judge."""
    from carbontrack.grid.region import HINTS

    environ = os.environ if environ is None else environ
    found = ((name, environ.get(name, "").strip()) for name in HINTS)
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
