"""What a decorated function is called, and which functions are one."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from carbontrack.api.track import track
from carbontrack.tracking.decorate import callee_of, name_of
from tests.support.bench import Bench


def weigh(a: int, b: int = 0) -> int:
    """Something to be made a partial of."""
    return a + b


class Scale:
    """Something with methods."""

    def weigh(self, a: int, b: int = 0) -> int:
        return a + b

    @classmethod
    def check(cls, a: int) -> int:
        return a

    def __call__(self, a: int) -> int:
        return a

    twice = functools.partialmethod(weigh, 2)
    checked = functools.partialmethod(check, 2)


class OwnPartial(functools.partial):  # type: ignore[type-arg]
    """A kind of partial that is not flattened when one is made of another."""


class Remote:
    """A function elsewhere, which has every attribute one asks for."""

    def __call__(self) -> int:
        return 1

    def __getattr__(self, name: str) -> Remote:
        return Remote()


HERE = __name__


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(weigh, 1), "weigh"),
        (functools.partial(functools.partial(weigh, 1), b=2), "weigh"),
        (OwnPartial(functools.partial(weigh, 1), b=2), "weigh"),
        (functools.partial(Scale().weigh, 1), "Scale.weigh"),
        (functools.partial(Scale.check, 1), "Scale.check"),
        (functools.partial(Scale(), 1), "Scale"),
        (functools.partial(Scale), "Scale"),
        (staticmethod(functools.partial(weigh, 1)), "weigh"),
        (Remote(), "Remote"),
        (Scale.twice, "Scale.weigh"),
        (Scale().twice, "Scale.weigh"),
        (Scale.checked, "Scale.check"),
    ],
)
def test_a_partial_is_called_as_its_function(function: Any, name: str) -> None:
    """The default name is that of the function that is run, not that of `functools`."""
    assert name_of(function) == f"{HERE}.{name}"


def test_a_partial_of_a_builtin_has_its_name() -> None:
    """Functions that are not written in Python have a name too."""
    assert name_of(functools.partial(int, base=2)) == "builtins.int"


def test_partials_are_told_apart_by_what_they_run() -> None:
    """Those of one function are one, made anew or with other arguments; those of two are two."""

    def key(function: Any) -> Any:
        return callee_of(function, "same", {}).key

    assert key(functools.partial(weigh, 1)) == key(functools.partial(weigh, 2)) == key(weigh)
    assert key(functools.partial(weigh, 1)) != key(functools.partial(Scale().weigh, 1))
    assert key(Scale.twice) == key(Scale().twice) == key(Scale.weigh)
    assert key(functools.partial(len)) == key(functools.partial(len)) != key(functools.partial(sum))


def test_partials_have_rows_by_their_function() -> None:
    """A thousand partials of two functions make two rows."""
    with Bench() as bench:
        for n in range(500):
            assert track(tracker=bench.tracker)(functools.partial(weigh, n))(1) == n + 1
            assert track(tracker=bench.tracker)(functools.partial(Scale().weigh, n))(1) == n + 1
    rows = {row.name: row.calls for row in bench.records}
    assert rows == {f"{HERE}.weigh": 500, f"{HERE}.Scale.weigh": 500}
