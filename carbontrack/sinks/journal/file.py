"""One journal file: keys and their entries in an append-only log, locked by one process at a time.

Each change is one line, `crc32 json`, written by one `write`: `{"put": key, …}`, `{"drop": [key,
…]}`, or `{"update": key, "record": …}`: the columns in which a record differs by now from the one
that was put. An update needs the put only, not the updates before it. The common part of many
entries is a separate line before the first of them, `{"facts": name, …}`; they refer to that name.

A killed process leaves at most one incomplete line, and readers skip every line with a wrong
checksum. The lock (flock) of the open file shows that its process runs; the kernel releases it when
the last process that has the file open ends, even by SIGKILL. Files are never mapped into memory:
on a full disk that kills the program with SIGBUS, where `write` returns an error.

The directory may contain anything: nothing there is waited for, followed, or read beyond the size
limit of a journal. A file that is not a journal, or has lines that are not entries, is set aside.

The functions in the first half read, write and lock single lines and files; `JournalFile` is built
on them.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from carbontrack.record import plain
from carbontrack.sinks.journal.names import DRAFT_SUFFIX, named, remove, set_aside
from carbontrack.sinks.journal.places import (
    Extent,
    Key,
    Places,
    SharedFacts,
    completed,
    facts_in,
    updated,
)
from carbontrack.system.forking import remember
from carbontrack.system.interrupts import pass_on, suppressed

# imported early, since a process without free descriptors could not load it any more
try:
    import fcntl

    _HAS_LOCKS = True
except ImportError:  # without flock nobody can tell whether the process of a journal still runs
    _HAS_LOCKS = False

LINE_LIMIT = 1 << 20
"""Bytes above which a line is not an entry."""
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""Errors that are not about the file: no descriptor or memory is left, or a disk fails."""

_NOT_A_FILE = (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM)
"""Errors that mean this user can never open it: a link, a directory, a socket, no permission."""

_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
"""Opening a named pipe does not wait for its other end."""
APPEND = os.O_RDWR | os.O_APPEND | _FLAGS


class NotAJournalError(Exception):
    """A file with the name of a journal cannot be read, now or later; with the reason."""


class JournalFullError(OSError):
    """An entry does not fit into the journal, which has reached its limit."""

    def __init__(self) -> None:
        super().__init__(errno.EDQUOT, "the journal is full")


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
        entry = json.loads(text, parse_constant=_unknown)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _unknown(_: str) -> None:
    """NaN and the infinities, for which JSON has no word, in a label or in a number."""


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
    except OSError as error:
        pass_on(error)
        return False
    return True


def is_locked(handle: int) -> bool:
    """Whether another process holds the lock of an open file; False if locking fails."""
    if not _HAS_LOCKS:
        return False
    try:  # together with others who look, and gone again when the caller closes the file
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        pass_on(error)
    return False


def wait_for_lock(handle: int) -> None:
    """Lock an open file as soon as no other process holds the lock, where the system has locks."""
    if _HAS_LOCKS:
        with suppressed(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)


def open_to_read(path: Path) -> int:
    """Open the journal of a process that may still run; anything but a file is not waited for.

    Raises:
        OSError: it cannot be opened, is not a regular file, or is longer than a journal can be.
    """
    handle = os.open(path, os.O_RDONLY | _AT_ONCE | _FLAGS)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_size > READ_LIMIT:
        os.close(handle)
        raise OSError(errno.EINVAL, _NOT_REGULAR, str(path))
    return handle


def is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one with this name."""
    try:
        there = path.lstat()
    except OSError as error:
        pass_on(error)
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where the system can do that.

    Raises:
        OSError: the disk does not take them.
    """
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY | _FLAGS)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_deleted(handle: int) -> bool:
    """Whether the file was deleted while open; what is written to it would be lost."""
    return os.fstat(handle).st_nlink == 0


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


Entry = Mapping[str, Any]

