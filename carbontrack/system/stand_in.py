"""What stands for a public name while this thread is importing the module that has it.

A signal's handler may run in the middle of any import, also of the first one. So nothing of the
package is imported here before it is needed.
"""

from __future__ import annotations

from typing import Any


class Passing:
    """Stands for `track`, and for what it returns, where half of the package is imported.

    The functions that it decorates are not changed, and the bodies of its blocks run.
    """

    record = None

    def __call__(self, name: object = None, **_: object) -> Any:
        """As `track`: a decorator with or without arguments, or a block."""
        _count(str(getattr(name, "__qualname__", name)))
        return name if callable(name) else self

    def span(self, *_: object, **__: object) -> Passing:
        """A block inside of it."""
        return self

    def check(self) -> None:
        """There is no budget."""

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was measured."""

    async def __aenter__(self) -> Passing:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing was measured."""


def stand_in(name: str) -> Any:
    """What a public name is while the module that has it is half imported.

    Raises:
        ImportError: nothing can stand for it.
    """
    if name == "track":
        return Passing()
    if name == "current_span":
        return lambda: None
    raise ImportError(f"carbontrack.{name} is being imported by this thread at the moment")


def _count(name: str) -> None:
    try:
        from carbontrack.system.reentrance import pass_through
    except ImportError:  # it is that module which is being imported
        return
    pass_through(name)
