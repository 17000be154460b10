"""Callable objects that are more than functions, whose other attributes stay available.

A decorator may return an object: `functools.lru_cache`, `joblib.Memory.cache`, `numpy.vectorize`, a
module of torch. `tracked_object` stands for such an object: calling it is counted, and everything
else is the object's own: attributes, methods, operators, class, signature.

If a framework calls the function inside its object, and never the object, nothing would be counted.
`check_is_called` refuses these, and names the order that works.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import Any, NoReturn

from carbontrack.errors import ConfigError

FUNCTIONS = frozenset(
    {
        *(FunctionType, BuiltinFunctionType, MethodType, MethodWrapperType),
        *(WrapperDescriptorType, MethodDescriptorType, ClassMethodDescriptorType),
    }
)
"""The types that a function in their place stands for as well."""

_NEVER_CALLED = {
    # package, class: the decorator that returns it
    ("celery", "Task"): "@app.task",
    ("celery", "PromiseProxy"): "@app.task",
    ("click", "Command"): "@click.command()",
    ("dask", "Delayed"): "@dask.delayed",
    ("dramatiq", "Actor"): "@dramatiq.actor",
    ("huey", "TaskWrapper"): "@huey.task()",
    ("prefect", "Flow"): "@flow",
    ("prefect", "Task"): "@task",
    ("ray", "RemoteFunction"): "@ray.remote",
    ("_pytest", "FixtureFunctionDefinition"): "@pytest.fixture",
}


def check_is_called(function: object) -> None:
    """Refuse an object that its framework never calls.

    Raises:
        ConfigError: with the order of the decorators in which calls are counted.
    """
    for kind in type(function).__mro__:
        above = _NEVER_CALLED.get((kind.__module__.partition(".")[0], kind.__name__))
        if above is not None:
            refuse_order(function, above)
    if type(function) is FunctionType and "_pytestfixturefunction" in vars(function):
        refuse_order(function, "@pytest.fixture")  # pytest before 8.4


def refuse_order(function: object, above: str) -> NoReturn:
    """Refuse what another decorator has made.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"track would count nothing above {above}, because the {type(function).__name__} that it "
        f"returns is not called later; put it next to the function: {above}, then @track, then def"
    )


_OWN = frozenset(
    {
        *("__class__", "__new__", "__init__", "__del__", "__call__", "__get__", "__dict__"),
        *("__getattribute__", "__getattr__", "__setattr__", "__delattr__", "__slots__"),
        *("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__"),
        *("__getnewargs_ex__", "__copy__", "__deepcopy__", "__init_subclass__"),
        *("__subclasshook__", "__class_getitem__", "__module__", "__doc__", "__weakref__"),
    }
)
"""Special methods that are not the object's: an interpreter looks for them in the type."""


def tracked_object(
    it: Any, counted: Callable[..., Any], again: Callable[[Any], Any]
) -> Callable[..., Any]:
    """An object whose calls are those of `counted`, and which is `it` in all else.

    Args:
        it: the callable object.
        counted: calls it, and counts that.
        again: makes the same of what comes from it: a copy, or a method bound to an instance.
    """
    kind = type(it)
    own: dict[str, Any] = {
        "__wrapped__": it,
        "__call__": counted,
        "__copy__": lambda: again(copy.copy(it)),
        "__deepcopy__": lambda memo: again(copy.deepcopy(it, memo)),
        "__reduce_ex__": lambda _protocol: _reduced(it, made, again),
    }

    def get(_: object, name: str) -> Any:
        return own[name] if name in own else getattr(it, name)

    members: dict[str, Any] = {
        "__slots__": ("__weakref__",),
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        **{name: _forwarded(it, name) for name in _special_methods(kind)},
        "__call__": staticmethod(counted),
        "__copy__": lambda self: self.__copy__(),
        "__deepcopy__": lambda self, memo: self.__deepcopy__(memo),
        "__getattribute__": get,
        "__setattr__": lambda _, name, value: setattr(it, name, value),
        "__delattr__": lambda _, name: delattr(it, name),
    }
    if hasattr(kind, "__get__"):
        members["__get__"] = lambda self, instance, owner=None: _bound(
            self, it, instance, owner, again
        )
    made: Callable[..., Any] = type(kind.__name__, (), members)()
    return made


def _special_methods(kind: type) -> Iterator[str]:
    """The names of the methods behind operators and built-in functions."""
    defined = {name: found for base in reversed(kind.__mro__) for name, found in vars(base).items()}
    for name, found in defined.items():
        is_method = callable(found) or found is None  # None: it has no such method, as `__hash__`
        if is_method and name not in _OWN and name.startswith("__") and name.endswith("__"):
            yield name


def _forwarded(it: Any, name: str) -> Any:
    kind = type(it)
    if getattr(kind, name) is None:
        return None

    def forward(_: object, *args: Any, **kwargs: Any) -> Any:
        return getattr(kind, name)(it, *args, **kwargs)

    return forward


def _bound(self: Any, it: Any, instance: Any, owner: Any, again: Callable[[Any], Any]) -> Any:
    """What stands for the object where it is an attribute of a class."""
    found = type(it).__get__(it, instance, owner)
    if found is it:
        return self
    if type(found) is MethodType and found.__func__ is it:
        return MethodType(self, found.__self__)
    return again(found) if callable(found) else found


def _reduced(it: Any, made: object, again: Callable[[Any], Any]) -> Any:
    """What is pickled: the name, as of functions, or the object itself, to be tracked again."""
    name, module = getattr(it, "__qualname__", None), getattr(it, "__module__", None)
    if isinstance(name, str) and isinstance(module, str):
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        # another process need not have the same names in its program
        if found is made and (module != "__main__" or isinstance(it.__reduce_ex__(4), str)):
            return name
    return again, (it,)
