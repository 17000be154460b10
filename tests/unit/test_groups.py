"""The scheduler of the tests: what it gives to a worker that replaces one that has ended."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("xdist")

from tests.support.groups import Groups


class Worker:
    """A worker as pytest-xdist's: it begins a test when it knows the next, or that none comes."""

    def __init__(self) -> None:
        self.shutting_down = False
        self.waiting: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.waiting += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def run(self, scheduler: Groups) -> int:
        """Run what it may begin; returns how many tests."""
        done = 0
        while len(self.waiting) > 1 or (self.waiting and self.shutting_down):
            scheduler.mark_test_complete(self, self.waiting.pop(0))
            done += 1
        return done


@pytest.mark.parametrize("left_behind", [1, 2, 3])
def test_what_waits_behind_a_hang_is_run(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, left_behind: int
) -> None:
    """The others have been told that no more comes, so all of it is for the new worker."""
    names = [f"{__file__}::test_{number}" for number in range(left_behind + 1)]
    monkeypatch.setattr(pytestconfig.option, "tx", ["popen"])
    scheduler: Any = Groups(pytestconfig)
    hung, new = Worker(), Worker()
    scheduler.add_node(hung)
    scheduler.add_node_collection(hung, names)
    scheduler.schedule()
    assert scheduler.remove_node(hung) == names[0]
    scheduler.add_node(new)
    scheduler.add_node_collection(new, names)
    scheduler.schedule()
    assert new.run(scheduler) == left_behind
    assert scheduler.tests_finished
