"""One journal file: keys and their entries in an append-only log, held by one process at a time.

Each change is one line, `crc32 json`, written by one `write`: `{"put": key, …}` or `{"drop":
[key, …]}`. A process that is killed leaves at most one torn line, and a reader passes over every
line whose checksum does not hold. The lock (flock) of the open file says that its process lives;
the kernel releases it at the process's death, however that comes. No file is ever mapped into
memory: on a full disk that kills the program with SIGBUS, where `write` returns an error.

Journals, one level down: checksummed lines, locks, and reads and writes that are whole.

A line is `crc32 json`. The lock is flock's: it belongs to the open file, and the kernel releases
it when the last process that has the file open dies, however that comes.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from carbontrack.record import plain

# at the top, since it cannot be loaded any more once the process has no descriptor left
try:
    import fcntl

    _HAS_LOCKS = True
except ImportError:  # without flock a dead journal cannot be told from a live one
    _HAS_LOCKS = False

LINE_LIMIT = 1 << 20
"""Bytes above which a line is no entry of ours."""
OUT_OF_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""Errors that say nothing about the file: no descriptor or memory is left, or a disk fails."""

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
APPEND = os.O_RDWR | os.O_APPEND | _FLAGS

_ENCODER = json.JSONEncoder(separators=(",", ":"), default=str)


def encoded(entry: Mapping[str, Any]) -> bytes:
    """The entry as a line with its checksum."""
    try:
        text = _ENCODER.encode(entry).encode()
    except Exception:  # a label may hold anything, even what cannot say what it is
        text = _ENCODER.encode(plain(entry)).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decoded(line: bytes) -> dict[str, Any] | None:
    """The entry in a line; None if it is torn, altered or never was one."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(checksum, 16) != zlib.crc32(text):
            return None
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def locked_new(path: Path) -> int:
    """Make a file, for this user only, that this process holds from the start.

    Raises:
        OSError: it is there already, or cannot be made or locked.
    """
    handle = os.open(path, APPEND | os.O_CREAT | os.O_EXCL, 0o600)
    if os.name == "posix" and not lock(handle):
        os.close(handle)
        path.unlink(missing_ok=True)
        raise OSError(errno.ENOLCK, "the file system has no locks", str(path))
    return handle


def lock(handle: int) -> bool:
    """Take the lock of an open file, at once or not at all."""
    if not _HAS_LOCKS:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_ours(handle: int) -> bool:
    """Whether the open file is a plain file of this user."""
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
        OSError: it could not be written, or only a part of it was, as on a full disk.
    """
    if os.write(handle, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_at(handle: int, offset: int, length: int) -> bytes:
    """Some bytes from the middle of the open file."""
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, length)


def lines_of(handle: int) -> Iterator[tuple[int, bytes]]:
    """Each line with its offset; an overlong one in pieces, none of which has a right checksum."""
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
"""Bytes above which a journal takes no further entry."""
COMPACT_ABOVE = 256 << 10
"""Bytes above which a file that is mostly history is written anew."""


def entry_line(key: Key, entry: Entry) -> bytes:
    """The entry as the line that `JournalFile.put_line` takes."""
    return encoded({"put": key, **entry})


