"""One journal file: keys and their entries in an append-only log, locked by one process at a time.

Each change is one line, `crc32 json`, written by one `write`: `{"put": key, …}`, `{"drop": [key,
…]}`, or `{"update": key, "record": …}`: the columns in which a record differs by now from the one
that was put. An update needs the put only, not the updates before it.

A killed process leaves at most one incomplete line, and readers skip every line with a wrong
checksum. The lock (flock) of the open file shows that its process runs; the kernel releases it when
the last process that has the file open ends, even by SIGKILL. Files are never mapped into memory:
on a full disk that kills the program with SIGBUS, where `write` returns an error.

The functions in the first half read, write and lock single lines and files; `JournalFile` is built
on them.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from carbontrack.record import plain
from carbontrack.system.interrupts import pass_on

# imported early, since a process without free descriptors could not load it any more
try:
    import fcntl

    _HAS_LOCKS = True
except ImportError:  # without flock nobody can tell whether the process of a journal still runs
    _HAS_LOCKS = False

LINE_LIMIT = 1 << 20
"""Bytes above which a line is not an entry."""
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""Errors that say nothing about the file: no descriptor or memory is left, or a disk fails."""

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
APPEND = os.O_RDWR | os.O_APPEND | _FLAGS

_ENCODER = json.JSONEncoder(separators=(",", ":"), default=str)


def encoded(entry: Mapping[str, Any]) -> bytes:
    """The entry as a line with its checksum."""
    try:
        text = _ENCODER.encode(entry).encode()
    except Exception as error:  # a label may be any object, even one whose `str` fails
        pass_on(error)
        text = _ENCODER.encode(plain(entry)).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decoded(line: bytes) -> dict[str, Any] | None:
    """The entry in a line; None if the line is incomplete, altered or something else."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(checksum, 16) != zlib.crc32(text):
            return None
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def locked_new(path: Path) -> int:
    """Create a file that only this user may read, locked by this process from the start.

    Raises:
        OSError: it exists already, or cannot be created or locked.
    """
    handle = os.open(path, APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    if os.name == "posix" and not lock(handle):
        os.close(handle)
        path.unlink(missing_ok=True)
        raise OSError(errno.ENOLCK, "the file system has no locks", str(path))
    return handle


def lock(handle: int) -> bool:
    """Lock an open file; False if another process holds the lock."""
    if not _HAS_LOCKS:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def wait_for_lock(handle: int) -> None:
    """Lock an open file as soon as no other process holds the lock, where the system has locks."""
    if _HAS_LOCKS:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def is_ours(handle: int) -> bool:
    """Whether the open file is a regular file of this user."""
    status = os.fstat(handle)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one with this name."""
    try:
        there = path.lstat()
    except OSError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def write_whole(handle: int, line: bytes) -> None:
    """Append the line in one write.

    Raises:
        OSError: it could not be written, or only in part, as on a full disk.
    """
    if os.write(handle, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_at(handle: int, offset: int, length: int) -> bytes:
    """Read bytes from the middle of the open file."""
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, length)


def lines_of(handle: int) -> Iterator[tuple[int, bytes]]:
    """Each line with its offset; one that is too long in pieces, which have no valid checksum."""
    os.lseek(handle, 0, os.SEEK_SET)
    with os.fdopen(os.dup(handle), "rb") as file:
        offset = 0
        while line := file.readline(LINE_LIMIT):
            yield offset, line
            offset += len(line)


Key = tuple[str, ...]
Entry = Mapping[str, Any]

SUFFIX = ".journal"
DRAFT_SUFFIX = ".draft"
SIZE_LIMIT = 64 << 20
"""Bytes above which a journal accepts no further entry."""
COMPACT_ABOVE = 256 << 10
"""Bytes above which a file whose entries are mostly outdated is compacted."""


def entry_line(key: Key, entry: Entry) -> bytes:
    """The entry as the line that `JournalFile.put_line` takes."""
    return encoded({"put": key, **entry})


