"""CPU seconds of the process tree for short tests: what is known in ticks only, and its error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.integrations.pytest_plugin.reference import Ticks, TreeTime, uncertainty_s

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def put(procfs: Path, pid: int, *ticks: int, parent: int | None = None) -> None:
    """A process, by default a child of this one, as proc_pid_stat(5) writes it."""
    (procfs / str(pid)).mkdir(exist_ok=True)
    fields = ["S", parent or os.getpid(), *[0] * 9, *ticks, *[0] * 6, 1, *[0] * 28]
    (procfs / str(pid) / "stat").write_text(f"{pid} (python) {' '.join(map(str, fields))}\n")


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    put(tmp_path, os.getpid(), 0, 0, 0, 0, parent=1)
    (tmp_path / "self").symlink_to(str(os.getpid()))
    return tmp_path


@pytest.fixture
def child() -> Iterator[int]:
    """A child, as a tree without any is not looked for in procfs."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    yield pid
    os.waitpid(pid, 0)


@pytest.mark.usefixtures("child")
def test_a_childs_own_clock_is_finer_than_its_ticks(procfs: Path) -> None:
    """Its own time is the clock's; that of its ended children is in ticks."""
    put(procfs, 7, 3, 2, 40, 2)
    time = TreeTime(procfs, clock_s=lambda _: 123.456789)
    without_s = TreeTime(procfs, clock_s=lambda _: 0.0)()  # with this very process's own time
    used_s = time() - without_s

    assert 123.456789 <= used_s < 123.456789 + 1.0
    assert time.ticks == {7: Ticks(None, 42)}


@pytest.mark.usefixtures("child")
def test_without_a_clock_the_ticks_count_and_are_said_to_be_coarse(procfs: Path) -> None:
    """Where a clock cannot be read, the uncertainty says so."""
    put(procfs, 7, 3, 2, 0, 0)
    time = TreeTime(procfs, clock_s=lambda _: None)
    time()

    assert time.ticks == {7: Ticks(5, 0)}


@pytest.mark.parametrize(
    ("before", "after", "ticks"),
    [
        ({}, {}, 0),
        ({7: Ticks(None, 0)}, {7: Ticks(None, 0)}, 0),
        ({7: Ticks(None, 9)}, {7: Ticks(None, 9)}, 0),
        ({7: Ticks(None, 9)}, {7: Ticks(None, 10)}, 2),
        ({7: Ticks(None, 9)}, {}, 2),
        ({7: Ticks(None, 0)}, {}, 2),
        ({}, {7: Ticks(None, 0)}, 0),
        ({7: Ticks(5, 0)}, {7: Ticks(5, 0)}, 2),
        ({7: Ticks(5, 0), 8: Ticks(5, 1)}, {7: Ticks(6, 1)}, 8),
    ],
)
def test_each_coarse_count_is_worth_two_ticks_of_doubt(
    before: dict[int, Ticks], after: dict[int, Ticks], ticks: int
) -> None:
    """Own time that is known in ticks always, that of ended children where it has changed."""
    assert uncertainty_s(before, after) == pytest.approx(ticks * TICK_S)
