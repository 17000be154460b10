"""Values: frozen objects with fields, whose classes cost no more to define than any other.

A `Value` behaves as a frozen dataclass with slots does, and `dataclasses` takes it for one, in
`fields`, `asdict` and `replace`. The methods of a real one are written as text and compiled, and
its module imports `inspect`; that was half of the time to the end of a first block. Here all
classes share the methods of one, and `dataclasses` is imported when somebody asks for it.
"""

from __future__ import annotations

from collections import _tuplegetter, deque  # type: ignore[attr-defined] # what namedtuple has
from collections.abc import Callable, Mapping
from functools import cache
from itertools import repeat
from operator import attrgetter
from types import FunctionType

TYPE_CHECKING = False  # importing `typing` costs more than this module
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeVar
    from typing import NamedTuple as NamedTuple  # noqa: PLC0414 - from here for all others

    from typing_extensions import dataclass_transform

    V = TypeVar("V", bound="Value")
else:

    def dataclass_transform(**_):
        """What type checkers read, without effect."""
        return lambda cls: cls

    class _NamedTupleType(type):
        def __new__(mcs, name, bases, content):
            if not bases:
                return super().__new__(mcs, name, bases, content)
            fields = tuple(content.get("__annotations__", ()))
            defaults = {one: content.pop(one) for one in fields if one in content}
            return type(name, (_Tuple,), {
                "__slots__": (),
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
                "__new__": _constructor(name, fields, tuple(defaults.values())),
                **dict(zip(fields, map(_getter, range(len(fields))), strict=True)),
                **content,
            })  # fmt: skip

    class _Tuple(tuple):
        """The methods of all named tuples."""

        __slots__ = ()

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, /, **changes):
            made = self._make(map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"Got unexpected field names: {list(changes)!r}")
            return made

        __replace__ = _replace

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            shown = (f"{name}={one!r}" for name, one in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(shown)})"

        def __getnewargs__(self):
            return tuple(self)

    def _constructor(name, fields, defaults):
        """`__new__` of a named tuple: the code for so many fields, with the names of these."""
        code = _constructor_code(len(fields)).replace(co_varnames=("_cls", *fields))
        made = FunctionType(code, {"_new": tuple.__new__}, "__new__", defaults)
        made.__qualname__ = f"{name}.__new__"  # what is wrong with the arguments is told by it
        return made

    @cache
    def _constructor_code(count):
        names = "".join(f"_{place}, " for place in range(count))
        return eval(f"lambda _cls, {names}: _new(_cls, ({names}))").__code__  # noqa: S307 - ours

    @cache
    def _getter(place):
        return _tuplegetter(place, f"Alias for field number {place}")

    class NamedTuple(metaclass=_NamedTupleType):
        """`typing.NamedTuple`, at a sixth of the time.

        That compiles each annotation and, like `collections.namedtuple`, a constructor and methods
        for each class. Here classes with the same number of fields share one constructor's code,
        and all share the methods.
        """


_MISSING: Any = object()
_set = object.__setattr__  # mapped over all fields, which takes no step of the interpreter for each


