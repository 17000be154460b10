"""The progress bar: tqdm, in this one file."""

from __future__ import annotations

from typing import Any, Protocol

from carbontrack.errors import MissingExtra


class Bar(Protocol):
    """What is needed of a bar; tqdm's are such."""

    n: float
    total: float | None

    def update(self, n: float = 1) -> object:
        """So many more are done."""
        ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:  # noqa: FBT001, FBT002
        """Text after the bar."""
        ...

    def close(self) -> None:
        """The end."""
        ...


def new_bar(**options: Any) -> Bar:
    """A bar for a terminal or a notebook, whichever this is.

    Raises:
        MissingExtra: tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtra("tqdm", "progress", "a progress bar") from None
    bar: Bar = tqdm(**options)
    return bar


def new_terminal_bar(**options: Any) -> Any:
    """A bar for a terminal; None where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(**options)
