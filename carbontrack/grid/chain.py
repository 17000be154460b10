"""Several sources of intensity, asked in order and ending in one that never fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from carbontrack.grid.intensity import GridIntensity, IntensitySource


class Candidate(Protocol):
    """A source that may have nothing for an instant."""

    def find(self, when: datetime) -> GridIntensity | None:
        """The intensity at `when`, from memory and at once, or None."""
        ...


class Guarded:
    """Somebody else's source as a candidate: an error of theirs is a missing figure."""

    def __init__(
        self, name: str, source: IntensitySource, warn: Callable[[str, str], object] | None = None
    ) -> None:
        self._name, self._source, self._warn = name, source, warn

    def find(self, when: datetime) -> GridIntensity | None:
        """What the source says, or None where it fails."""
        try:
            return self._source.at(when)
        except Exception as error:  # whatever it is, it is not the measured program's
            if self._warn is not None:
                self._warn(self._name, f"no intensity from {self._name}: {error!r}")
            return None


class Chain:
    """The first candidate that has a figure answers; where none has, the last source does."""

    def __init__(self, candidates: Sequence[Candidate], last: IntensitySource) -> None:
        self._candidates = tuple(candidates)
        self._last = last

    @property
    def prompt(self) -> bool:
        """Whether all of them answer in place; somebody else's may wait or take a lock."""
        return all(getattr(one, "prompt", False) for one in (*self._candidates, self._last))

    def at(self, when: datetime) -> GridIntensity:
        """The intensity at `when`; its `source` says who answered."""
        for candidate in self._candidates:
            found = candidate.find(when)
            if found is not None:
                return found
        return self._last.at(when)
