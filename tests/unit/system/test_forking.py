"""Forked children are told that they are children."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest

from carbontrack.system.forking import PerProcess, holding_forks, remember


class Counting:
    """A follower that counts the forks it has come through."""

    def __init__(self) -> None:
        self.forks = 0
        remember(self)

    def forget_parent(self) -> None:
        self.forks += 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_each_follower_is_told_once_and_only_in_the_child() -> None:
    """Several followers share one hook: the child hears of its fork once, the parent not at all."""
    followers = [Counting() for _ in range(3)]
    child = os.fork()
    if child == 0:
        os._exit(10 if [follower.forks for follower in followers] == [1, 1, 1] else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    assert [follower.forks for follower in followers] == [0, 0, 0]


def test_followers_are_not_kept_alive() -> None:
    """What nobody needs any more is collected, hook or not."""
    follower = Counting()
    reference = weakref.ref(follower)
    del follower
    gc.collect()

    assert reference() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_waits_for_an_import_of_ours() -> None:
    """While a thread of ours imports, a fork elsewhere happens only after it."""
    importing, order = threading.Event(), []

    def import_something() -> None:
        with holding_forks():
            importing.set()
            for _ in range(1000):
                order.append("import")
                threading.Event().wait(0.0001)

    thread = threading.Thread(target=import_something)
    thread.start()
    importing.wait()
    child = os.fork()
    if child == 0:
        with holding_forks():  # the child has a free lock
            os._exit(10 if len(order) == 1000 else 1)
    thread.join()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_an_importing_thread_may_fork() -> None:
    """A fork within an import of ours does not wait for itself."""
    with holding_forks():
        child = os.fork()
        if child == 0:
            os._exit(10)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


def test_imports_of_ours_do_not_wait_for_each_other() -> None:
    """A thread that loads something slow holds up forks, and nobody else."""
    done = threading.Event()

    def import_something() -> None:
        with holding_forks():
            done.set()

    with holding_forks():
        thread = threading.Thread(target=import_something)
        thread.start()
        assert done.wait(60.0)
        thread.join()


def test_state_of_a_process_is_made_once_however_many_ask() -> None:
    """Threads that ask at the same time are given the same."""
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    mine = PerProcess(make)
    assert mine.state is None
    start, found = threading.Barrier(8), []
    threads = [
        threading.Thread(target=lambda: (start.wait(), found.append(mine.get()))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert {id(one) for one in found} == {id(mine.state)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_releases_inherited_state_and_makes_its_own() -> None:
    """At once after the fork, and once; the parent keeps its own."""
    abandoned: list[object] = []
    mine, unused = PerProcess(object, abandon=abandoned.append), PerProcess(object)
    before = mine.get()
    child = os.fork()
    if child == 0:
        right = abandoned == [before] and mine.state is None and mine.get() is not before
        os._exit(10 if right and unused.get() is unused.state else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    assert mine.state is mine.get() is before
    assert abandoned == []


class Ender:
    """Notes what it was told at the end of its process."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def end(self) -> None:
        self.told.append("end")

    def close(self) -> None:
        self.told.append("close")


def test_a_worker_of_any_library_like_multiprocessing_ends_in_order() -> None:
    """It is seen by what the library has, whatever its name is; odd modules do no harm."""
    code = (
        "import sys, types\n"
        "from tests.unit.system.test_forking import Ender\n"
        "from carbontrack.system.forking import at_end_of_worker\n"
        "process, util = types.ModuleType('pool.process'), types.ModuleType('pool.util')\n"
        "process.current_process = lambda: types.SimpleNamespace(_parent_pid=1)\n"
        "registered = []\n"
        "util.Finalize = lambda _, call, exitpriority: registered.append(call)\n"
        "sys.modules.update({'pool.process': process, 'pool.util': util, 7: None,\n"
        "                    'odd.process': types.ModuleType('odd'), 'celery.signals': None})\n"
        "first, second, dropped = Ender(), Ender(), Ender()\n"
        "for one in (first, second, dropped): at_end_of_worker(one)\n"
        "del one, dropped\n"
        "(run,) = registered\n"
        "run()\n"
        "assert first.told == second.told == ['end', 'close'], first.told\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