class Field:
    """What is known of a field beside its name, with the names that `dataclasses.field` has."""

    __slots__ = ("compare", "default", "default_factory", "metadata", "repr", "type")

    type: Any
    """The annotation, a text."""

    def __init__(
        self,
        default: Any = _MISSING,
        default_factory: Callable[[], Any] | None = None,
        repr: bool = True,  # noqa: A002, FBT001, FBT002 - as there
        compare: bool = True,  # noqa: FBT001, FBT002
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.default = default
        self.default_factory = default_factory
        self.repr = repr
        self.compare = compare
        self.metadata = {} if metadata is None else metadata


def field(
    *,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    repr: bool = True,  # noqa: A002 - as there
    compare: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """A field of which more is to be said than its default."""
    return Field(default, default_factory, repr, compare, metadata)


class _AsOfDataclass:
    """An attribute that real dataclasses have, made when it is looked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, _: object, cls: ValueType) -> Any:
        like = _dataclass_like(cls)
        if self._name == "__signature__":
            import inspect

            made: Any = inspect.signature(like)
        else:
            made = vars(like)[self._name]
        setattr(cls, self._name, made)
        return made


def _dataclass_like(cls: ValueType) -> type:
    """A real dataclass of the same fields."""
    import dataclasses

    rows = []
    for name, one in cls._fields.items():
        options: dict[str, Any] = {"repr": one.repr, "compare": one.compare}
        if one.default_factory is not None:
            options["default_factory"] = one.default_factory
        elif one.default is not _MISSING:
            options["default"] = one.default
        kw_only = name not in cls.__match_args__
        made = dataclasses.field(**options, metadata=one.metadata, kw_only=kw_only)
        rows.append((name, one.type, made))
    return dataclasses.make_dataclass(cls.__name__, rows, frozen=True)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class ValueType(type):
    """The type of the classes of values, which makes slots of what is annotated."""

    _fields: dict[str, Field]
    _defaults: dict[str, Any]
    _factories: dict[str, Callable[[], Any]]
    _key_of: Callable[[object], Any]
    """What is compared and hashed."""
    __match_args__: tuple[str, ...]

    def __new__(
        mcs, name: str, bases: tuple[type, ...], content: dict[str, Any], *, kw_only: bool = False
    ) -> Any:
        """Make a class; the fields of its base come before its own."""
        inherited: dict[str, Field] = getattr(bases[0], "_fields", {}) if bases else {}
        positional: tuple[str, ...] = getattr(bases[0], "__match_args__", ()) if bases else ()
        own = content.get("__annotations__", {})
        fields = {**inherited, **{n: _field_of(own[n], content.pop(n, _MISSING)) for n in own}}
        of_dataclass = ("__dataclass_fields__", "__dataclass_params__", "__signature__")
        compared = [n for n, one in fields.items() if one.compare]
        return super().__new__(mcs, name, bases, {
            **content,
            **{lazy: _AsOfDataclass(lazy) for lazy in of_dataclass},
            "__slots__": tuple(own),
            "__match_args__": positional if kw_only else (*positional, *own),
            "_fields": fields,
            "_defaults": {n: f.default for n, f in fields.items() if f.default is not _MISSING},
            "_factories": {n: f.default_factory for n, f in fields.items() if f.default_factory},
            "_key_of": attrgetter(*compared) if compared else type,
        })  # fmt: skip


def _field_of(annotation: Any, given: Any) -> Field:
    made = given if isinstance(given, Field) else Field(given)
    made.type = annotation
    return made


class Value(metaclass=ValueType):
    """A frozen object whose fields are the annotated names of its class.

    Equal to another of its class where all fields are; of equal hash then. With `kw_only=True`
    beside the base, fields are given by name only. `__post_init__` may check what was given.
    """

    if TYPE_CHECKING:  # they know the arguments of each class
        _fields: ClassVar[Mapping[str, Field]]
        _key_of: ClassVar[Any]
    else:

        def __init__(self, *args, **given):
            if args:
                given = _given_by_name(type(self), args, given)
            content = {**self._defaults, **given}
            if content.keys() != self._fields.keys():
                _complete(type(self), content)
            deque(map(_set, repeat(self), content, content.values()), maxlen=0)
            self.__post_init__()

        def __setattr__(self, name, _):
            raise _frozen(f"cannot assign to field {name!r}")

        def __delattr__(self, name):
            raise _frozen(f"cannot delete field {name!r}")

    def __post_init__(self) -> None:
        """Check the fields; what it raises comes out of the constructor."""

    def __repr__(self) -> str:
        shown = (f"{n}={getattr(self, n)!r}" for n, one in self._fields.items() if one.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self._key_of(self) == self._key_of(other))

    def __hash__(self) -> int:
        return hash(self._key_of(self))

    def __replace__(self: V, /, **changes: Any) -> V:
        return type(self)(**{**_content(self), **changes})

    def __getstate__(self) -> list[Any]:  # as dataclasses with slots have it
        return list(_content(self).values())

    def __setstate__(self, state: list[Any]) -> None:
        deque(map(_set, repeat(self), self._fields, state), maxlen=0)


def replace(value: V, /, **changes: Any) -> V:
    """A copy of a value with some fields changed, as by `dataclasses.replace`."""
    return value.__replace__(**changes)


def fields_of(cls: type[Value]) -> Mapping[str, Field]:
    """The fields of a class of values by name, in order."""
    return cls._fields


def _content(value: Value) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value._fields}


def _given_by_name(cls: ValueType, args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    """What was given by position and by name, all by name."""
    names = cls.__match_args__
    if len(args) > len(names):
        raise TypeError(
            f"{cls.__name__}() takes {len(names)} positional arguments but {len(args)} were given"
        )
    by_position = dict(zip(names, args, strict=False))
    twice = by_position.keys() & given.keys()
    if twice:
        raise TypeError(f"{cls.__name__}() got multiple values for {', '.join(sorted(twice))}")
    return {**by_position, **given}


def _complete(cls: ValueType, content: dict[str, Any]) -> None:
    """Make the defaults that are made anew for each value; what is missing then is an error."""
    for name, make in cls._factories.items():
        if name not in content:
            content[name] = make()
    unknown = ", ".join(repr(name) for name in content if name not in cls._fields)
    if unknown:
        raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {unknown}")
    missing = ", ".join(repr(name) for name in cls._fields if name not in content)
    if missing:
        raise TypeError(f"{cls.__name__}() is missing the argument {missing}")


def _frozen(message: str) -> Exception:
    from dataclasses import FrozenInstanceError

    return FrozenInstanceError(message)