class JournalFile:
    """A journal that this process holds. Not thread-safe: its owner has a lock.

    Attributes:
        path: where it is.
        bad_lines: how many lines could not be read when it was opened.
    """

    def __init__(self, path: Path, handle: int, *, size_limit: int = SIZE_LIMIT) -> None:
        self.path = path
        self.bad_lines = 0
        self._size_limit = size_limit
        self._handle = handle
        self._size = 0
        self._live_bytes = 0
        self._places: dict[Key, tuple[int, int]] = {}

    @classmethod
    def create(cls, directory: Path, name: str, *, size_limit: int = SIZE_LIMIT) -> JournalFile:
        """A new, empty journal with a unique name that begins with `name`.

        Raises:
            OSError: there cannot be one.
        """
        path = directory / f"{name}-{os.urandom(8).hex()}{SUFFIX}"
        draft = _draft_of(path)
        handle = locked_new(draft)
        draft.replace(path)  # it has a name that adopters look for only now that it is locked
        return cls(path, handle, size_limit=size_limit)

    @classmethod
    def adopt(cls, path: Path) -> JournalFile | None:
        """The journal of a process that is gone, now held by this one; None if it still lives.

        Also None if the file is not this user's own, is a link, or has just been adopted and
        removed by another process.

        Raises:
            OSError: nothing is known of it; it could not be opened for want of descriptors, for
                example, or not be read.
        """
        try:
            handle = os.open(path, APPEND)
        except OSError as error:
            if error.errno in OUT_OF_MEANS:
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
        return len(self._places)

    def keys(self, kind: str) -> list[Key]:
        """The live keys that begin with `kind`, oldest first."""
        return [key for key in self._places if key[0] == kind]

    def get(self, key: Key) -> dict[str, Any] | None:
        """The entry of a live key; None if it cannot be read any more."""
        place = self._places.get(key)
        return None if place is None else decoded(read_at(self._handle, *place))

    def put(self, key: Key, entry: Entry) -> None:
        """Keep the entry under the key, in place of what was there.

        Raises:
            OSError: it could not be written, or there is no room; nothing has changed.
        """
        self.put_line(key, entry_line(key, entry))

    def put_line(self, key: Key, line: bytes) -> None:
        """Keep an entry that has been made a line already; as `put`.

        Raises:
            OSError: as `put`.
        """
        if len(line) > LINE_LIMIT:
            raise OSError(errno.EFBIG, f"an entry of {len(line)} bytes")
        self._make_room(len(line))
        self._append(line)
        self._forget(key)
        self._places[key] = (self._size - len(line), len(line))
        self._live_bytes += len(line)

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget the keys that are there.

        Raises:
            OSError: it could not be written; the keys are forgotten here, but an adopter of this
                file would see them again.
        """
        known = [key for key in keys if key in self._places]
        for key in known:
            self._forget(key)
        if known and (self._places or self._size < COMPACT_ABOVE):
            self._append(encoded({"drop": known}))
            self._make_room(0)
        elif known:
            os.ftruncate(self._handle, 0)
            self._size = 0

    def close(self) -> None:
        """Let go of the file, and remove it if it holds nothing any more."""
        if self._handle < 0:
            return
        if not self._places and not self._missing():
            self.path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptor and nothing else, as a forked child does with its parent's."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _forget(self, key: Key) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            self._live_bytes -= place[1]

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
        """Whether the file was deleted under us; what goes in then would be lost at our end."""
        return os.fstat(self._handle).st_nlink == 0

    def _rewrite(self) -> None:
        """Put the live entries into a new file and that in the place of the old one.

        The new file is locked before it has the name, so no adopter sees it free; the old one
        keeps its lock until it is closed, and an adopter that waited for it finds another file.
        """
        draft = _draft_of(self.path)
        handle = locked_new(draft)
        places: dict[Key, tuple[int, int]] = {}
        size = 0
        try:
            for key, place in self._places.items():
                line = read_at(self._handle, *place)
                write_whole(handle, line)
                places[key] = (size, len(line))
                size += len(line)
            draft.replace(self.path)
        except BaseException:
            os.close(handle)
            draft.unlink(missing_ok=True)
            raise
        os.close(self._handle)
        self._handle, self._places = handle, places
        self._size = self._live_bytes = size

    def _load(self) -> None:
        for offset, line in lines_of(self._handle):
            self._size = offset + len(line)
            entry = decoded(line)
            if entry is None or not self._replay(entry, offset, len(line)):
                self.bad_lines += 1
        if self._size and read_at(self._handle, self._size - 1, 1) != b"\n":
            # the torn end of a killed writer; our first line must not become part of it
            os.ftruncate(self._handle, self._size - len(line))
            self._size -= len(line)

    def _replay(self, entry: dict[str, Any], offset: int, length: int) -> bool:
        put, dropped = entry.get("put"), entry.get("drop")
        if isinstance(put, list):
            key = tuple(map(str, put))
            self._forget(key)
            self._places[key] = (offset, length)
            self._live_bytes += length
        elif isinstance(dropped, list):
            for gone in dropped:
                self._forget(tuple(map(str, gone)) if isinstance(gone, list) else ())
        return isinstance(put, list) or isinstance(dropped, list)


def _draft_of(path: Path) -> Path:
    # a name of its own each time: a process killed while it compacted has left its draft
    return path.with_suffix(f".{os.urandom(4).hex()}{DRAFT_SUFFIX}")
