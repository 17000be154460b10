"""The names of journals, by which they are found, and what is done with them by name.

A name has the boot, the id of the process and its start, so that a child finds the journals of its
ancestors without listing a directory that may contain thousands of others.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from carbontrack.system.files import make_private_folder
from carbontrack.system.interrupts import pass_on

SUFFIX = ".journal"
DRAFT_SUFFIX = ".draft"
MORE_SUFFIX = ".more"
"""The ending of an empty file that marks a process with journals beyond the numbered ones."""
NUMBERED = 4
"""Journals of one process that are numbered, so that others find them without a listing."""
ASIDE_FOLDER = "journal-set-aside"
"""The directory, next to that of the journals, for files that cannot be read."""


def name_of(boot_id: str, pid: int, started_ticks: int) -> str:
    """The prefix of the names of a process's journals, unique on this boot."""
    return f"{boot_id[:8]}-{pid}-{started_ticks}"


def journals_of(place: Path, boot_id: str, pid: int, started_ticks: int) -> list[Path]:
    """The journals of a process in their directory, without listing all others.

    Raises:
        OSError: the folder cannot be read.
    """
    name = name_of(boot_id, pid, started_ticks)
    begin = f"{place}{os.sep}{name}"
    if os.path.exists(begin + MORE_SUFFIX):  # noqa: PTH110 - no object for each name
        names = os.listdir(place)  # noqa: PTH208 - few processes have so many
        return [place / one for one in names if one.startswith(f"{name}.") and _is_journal(one)]
    paths = (f"{begin}.{number}{SUFFIX}" for number in range(NUMBERED))
    return [Path(path) for path in paths if os.path.exists(path)]  # noqa: PTH110


def _is_journal(name: str) -> bool:
    return name.endswith(SUFFIX)


def named(draft: Path, directory: Path, name: str) -> Path:
    """Give a draft its name: a number, so that it is found without listing the folder."""
    for number in range(NUMBERED if os.name == "posix" else 0):
        path = directory / f"{name}.{number}{SUFFIX}"
        try:
            os.link(draft, path)  # unlike a rename, it never replaces a file
        except FileExistsError:
            continue
        except OSError as error:  # a file system without links
            pass_on(error)
            break
        draft.unlink()
        return path
    if os.name == "posix":
        flags = os.O_CREAT | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
        os.close(os.open(directory / f"{name}{MORE_SUFFIX}", flags, 0o600))
    path = directory / f"{name}.{os.urandom(8).hex()}{SUFFIX}"
    draft.replace(path)
    return path


def remove(path: Path) -> None:
    """Delete a journal; with the last one that has no small number, what says that it exists."""
    path.unlink(missing_ok=True)
    name, _, number = path.stem.rpartition(".")
    if name and len(number) > 2:
        more = path.with_name(f"{name}{MORE_SUFFIX}")
        if not has_more(more):
            more.unlink(missing_ok=True)


def has_more(path: Path) -> bool:
    """Whether there are journals beyond the numbered ones, as a file says that ends so.

    The journals themselves are looked for. Whether their process runs cannot be found out by its
    id where it is of another pid namespace, as in a state directory that containers share.
    """
    begin, numbered = f"{path.stem}.", len(path.stem) + 3
    others = (one.rpartition(".")[0] for one in os.listdir(path.parent))  # noqa: PTH208
    return any(other.startswith(begin) and len(other) > numbered for other in others)


def set_aside(path: Path) -> Path | None:
    """Move a file that is not a journal out of the directory of journals; returns its new path.

    None if another process was faster.

    Raises:
        OSError: it cannot be moved.
    """
    place = path.parent.parent / ASIDE_FOLDER
    make_private_folder(place)
    if not stat.S_ISDIR(place.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is a link or a file", str(place))
    to = place / path.name
    if os.path.lexists(to):
        to = place / f"{path.name}.{os.urandom(4).hex()}"
    try:
        path.rename(to)
    except FileNotFoundError:
        return None
    return to


class SetAside:
    """The files that are not journals: their number, and the first with its reason."""

    def __init__(self) -> None:
        self.count = 0
        self.first: tuple[Path, str] | None = None

    def __call__(self, path: Path, reason: str) -> None:
        """Add one."""
        self.count += 1
        self.first = self.first or (path, reason)

    def text(self) -> str | None:
        """The message about them; None if there are none."""
        if self.first is None:
            return None
        path, reason = self.first
        what = (
            "a file is not a journal" if self.count == 1 else f"{self.count} files are not journals"
        )
        return (
            f"{what} that can be read; moved to {path.parent.parent / ASIDE_FOLDER}; "
            f"the first: {path.name}: {reason}"
        )
