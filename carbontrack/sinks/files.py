"""A text file to which many threads, processes and programs append whole lines.

Each line is one `write` to a descriptor in append mode, which the kernel keeps whole and apart
from all others on local file systems. The file is opened for each line: that costs a few
microseconds, and a file that was moved, deleted or rotated away never swallows a line; nothing is
held over a fork.

Which file systems are shared with other machines, where appending is not atomic.

Whether a file can be an output at all, checked before anything is measured.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from carbontrack.errors import ConfigError, SinkError
from carbontrack.system.host import boot_id
from carbontrack.system.log import say_aloud

_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs"}) | {
    f"fuse.{name}" for name in ("sshfs", "s3fs", "gcsfuse", "rclone", "goofys", "blobfuse2")
}
"""Types whose clients place an append by the size that they last saw (open(2), O_APPEND; NFS FAQ
A9). Lustre, GPFS and Ceph are absent: they keep O_APPEND atomic between machines."""


def remote_filesystem(directory: Path, *, procfs: Path = Path("/proc")) -> str | None:
    """The type of the remote file system that holds `directory`; None if local or not known."""
    try:
        mounts = (procfs / "self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return None
    place = os.path.realpath(directory) + "/"
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4]).rstrip("/") + "/"
        if place.startswith(point) and len(point) >= len(best):
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
    """A file of lines under one header; `path` is where they go.

    A file that stands under another header, such as that of an older version or of another
    program, is left as it is: `path` then becomes a name beside it that contains `tag`, and
    `original` keeps the first one.
    """

    def __init__(self, path: Path, *, header: bytes = b"", tag: str = "") -> None:
        self.original = self.path = path
        self._header = header
        self._tag = tag
        self.settle()

    def settle(self) -> None:
        """Find the first of the names in line that is free or has our header; creates nothing.

        Raises:
            OSError: a file is there and cannot be read.
            SinkError: a hundred names are taken by files with other headers.
        """
        for number in range(100):
            self.path = self._name(number)
            try:
                handle = os.open(self.path, os.O_RDONLY | _FLAGS)
            except FileNotFoundError:
                return
            try:
                if self._stands_under(_start(handle, len(self._header) + 5)):
                    return
            finally:
                os.close(handle)
        raise SinkError(f"{self.original} and 99 names beside it hold other columns; move them")

    def append(self, line: bytes) -> None:
        """Add one line, which ends in a line feed.

        Raises:
            OSError: it could not be written, or not all of it; what is there of it then stands on
                a line of its own, which readers skip.
            SinkError: there is no file with our header, and no name free for one.
        """
        handle = self._open()
        try:
            if _ends_midline(handle):
                line = b"\n" + line
            _write_whole(handle, line)
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
        """Whether the open file has our header, which it is given where it is empty."""
        start = _start(handle, len(self._header) + 5)
        if not self._stands_under(start):
            return False
        if len(start) < len(self._header):
            self._complete_header(handle)
        return True

    def _stands_under(self, start: bytes) -> bool:
        """Whether our header, or a beginning of it that a full disk cut off, starts the file."""
        plain = start.removeprefix(_BOM).replace(b"\r\n", b"\n")
        return plain.startswith(self._header) or self._header.startswith(start)

    def _complete_header(self, handle: int) -> None:
        with _Lock(handle):
            start = _start(handle, len(self._header))
            if self._header.startswith(start):
                _write_whole(handle, self._header[len(start) :])

    def _create(self) -> None:
        """Let the file appear with its header in it; where another process was faster, do nothing.

        The header is written to a file of another name, which is then linked to the real one:
        nobody sees the file without it, and a link never replaces a file.
        """
        draft = self.path.with_name(f".{self.path.name}.{os.urandom(6).hex()}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
        try:
            try:
                _write_whole(handle, self._header)
            finally:
                os.close(handle)
            os.link(draft, self.path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._create_empty()
        finally:
            draft.unlink(missing_ok=True)

    def _create_empty(self) -> None:
        # a file system without links, such as FAT: the first to hold the lock writes the header
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | _FLAGS, 0o666))

    def _name(self, number: int) -> Path:
        if number == 0:
            return self.original
        tag = self._tag if number == 1 else f"{self._tag}-{number}"
        return self.original.with_name(f"{self.original.stem}.{tag}{self.original.suffix}")


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class _Lock:
    """The lock of an open file while a header is written; nothing where the system has none."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        self._do("LOCK_EX")

    def __exit__(self, *_: object) -> None:
        self._do("LOCK_UN")

    def _do(self, operation: str) -> None:
        try:
            import fcntl

            fcntl.flock(self._handle, getattr(fcntl, operation))
        except (ImportError, OSError):
            return


def _start(handle: int, size: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, size)


def _ends_midline(handle: int) -> bool:
    """Whether somebody's last line lacks its end, as after a short write on a full disk."""
    if os.lseek(handle, 0, os.SEEK_END) == 0:
        return False
    os.lseek(handle, -1, os.SEEK_END)
    return os.read(handle, 1) != b"\n"


def _write_whole(handle: int, content: bytes) -> None:
    written = os.write(handle, content)
    if written != len(content):
        # a second write could land behind another process's line
        raise OSError(errno.ENOSPC, f"only {written} of {len(content)} bytes fitted")


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
    boot = (boot_id(procfs) or "unknown")[:8]  # enough to tell the clients of a server apart
    own = place.with_name(f"{place.stem}.boot-{boot}{place.suffix}")
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
