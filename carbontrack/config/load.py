"""Where settings come from, and which source wins.

In order of precedence: an argument, the environment's `CARBONTRACK_<NAME>`, `[tool.carbontrack]`
in the nearest pyproject.toml, and `carbontrack/config.toml` in the user's config folder. A name
that no setting has and a value that cannot be used are errors, wherever they stand, even where
a stronger place overrides them.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from carbontrack.config.environment import PREFIX, Environment
from carbontrack.config.settings import FILE_SUFFIXES, READERS, SECRETS, Settings, nearest
from carbontrack.errors import ConfigError, UnknownSettingError
from carbontrack.record import plugin_of
from carbontrack.system.files import obstacle_to_writing

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
    argument = _from_arguments(arguments)
    switch = dict(environment.variables).get("CARBONTRACK_DISABLE", "").strip()
    off = Source("environment", "", {"disable": switch})
    if switch and "disable" not in argument.given and off.read("disable", switch):
        # the emergency switch works even where the rest of the configuration is broken
        return _settled(argument, off)
    folder = environment.working_folder
    project = _from_project(folder) if folder else None
    user = user_config or _user_config(environment)
    mine = _from_user_file(user) if user is not None else None
    settings = _settled(argument, _from_environment(environment.variables), project, mine)
    if project is not None:
        _keep_tokens_home(settings, project.origin)
        _keep_plugins_home(settings, project.origin)
    if writes:
        check_outputs(settings, folder)
    return settings


def _user_config(environment: Environment) -> Path | None:
    folder = environment.config_folder
    return None if folder is None else Path(folder, "config.toml")


def settings_from(arguments: Mapping[str, object]) -> Settings:
    """Check the settings that are given here, and take the defaults for all others.

    Raises:
        ConfigError: as for `load_settings`, of the arguments alone.
    """
    return _settled(_from_arguments(arguments))


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
        else:
            obstacle = obstacle_to_writing(path)
            if obstacle is None or obstacle == "not a regular file":  # a device may be meant
                continue
            trouble = _TROUBLES[obstacle].format(path.parent)
        raise ConfigError(f"output={output!r} ({settings.origins['output']}) {trouble}")


_TROUBLES = {
    "is a directory": "is a directory; add a file name, such as emissions.csv",
    "no directory": "cannot be written: there is no directory {}",
    "parent is a file": "cannot be written: there is no directory {}",
    "no permission": "cannot be written: permission denied",
    "directory not writable": "cannot be written: permission denied",
}


def state_path(settings: Settings, environment: Environment | None = None) -> Path:
    """Find the folder of journals and caches; it need not exist yet."""
    return (environment or Environment.take()).state_path(settings.state_dir)


_BESIDE = {"argument": ("window_s", "budget", "on_exceed", "labels", "tracker", "name")}
"""What `track` takes beside settings: a misspelt one of them arrives here as well."""
_MAY_MEAN_US = rb"""^[ \t\[]*["']?tool[ \t"']*(\.[ \t"']*carbontrack|\]|=)"""
"""A line like [tool.carbontrack], [tool] or tool = {…}; the parser costs 4 ms, and a file
without such a line need not pay them."""


class Source(NamedTuple):
    """One source: its name, what stands before a setting's name in an error, and what it says."""

    origin: str
    before: str
    given: Mapping[str, object]

    def read(self, name: str, given: object) -> Any:
        """Check one setting and give it its type.

        Raises:
            UnknownSettingError: there is no such setting.
            ConfigError: the value cannot be used.
        """
        spelled = self._spelled(name)
        if name not in READERS:
            known = (*map(self._spelled, READERS), *_BESIDE.get(self.origin, ()))
            near = nearest(spelled, known)
            raise UnknownSettingError(f"{self.before}{spelled}: there is no such setting{near}")
        try:
            return READERS[name](given)
        except ValueError as error:
            # an address may hold a password before its @
            shown = "" if name in SECRETS or "@" in str(given) else f"={given!r}"
            raise ConfigError(f"{self.before}{spelled}{shown} {error}") from None

    def _spelled(self, name: str) -> str:
        return f"{PREFIX}{name.upper()}" if self.origin == "environment" else name


def _from_arguments(arguments: Mapping[str, object]) -> Source:
    """Take arguments by name: `output=None` is no output, any other None is "not given"."""
    given = {
        name: () if what is None and name == "output" else what
        for name, what in arguments.items()
        # a wrong name is wrong whatever its value is
        if what is not None or name == "output" or name not in READERS
    }
    return Source("argument", "argument ", given)


def _from_environment(variables: Iterable[tuple[str, str]]) -> Source:
    """Take the CARBONTRACK_<NAME> variables."""
    given = {}
    for variable, text in variables:
        name = variable[len(PREFIX) :].lower()
        # an empty variable is an unset one, as usual; a wrong name is wrong all the same
        if text.strip() or name not in READERS:
            given[name] = text
    return Source("environment", "", given)


_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
"""What says nothing about whether there is a file."""


def _from_project(folder: str) -> Source | None:
    """Take [tool.carbontrack] of the nearest pyproject.toml at `folder` or above it."""
    while True:
        path = os.path.join(folder, "pyproject.toml")  # noqa: PTH118 - runs at every start
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - as above
                content = file.read()
        except OSError as error:
            if error.errno in _PASSING:
                raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
            if folder == (folder := os.path.dirname(folder)):  # noqa: PTH120 - as above
                return None
            continue
        if not re.search(_MAY_MEAN_US, content, re.MULTILINE):
            return None
        tool = _parsed(path, content).get("tool", {})
        section = tool.get("carbontrack", {}) if isinstance(tool, dict) else {}
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: [tool.carbontrack] is not a table")
        return Source(path, f"{path}: [tool.carbontrack] ", section)


def _from_user_file(path: Path) -> Source | None:
    """Take the user's own config.toml, if there is one."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    return Source(str(path), f"{path}: ", _parsed(str(path), content))


def _parsed(path: str, content: bytes) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables: dict[str, Any] = tomllib.loads(content.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return tables
