"""Settings that are loaded again: not at all while nothing has changed, and anew once it has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from carbontrack.config.environment import Environment
from carbontrack.config.load import SettingsCache
from carbontrack.errors import ConfigError
from carbontrack.testing import FakeClock

LONG_AGO_S = 1e9


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder two levels below the user's home, without settings in the environment."""
    folder = tmp_path / "project" / "inner"
    folder.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("CARBONTRACK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(folder)
    return folder


def write(path: Path, text: str, *, table: str = "[tool.carbontrack]\n") -> None:
    """A file of settings that was last changed long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{table}{text}\n")
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))


class Loads:
    """What one cache loads, by a clock that a test turns, as the time of an inode cannot be set."""

    def __init__(self) -> None:
        self.clock = FakeClock(now=datetime.now(timezone.utc))
        self.cache = SettingsCache(self.clock)

    def __call__(self, **given: object) -> object:
        """The settings now."""
        return self.cache.load(given, Environment.now())

    def region(self) -> str | None:
        """The region, asked for three times, as it is kept from the second time on."""
        return {self().region for _ in range(3)}.pop()  # type: ignore[attr-defined]


@pytest.fixture
def loads(place: Path) -> Loads:
    return Loads()


def test_what_has_not_changed_is_not_read_again(loads: Loads, place: Path) -> None:
    """No file is opened, nor a folder listed, from the third time on."""
    write(place.parent / "pyproject.toml", 'region = "FR"')
    opened: list[object] = []
    kept = [loads() for _ in range(2)]
    loads.clock.step_wall(2.0)
    kept += [loads() for _ in range(2)]
    sys.addaudithook(lambda event, args: opened.append(args) if event == "open" else None)
    assert loads() is kept[0]
    assert [one for one in opened if str(one[0]).endswith("toml")] == []  # type: ignore[index]


@pytest.mark.parametrize("level", ["inner", "project", "home", "user"])
def test_a_file_that_appears_changes_and_goes_is_noticed(
    loads: Loads, place: Path, level: str
) -> None:
    """Nearest or further up, or the user's own; each time at once."""
    path = {
        "inner": place / "pyproject.toml",
        "project": place.parent / "pyproject.toml",
        "home": place.parents[1] / "pyproject.toml",
        "user": place.parents[1] / "config" / "carbontrack" / "config.toml",
    }[level]
    table = "" if level == "user" else "[tool.carbontrack]\n"
    assert loads.region() is None
    for region in ("FR", "DE", "US"):
        write(path, f'region = "{region}"', table=table)
        assert loads.region() == region
    path.unlink()
    assert loads.region() is None


def test_a_change_of_a_file_that_was_kept_is_noticed(loads: Loads, place: Path) -> None:
    """Of the same size, the same inode and the same time of its last change."""
    path = place / "pyproject.toml"
    write(path, 'region = "FR"')
    loads.clock.step_wall(2.0)
    assert loads.region() == "FR"
    with path.open("r+") as file:
        file.write(path.read_text().replace("FR", "DE"))
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    assert loads.region() == "DE"


def test_a_variable_and_the_working_folder_are_noticed(
    loads: Loads, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is set back, and a folder that was left and entered again."""
    write(place.parent / "pyproject.toml", 'region = "FR"')
    other = place.parents[1] / "other"
    other.mkdir()
    assert loads.region() == "FR"
    monkeypatch.setenv("CARBONTRACK_REGION", "SE")
    assert loads.region() == "SE"
    monkeypatch.delenv("CARBONTRACK_REGION")
    assert loads.region() == "FR"
    monkeypatch.chdir(other)
    assert loads.region() is None
    monkeypatch.chdir(place)
    assert loads.region() == "FR"


def test_another_home_is_noticed_by_what_lies_in_it(
    loads: Loads, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that begins with ~, where the folders of settings and state do not change with it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(place))
    for home in (place, place.parent):
        monkeypatch.setenv("HOME", str(home))
        found = {loads(output="~/a.csv").output for _ in range(3)}  # type: ignore[attr-defined]
        assert found == {(f"{home}/a.csv",)}


def test_a_file_that_is_broken_later_is_an_error_each_time(loads: Loads, place: Path) -> None:
    """And none any more once it has been mended."""
    path = place / "pyproject.toml"
    write(path, 'region = "FR"')
    assert loads.region() == "FR"
    write(path, "regoin = 1")
    for _ in range(3):
        with pytest.raises(ConfigError, match="regoin"):
            loads()
    write(path, 'region = "DE"')
    assert loads.region() == "DE"


def test_the_environment_is_the_same_object_until_it_changes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever changes is in the next one, as if all had been read anew."""
    here = Environment.now(("AWS_REGION",))
    assert Environment.now(("AWS_REGION",)) is here
    changes = {"TZ": "Europe/Paris", "CUDA_VISIBLE_DEVICES": "1", "RANK": "0", "WORLD_SIZE": "2",
               "CARBONTRACK_PUE": "1.2", "CARBONTRACK_PARENT_ID": "one", "AWS_REGION": "eu-west-3",
               "XDG_STATE_HOME": "/state", "HOME": "/home/other"}  # fmt: skip
    for name, text in changes.items():
        monkeypatch.setenv(name, text)
        now = Environment.now(("AWS_REGION",))
        assert now == Environment.take(("AWS_REGION",))._replace(home=os.environ["HOME"])
    monkeypatch.setenv("CARBONTRACK_PARENT_ID", "two")
    assert Environment.now(("AWS_REGION",)).parent_id == "two"
    monkeypatch.chdir("/")
    assert Environment.now(("AWS_REGION",)).working_folder == "/"
