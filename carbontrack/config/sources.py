"""The sources of settings, and how each spells and quotes them in an error."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from carbontrack.config.environment import PREFIX
from carbontrack.config.settings import READERS, SECRETS, nearest
from carbontrack.errors import ConfigError, UnknownSettingError

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


def from_arguments(arguments: Mapping[str, object]) -> Source:
    """Take arguments by name: `output=None` is no output, any other None is "not given"."""
    given = {
        name: () if what is None and name == "output" else what
        for name, what in arguments.items()
        # a wrong name is wrong whatever its value is
        if what is not None or name == "output" or name not in READERS
    }
    return Source("argument", "argument ", given)


def from_environment(variables: Iterable[tuple[str, str]]) -> Source:
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


def from_project(folder: str) -> Source | None:
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


def from_user_file(path: Path) -> Source | None:
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
