"""What child processes find in their environment of the roots that are open."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from carbontrack.tracking.propagation import Propagator, context_text, state_token
from carbontrack.tracking.remote_parent import ParentContext


class Environment:
    """One variable, and all that it has been."""

    def __init__(self, record_id: str | None = None) -> None:
        self.record_id = record_id
        self.told: list[str | None] = []
        self.identity = ""

    def propagator(self) -> Propagator:
        return Propagator(
            read=lambda: self.record_id,
            write=self._tell,
            identity=lambda: self.identity,
        )

    def _tell(self, record_id: str | None) -> None:
        self.record_id = record_id
        self.told.append(record_id)


def test_children_of_an_open_root_find_it():
    """While it is open, and not after."""
    environment = Environment()
    propagator = environment.propagator()
    propagator.inject(1, "run-1")
    assert environment.record_id == "run-1"
    propagator.withdraw(1)
    assert environment.record_id is None


def test_children_are_told_which_process_counts_them(tmp_path: Path) -> None:
    """Its boot, pid namespace, pid and start, the scope, and a token of its journal's place."""
    said = context_text("run-1", "b007:42:7:99", "machine", tmp_path)
    assert ParentContext.parse(said) == (
        *("run-1", "b007", "42", 7, 99, "machine"),
        state_token(tmp_path),
    )
    assert str(tmp_path) not in said


@pytest.mark.parametrize("text", ["run-1", "run-1@", "run-1@:::::", "run-1@b:n:x:-1", "run-1@a@b"])
def test_what_others_have_set_is_a_record_at_least(text: str) -> None:
    """An older version, or a user, names the record alone."""
    assert ParentContext.parse(text).record_id == "run-1"
    assert ParentContext.parse(text).pid == 0


def test_what_was_there_before_comes_back():
    """A program that was itself started inside a run belongs to that run, before and after."""
    environment = Environment("outer-1")
    propagator = environment.propagator()
    assert propagator.extract() == "outer-1"
    propagator.inject(1, "run-1")
    assert propagator.extract() == "outer-1"
    propagator.withdraw(1)
    assert environment.told == ["run-1", "outer-1"]


def test_of_several_roots_the_oldest_is_told():
    """And when it ends, the next; a child is counted with one of them."""
    environment = Environment()
    propagator = environment.propagator()
    propagator.inject(1, "a")
    propagator.inject(2, "b")
    propagator.inject(3, "c")
    propagator.withdraw(2)
    assert environment.told == ["a"]
    propagator.withdraw(1)
    propagator.withdraw(3)
    assert environment.told == ["a", "c", None]


def test_roots_of_other_threads_are_not_told():
    """The environment is left alone by a server's workers."""
    environment = Environment()
    propagator = environment.propagator()
    thread = threading.Thread(target=propagator.inject, args=(1, "run-1"))
    thread.start()
    thread.join()
    propagator.withdraw(1)
    assert environment.told == []


def test_what_the_program_itself_writes_there_stays():
    """It may have reasons of its own."""
    environment = Environment()
    propagator = environment.propagator()
    propagator.inject(1, "run-1")
    environment.record_id = "theirs"
    assert propagator.extract() == "theirs"
    propagator.withdraw(1)
    assert environment.record_id == "theirs"
    assert propagator.extract() == "theirs"


def test_a_forked_child_belongs_to_what_was_open():
    """Its own roots are told to its children, and its trackers stay those that it inherited."""
    environment = Environment("outer-1")
    propagator = environment.propagator()
    propagator.inject(1, "run-1")
    propagator.forget_parent()
    assert (propagator.extract(), propagator.original_parent(environment.record_id)) == (
        "run-1",
        "outer-1",
    )

    propagator.inject(1, "child-1")
    assert environment.record_id == "child-1"
    assert (propagator.extract(), propagator.original_parent(environment.record_id)) == (
        "run-1",
        "outer-1",
    )
    propagator.withdraw(1)
    assert environment.record_id == "run-1"
    assert (propagator.extract(), propagator.original_parent(environment.record_id)) == (
        "run-1",
        "outer-1",
    )


def test_a_child_that_was_forked_while_nothing_was_open_belongs_to_nothing():
    """It is a program of its own."""
    propagator = Environment().propagator()
    propagator.inject(1, "run-1")
    propagator.withdraw(1)
    propagator.forget_parent()
    assert propagator.extract() is None


def test_an_environment_that_takes_nothing_stops_nobody(caplog):
    """The block runs all the same; it is said in the log, and the next one is told again."""
    environment = Environment("outer-1")
    refuses = [True]

    def write(record_id: str | None) -> None:
        if refuses[0]:
            raise OSError("no memory")
        environment.record_id = record_id

    propagator = Propagator(read=lambda: environment.record_id, write=write, identity=lambda: "")
    propagator.inject(1, "run-1")
    propagator.withdraw(1)
    assert "could not be passed" in caplog.text
    assert propagator.extract() == environment.record_id == "outer-1"

    refuses[0] = False
    propagator.inject(2, "run-2")
    assert environment.record_id == "run-2"
