"""State that belongs to one process: one for all its threads, and a new one in a child."""

from __future__ import annotations

import os
import threading

import pytest

from carbontrack.system.forking import PerProcess


def test_a_process_has_one_state():
    """Every thread is given the same, also when all ask at once."""
    state: PerProcess[list[int]] = PerProcess(list)
    start = threading.Barrier(8)
    found: list[list[int]] = []

    def ask() -> None:
        start.wait()
        found.append(state.get())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {id(one) for one in found} == {id(state.get())}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_begins_anew_and_abandons_what_it_inherited():
    """The child has a new state and releases the inherited one; the parent keeps its own."""
    abandoned: list[list[str]] = []
    state: PerProcess[list[str]] = PerProcess(list, abandon=abandoned.append)
    mine = state.get()
    mine.append("parent")
    child = os.fork()
    if child == 0:
        is_new = state.get() == [] and abandoned == [["parent"]]
        os._exit(0 if is_new else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state.get() is mine
    assert abandoned == []
