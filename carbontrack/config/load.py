"""Loads the settings from their sources and checks them.

The sources, in order of precedence: an argument, the environment's `CARBONTRACK_<NAME>`,
`[tool.carbontrack]` in the nearest pyproject.toml, and `carbontrack/config.toml` in the user's
config folder. An unknown name and an invalid value are errors in every source, even if a source of
higher precedence overrides them.

The first half loads and checks; the second half has the sources.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

from carbontrack.config.environment import CLOSED, PREFIX, Environment
from carbontrack.config.settings import A_COMMA, FILE_SUFFIXES, READERS, SECRETS, Settings
from carbontrack.errors import ConfigError, UnknownSettingError, nearest
from carbontrack.record import plugin_of, told
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import (
    READING,
    closed_part,
    folder_behind_links,
    obstacle_to_writing,
    read_opened,
    trouble_of_own_folder,
)
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import warn_user
from carbontrack.values import NamedTuple

_NOTHING: Mapping[str, Any] = {}
_MANY = 1000


def load_settings(
    arguments: Mapping[str, object] = _NOTHING,
    environment: Environment | None = None,
    *,
    user_config: Path | None = None,
    writes: bool = True,
    strict: bool = False,
) -> Settings:
    """Load and check the settings, each with its origin.

    Args:
        arguments: settings by name; `output=None` is no output, any other None is "not given".
        environment: the variables, and the working folder, in which relative outputs lie and the
            search for pyproject.toml starts; by default as they are now.
        user_config: a file to read instead of the user's config.toml.
        writes: False if nothing will be written, so that outputs need not be writable.
        strict: whether a file that nobody has named, and that cannot be read, is an error too; by
            default this is logged, and it counts as absent.

    Raises:
        UnknownSettingError: an unknown name; the message has the source and the closest name.
        ConfigError: an invalid value, with its source; an output that cannot be written; a
            pyproject.toml that would decide where a token of yours goes.
    """
    environment = Environment.take() if environment is None else environment
    argument = _from_arguments(arguments)
    disable = dict(environment.variables).get("CARBONTRACK_DISABLE", "").strip()
    switch = Source("environment", "", {"disable": disable})
    if disable and "disable" not in argument.given and switch.read("disable", disable):
        # it disables carbontrack even if arguments and the rest of the configuration are broken
        return _merged(switch)
    folder = environment.working_folder
    project = _from_project(folder, strict=strict) if folder else None
    user = user_config or _user_config(environment)
    user_file = _from_user_file(user, strict=strict or user_config is not None) if user else None
    settings = _merged(argument, _from_environment(environment.variables), project, user_file)
    if project is not None:
        _refuse_token_destination(settings, project.origin)
        _refuse_plugin_address(settings, project.origin)
    if writes:
        check_outputs(settings, folder)
    return settings


class SettingsCache:
    """Settings that were loaded before, as long as all that they were loaded from is as it was.

    Which files these are, and where there is none yet, is noted the second time: a program that
    loads its settings once does not pay for it.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._kept: dict[SettingsKey, tuple[Settings, _Files | None]] = {}

    def load(
        self, given: Mapping[str, object], environment: Environment, *, strict: bool = False
    ) -> Settings:
        """As `load_settings`; whether outputs can be written is not checked."""
        key = key_of(given, environment)
        known, files = self._kept.get(key, (None, None))
        if known is not None and files is not None and files.are_as_they_were():
            return known
        files = None if known is None else _Files.of(environment, self._clock)
        settings = load_settings(given, environment, writes=False, strict=strict)
        if known == settings and known.origins == settings.origins:
            settings = known  # a key of other caches: the same object is found sooner
        while len(self._kept) >= _MOST_KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[key] = settings, files
        return settings


SettingsKey = tuple[object, ...]


def key_of(given: Mapping[str, object], environment: Environment) -> SettingsKey:
    """All that settings are loaded from, but for the files."""
    place = environment.working_folder, environment.config_folder, environment.home
    return repr(sorted(given.items())), environment.variables, *place