def update_line(key: Key, columns: Mapping[str, Any]) -> bytes:
    """Columns that differ from those under the key, as `JournalFile.update_line` takes them."""
    return encoded({"update": key, "record": columns})


def updated(entry: Mapping[str, Any], update: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entry with the columns of an update, if there is one."""
    record, columns = entry.get("record"), (update or {}).get("record")
    if not isinstance(record, dict) or not isinstance(columns, dict):
        return dict(entry)
    return {**entry, "record": record | columns}


class JournalFile:
    """A journal that this process has locked. Not thread-safe: `Journal` has a lock for that.

    Attributes:
        path: the file.
        bad_lines: how many lines could not be read when it was opened.
    """

    def __init__(self, path: Path, handle: int, *, size_limit: int = SIZE_LIMIT) -> None:
        self.path = path
        self.bad_lines = 0
        self._size_limit = size_limit
        self._handle = handle
        self._size = 0
        self._live_bytes = 0
        self._extents: dict[Key, tuple[int, int]] = {}
        self._updates: dict[Key, tuple[int, int]] = {}
        """Where the last update of a key is, if it has one."""

    @classmethod
    def create(cls, directory: Path, name: str, *, size_limit: int = SIZE_LIMIT) -> JournalFile:
        """A new, empty journal with a unique name that begins with `name`.

        Raises:
            OSError: it cannot be created.
        """
        path = directory / f"{name}-{os.urandom(8).hex()}{SUFFIX}"
        draft = _draft_of(path)
        handle = locked_new(draft)
        draft.replace(path)  # only now that it is locked, others can find it
        return cls(path, handle, size_limit=size_limit)

    @classmethod
    def acquire(cls, path: Path) -> JournalFile | None:
        """Open and lock the journal of a process that has ended; None if the process still runs.

        Also None if the file is another user's, is a link, or has just been processed and deleted
        by another process.

        Raises:
            OSError: it could not be opened, for want of descriptors for example, or not be read.
        """
        try:
            handle = os.open(path, APPEND)
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                raise
            return None
        journal = cls(path, handle)
        try:
            if lock(handle) and is_ours(handle) and is_at(handle, path):
                journal._load()
                return journal
        except OSError:
            journal.abandon()
            raise
        journal.abandon()
        return None

    def __len__(self) -> int:
        return len(self._extents)

    def keys(self, kind: str) -> list[Key]:
        """The live keys that begin with `kind`, oldest first."""
        return [key for key in self._extents if key[0] == kind]

    def get(self, key: Key) -> dict[str, Any] | None:
        """The entry of a live key; None if it can no longer be read."""
        extent, update = self._extents.get(key), self._updates.get(key)
        entry = None if extent is None else decoded(read_at(self._handle, *extent))
        if entry is None or update is None:
            return entry
        return updated(entry, decoded(read_at(self._handle, *update)))

    def put(self, key: Key, entry: Entry) -> None:
        """Store the entry under the key, in place of the one before.

        Raises:
            OSError: it could not be written, or the journal is full; nothing has changed.
        """
        self.put_line(key, entry_line(key, entry))

    def put_line(self, key: Key, line: bytes) -> None:
        """As `put`, for an entry that is encoded already.

        Raises:
            OSError: as `put`.
        """
        if len(line) > LINE_LIMIT:
            raise OSError(errno.EFBIG, f"an entry of {len(line)} bytes")
        self._make_room(len(line))
        self._append(line)
        self._forget(key)
        self._extents[key] = (self._size - len(line), len(line))
        self._live_bytes += len(line)

    def update_line(self, key: Key, line: bytes) -> bool:
        """Add an update, encoded already, in place of the one before; False for an unknown key.

        Raises:
            OSError: as `put`.
        """
        if key not in self._extents:
            return False
        self._make_room(len(line))
        self._append(line)
        self._set_update(key, (self._size - len(line), len(line)))
        return True

    def drop(self, keys: Iterable[Key]) -> None:
        """Remove those of the keys that exist.

        Raises:
            OSError: it could not be written; the keys are removed here, but a process that opens
                the file later will see them again.
        """
        known = [key for key in keys if key in self._extents]
        for key in known:
            self._forget(key)
        if known and (self._extents or self._size < COMPACT_ABOVE):
            self._append(encoded({"drop": known}))
            self._make_room(0)
        elif known:
            os.ftruncate(self._handle, 0)
            self._size = 0

    def close(self) -> None:
        """Close the file, and delete it if it has no live keys."""
        if self._handle < 0:
            return
        if not self._extents and not self._missing():
            self.path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Only close the descriptor, as a forked child does with its parent's."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _forget(self, key: Key) -> None:
        for extents in (self._extents, self._updates):
            extent = extents.pop(key, None)
            if extent is not None:
                self._live_bytes -= extent[1]

    def _set_update(self, key: Key, extent: tuple[int, int]) -> None:
        before = self._updates.get(key)
        self._updates[key] = extent
        self._live_bytes += extent[1] - (before[1] if before else 0)

    def _append(self, line: bytes) -> None:
        if self._missing():
            self._rewrite()
        try:
            write_whole(self._handle, line)
        except OSError:
            os.ftruncate(self._handle, self._size)
            raise
        self._size += len(line)

    def _make_room(self, wanted: int) -> None:
        if self._size + wanted > COMPACT_ABOVE and self._live_bytes * 2 < self._size:
            self._rewrite()
        if self._live_bytes + wanted > self._size_limit:
            raise OSError(errno.EDQUOT, "the journal is full")
        if self._size + wanted > self._size_limit:
            self._rewrite()

    def _missing(self) -> bool:
        """Whether the file was deleted while open; what is written to it would be lost."""
        return os.fstat(self._handle).st_nlink == 0

    def _rewrite(self) -> None:
        """Compact: write the live entries to a new file, which replaces the old one.

        The new file is locked before it has the name, so no other process can acquire it; the old
        one stays locked until it is closed, and `acquire` notices that the name is another file's.
        """
        draft = _draft_of(self.path)
        handle = locked_new(draft)
        moved: tuple[dict[Key, tuple[int, int]], dict[Key, tuple[int, int]]] = ({}, {})
        size = 0
        try:
            for extents, new in zip((self._extents, self._updates), moved, strict=True):
                for key, extent in extents.items():  # updates come after what they update
                    line = read_at(self._handle, *extent)
                    write_whole(handle, line)
                    new[key] = (size, len(line))
                    size += len(line)
            draft.replace(self.path)
        except BaseException:
            os.close(handle)
            draft.unlink(missing_ok=True)
            raise
        os.close(self._handle)
        self._handle = handle
        self._extents, self._updates = moved
        self._size = self._live_bytes = size

    def _load(self) -> None:
        for offset, line in lines_of(self._handle):
            self._size = offset + len(line)
            entry = decoded(line)
            if entry is None or not self._replay(entry, offset, len(line)):
                self.bad_lines += 1
        if self._size and read_at(self._handle, self._size - 1, 1) != b"\n":
            # a killed writer left an incomplete line, which the next line must not continue
            os.ftruncate(self._handle, self._size - len(line))
            self._size -= len(line)

    def _replay(self, entry: dict[str, Any], offset: int, length: int) -> bool:
        put, dropped, updates = entry.get("put"), entry.get("drop"), entry.get("update")
        if isinstance(updates, list):
            key = tuple(map(str, updates))
            if key in self._extents:
                self._set_update(key, (offset, length))
            return True
        if isinstance(put, list):
            key = tuple(map(str, put))
            self._forget(key)
            self._extents[key] = (offset, length)
            self._live_bytes += length
        elif isinstance(dropped, list):
            for gone in dropped:
                self._forget(tuple(map(str, gone)) if isinstance(gone, list) else ())
        return isinstance(put, list) or isinstance(dropped, list)


def _draft_of(path: Path) -> Path:
    # a new name each time: a process that was killed while compacting has left its draft
    return path.with_suffix(f".{os.urandom(4).hex()}{DRAFT_SUFFIX}")
