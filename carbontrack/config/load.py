"""Where settings come from, and which source wins.

In order of precedence: an argument, the environment's `CARBONTRACK_<NAME>`, `[tool.carbontrack]`
in the nearest pyproject.toml, and `carbontrack/config.toml` in the user's config folder. A name
that no setting has and a value that cannot be used are errors, wherever they stand, even where
a stronger place overrides them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carbontrack.config import sources
from carbontrack.config.environment import Environment
from carbontrack.config.settings import FILE_SUFFIXES, READERS, Settings
from carbontrack.config.sources import Source
from carbontrack.errors import ConfigError
from carbontrack.record import plugin_of

_NOTHING: Mapping[str, Any] = {}


def load_settings(
    arguments: Mapping[str, object] = _NOTHING,
    environment: Environment | None = None,
    *,
    user_config: Path | None = None,
    writes: bool = True,
) -> Settings:
    """Find and check the settings that hold here, each with its origin.

    Args:
        arguments: settings by name; `output=None` is no output, any other None is "not given".
        environment: the variables, and where the search for pyproject.toml begins and relative
            outputs lie; as they are now by default.
        user_config: the file that takes the place of the user's config.toml.
        writes: False where nothing will be written, so that outputs need not be writable.

    Raises:
        UnknownSettingError: a name that no setting has; names the source and the nearest right one.
        ConfigError: a value that cannot be used, with its source; an output that cannot be written;
            a pyproject.toml that would lead a token of yours to an address of its own.
    """
    environment = Environment.take() if environment is None else environment
    argument = sources.from_arguments(arguments)
    switch = dict(environment.variables).get("CARBONTRACK_DISABLE", "").strip()
    off = sources.Source("environment", "", {"disable": switch})
    if switch and "disable" not in argument.given and off.read("disable", switch):
        # the emergency switch works even where the rest of the configuration is broken
        return _settled(argument, off)
    folder = environment.working_folder
    project = sources.from_project(folder) if folder else None
    user = user_config or _user_config(environment)
    mine = sources.from_user_file(user) if user is not None else None
    settings = _settled(argument, sources.from_environment(environment.variables), project, mine)
    if project is not None:
        _keep_tokens_home(settings, project.origin)
        _keep_plugins_home(settings, project.origin)
    if writes:
        check_outputs(settings, folder)
    return settings


def _user_config(environment: Environment) -> Path | None:
    folder = environment.config_folder
    return None if folder is None else Path(folder, "config.toml")


def from_arguments(arguments: Mapping[str, object]) -> Settings:
    """Check the settings that are given here, and take the defaults for all others.

    Raises:
        ConfigError: as for `load_settings`, of the arguments alone.
    """
    return _settled(sources.from_arguments(arguments))


def _settled(*strongest_first: Source | None) -> Settings:
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


def _importable(settings: Settings, output: str, name: str) -> None:
    from carbontrack.system import plugins

    try:
        point = plugins.find_sink(output, name, FILE_SUFFIXES)
        if point is not None:
            plugins.load(point)
    except ValueError as error:  # ConfigError is one
        raise ConfigError(f"output={output!r} ({settings.origins['output']}) {error}") from None


def check_outputs(settings: Settings, folder: str) -> None:
    """Say now, before anything starts, that a file cannot be written.

    Args:
        settings: what names the files.
        folder: the working folder; "" when it is gone.

    Raises:
        ConfigError: its directory is not there, or it or its directory must not be written.
    """
    for output in () if settings.disable else settings.output:
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


def state_path(settings: Settings, environment: Environment | None = None) -> Path:
    """Find the folder of journals and caches; it need not exist yet."""
    return (environment or Environment.take()).state_path(settings.state_dir)
