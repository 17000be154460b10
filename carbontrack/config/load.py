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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.config import environment
from carbontrack.config.environment import PREFIX
from carbontrack.errors import ConfigError
from carbontrack.record import plugin_of

if TYPE_CHECKING:  # those who ask for a fact of the environment need no settings
    from carbontrack.config.settings import Settings as Settings  # noqa: PLC0414 - for others
    from carbontrack.config.sources import Source


def __getattr__(name: str) -> object:
    if name == "Settings":  # the name by which they are known
        from carbontrack.config.settings import Settings as found  # noqa: N813

        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_NOTHING: Mapping[str, Any] = {}


def load_settings(
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
    from carbontrack.config import sources

    environ = os.environ if environ is None else environ
    argument = sources.from_arguments(arguments)
    switch = environ.get("CARBONTRACK_DISABLE", "").strip()
    off = sources.Source("environment", "", {"disable": switch})
    if switch and "disable" not in argument.given and off.read("disable", switch):
        # the emergency switch works even where the rest of the configuration is broken
        return _settled(argument, off)
    folder = _working_folder() if cwd is None else str(cwd)
    project = sources.from_project(folder) if folder else None
    user = user_config or _user_config(environ)
    mine = sources.from_user_file(user) if user is not None else None
    settings = _settled(argument, sources.from_environment(environ), project, mine)
    if project is not None:
        _keep_tokens_home(settings, project.origin)
        _keep_plugins_home(settings, project.origin)
    if writes and not settings.disable:
        _writable(settings, folder)
    return settings


def from_arguments(arguments: Mapping[str, object]) -> Settings:
    """Check the settings that are given here, and take the defaults for all others.

    Raises:
        ConfigError: as for `load_settings`, of the arguments alone.
    """
    from carbontrack.config.sources import from_arguments as given_here

    return _settled(given_here(arguments))


def _working_folder() -> str:
    """Tell the working directory; "" when it has been removed under the program's feet."""
    try:
        return os.getcwd()  # noqa: PTH109 - text is enough
    except OSError:
        return ""


def _settled(*strongest_first: Source | None) -> Settings:
    from carbontrack.config.settings import READERS, Settings

    found: dict[str, Any] = {}
    origins = dict.fromkeys(READERS, "default")
    for source in filter(None, reversed(strongest_first)):
        for name, given in source.given.items():
            found[name] = source.read(name, given)
            origins[name] = source.origin
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


def _keep_plugins_home(settings: Settings, project: str) -> None:
    """Refuse what a checked-out project hands to a plugin.

    It may name one that is installed. What that does with an address, only the plugin knows: open
    a file of yours, or send a secret of yours there.
    """
    named = [("meter_plugins", text) for text in settings.meter_plugins]
    named += [("output", output) for output in settings.output if plugin_of(output) is not None]
    for setting, text in named:
        name, _, address = text.partition(":")
        if address and settings.origins[setting] == project:
            raise ConfigError(
                f"{project}: {setting}={text!r} hands an address to the plugin {name!r}; a "
                f"project's file may name a plugin but not direct it: set this in the environment "
                f"or in your own config.toml"
            )


def keeps_own_journal(settings: Settings) -> bool:
    """Whether the folder of the journals is the user's own choice, and not that of a project."""
    origin = settings.origins.get("state_dir", "default")
    return os.path.basename(origin) != "pyproject.toml"  # noqa: PTH119 - runs at every start


def _importable(settings: Settings, output: str, name: str) -> None:
    from carbontrack.config.settings import FILE_SUFFIXES
    from carbontrack.system import plugins

    try:
        point = plugins.find_sink(output, name, FILE_SUFFIXES)
        if point is not None:
            plugins.load(point)
    except ValueError as error:  # ConfigError is one
        raise ConfigError(f"output={output!r} ({settings.origins['output']}) {error}") from None


def _writable(settings: Settings, folder: str) -> None:
    """Say before anything starts that an output cannot be written."""
    for output in settings.output:
        plugin = plugin_of(output)
        if plugin is not None:
            _importable(settings, output, plugin[0])
            continue
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
    """Everything `load_settings` depends on except the files, which may change or vanish."""
    ours = {name: text for name, text in os.environ.items() if name.startswith(PREFIX)}
    return repr(sorted(arguments.items())), _working_folder(), repr(sorted(ours.items()))


def surroundings(settings: Settings, hints: Iterable[str]) -> tuple[object, ...]:
    """Tell what a tracker depends on besides settings: the working directory, the environment."""
    relative = any("://" not in o and not os.path.isabs(o) for o in settings.output)  # noqa: PTH117
    return (
        _working_folder() if relative else None,
        str(state_path(settings)),
        environment.tz(),
        environment.visible_gpus(),
        tuple(environment.cloud_hints(hints).items()),
    )


def state_path(settings: Settings, *, environ: Mapping[str, str] | None = None) -> Path:
    """Find the folder of journals and caches; it need not exist yet."""
    if settings.state_dir is not None:
        return Path(settings.state_dir)
    from carbontrack.config.sources import user_folder

    folder = user_folder("state", os.environ if environ is None else environ)
    if folder is None:  # a container's user without a home
        import tempfile

        folder = Path(tempfile.gettempdir(), f"carbontrack-{os.getuid()}")
    return folder


def _user_config(environ: Mapping[str, str]) -> Path | None:
    from carbontrack.config.sources import user_folder

    folder = user_folder("config", environ)
    return None if folder is None else folder / "config.toml"
