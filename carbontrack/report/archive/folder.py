"""The folder of an archive while it is changed: one process at a time, the old state or the new.

New files are written below `.compacting/drafts`. One rename, to `.compacting/committed`, decides
that they are the new state; only then is each put in the place of the old one. What a killed
process has committed is put in place by the next one; all else that it left is removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carbontrack.errors import ConfigError, SinkError
from carbontrack.report.archive.layout import (
    FILE_NAME,
    MARK,
    MARK_TEXT,
    WORK_FOLDER,
    is_archive,
)
from carbontrack.system.files import real_path

LOCK = ".lock"
_OURS = frozenset({WORK_FOLDER, LOCK})
OnWait = Callable[[], None]
"""Called once when another process holds the lock."""


class ArchiveFolder:
    """An archive that this process may change, inside `open_archive`.

    Attributes:
        path: the folder.
        work: a folder for what is needed on the way, gone at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = path / WORK_FOLDER
        self._committed = self._own / "committed"
        self.work = self._own / "work"

    def begin(self) -> None:
        """Bring in what another process has committed, and remove what it left."""
        self._put_in_place()
        shutil.rmtree(self._own, ignore_errors=True)
        self.work.mkdir(parents=True)
        if not is_archive(self.path):
            draft = self._own / MARK
            draft.write_text(MARK_TEXT, encoding="utf-8")
            draft.replace(self.path / MARK)

    def end(self) -> None:
        """Remove what was needed on the way, but nothing that is committed."""
        for folder in (self.work, self._own / "drafts"):
            shutil.rmtree(folder, ignore_errors=True)
        if not self._committed.exists():
            shutil.rmtree(self._own, ignore_errors=True)

    def draft(self, month: str) -> Path:
        """Where the new file of a month is written; an empty one takes the month away."""
        path = self._own / "drafts" / f"month={month}" / FILE_NAME
        path.parent.mkdir(parents=True)
        return path

    def commit(self) -> None:
        """Make the drafts the new state of the archive.

        Raises:
            OSError: they are not; the archive is as it was.
        """
        drafts = self._own / "drafts"
        if drafts.exists():
            for path in (*drafts.glob(f"*/{FILE_NAME}"), *drafts.iterdir(), drafts):
                _to_disk(path)
            drafts.rename(self._committed)
            _to_disk(self._own)
            self._put_in_place()

    def _put_in_place(self) -> None:
        """Move the files of the new state to their months.

        After a kill here the next process goes on.
        """
        for draft in sorted(self._committed.glob(f"*/{FILE_NAME}")):
            target = self.path / draft.parent.name / FILE_NAME
            if draft.stat().st_size:
                target.parent.mkdir(exist_ok=True)
                draft.replace(target)
                _to_disk(target.parent)
            else:
                target.unlink(missing_ok=True)
                draft.unlink()
                if target.parent.exists():
                    target.parent.rmdir()
        if self._committed.exists():
            _to_disk(self.path)
            shutil.rmtree(self._committed)


@contextmanager
def open_archive(path: Path, on_wait: OnWait) -> Iterator[ArchiveFolder]:
    """An archive to change, made if it is not there; another process's change is waited for.

    Raises:
        ConfigError: the folder holds something else, or cannot be made.
        OSError: it cannot be changed.
    """
    handle = _locked(path, on_wait)
    try:
        folder = ArchiveFolder(path)
        folder.begin()
        try:
            yield folder
        finally:
            folder.end()
    finally:
        os.close(handle)


def check_archive(path: Path) -> None:
    """Refuse a folder that holds something else than an archive.

    Raises:
        ConfigError: it does, or is a file, or would lie in a folder that does not exist.
    """
    place = Path(real_path(path))
    if not place.exists():
        if not place.parent.is_dir():
            raise ConfigError(f"--into {path}: there is no directory {path.parent} to create it in")
    elif not place.is_dir():
        raise ConfigError(
            f"--into {path}: it is a file; name a directory for an archive, or a new file that "
            "ends in .csv"
        )
    elif not is_archive(place) and {entry.name for entry in place.iterdir()} - _OURS:
        raise ConfigError(
            f"--into {path}: the directory contains something other than a carbontrack archive; "
            "name one that is new or empty"
        )


def _locked(path: Path, on_wait: OnWait) -> int:
    """The lock of an archive, held; the folder is made for it."""
    while True:
        check_archive(path)
        path.mkdir(exist_ok=True)
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _wait_for(handle, on_wait)
            if _is_still(handle, path / LOCK):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # who held it has removed the folder


def _wait_for(handle: int, on_wait: OnWait) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: whoever starts two at once there is not kept from it
        return
    lock: Any = fcntl.flock
    try:
        lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        lock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise SinkError(f"the file system has no locks, so two could write at once: {error}") from (
            error
        )


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
