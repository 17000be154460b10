"""What is for one user alone: modes that no umask widens, and files that change in one step."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.system.files import (
    folder_without_home,
    make_private_folder,
    open_own,
    own_folder,
    replace_privately,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes are those of POSIX")


@pytest.fixture(autouse=True)
def careless_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_folder_that_is_made_is_private(tmp_path: Path) -> None:
    """Those above as well; one that was there keeps the mode that somebody gave it."""
    (tmp_path / "there").mkdir(mode=0o755)
    make_private_folder(tmp_path / "there" / "a" / "b")
    make_private_folder(tmp_path / "there" / "a" / "b")
    assert mode(tmp_path / "there") == 0o755
    assert mode(tmp_path / "there" / "a") == mode(tmp_path / "there" / "a" / "b") == 0o700


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    """Nothing is removed to make place for a folder."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "taken")
    with pytest.raises(NotADirectoryError):
        make_private_folder(tmp_path / "taken" / "below" / "it")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_replaced_file_is_private_and_alone(tmp_path: Path) -> None:
    """The new text is there, for its user alone, and no draft is left."""
    path = tmp_path / "new" / "kept.json"
    replace_privately(path, "one")
    path.chmod(0o644)
    replace_privately(path, "two")
    assert (path.read_text(), mode(path), mode(path.parent)) == ("two", 0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_replacement_changes_nothing(tmp_path: Path) -> None:
    """A folder has the name: the error is raised, and no draft is left."""
    (tmp_path / "kept.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_privately(tmp_path / "kept.json", "one")
    assert list(tmp_path.iterdir()) == [tmp_path / "kept.json"]


NAME = f"carbontrack-{os.getuid() if hasattr(os, 'getuid') else 0}"
STRANGER = 54321
only_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files to another user"
)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp, in which everybody may write."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_without_a_home_there_is_a_folder_for_this_user_alone(shared: Path) -> None:
    """It is made at once, and found again; one that others could read is closed to them."""
    found = folder_without_home([str(shared)])
    assert found == shared.resolve() / NAME
    assert mode(found) == 0o700
    found.chmod(0o777)
    assert folder_without_home([str(shared)]) == found
    assert mode(found) == 0o700


def test_what_somebody_has_put_there_before_is_not_used(shared: Path, tmp_path: Path) -> None:
    """A link to a folder of ours, a link to nowhere, a file: the next place is taken, or none."""
    target = tmp_path / "target"
    target.mkdir()
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    for planted in (target, tmp_path / "nowhere"):
        (shared / NAME).symlink_to(planted)
        assert folder_without_home([str(shared)]) is None
        assert folder_without_home([str(shared), str(other)]) == other.resolve() / NAME
        (shared / NAME).unlink()
    (shared / NAME).write_text("a file")
    assert folder_without_home([str(shared)]) is None
    assert list(target.iterdir()) == []
    assert not (tmp_path / "nowhere").exists()


@only_root
def test_a_folder_of_another_user_is_not_used(shared: Path) -> None:
    """Who owns it could change what is in it."""
    (shared / NAME).mkdir(mode=0o700)
    os.chown(shared / NAME, STRANGER, STRANGER)
    assert folder_without_home([str(shared)]) is None


def test_a_place_that_others_can_change_is_not_used(shared: Path, tmp_path: Path) -> None:
    """Without the sticky bit anybody may rename our folder; nor may one above it be so."""
    (shared / "below").mkdir(mode=0o700)
    assert folder_without_home([str(shared / "below")]) is not None
    shared.chmod(0o777)
    assert folder_without_home([str(shared)]) is None
    assert folder_without_home([str(shared / "below")]) is None
    shared.chmod(0o770)
    assert folder_without_home([str(shared)]) is None
    assert folder_without_home([str(tmp_path / "absent"), "/dev/null"]) is None


def test_a_link_to_the_temporary_folder_is_followed_to_its_end(
    shared: Path, tmp_path: Path
) -> None:
    """As /tmp is one on macOS; the folder has its real name then."""
    (tmp_path / "link").symlink_to(shared)
    assert folder_without_home([str(tmp_path / "link")]) == shared.resolve() / NAME


def test_an_own_folder_is_no_link(tmp_path: Path) -> None:
    """A link with its name is refused, wherever it leads."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for create in (False, True):
        with pytest.raises(NotADirectoryError):
            own_folder(tmp_path / "link", create=create)
    with pytest.raises(FileNotFoundError):
        own_folder(tmp_path / "absent", create=False)
    assert mode(own_folder(tmp_path / "absent" / "made")) == 0o700
    (tmp_path / "real").chmod(0o755)
    assert mode(own_folder(tmp_path / "real", create=False)) == 0o700


def test_only_a_regular_file_of_this_user_is_opened(tmp_path: Path) -> None:
    """No link, no folder, and no pipe, whose other end nobody opens."""
    path = tmp_path / "file"
    path.write_text("ours")
    with open_own(path) as file:
        assert file.read() == b"ours"
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "absent"):
        with pytest.raises(OSError):  # noqa: PT011 - of several kinds
            open_own(tmp_path / name)
    if os.geteuid() == 0:
        os.chown(path, STRANGER, STRANGER)
        with pytest.raises(PermissionError):
            open_own(path)
