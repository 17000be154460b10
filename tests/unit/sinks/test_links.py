"""Outputs behind symbolic links: rows go where they lead; one that leads nowhere is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.errors import ConfigError
from carbontrack.report.read import iter_records
from carbontrack.sinks.factory import sink_for
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.journal.recovery import recover
from tests.support.records import a_record

FILES = ("all.csv", "all.jsonl", "all.ndjson", "all.sqlite", "all.db")


def to_the_file(folder: Path, name: str) -> Path:
    """A link to a file that does not exist yet."""
    (folder / "data").mkdir()
    (folder / name).symlink_to(Path("data", name))
    return folder / name


def to_a_link(folder: Path, name: str) -> Path:
    """A link to such a link."""
    to_the_file(folder, name)
    link = folder / f"second{Path(name).suffix}"
    link.symlink_to(name)
    return link


def through_a_folder(folder: Path, name: str) -> Path:
    """A path that leads through a link to a folder."""
    (folder / "data").mkdir()
    (folder / "here").symlink_to("data")
    return folder / "here" / name


def through_both(folder: Path, name: str) -> Path:
    """A link in a folder behind a link."""
    path = through_a_folder(folder, name)
    path.symlink_to(folder / "data" / f"more-{name}")
    return path


WAYS = (to_the_file, to_a_link, through_a_folder, through_both)
Way = Callable[[Path, str], Path]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FILES)
def test_rows_go_where_links_lead(tmp_path: Path, way: Way, name: str) -> None:
    """The file is created there, and every link is still one."""
    output = way(tmp_path, name)
    links = [path for path in tmp_path.rglob("*") if path.is_symlink()]
    assert load_settings({"output": output}, Environment()).output == (str(output),)
    for number in (1, 2):
        sink = sink_for(output)
        sink.write(a_record(number))
        sink.close()

    assert [r.record_id for r in iter_records(output)] == [a_record(n).record_id for n in (1, 2)]
    assert all(link.is_symlink() for link in links)
    assert [p for p in (tmp_path / "data").iterdir() if p.is_file() and not p.is_symlink()]


@pytest.mark.parametrize("way", WAYS)
def test_recover_writes_through_links(tmp_path: Path, way: Way) -> None:
    """What a killed run has left goes the same way."""
    output = way(tmp_path, "all.csv")
    journal = Journal(tmp_path / "state")
    journal.checkpoint(a_record(), [str(output)])
    journal.close()
    (recovered,) = recover(tmp_path / "state")

    assert recovered.trouble is None
    assert [record.status for record in iter_records(output)] == ["recovered"]


def in_no_folder(folder: Path) -> tuple[Path, str]:
    """A link to a file in a folder that does not exist."""
    (folder / "runs.csv").symlink_to("gone/runs.csv")
    return folder / "runs.csv", str(folder / "gone")


def behind_no_folder(folder: Path) -> tuple[Path, str]:
    """A folder that is a link to one that does not exist."""
    (folder / "here").symlink_to("gone")
    return folder / "here" / "runs.csv", str(folder / "gone")


def in_a_circle(folder: Path) -> tuple[Path, str]:
    """Two links that lead to each other."""
    (folder / "a.csv").symlink_to("b.csv")
    (folder / "b.csv").symlink_to("a.csv")
    return folder / "a.csv", "points back to itself"


def to_itself(folder: Path) -> tuple[Path, str]:
    """A link to itself."""
    (folder / "a.csv").symlink_to("a.csv")
    return folder / "a.csv", "points back to itself"


@pytest.mark.parametrize("way", [in_no_folder, behind_no_folder, in_a_circle, to_itself])
def test_a_link_that_leads_nowhere_is_refused(
    tmp_path: Path, way: Callable[[Path], tuple[Path, str]]
) -> None:
    """With a ConfigError that names the place that is missing; nothing is created."""
    output, part = way(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="cannot be written") as refused:
        load_settings({"output": output}, Environment(working_folder=str(tmp_path)))
    assert part in str(refused.value)
    for name in (output, output.with_suffix(".db")):
        if name == output or "here" in output.parts:
            with pytest.raises(ConfigError, match="cannot write records") as refused:
                sink_for(name)
            assert part in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before
