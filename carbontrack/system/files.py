"""Files that are replaced in one step, or that only their owner may read, and where they can be.

`package_bytes` and `package_text` read the package's own files.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from _frozen_importlib_external import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.system.interrupts import pass_on

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, BinaryIO, Literal

    Obstacle = Literal[
        "no directory",
        "parent is a file",
        "directory not writable",
        "is a directory",
        "not a regular file",
        "no permission",
        "link to itself",
    ]
    """Why a file cannot be written."""


_ROOT, _SEPARATOR = __file__[: __file__.rindex("system")], __file__[__file__.rindex("files.") - 1]


def package_bytes(path: str) -> bytes:
    """A file of the package by its path in it, "data/zones.csv", wherever the package lies.

    The import system reads it: from the real file system also where a test has put another before
    the program, and otherwise as this module was imported, from a zip file or an executable.

    Raises:
        OSError: the package has no such file.
    """
    path = _ROOT + path.replace("/", _SEPARATOR)
    try:
        return SourceFileLoader(__name__, path).get_data(path)
    except OSError as error:
        pass_on(error)
        loader: Any = __spec__ and __spec__.loader
        return bytes(loader.get_data(path))


def package_path(path: str) -> str:
    """Where a file or folder of the package is, by its path in it; absolute."""
    return os.path.abspath(_ROOT + path.replace("/", _SEPARATOR))  # noqa: PTH100 - a text, for text


def package_text(path: str) -> str:
    """The text of a file of the package, its lines ended by single newlines."""
    return package_bytes(path).decode("utf-8").replace("\r\n", "\n")


def make_private_folder(folder: Path) -> None:
    """Make a folder and its missing parents, each for its owner only (0700).

    The XDG base directory specification asks for that. An existing folder is left as it is.

    Raises:
        OSError: it cannot be made, or a file has its name.
    """
    try:
        _make_privately(folder)
    except FileNotFoundError:
        # mkdir(parents=True) would make the parents with the default mode
        if folder.parent == folder:
            raise
        make_private_folder(folder.parent)
        _make_privately(folder)


def _make_privately(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(0o700)  # whatever the umask takes away


def own_folder(folder: Path, *, create: bool = True) -> Path:
    """The folder, which only this user may read: it is made, or its mode is set.

    Raises:
        OSError: it cannot be created, belongs to another user, or is a link.
    """
    if create:
        make_private_folder(folder)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is a link or a file", str(folder))
    if os.name == "posix":
        if status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    return folder


def open_own(path: Path) -> BinaryIO:
    """Open a regular file of this user for reading; a link is not followed.

    Raises:
        OSError: it cannot be opened, is something else, or belongs to another user.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):  # a pipe would wait for its writer
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags)
    try:
        check_own_file(handle, path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


READING = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Flags of `os.open`; opening a pipe does not wait for its writer."""
_PART_BYTES = 1 << 20


def read_file(path: str | Path) -> bytes:
    """The content of a regular file; a pipe is not waited for, and no device is read forever.

    Raises:
        OSError: it cannot be opened or read, or is something else.
    """
    return read_opened(os.open(path, READING), path)


def read_at_once(path: str, limit: int = 16384) -> bytes:
    """The beginning of a file of procfs or sysfs, which the kernel hands out in one piece.

    Three system calls, where `Path.read_bytes` makes nine.

    Raises:
        OSError: it cannot be opened or read.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, limit)
    finally:
        os.close(handle)


def read_opened(handle: int, path: str | Path) -> bytes:
    """As `read_file`, of a file that has been opened with `READING`, and is closed."""
    try:
        _check_regular(handle, path)
        parts = []
        while part := os.read(handle, _PART_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def _check_regular(handle: int, path: str | Path) -> None:
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(number, "it is not a regular file", str(path))


def trouble_of_own_folder(folder: Path, *, inside: str = "journal") -> str | None:
    """Why nothing can be kept in a folder of this user's; None where it can. Nothing is made.

    `inside` is the folder in it that must be this user's alone; the folder itself may be another's.
    """
    try:
        return _trouble_of_own(folder / inside)
    except (OSError, ValueError) as error:  # a name that is too long, a link to itself
        pass_on(error)
        return getattr(error, "strerror", None) or str(error)


def _trouble_of_own(private: Path) -> str | None:
    place = private
    while not _is_there(place) and place != place.parent:
        place = place.parent
    status = place.stat()  # of what a link leads to
    if not stat.S_ISDIR(status.st_mode):
        return f"{place} is not a directory"
    if place == private and os.name == "posix":
        if place.is_symlink():
            return f"{place} is a link"
        if status.st_uid != os.geteuid():
            return f"{place} belongs to another user"
    is_effective = os.access in os.supports_effective_ids
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=is_effective):
        return f"{place} cannot be written"
    return None


def _is_there(path: Path) -> bool:
    try:
        os.lstat(path)  # not by pathlib: `pass_on` looks at each frame of an error
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        pass_on(error)
        return False
    return True


