"""Whether a file can be an output at all, checked before anything is measured."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from carbontrack.errors import ConfigError, SinkError
from carbontrack.notices import say_aloud
from carbontrack.sinks.mounts import boot_id, remote_filesystem
from carbontrack.sinks.shared_file import SharedFile


def shared_file(
    path: str | os.PathLike[str], *, header: bytes = b"", tag: str = "", procfs: Path
) -> SharedFile:
    """The text file at `path`, after everything that can be checked is.

    Raises:
        ConfigError: no record could be written there; the message says why and what to do.
    """
    place = own_place(path, procfs=procfs)
    try:
        file = SharedFile(place, header=header, tag=tag)
    except (OSError, SinkError) as error:
        raise ConfigError(f"cannot use {place} as output: {error}") from error
    if file.path != place:
        say_aloud(
            f"{place} has other columns, perhaps of another version or program, and is left as it "
            f"is; records go to {file.path.name} beside it."
        )
    return file


def own_place(path: str | os.PathLike[str], *, procfs: Path) -> Path:
    """The checked path; on a network file system, a name beside it for this machine alone.

    Raises:
        ConfigError: no record could be written there; the message says why and what to do.
    """
    place = checked_path(path)
    kind = remote_filesystem(place.parent, procfs=procfs)
    if kind is None:
        return place
    own = place.with_name(f"{place.stem}.boot-{boot_id(procfs=procfs)}{place.suffix}")
    say_aloud(
        f"{place.parent} is on {kind}, where machines spoil each other's writes to one file; "
        f"this machine writes to {own.name} instead. Read all of them together."
    )
    return own


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of an output file as absolute, if a file can be there.

    Raises:
        ConfigError: it cannot; the message says why and what to do.
    """
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ConfigError(f"output {text!r} is not a file name; give one such as 'emissions.csv'")
    place = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - keeps symlinks as given
    try:
        reason = _objection(place)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENAMETOOLONG:
            reason = "the name is too long; choose a shorter one"
    if reason:
        raise ConfigError(f"cannot write records to {place}: {reason}")
    return place


def _objection(place: Path) -> str | None:
    directory = place.parent
    if not directory.exists():
        return f"the directory {directory} does not exist; make it with: mkdir -p {directory}"
    if not directory.is_dir():
        return f"{directory} is not a directory"
    if place.exists():
        return _objection_to_file(place)
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"the directory {directory} is not writable for this user; choose another output"
    return None


def _objection_to_file(place: Path) -> str | None:
    if place.is_dir():
        return f"it is a directory; name a file in it, such as {place / 'emissions.csv'}"
    if not place.is_file():
        return "it is not a regular file"
    if not os.access(place, os.R_OK | os.W_OK):
        return "the file is not readable and writable for this user; choose another, or chmod u+rw"
    return None
