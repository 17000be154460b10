"""Weak collections in which nothing runs when an object goes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import carbontrack
from carbontrack.api.track import PROVIDER
from carbontrack.system.interrupts import WeakObjects, WeakValues


class One:
    """An object that can be referred to weakly."""


def test_it_holds_what_somebody_else_holds() -> None:
    """By key, and no longer than that."""
    values: WeakValues[str, One] = WeakValues()
    one = values["a"] = One()
    assert values.get("a") is one
    assert values.get("b") is None
    assert values.living() == [one]
    del one
    assert values.get("a") is None
    assert not values.living()
    assert len(values) == 0


def test_a_newer_object_of_a_key_stays_when_the_older_goes() -> None:
    """The end of the older one has nothing to forget."""
    values: WeakValues[str, One] = WeakValues()
    older = values["a"] = One()
    newer = values["a"] = One()
    del older
    assert values.get("a") is newer


def test_objects_are_held_once_until_removed() -> None:
    """By identity; removing twice is no error."""
    objects: WeakObjects[One] = WeakObjects()
    one, two = One(), One()
    for _ in range(2):
        objects.add(one)
    objects.add(two)
    assert objects.living() == [one, two]
    for _ in range(2):
        objects.remove(one)
    assert objects.living() == [two]


def test_what_is_gone_takes_no_room_for_ever() -> None:
    """A program may make any number of short-lived ones."""
    values: WeakValues[int, One] = WeakValues()
    kept = One()
    values[-1] = kept
    for number in range(10_000):
        values[number] = One()
    assert len(values._refs) <= 64
    assert values.get(-1) is kept


def test_no_function_runs_in_the_end_of_a_function_a_tracker_or_a_journal(tmp_path: Path) -> None:
    """What a signal's handler raises in a weak reference's callback is printed and lost."""
    found: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        is_callback = code.co_name in ("remove", "_remove")  # those of the mappings and of the set
        if event == "call" and is_callback and "weakref" in Path(code.co_filename).stem:
            found.append(f"{code.co_filename}:{frame.f_lineno}")

    given = {"region": "FR", "output": str(tmp_path / "a.csv"), "state_dir": str(tmp_path / "s")}
    sys.setprofile(note)
    try:
        tracker = carbontrack.auto(**given)
        with tracker.span("a"):
            carbontrack.track("call", tracker=tracker)(lambda: None)()
        carbontrack.track("call", **given)(lambda: None)()
        carbontrack.track("call", **given)(lambda: None)()
        tracker.close()
        del tracker
        PROVIDER.close()
    finally:
        sys.setprofile(None)
    assert found == []
