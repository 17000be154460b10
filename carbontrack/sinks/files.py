"""Text files to which many threads and processes append whole lines.

Each line is one `write` to a descriptor in append mode, which the kernel keeps whole and apart
from all others on local file systems. The file is opened for each line: that costs a few
microseconds, no line is lost to a file that was moved, deleted or rotated, and no descriptor is
inherited by a fork. While a line is being written, its beginning may already be in the file: an
apparently truncated line is checked again before it is treated as one. A killed writer may leave a
truncated line between another's check and its write, so if another process has written in the
meantime, the check is repeated after the write. On a network file system appending is not atomic,
so each machine has a separate file there. Whether a file can be an output is checked before
anything is measured.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from carbontrack.errors import ConfigError, SinkError
from carbontrack.record import Record
from carbontrack.sinks.buffered import BufferedSink
from carbontrack.system.clock import SystemClock
from carbontrack.system.files import (
    behind_link,
    folder_behind_links,
    obstacle_to_writing,
    real_path,
)
from carbontrack.system.host import boot_id
from carbontrack.system.interrupts import pass_on, suppressed
from carbontrack.system.log import warn_user

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal

_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs"}) | {
    f"fuse.{name}" for name in ("sshfs", "s3fs", "gcsfuse", "rclone", "goofys", "blobfuse2")
}
"""Types whose clients append at the size that they last saw (open(2), O_APPEND; NFS FAQ A9).
Lustre, GPFS and Ceph are absent: their O_APPEND is atomic between machines."""


def remote_filesystem(directory: Path, *, procfs: Path = Path("/proc")) -> str | None:
    """The type of the network file system of `directory`; None if it is local or not known."""
    try:
        mounts = (procfs / "self/mountinfo").read_text(errors="surrogateescape")
    except OSError as error:
        pass_on(error)
        return None
    whole = real_path(directory) + "/"
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4]).rstrip("/") + "/"
        if whole.startswith(point) and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind if kind in _REMOTE else None


def _unescaped(point: str) -> str:
    # proc(5): space, tab, newline and backslash stand as three octal digits
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(escape, character)
    return point


_FLAGS = os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_BOM = b"\xef\xbb\xbf"


class SharedFile:
    """A file of lines that begins with a header.

    A file with another header, such as that of an older version or another program, is left as it
    is: `path` is then a name next to it that contains `tag`, and `original` the name that was
    given.
    """

    def __init__(
        self, path: Path, *, header: bytes = b"", tag: str = "", settled: bool = True
    ) -> None:
        self.original = self.path = path
        self._header = header
        self._tag = tag
        if settled:
            self.settle()

    def settle(self) -> None:
        """Set `path` to the first name that is free or whose file has our header; creates nothing.

        Raises:
            OSError: a file exists and cannot be read.
            SinkError: a hundred names are taken by files with other headers.
        """
        for number in range(100):
            self.path = self._name(number)
            try:
                handle = os.open(self.path, os.O_RDONLY | _FLAGS)
            except FileNotFoundError:
                return
            try:
                if self._has_header(_read_at(handle, len(self._header) + 5, 0)):
                    return
            finally:
                os.close(handle)
        raise SinkError(
            f"{self.original} and 99 files with names derived from it have different columns; move "
            "them"
        )

    def append(self, line: bytes) -> None:
        """Append one line, which ends in a line feed.

        Raises:
            OSError: it could not be written, or only in part; the part is on a line of its own,
                which readers skip.
            SinkError: there is no file with our header, and no free name for one.
        """
        handle = self._open()
        try:
            end = os.fstat(handle).st_size
            if not (_is_whole_before(handle, end) and written_apart(handle, line, end)):
                _append_below_cut(handle, line)
        finally:
            os.close(handle)

    def _open(self) -> int:
        for _ in range(100):
            try:
                handle = os.open(self.path, os.O_RDWR | _FLAGS)
            except FileNotFoundError:
                self._create()
                continue
            try:
                if self._ready(handle):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
            self.settle()
        raise SinkError(f"{self.path} is replaced faster than it can be opened")

    def _ready(self, handle: int) -> bool:
        """Whether the open file has our header, which is completed if it is cut off."""
        start = _read_at(handle, len(self._header) + 5, 0)
        if not self._has_header(start):
            return False
        if len(start) < len(self._header):
            self._complete_header(handle)
        return True

    def _has_header(self, start: bytes) -> bool:
        """Whether the file begins with our header, which a full disk may have cut off."""
        plain = start.removeprefix(_BOM).replace(b"\r\n", b"\n")
        return plain.startswith(self._header) or self._header.startswith(start)

    def _complete_header(self, handle: int) -> None:
        with locked(handle):
            start = _read_at(handle, len(self._header), 0)
            if self._header.startswith(start):
                write_whole(handle, self._header[len(start) :])

    def _create(self) -> None:
        """Create the file with its header, unless another process was faster.

        The header is written to a file of another name, which is then linked to the final one:
        no process sees the file without it, and a link never replaces a file. Where the name is a
        symbolic link to a file that does not exist, that file is created.
        """
        created = behind_link(self.path)
        draft = created.with_name(f".{created.name}.{os.urandom(6).hex()}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
        try:
            try:
                write_whole(handle, self._header)
            finally:
                os.close(handle)
            os.link(draft, created)
        except FileExistsError:
            pass
        except OSError as error:
            pass_on(error)
            if error.errno not in _NO_LINKS:
                raise
            self._create_empty()
        finally:
            draft.unlink(missing_ok=True)

    def _create_empty(self) -> None:
        # a file system without links, such as FAT: the first process that gets the lock writes it
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | _FLAGS, 0o666))

    def _name(self, number: int) -> Path:
        if number == 0:
            return self.original
        tag = self._tag if number == 1 else f"{self._tag}-{number}"
        return self.original.with_name(f"{self.original.stem}.{tag}{self.original.suffix}")


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def locked(handle: int) -> Iterator[None]:
    """Hold the lock of an open file, if the system has locks."""
    _flock(handle, "LOCK_EX")
    try:
        yield
    finally:
        _flock(handle, "LOCK_UN")


def _flock(handle: int, operation: str) -> None:
    try:
        import fcntl

        fcntl.flock(handle, getattr(fcntl, operation))
    except (ImportError, OSError) as error:
        pass_on(error)
        return


def _read_at(handle: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread") and type(os) is ModuleType:  # a faked module has the real `pread`
        return os.pread(handle, size, offset)
    os.lseek(handle, offset, os.SEEK_SET)
    return os.read(handle, size)


def _is_whole_before(handle: int, end: int) -> bool:
    """Whether the line in front of a place has its end; else it was cut, or is being written."""
    return end == 0 or _read_at(handle, 1, end - 1) == b"\n"


def written_apart(handle: int, line: bytes, end: int) -> bool:
    """Append a line to a file that ended at `end`; False if it has continued a line cut off since.

    The kernel writes one line after the other, so what is in front of this one is not being written
    any more.
    """
    write_whole(handle, line)
    if os.fstat(handle).st_size == end + len(line):
        return True  # nobody else has written
    return _is_whole_before(handle, os.lseek(handle, 0, os.SEEK_CUR) - len(line))


def _append_below_cut(handle: int, line: bytes) -> None:
    """Append a line to a file whose last line seems to be cut off, and leave that on its own.

    Those who see it do this one after the other: only the first has to end it.
    """
    with locked(handle):
        write_whole(handle, b"\n" + line if _is_cut(handle) else line)


_LOOKS = 100
_BETWEEN_LOOKS_S = 0.001
_SEEK_HOLE = getattr(os, "SEEK_HOLE", None)


def _is_cut(handle: int) -> bool:
    """Whether a last line without a line feed stays so, as after a short write on a full disk.

    A write is not atomic for those who read: the kernel copies page after page, and moves the end
    of the file each time. It does that under the lock of the file, and looking for a hole waits for
    this lock. So the line is cut if the file is no longer after two such looks.
    """
    for _ in range(_LOOKS):
        before = _size_without_writers(handle)
        if _is_whole_before(handle, before):
            return False
        SystemClock.wait(threading.Event(), _BETWEEN_LOOKS_S)  # for systems without such a lock
        if _size_without_writers(handle) == before:
            return True
    return True


def _size_without_writers(handle: int) -> int:
    if _SEEK_HOLE is not None:
        with suppressed(OSError):  # an empty file, or a system without it
            os.lseek(handle, 0, _SEEK_HOLE)
    return os.fstat(handle).st_size


def write_whole(handle: int, content: bytes) -> None:
    """Write all of it at once.

    Raises:
        OSError: it did not fit; a part of it may have been written.
    """
    written = os.write(handle, content)
    if written != len(content):
        # the rest could end up after another process's line
        raise OSError(errno.ENOSPC, f"only {written} of {len(content)} bytes could be written")


class SharedFileSink(BufferedSink[bytes]):
    """A sink of one line for each record, in a text file shared with other processes.

    Any number of threads, processes and runs may write to one file at a time. A relative path
    starts at the working directory at construction.

    Raises:
        ConfigError: no file can be written at `path`; the message has the reason and what to do.
    """

    header = b""
    """The first line of the file."""
    tag = ""
    """Added to the name if a file with another header exists."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        journal: Journal | None = None,
        procfs: Path = Path("/proc"),
    ) -> None:
        self._file = shared_file(path, header=self.header, tag=self.tag, procfs=procfs)
        super().__init__(self.line_of, self._file.append, journal=journal)

    @classmethod
    def unchecked(cls, path: Path, *, journal: Journal | None) -> SharedFileSink:
        """A sink for a file that cannot be written for now, which has been reported.

        Records are kept until it can be, and lost only if the journal cannot be written either.
        """
        sink = cls.__new__(cls)
        sink._file = SharedFile(path, header=cls.header, tag=cls.tag, settled=False)
        BufferedSink.__init__(sink, cls.line_of, sink._file.append, journal=journal)
        sink._is_told = True
        return sink

    @staticmethod
    def line_of(record: Record) -> bytes:
        """The record as a line."""
        raise NotImplementedError

    @property
    def path(self) -> Path:
        """The file that the next record goes to, absolute."""
        return self._file.path


