"""Journals, one level down: checksummed lines, locks, and reads and writes that are whole.

A line is `crc32 json`. The lock is flock's: it belongs to the open file, and the kernel releases
it when the last process that has the file open dies, however that comes.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from carbontrack.records import plain

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
