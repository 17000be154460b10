"""What is for one user alone: modes that no umask widens, and files that change in one step."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.system.files import make_private_folder, replace_privately

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