class _Files(NamedTuple):
    """The files of settings, their states, and the paths at which there is none yet."""

    paths: list[str]
    states: list[tuple[int, ...]]
    missing: list[str]

    @classmethod
    def of(cls, environment: Environment, clock: Clock) -> _Files | None:
        """Those of an environment; None where a change could be missed."""
        paths, missing = list[str](), list[str]()
        user, folder, above = _user_config(environment), environment.working_folder, ""
        if user is not None:
            (paths if os.access(user, os.F_OK) else missing).append(str(user))
        while folder != above:
            path = os.path.join(folder, "pyproject.toml")  # noqa: PTH118 - text in, text out
            if os.access(path, os.F_OK):
                paths.append(path)
                break
            missing.append(path)
            folder, above = os.path.dirname(folder), folder  # noqa: PTH120 - as above
        if environment.has_fake_files or not _UNUSABLE.isdisjoint(paths):
            return None
        now_ns, states = clock.now_utc().timestamp() * 1e9, _states(paths)
        is_settled = all(now_ns - changed_ns > _SETTLED_NS for changed_ns, *_ in states)
        return cls(paths, states, missing) if is_settled else None

    def are_as_they_were(self) -> bool:
        """Whether none of them has changed since."""
        if any(map(os.access, self.missing, repeat(os.F_OK))):
            return False
        return not self.paths or _states(self.paths) == self.states


_MOST_KEPT = 32
"""Settings that are kept for their next use; a program may use thousands."""
_SETTLED_NS = 1e9
"""A file that has changed so recently may change again and show the same time."""


def _states(paths: Iterable[str]) -> list[tuple[int, ...]]:
    try:
        found = [os.stat(path) for path in paths]  # noqa: PTH116 - text is enough
    except OSError as error:
        pass_on(error)
        return []  # which is the state of no file that was there
    return [(one.st_ctime_ns, one.st_mtime_ns, one.st_ino, one.st_size) for one in found]


def _user_config(environment: Environment) -> Path | None:
    folder = environment.config_folder
    return None if folder is None else Path(folder, "config.toml")


def settings_from(arguments: Mapping[str, object]) -> Settings:
    """Check settings from arguments alone, with defaults for all others.

    Raises:
        ConfigError: as for `load_settings`.
    """
    return _merged(_from_arguments(arguments))


def _merged(*strongest_first: Source | None) -> Settings:
    found: dict[str, Any] = {}
    origins = dict.fromkeys(READERS, "default")
    for source in filter(None, reversed(strongest_first)):
        for name, given in source.given.items():
            found[name] = source.read(name, given)
            origins[name] = source.origin
    return Settings(**found, origins=origins)


_WITHOUT_TOKEN = frozenset({"table", "ukcarbonintensity", "energycharts"})
"""Sources of intensity that are handed no token."""


def _refuse_token_destination(settings: Settings, project: str) -> None:
    """Refuse a project's settings that would let it direct a user's token.

    The working folder may contain an untrusted pyproject.toml. It must not set the address that a
    user's token is sent to, nor the folder whose journal has addresses to send records to, nor the
    service that is handed a token, nor its own token for a user's address.
    """
    origins = settings.origins
    for token, destination, is_sent in (
        ("http_token", "output", any("://" in output for output in settings.output)),
        ("http_token", "state_dir", not settings.owns_state_dir),
        ("live_token", "intensity_source", any(map(_takes_token, settings.intensity_source))),
    ):
        ends = {origins[token], origins[destination]}
        if is_sent and len(ends) == 2 and project in ends and "default" not in ends:
            raise ConfigError(
                f"{destination} comes from {origins[destination]} but {token} from "
                f"{origins[token]}: a project's file may not decide where a token is sent; "
                f"{_beside(settings, token, destination, project)}"
            )


def _takes_token(source: str) -> bool:
    name = "".join(filter(str.isalnum, source.partition(":")[0].lower()))
    return "://" in source or name not in _WITHOUT_TOKEN


def _beside(settings: Settings, token: str, destination: str, project: str) -> str:
    """What to do: name the other end beside the one that the user has set."""
    origins = settings.origins
    mine, missing = (destination, token) if origins[token] == project else (token, destination)
    value = getattr(settings, missing)
    if missing in SECRETS:
        text = "…"
    else:
        text = value if isinstance(value, str) else ",".join(map(told, value))
    place = origins[mine]
    if place == "environment":
        setting = f"{PREFIX}{missing.upper()}={text} in the environment"
    elif place == "argument":
        setting = f"the argument {missing}={text!r}"
    else:
        setting = f"{missing} = {text!r} in {place}"
    return f"if you trust this project, set {setting}, next to {mine}"


def _refuse_plugin_address(settings: Settings, project: str) -> None:
    """Refuse a project's settings that pass an address to a plugin.

    A project may name an installed plugin. But only the plugin knows what it does with an address:
    it may open a user's file, or send a user's secret there.
    """
    named = [("meter_plugins", text) for text in settings.meter_plugins]
    named += [("output", output) for output in settings.output if plugin_of(output) is not None]
    for setting, text in named:
        name, _, address = text.partition(":")
        if address and settings.origins[setting] == project:
            raise ConfigError(
                f"{project}: {setting}={text!r} passes an address to the plugin {name!r}; a "
                "project's file may name a plugin but not give it an address: set this in the "
                "environment or in your own config.toml"
            )