def shared_file(
    path: str | os.PathLike[str], *, header: bytes = b"", tag: str = "", procfs: Path
) -> SharedFile:
    """The text file at `path`, after all checks that are possible before a write.

    Raises:
        ConfigError: no record could be written there; the message has the reason and what to do.
    """
    checked = path_for_this_machine(path, procfs=procfs)
    try:
        file = SharedFile(checked, header=header, tag=tag)
    except (OSError, SinkError) as error:
        pass_on(error)
        raise ConfigError(f"cannot use {checked} as output: {error}") from error
    if file.path != checked:
        warn_user(
            f"{checked} has {_whose_columns(checked)} and is not changed; records go to "
            f"{file.path.name} in the same directory. `carbontrack report` without a file reads "
            "both."
        )
    return file


def _whose_columns(path: Path) -> str:
    try:
        with path.open("rb") as file:
            header = file.readline(8192)
    except OSError as error:
        pass_on(error)
        return "other columns"
    if b"energy_consumed" in header and b"emissions_rate" in header:
        return "CodeCarbon's columns"
    return "other columns (of another version or program)"


def path_for_this_machine(path: str | os.PathLike[str], *, procfs: Path) -> Path:
    """The checked path; on a network file system, a name next to it that only this machine uses.

    Raises:
        ConfigError: no record could be written there; the message has the reason and what to do.
    """
    checked = checked_path(path)
    folder = behind_link(checked).parent
    kind = remote_filesystem(folder, procfs=procfs)
    if kind is None:
        return checked
    boot = (boot_id(procfs) or "unknown")[:8]  # enough to tell the clients of a server apart
    own = checked.with_name(f"{checked.stem}.boot-{boot}{checked.suffix}")
    warn_user(
        f"{folder} is on {kind}, where machines can corrupt each other's writes to one file; this "
        f"machine writes to {own.name} instead. Read all of these files together."
    )
    return own


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The path of an output file as absolute, if a file can be written there.

    Raises:
        ConfigError: it cannot; the message has the reason and what to do.
    """
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ConfigError(f"output {text!r} is not a file name; give one such as 'emissions.csv'")
    absolute = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - keeps symlinks
    try:
        obstacle = obstacle_to_writing(absolute, access=os.R_OK | os.W_OK)
        reason = obstacle and _REASONS[obstacle].format(
            path=absolute, directory=folder_behind_links(absolute)
        )
    except OSError as error:
        pass_on(error)
        reason = error.strerror or str(error)
        if error.errno == errno.ENAMETOOLONG:
            reason = "the name is too long; choose a shorter one"
    if reason is not None:
        raise ConfigError(f"cannot write records to {absolute}: {reason}")
    return absolute


_REASONS = {
    "no directory": "the directory {directory} does not exist; make it with: mkdir -p {directory}",
    "parent is a file": "{directory} is not a directory",
    "directory not writable": "the directory {directory} is not writable for this user; choose "
    "another output",
    "is a directory": "it is a directory; name a file in it, such as {path}/emissions.csv",
    "not a regular file": "it is not a regular file",
    "link to itself": "it is a symbolic link that points back to itself; remove it",
    "no permission": "the file is not readable and writable for this user; choose another, or "
    "chmod u+rw",
}
