"""Values: they are what frozen dataclasses with slots are, for whoever uses them as such."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import sys
import typing
from collections.abc import Mapping
from typing import Any

import pytest

import carbontrack
from carbontrack.values import NamedTuple, Value, field, fields_of, replace
from tests.support.records import a_record


class Place(Value):
    """A value with every kind of field."""

    name: str
    height_m: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    secret: str | None = field(default=None, repr=False, compare=False, metadata={"hidden": True})


class Peak(Place):
    """A value with a field more."""

    first_climbed: int | None = None


class Asked(Value, kw_only=True):
    """A value whose fields are given by name."""

    limit: float = 1.0
    name: str

    def __post_init__(self) -> None:
        if self.limit < 0.0:
            raise ValueError("below 0")


@dataclasses.dataclass(frozen=True, slots=True)
class AsDataclass:
    """The same as `Place`, as a real dataclass."""

    name: str
    height_m: float = 0.0
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secret: str | None = dataclasses.field(
        default=None, repr=False, compare=False, metadata={"hidden": True}
    )


class Pair(NamedTuple):
    """A named tuple, made without `typing`."""

    low: float
    high: float = 1.0

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low


def test_fields_are_given_by_position_or_name_and_have_defaults():
    """As a dataclass takes them; a default that is made is made for each."""
    place = Place("Brocken", tags={"in": "Harz"})
    assert (place.name, place.height_m, place.tags) == ("Brocken", 0.0, {"in": "Harz"})
    assert Place("a").tags is not Place("b").tags
    assert Peak("Zugspitze", 2962.0, {}, None, 1820).first_climbed == 1820
    assert Asked(name="x").limit == 1.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Place, "'name'"),
        (lambda: Place("a", depth_m=1.0), "'depth_m'"),
        (lambda: Place("a", name="b"), "multiple values"),
        (lambda: Place("a", 1.0, {}, None, 5), "takes 4 positional"),
        (lambda: Asked(1.0, name="x"), "takes 0 positional"),
        (Asked, "'name'"),
    ],
)
def test_wrong_arguments_are_a_type_error_that_names_them(make, told):
    """A field that is missing, unknown, given twice, or one too many."""
    with pytest.raises(TypeError, match=told):
        make()


def test_what_is_given_may_be_checked():
    """By `__post_init__`, after the fields are set; by a changed copy as well."""
    with pytest.raises(ValueError, match="below 0"):
        Asked(name="x", limit=-1.0)
    with pytest.raises(ValueError, match="below 0"):
        replace(Asked(name="x"), limit=-1.0)


def test_it_is_shown_compared_and_hashed_as_a_dataclass_is():
    """Of one class only, by the fields that are compared; a field may be kept from the text."""
    place, real = Place("a", 1.0, (), "s"), AsDataclass("a", 1.0, (), "s")
    assert repr(place) == repr(real).replace("AsDataclass", "Place")
    assert place == Place("a", 1.0, (), "other")
    assert hash(place) == hash(Place("a", 1.0, (), "other")) == hash(real)
    assert place != Place("b", 1.0, ())
    assert place != real
    assert place != Peak("a", 1.0, ())
    with pytest.raises(TypeError, match="unhashable"):
        hash(Place("a"))


def test_it_is_frozen_and_has_no_other_attributes():
    """The error is the one of dataclasses; there is no dictionary."""
    place = Place("a")
    with pytest.raises(dataclasses.FrozenInstanceError, match="'name'"):
        place.name = "b"
    with pytest.raises(dataclasses.FrozenInstanceError, match="'other'"):
        place.other = 1
    with pytest.raises(dataclasses.FrozenInstanceError, match="'name'"):
        del place.name
    assert not hasattr(place, "__dict__")


def test_dataclasses_takes_it_for_one():
    """`is_dataclass`, `fields`, `replace`, `asdict`, `astuple`, and what a field says of itself."""
    place = Place("a", tags={"k": "v"}, secret="s")
    assert dataclasses.is_dataclass(place)
    assert dataclasses.is_dataclass(Place)
    for mine, theirs in zip(
        dataclasses.fields(Place), dataclasses.fields(AsDataclass), strict=True
    ):
        for fact in ("name", "type", "default", "repr", "compare", "init", "metadata", "kw_only"):
            assert getattr(mine, fact) == getattr(theirs, fact)
    assert dataclasses.asdict(place) == {
        "name": "a", "height_m": 0.0, "tags": {"k": "v"}, "secret": "s"
    }  # fmt: skip
    assert dataclasses.astuple(place) == ("a", 0.0, {"k": "v"}, "s")
    changed = dataclasses.replace(place, height_m=2.0)
    assert (changed.name, changed.height_m, changed.secret) == ("a", 2.0, "s")
    assert [one.name for one in dataclasses.fields(Peak)][-2:] == ["secret", "first_climbed"]
    assert all(one.kw_only for one in dataclasses.fields(Asked))


def test_a_changed_copy_is_checked_for_its_names():
    """`replace` of here, and `copy.replace` where Python has it."""
    place = Place("a")
    assert replace(place, name="b") == Place("b")
    with pytest.raises(TypeError, match="'depth_m'"):
        replace(place, depth_m=1.0)
    if sys.version_info >= (3, 13):
        assert copy.replace(place, name="b") == Place("b")


def test_it_is_copied_and_pickled_in_the_form_of_dataclasses():
    """A pickle of a dataclass with these fields, of an older version, is read as well."""
    place = Place("a", 1.0, {"k": "v"}, "s")
    for again in (
        copy.copy(place),
        copy.deepcopy(place),
        *(pickle.loads(pickle.dumps(place, n)) for n in range(2, pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert again == place
        assert again.secret == "s"
    real = AsDataclass("a", 1.0, {"k": "v"}, "s")
    assert real.__reduce_ex__(4)[2] == place.__reduce_ex__(4)[2]


def test_it_has_a_signature_and_matches_patterns():
    """As tools that build or take apart dataclasses look for them."""
    assert list(inspect.signature(Place).parameters) == ["name", "height_m", "tags", "secret"]
    kinds = {one.kind for one in inspect.signature(Asked).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    match Place("a", 2.0):
        case Place(name, height_m=height_m):
            assert (name, height_m) == ("a", 2.0)
        case _:
            pytest.fail("it has not matched")


def test_fields_are_known_without_dataclasses():
    """In order, with annotation and metadata."""
    assert list(fields_of(Peak)) == ["name", "height_m", "tags", "secret", "first_climbed"]
    assert fields_of(Place)["secret"].metadata == {"hidden": True}
    assert fields_of(Place)["height_m"].type == "float"


def test_a_named_tuple_is_one_of_typing_in_all_that_it_does():
    """Fields, defaults, methods, copies with changes, pickles, and the types of its fields."""
    pair = Pair(0.25)
    assert pair == (0.25, 1.0)
    assert (Pair._fields, Pair._field_defaults) == (("low", "high"), {"high": 1.0})
    assert pair._replace(low=0.0).width == Pair(high=1.0, low=0.0).width == 1.0
    assert pair._asdict() == {"low": 0.25, "high": 1.0}
    assert repr(pair) == "Pair(low=0.25, high=1.0)"
    assert pickle.loads(pickle.dumps(pair)) == pair
    assert type(pickle.loads(pickle.dumps(pair))) is Pair
    assert typing.get_type_hints(Pair) == {"low": float, "high": float}
    assert (Pair.__doc__, Pair.__module__) == ("A named tuple, made without `typing`.", __name__)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Pair, "Pair.__new__() missing 1 required positional argument: 'low'"),
        (lambda: Pair(1, 2, 3), "Pair.__new__() takes from 2 to 3 positional arguments"),
        (lambda: Pair(1, up=2), "Pair.__new__() got an unexpected keyword argument 'up'"),
        (lambda: Pair._make([1]), "Expected 2 arguments, got 1"),
        (lambda: Pair(1)._replace(up=2), "Got unexpected field names: ['up']"),
    ],
)
def test_wrong_fields_of_a_named_tuple_are_told_by_name(wrong, told):
    """As by one of `typing`."""
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(told)}"):
        wrong()


def test_named_tuples_of_as_many_fields_have_nothing_else_in_common():
    """They share the code of a constructor, not its names and defaults."""

    class Other(NamedTuple):
        left: int
        right: int

    assert Other(right=2, left=1)._asdict() == {"left": 1, "right": 2}
    assert list(inspect.signature(Other).parameters) == ["left", "right"]
    assert list(inspect.signature(Pair).parameters) == ["low", "high"]
    with pytest.raises(TypeError):
        Other(1)


PUBLIC: list[Any] = [
    a_record(labels={"k": [1, 2]}),
    carbontrack.Attribution("process", pue=1.2),
    carbontrack.GridIntensity("FR", 50.0, 40.0, 60.0, "table", 2024, "lifecycle_generation"),
    carbontrack.Fixed.of(50.0),
]


@pytest.mark.parametrize("value", PUBLIC, ids=lambda value: type(value).__name__)
def test_public_values_are_used_as_dataclasses(value):
    """What programs do with records and policies: copies with changes, mappings, pickles."""
    names = [one.name for one in dataclasses.fields(value)]
    assert list(dataclasses.asdict(value)) == names
    assert dataclasses.replace(value) == value
    assert pickle.loads(pickle.dumps(value)) == value
    assert set(typing.get_type_hints(type(value))) >= set(names)
    assert list(inspect.signature(type(value)).parameters) == names
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, names[0], None)