def closed_part(path: str | Path) -> str:
    """The part of a path behind which this process may not look; "" where it is open.

    A folder that this user may not enter, of another user for example.
    """
    part = ""
    for folder in (*reversed(Path(path).parents), Path(path)):
        try:
            folder.stat()
        except (OSError, ValueError) as error:
            pass_on(error)
            return part if isinstance(error, PermissionError) else ""
        part = str(folder)
    return ""


def check_own_file(handle: int, path: Path) -> None:
    """Check that an open file is a regular one of this user.

    Raises:
        OSError: it is not.
    """
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if os.name == "posix" and status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))


def folder_without_home(bases: Iterable[str] | None = None) -> Path | None:
    """A folder for a user without a home, in a temporary one; None if there is no safe one.

    It is made at once, where nobody else can replace it, or has put something there before.
    `bases`: the temporary folders, by default the system's.
    """
    name = f"carbontrack-{os.getuid()}"
    for base in _temporary_folders() if bases is None else bases:
        place = Path(real_path(base))
        try:
            if all(map(_only_we_can_change, (place, *place.parents))):
                found = own_folder(place / name)
                # one of before may lie on what is read-only now
                as_we_write = os.access in os.supports_effective_ids
                if os.access(found, os.W_OK, effective_ids=as_we_write):
                    return found
        except OSError as error:
            pass_on(error)
            continue
    return None


def _temporary_folders() -> tuple[str, ...]:
    import tempfile  # few users have no home

    found, usual = "", ("/tmp", "/var/tmp")  # noqa: S108 - each is looked at
    try:
        found = tempfile.gettempdir()  # raises where no folder can be written to
        is_working_folder = found == os.getcwd()  # noqa: PTH109 - text is enough
    except OSError as error:
        pass_on(error)
        is_working_folder = not found
    # where none is writable, `tempfile` takes the working folder, which may hold anything
    return usual if is_working_folder else (found, *usual)


def _only_we_can_change(folder: Path) -> bool:
    """Whether no other user but root can rename or remove what this user has in the folder."""
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        return False
    return bool(status.st_mode & stat.S_ISVTX) or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def replace_privately(path: Path, text: str) -> None:
    """As `replace_file`, for its owner only (0600), in a folder that is created if missing.

    Raises:
        OSError: as `replace_file`.
    """
    make_private_folder(path.parent)
    replace_file(path, text.encode(), mode=0o600)


def replace_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Create the file, or replace the one there in one step: no reader ever sees half of it.

    Raises:
        OSError: it could not be written; the file there before is unchanged.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(draft, flags, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)


def mode_of(path: str | os.PathLike[str]) -> int:
    """The mode of what lies there, 0 if nothing does.

    `Path.exists` and its siblings say False from Python 3.14 on where the kernel refuses to tell.

    Raises:
        OSError: it cannot be found out: the name is too long, a folder may not be entered.
    """
    try:
        return os.stat(path).st_mode  # noqa: PTH116 - a text does as well
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            raise
        return 0


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder; raises what `mode_of` does."""
    return stat.S_ISDIR(mode_of(path))


def obstacle_to_writing(path: Path, *, access: int = os.W_OK) -> Obstacle | None:
    """What keeps this process from writing to a file, or from creating it; None if nothing does.

    `access` is what an existing file must allow. Nothing is created.

    Raises:
        OSError: it cannot be found out, as for a name that is too long.
    """
    mode = mode_of(path)
    if not mode:
        return _obstacle_to_creating(path)
    if stat.S_ISDIR(mode):
        return "is a directory"
    if not os.access(path, access):
        return "no permission"
    return None if stat.S_ISREG(mode) else "not a regular file"


def behind_link(path: Path) -> Path:
    """The path that a file would have if it were created through the link `path`.

    That is `path` itself where it is no link.
    """
    return Path(real_path(path)) if path.is_symlink() else path


def folder_behind_links(path: Path) -> Path:
    """The folder in which the file `path` would be created, for an error message.

    A folder that exists has its own name; one that does not may be missing behind a link.
    """
    folder = behind_link(path).parent
    return folder if mode_of(folder) else Path(real_path(folder))


def removed_working_folder() -> str:
    """The name that the working directory had before it was removed; "/" if nobody knows."""
    try:
        return os.readlink("/proc/self/cwd").removesuffix(" (deleted)")  # noqa: PTH115 - text is enough
    except OSError as error:
        pass_on(error)
        return "/"


def _obstacle_to_creating(path: Path) -> Obstacle | None:
    target = behind_link(path)
    if target.is_symlink():
        return "link to itself"  # a chain of links that ends would have been followed
    folder = target.parent
    mode = mode_of(folder)
    if not mode:
        return "no directory"
    if not stat.S_ISDIR(mode):
        return "parent is a file"
    return None if os.access(folder, os.W_OK | os.X_OK) else "directory not writable"


def real_path(path: str | os.PathLike[str]) -> str:
    """As `os.path.realpath`, which ignores any OSError, also one that a signal's handler raised."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        pass_on(error)
    return os.path.realpath(path)
