"""What child processes find in their environment of the roots that are open."""

from __future__ import annotations

import threading

from carbontrack.tracking.propagation import Kin


class Environment:
    """One variable, and all that it has been."""

    def __init__(self, record_id: str | None = None) -> None:
        self.record_id = record_id
        self.told: list[str | None] = []

    def kin(self) -> Kin:
        return Kin(found=lambda: self.record_id, tell=self._tell)

    def _tell(self, record_id: str | None) -> None:
        self.record_id = record_id
        self.told.append(record_id)


def test_children_of_an_open_root_find_it():
    """While it is open, and not after."""
    environment = Environment()
    kin = environment.kin()
    kin.opened(1, "run-1")
    assert environment.record_id == "run-1"
    kin.closed(1)
    assert environment.record_id is None


def test_what_was_there_before_comes_back():
    """A program that was itself started inside a run belongs to that run, before and after."""
    environment = Environment("outer-1")
    kin = environment.kin()
    assert kin.parent_id() == "outer-1"
    kin.opened(1, "run-1")
    assert kin.parent_id() == "outer-1"
    kin.closed(1)
    assert environment.told == ["run-1", "outer-1"]


def test_of_several_roots_the_oldest_is_told():
    """And when it ends, the next; a child is counted with one of them."""
    environment = Environment()
    kin = environment.kin()
    kin.opened(1, "a")
    kin.opened(2, "b")
    kin.opened(3, "c")
    kin.closed(2)
    assert environment.told == ["a"]
    kin.closed(1)
    kin.closed(3)
    assert environment.told == ["a", "c", None]


def test_roots_of_other_threads_are_not_told():
    """The environment is left alone by a server's workers."""
    environment = Environment()
    kin = environment.kin()
    thread = threading.Thread(target=kin.opened, args=(1, "run-1"))
    thread.start()
    thread.join()
    kin.closed(1)
    assert environment.told == []


def test_what_the_program_itself_writes_there_stays():
    """It may have reasons of its own."""
    environment = Environment()
    kin = environment.kin()
    kin.opened(1, "run-1")
    environment.record_id = "theirs"
    assert kin.parent_id() == "theirs"
    kin.closed(1)
    assert environment.record_id == "theirs"
    assert kin.parent_id() == "theirs"


def test_a_forked_child_belongs_to_what_was_open():
    """Its own roots are told to its children, and its trackers stay those that it inherited."""
    environment = Environment("outer-1")
    kin = environment.kin()
    kin.opened(1, "run-1")
    kin.forget_parent()
    assert (kin.parent_id(), kin.outside()) == ("run-1", "outer-1")

    kin.opened(1, "child-1")
    assert environment.record_id == "child-1"
    assert (kin.parent_id(), kin.outside()) == ("run-1", "outer-1")
    kin.closed(1)
    assert environment.record_id == "run-1"
    assert (kin.parent_id(), kin.outside()) == ("run-1", "outer-1")


def test_a_child_that_was_forked_while_nothing_was_open_belongs_to_nothing():
    """It is a program of its own."""
    kin = Environment().kin()
    kin.opened(1, "run-1")
    kin.closed(1)
    kin.forget_parent()
    assert kin.parent_id() is None


def test_an_environment_that_takes_nothing_stops_nobody(caplog):
    """The block runs all the same; it is said in the log, and the next one is told again."""
    environment = Environment("outer-1")
    refuses = [True]

    def tell(record_id: str | None) -> None:
        if refuses[0]:
            raise OSError("no memory")
        environment.record_id = record_id

    kin = Kin(found=lambda: environment.record_id, tell=tell)
    kin.opened(1, "run-1")
    kin.closed(1)
    assert "could not be told" in caplog.text
    assert kin.parent_id() == environment.record_id == "outer-1"

    refuses[0] = False
    kin.opened(2, "run-2")
    assert environment.record_id == "run-2"
