"""What may hang on the sampler's tick; those who do stand on a higher floor."""

from __future__ import annotations

from typing import Protocol


class CallPool(Protocol):
    """What the sampler's tick does for decorated calls; `carbontrack.pool` holds the real one."""

    def tick(self) -> None:
        """Share out what was set aside since the last time; the sampler's lock is held."""
        ...

    def write_due_rows(self) -> None:
        """Write what is due; the sampler's lock is not held."""
        ...

    def forget_parent(self) -> None:
        """Begin at zero in a child process."""
        ...


class Watcher(Protocol):
    """Somebody who does something now and then."""

    def after_tick(self, now_s: float) -> None:
        """Called after each tick, without the sampler's lock."""
        ...