SIZE_LIMIT = 64 << 20
"""Bytes above which a journal accepts no further entry."""
READ_LIMIT = 2 * SIZE_LIMIT
"""Bytes above which a file is not a journal."""
_KEY_LIMIT = 500_000
"""Entries above which a file is not a journal: so many records do not fit into one."""
_NOT_REGULAR = "it is not a regular file, or it is too large"
COMPACT_ABOVE = 256 << 10
"""Bytes above which a file whose entries are mostly outdated is compacted."""


def entry_line(key: Key, entry: Entry) -> bytes:
    """The entry as the line that `JournalFile.put_lines` takes."""
    return encoded({"put": key, **entry})


def update_line(key: Key, columns: Mapping[str, Any]) -> bytes:
    """Columns that differ from those under the key, as `JournalFile.update_line` takes them."""
    return encoded({"update": key, "record": columns})


def _key_of(texts: object) -> Key | None:
    """The key in an entry; None where it is none."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    return tuple(texts) or None


def _opened(path: Path) -> int | None:
    """Open a possible journal, whatever it is, without waiting; None if that fails for now.

    Raises:
        NotAJournalError: it is a link or a directory, for example.
        OSError: for lack of descriptors, for example.
    """
    if not _HAS_LOCKS:
        return None
    try:
        return os.open(path, APPEND | _AT_ONCE)
    except OSError as error:
        pass_on(error)
        if error.errno in OUT_OF_RESOURCES:
            raise
        if error.errno in _NOT_A_FILE:
            raise NotAJournalError(error.strerror) from error
        return None


def _is_left(handle: int, path: Path) -> bool:
    """Lock an open journal; False if its process runs, or if it has been processed meanwhile.

    Raises:
        NotAJournalError: it is something else.
    """
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise NotAJournalError(_NOT_REGULAR)
    if not lock(handle) or not is_at(handle, path):
        return False
    if status.st_uid != os.geteuid():
        raise NotAJournalError("it belongs to another user")
    if os.fstat(handle).st_size > READ_LIMIT:
        raise NotAJournalError(_NOT_REGULAR)
    return True


def _entry_at(handle: int, extent: Extent | None) -> dict[str, Any] | None:
    return None if extent is None else decoded(read_at(handle, *extent))


class JournalFile:
    """A journal that this process has locked. Not thread-safe: `Journal` has a lock for that.

    Attributes:
        path, size: the file, and how many bytes it has.
        bad_lines: how many lines could not be read when it was opened.
        foreign_lines: how many lines and entries are not ours: then the file is set aside.
            on_set_aside: called with the path and the reason when that is done.
        is_synced: whether entries also outlast a loss of power once `sync` was called for them:
            compaction then waits for the disk as well.
    """

    def __init__(self, path: Path, handle: int, *, size_limit: int = SIZE_LIMIT) -> None:
        self.is_synced = False
        self.path = path
        self.bad_lines = self.foreign_lines = self.size = 0
        self.on_set_aside: Callable[[Path, str], object] | None = None
        self._handle, self._size_limit = handle, size_limit
        self._places = Places()

    @classmethod
    def create(cls, directory: Path, name: str, *, size_limit: int = SIZE_LIMIT) -> JournalFile:
        """A new, empty journal: the first of `name.0`, `name.1`, ... that is free.

        Raises:
            OSError: it cannot be created.
        """
        draft = directory / f"{name}.{os.urandom(8).hex()}{DRAFT_SUFFIX}"
        handle = locked_new(draft)
        try:
            path = named(draft, directory, name)  # only now that it is locked, others can find it
        except BaseException:
            os.close(handle)
            draft.unlink(missing_ok=True)
            raise
        return cls(path, handle, size_limit=size_limit)

    @classmethod
    def acquire(cls, path: Path) -> JournalFile | None:
        """As `left_at`; None also where there is no journal."""
        with suppressed(NotAJournalError):
            return cls.left_at(path)
        return None

    @classmethod
    def left_at(cls, path: Path) -> JournalFile | None:
        """Open and lock the journal of a process that has ended; None if the process still runs.

        Also None if it has just been processed and deleted by another process.

        Raises:
            NotAJournalError: it is something else, or nothing in it can be read.
            OSError: it could not be opened, for lack of descriptors for example, or not be read.
        """
        handle = _opened(path)
        if handle is None:
            return None
        journal = cls(path, handle)
        remember(journal)
        try:
            if _is_left(handle, path):
                journal._load()
                return journal
        except BaseException:
            journal.abandon()
            raise
        journal.abandon()
        return None

    def __len__(self) -> int:
        return len(self._places.entries)

    def keys(self, kind: str | None = None) -> list[Key]:
        """The live keys that begin with `kind`, or all, oldest first."""
        return [key for key in self._places.entries if kind in (key[0], None)]

    def get(self, key: Key) -> dict[str, Any] | None:
        """The entry of a live key; None if it can no longer be read."""
        places = self._places
        entry = _entry_at(self._handle, places.entries.get(key))
        facts, update = places.facts_of(key), places.updates.get(key)
        if entry is not None and facts is not None:
            entry = completed(entry, _entry_at(self._handle, facts))
        if entry is None or update is None:
            return entry
        return updated(entry, _entry_at(self._handle, update))

    def put(self, key: Key, entry: Entry) -> None:
        """Store the entry under the key, in place of the one before.

        Raises:
            OSError: it could not be written, or the journal is full; nothing has changed.
        """
        self.put_lines({key: entry_line(key, entry)})

    def put_lines(self, lines: Mapping[Key, bytes], facts: SharedFacts | None = None) -> None:
        """As `put`, for entries that are encoded already, and may name facts.

        Raises:
            OSError: as `put`.
        """
        whole = b"".join(lines.values())
        if max(map(len, lines.values())) > LINE_LIMIT:
            raise OSError(errno.EFBIG, f"an entry in {len(whole)} bytes")
        self._make_room(len(whole) + (len(facts.line) if facts else 0))
        self._append(whole, facts)
        offset = self.size - len(whole)
        for key, line in lines.items():
            self._places.put(key, (offset, len(line)), facts and facts.name)
            offset += len(line)

    def update_line(self, key: Key, line: bytes) -> bool:
        """Add an update, encoded already, in place of the one before; False for an unknown key.

        Raises:
            OSError: as `put`.
        """
        if key not in self._places.entries:
            return False
        self._make_room(len(line))
        self._append(line)
        self._places.update(key, (self.size - len(line), len(line)))
        return True

    def drop(self, keys: Iterable[Key]) -> int:
        """Remove those of the keys that exist; how many.

        Raises:
            OSError: it could not be written, and later readers of the file see the keys again.
        """
        places = self._places
        known = [key for key in keys if key in places.entries]
        for key in known:
            places.forget(key)
        if known and (places.entries or self.size < COMPACT_ABOVE or self.foreign_lines):
            self._append(encoded({"drop": known}))
            self._make_room(0)
        elif known:
            os.ftruncate(self._handle, 0)
            self.size = 0
            places.facts.clear()
        return len(known)

    def sync(self) -> None:
        """Wait until the disk has all entries, and the name of the file; sets `is_synced`.

        Raises:
            OSError: the disk does not take them.
        """
        os.fsync(self._handle)
        if not self.is_synced:
            sync_folder(self.path.parent)
            self.is_synced = True

    def disown(self, key: Key) -> None:
        """Leave an entry in the file that cannot be understood, and no longer take it for one."""
        if key in self._places.entries:
            self._places.forget(key)
            self.foreign_lines += 1

    def close(self) -> None:
        """Close the file, and delete it if it has no live keys, or set it aside."""
        if self._handle < 0:
            return
        try:
            # as on a disk that is read-only by now: the next process does it
            with suppressed(OSError):
                if not self._places.entries and not is_deleted(self._handle):
                    _put_away(self)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Only close the descriptor, as a forked child does with its parent's."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    forget_parent = abandon

    def _append(self, line: bytes, facts: SharedFacts | None = None) -> None:
        status = os.fstat(self._handle)
        self.size = status.st_size  # a handler may have raised right after the last write
        if not status.st_nlink:
            self._rewrite()
        new: dict[str, Extent] = {}
        if facts is not None and facts.name not in self._places.facts:
            new, line = {facts.name: (self.size, len(facts.line))}, facts.line + line
        try:
            write_whole(self._handle, line)
        except OSError:
            os.ftruncate(self._handle, self.size)
            raise
        self._places.facts.update(new)
        self.size += len(line)

    def _make_room(self, wanted: int) -> None:
        if self.foreign_lines:
            return  # which would be lost
        live_bytes = self._places.live_bytes
        if self.size + wanted > COMPACT_ABOVE and live_bytes * 2 < self.size:
            self._rewrite()
        if live_bytes + wanted > self._size_limit:
            raise JournalFullError
        if self.size + wanted > self._size_limit:
            self._rewrite()

    def _rewrite(self) -> None:
        """Compact: write the live entries to a new file, which replaces the old one.

        The new file is locked before it has the name, so no other process can acquire it; the old
        one stays locked until it is closed, and `acquire` notices that the name is another file's.
        """
        draft = _draft_of(self.path)
        handle, size = locked_new(draft), 0

        def copy(extent: Extent) -> int:
            nonlocal size
            write_whole(handle, read_at(self._handle, *extent))
            size += extent[1]
            return size - extent[1]

        try:
            places = self._places.moved(copy)
            if self.is_synced:
                os.fsync(handle)
            draft.replace(self.path)
        except BaseException:
            os.close(handle)
            draft.unlink(missing_ok=True)
            raise
        os.close(self._handle)
        self._handle, self._places, self.size = handle, places, size
        if self.is_synced:
            sync_folder(self.path.parent)

    def _load(self) -> None:
        line = b""
        for offset, line in lines_of(self._handle):
            self.size = offset + len(line)
            entry = decoded(line)
            if entry is None or not _replay(self._places, entry, offset, len(line)):
                self.bad_lines += 1
                self.foreign_lines += line.endswith(b"\n") or not _is_torn(line)
            if len(self._places) > _KEY_LIMIT:
                raise NotAJournalError("it has more entries than a journal can")
        if self.foreign_lines and not self._places.entries:
            raise NotAJournalError(FOREIGN)
        if self.size and not line.endswith(b"\n"):  # which the next line must not continue
            self.size += _ended(self._handle, line, self.size)


def _replay(places: Places, entry: dict[str, Any], offset: int, length: int) -> bool:
    """Add the entry of a line; False if it is not one."""
    dropped = entry.get("drop")
    if isinstance(dropped, list):
        for gone in dropped:
            places.forget(_key_of(gone) or ())
        return True
    key, facts = _key_of(entry.get("update") or entry.get("put")), facts_in(entry)
    if key is None and facts is not None:
        places.facts[facts] = (offset, length)
    elif key is None:
        return False
    elif "update" not in entry:
        places.put(key, (offset, length), facts)
    elif key in places.entries:
        places.update(key, (offset, length))
    return True


def _is_torn(line: bytes) -> bool:
    """Whether it may be the line that a killed process has not written to its end."""
    checksum, _, text = line.partition(b" ")
    is_begun = (text.startswith(b"{") and len(checksum) == 8) or (not text and len(checksum) <= 8)
    return is_begun and not checksum.strip(b"0123456789abcdef")


def _ended(handle: int, line: bytes, size: int) -> int:
    """Cut off an incomplete last line, or end it if no killed writer has left it; how much more."""
    if _is_torn(line):
        os.ftruncate(handle, size - len(line))
        return -len(line)
    write_whole(handle, b"\n")
    return 1


def _put_away(file: JournalFile) -> None:
    """Delete a journal without live keys, or set it aside if it has foreign lines."""
    if not file.foreign_lines:
        remove(file.path)
    elif set_aside(file.path) is not None and file.on_set_aside is not None:
        file.on_set_aside(file.path, FOREIGN)


FOREIGN = "it contains lines that are not journal entries"


def _draft_of(path: Path) -> Path:
    # a new name each time: a process that was killed while compacting has left its draft
    return path.with_suffix(f".{os.urandom(4).hex()}{DRAFT_SUFFIX}")