def _check_plugin(settings: Settings, output: str, name: str) -> None:
    from carbontrack.system import plugins

    try:
        point = plugins.find_sink(output, name, FILE_SUFFIXES)
        if point is not None:
            plugins.load(point)
    except ValueError as error:  # ConfigError is one
        raise ConfigError(
            f"output={told(output)!r} ({settings.origins['output']}) {error}"
        ) from None


def check_outputs(settings: Settings, folder: str) -> None:
    """Check, before anything starts, that the outputs, and a folder for journals, can be written.

    The default output is not checked: nobody asked for it, so it stops no program.

    Args:
        settings: the settings that name the outputs.
        folder: the working folder; "" if it has been removed.

    Raises:
        ConfigError: a directory does not exist, or a file or directory is not writable.
    """
    origin = settings.origins.get("output")
    if settings.state_dir is not None and settings.state_dir not in _USABLE:
        _check_state_dir(settings, folder)
    for output in () if settings.disable or origin == "default" else settings.output:
        plugin = plugin_of(output)
        if plugin is not None:
            _check_plugin(settings, output, plugin[0])
            continue
        path = Path(folder, output)
        if "://" in output:
            continue
        if not folder and not path.is_absolute():
            trouble: str | None = "cannot be written: the working directory is gone"
        else:
            trouble = _trouble(path)
        if trouble is not None:
            raise ConfigError(f"output={output!r} ({origin}) {trouble}{_of_several(settings)}")


_USABLE: set[str] = set()
"""Folders of state that could be used: what has worked is not checked again."""


def _check_state_dir(settings: Settings, folder: str) -> None:
    if settings.disable:
        return
    path = Path(folder, str(settings.state_dir))
    trouble = "the working directory is gone" if not (folder or path.is_absolute()) else None
    trouble = trouble or trouble_of_own_folder(path)
    if trouble is not None:
        raise ConfigError(
            f"state_dir={settings.state_dir!r} ({settings.origins.get('state_dir')}) cannot be "
            f"used: {trouble}; name a directory that you can write to, or one that can be created"
        )
    if os.path.isabs(str(settings.state_dir)) and len(_USABLE) < _MANY:  # noqa: PTH117 - a text
        _USABLE.add(str(settings.state_dir))


def _of_several(settings: Settings) -> str:
    if len(settings.output) == 1:
        return ""
    whole = ", ".join(repr(told(output)) for output in settings.output)
    return f"; it is one of the outputs {whole} ({A_COMMA})"


def _trouble(path: Path) -> str | None:
    """Why no output can be written at `path`; None if one can."""
    try:
        obstacle = obstacle_to_writing(path)
    except OSError as error:  # a folder that may not be entered, a name that is too long
        pass_on(error)
        return f"cannot be written: {error.strerror}"
    if obstacle is None or obstacle == "not a regular file":  # a device may be meant
        return None
    return _TROUBLES[obstacle].format(folder_behind_links(path))


_TROUBLES = {
    "is a directory": "is a directory; add a file name, such as emissions.csv",
    "no directory": "cannot be written: there is no directory {}",
    "parent is a file": "cannot be written: there is no directory {}",
    "no permission": "cannot be written: permission denied",
    "directory not writable": "cannot be written: permission denied",
    "link to itself": "cannot be written: it is a symbolic link that points back to itself",
}


def state_path(settings: Settings, environment: Environment | None = None) -> Path:
    """The folder of journals and caches; it need not exist yet."""
    return (environment or Environment.take()).state_path(settings.state_dir)


# -- the sources ------------------------------------------------------------------------------

_TRACK_PARAMETERS = {"argument": ("window_s", "budget", "on_exceed", "labels", "tracker", "name")}
"""The other arguments of `track`, of which a misspelt one arrives here as a setting."""
_TOOL_TABLE_LINE = rb"""^[ \t\[]*["']?tool[ \t"']*(\.[ \t"']*carbontrack|\]|=)"""
"""Matches a line like [tool.carbontrack], [tool] or tool = {…}. A file without such a line need not
be parsed, as loading the parser costs 4 ms."""


