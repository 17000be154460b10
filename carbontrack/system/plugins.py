"""Extensions of other packages: entry points, found by group and name, loaded when they are used.

Only names in settings are searched for, because importing `importlib.metadata` and scanning the
installed packages takes tens of milliseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from carbontrack.errors import ConfigError, close_matches, did_you_mean

INTENSITY = "carbontrack.intensity"
"""Sources of intensity: a callable that takes a Region and the token, or None, and returns an
IntensitySource."""
METERS = "carbontrack.meters"
"""Meters: a callable that takes a `carbontrack.meters.plugins.PluginHost` and returns meters."""
SINKS = "carbontrack.sinks"
"""Outputs: a callable that takes the address, a text, and returns a Sink."""


def installed(group: str) -> list[str]:
    """The names of a group that this Python finds, each once."""
    return list(dict.fromkeys(point.name for point in entry_points(group=group)))


def find(group: str, name: str, *, others: Iterable[str] = ()) -> EntryPoint:
    """The entry point of this name; where two packages have it, the first on Python's path.

    `others` are further names to suggest.

    Raises:
        ValueError: there is none; the message is the rest of a sentence such as "output='x' …".
    """
    point = _found(group, name, tuple(sys.path))
    if point is None:
        _found.cache_clear()  # it may be installed in a moment
        known = installed(group)
        there = f"installed: {', '.join(known)}" if known else "none is installed"
        near = did_you_mean(close_matches(name, (*known, *others)))
        raise ValueError(f"names no plugin of the group {group}; {there}{near}")
    return point


@lru_cache(maxsize=64)
def _found(group: str, name: str, path: tuple[str, ...]) -> EntryPoint | None:  # noqa: ARG001 - where it is looked for
    return next(iter(entry_points(group=group, name=name)), None)


def find_sink(output: str, name: str, file_suffixes: tuple[str, ...]) -> EntryPoint | None:
    """The plugin that an output names; None where it is a file whose name holds a colon.

    A file such as "run-12:30.csv" is one, unless a plugin has the name before the colon, or one so
    near that it may be a slip.

    Raises:
        ValueError: as for `find`.
    """
    schemes = ("http", "https")
    try:
        return find(SINKS, name, others=schemes)
    except ValueError as error:
        if "://" in output:
            starts = "is not an address that starts with http:// or https:// and a host"
            raise ValueError(f"{starts}, and {error}") from None
        is_slip = close_matches(name, (*installed(SINKS), *schemes))
        if is_slip or not output.lower().endswith(file_suffixes):
            raise
        return None


def load(point: EntryPoint) -> Callable[..., Any]:
    """Import what an entry point names.

    Raises:
        ConfigError: it cannot be imported, or cannot be called; names the package that it is from.
    """
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{described(point)} cannot be imported: {error!r}") from error
    if not callable(found):
        raise ConfigError(f"{described(point)} is {found!r}, which cannot be called")
    called: Callable[..., Any] = found
    return called


def described(point: EntryPoint) -> str:
    """The plugin and the package that it is from: "the plugin 'plug' of carbontrack-plug 1.0"."""
    package = f" of {point.dist.name} {point.dist.version}" if point.dist is not None else ""
    return f"the plugin {point.name!r}{package} ({point.group})"