class Source(NamedTuple):
    """One source of settings.

    Attributes:
        origin: its name, as in `Settings.origins`.
        prefix: the text before a setting's name in error messages.
        given: the values by name, as they were given.
    """

    origin: str
    prefix: str
    given: Mapping[str, object]

    def read(self, name: str, given: object) -> Any:
        """Check one setting and convert it to its type.

        Raises:
            UnknownSettingError: there is no such setting.
            ConfigError: the value is invalid.
        """
        spelled = self._spelled(name)
        if name not in READERS:
            known = (*map(self._spelled, READERS), *_TRACK_PARAMETERS.get(self.origin, ()))
            near = nearest(spelled, known)
            if not near and self.origin == "argument":
                near = "; `carbontrack doctor --all` lists the settings"
            raise UnknownSettingError(f"{self.prefix}{spelled}: there is no such setting{near}")
        try:
            return READERS[name](given)
        except ValueError as error:
            # an address may hold a password before its @
            shown = "" if name in SECRETS or "@" in str(given) else f"={_without_query(given)}"
            raise ConfigError(f"{self.prefix}{spelled}{shown} {error}") from None

    def _spelled(self, name: str) -> str:
        return f"{PREFIX}{name.upper()}" if self.origin == "environment" else name


def _without_query(given: object) -> str:
    """A value as an error shows it: the query of an address often holds a key."""
    text = repr(given)
    return re.sub(r"(://[^\s,'\"?]*)\?[^\s,'\"]*", r"\1?…", text) if "?" in text else text


def _from_arguments(arguments: Mapping[str, object]) -> Source:
    """Take arguments by name: `output=None` is no output, any other None is "not given"."""
    given = {
        name: () if what is None and name == "output" else what
        for name, what in arguments.items()
        # an unknown name is an error whatever its value
        if what is not None or name == "output" or name not in READERS
    }
    return Source("argument", "argument ", given)


def _from_environment(variables: Iterable[tuple[str, str]]) -> Source:
    """Take the CARBONTRACK_<NAME> variables."""
    given = {}
    for variable, text in variables:
        name = variable[len(PREFIX) :].lower()
        # an empty variable counts as unset; an unknown name is an error even then
        if text.strip() or name not in READERS:
            given[name] = text
    return Source("environment", "", given)


_TRANSIENT_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
"""Errors that do not tell whether the file exists."""


def _from_project(folder: str, *, strict: bool) -> Source | None:
    """Read [tool.carbontrack] of the nearest pyproject.toml in `folder` or above it."""
    while True:
        path = os.path.join(folder, "pyproject.toml")  # noqa: PTH118 - runs at every start
        try:
            content = read_opened(
                os.open(path, READING), path
            )  # opened in this frame: see `pass_on`
        except OSError as error:
            pass_on(error)
            if error.errno in _TRANSIENT_ERRORS:
                _say_unusable(path, error, strict=strict)
                return None
            if folder == (folder := os.path.dirname(folder)):  # noqa: PTH120 - as above
                return None
            continue
        # somebody else's file may be as broken as it likes
        if b"carbontrack" not in content or not re.search(_TOOL_TABLE_LINE, content, re.MULTILINE):
            return None
        try:
            text = _text_of(content)
        except ValueError as error:
            _say_unusable(path, error, strict=strict)
            return None
        tool = _parsed(path, text).get("tool", {})
        section = tool.get("carbontrack", {}) if isinstance(tool, dict) else {}
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: [tool.carbontrack] is not a table")
        return Source(path, f"{path}: [tool.carbontrack] ", section)


def _from_user_file(path: Path, *, strict: bool) -> Source | None:
    """Read the user's config.toml, if there is one.

    One in a folder of another user, as a wrong HOME names it, is not ours, and stops nobody.
    """
    try:
        text = _text_of(read_opened(os.open(path, READING), path))  # as in `_from_project`
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        pass_on(error)
        _say_unusable(str(path), error, strict=strict)
        return None
    return Source(str(path), f"{path}: ", _parsed(str(path), text))


def _text_of(content: bytes) -> str:
    """The text of a file of settings.

    Raises:
        ValueError: it is none: garbage, or the zeros that a power cut leaves of a file.
    """
    if b"\0" in content:
        raise ValueError("it contains zeros instead of text")
    return content.decode()


_UNUSABLE: set[str] = set()
"""Files of settings that nobody has named and that cannot be read, of which the user was told."""


def _say_unusable(path: str, error: Exception, *, strict: bool) -> None:
    """Treat a settings file that cannot be read as absent, and log it once.

    Raises:
        ConfigError: instead, if `strict`.
    """
    reason = getattr(error, "strerror", None) or str(error)
    if strict:
        raise ConfigError(f"{path} cannot be read: {reason}") from error
    if path not in _UNUSABLE:
        _UNUSABLE.add(path)
        closed = closed_part(path)
        CLOSED.add(closed)
        if closed:
            warn_user(
                f"{closed} cannot be read; its settings are not used, and nothing is stored in it"
            )
        else:
            warn_user(f"{path} cannot be read: {reason}; its settings are not used")


def _parsed(path: str, text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return tables
