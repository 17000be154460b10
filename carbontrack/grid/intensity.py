"""Carbon intensity as a value with an interval and a source, and the sources of such values.

`IntensitySource` is all that a source must have. Optional attributes are read once, when a tracker
receives the source, by the function next to them:

    =========  ============  ===================================================================
    attribute  read by       meaning if it is true; otherwise
    =========  ============  ===================================================================
    constant   is_constant   the answer never changes; it is asked for repeatedly
    prompt     is_prompt     `at` neither waits nor takes a lock; it is called in another thread
    =========  ============  ===================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from carbontrack.errors import ConfigError
from carbontrack.system.interrupts import pass_on
from carbontrack.values import Value


class GridIntensity(Value):
    """The carbon intensity of a region at a time, in g CO2e/kWh, with an interval and a source.

    Attributes:
        zone: the region: "FR", "US-CA", "WORLD".
        g_per_kwh: the best estimate, g CO2e/kWh.
        low_g_per_kwh, high_g_per_kwh: the interval around it.
        source: where the value comes from, with the edition.
        year: the year that the value describes; None if it is unknown.
        method: what is counted: "lifecycle_generation", "direct_combustion_generation", …
    """

    zone: str
    g_per_kwh: float
    low_g_per_kwh: float
    high_g_per_kwh: float
    source: str
    year: int | None
    method: str


class IntensitySource(Protocol):
    """A source of the grid's carbon intensity.

    `at` answers from memory and at once; a live source refreshes itself elsewhere. A source whose
    answer never changes may set the attribute `constant` to True: it is then called only once. One
    that neither waits nor takes a lock may set `prompt` to True: it is then called at every
    reading, by the thread that reads. Any other is called in a separate thread, once a second at
    most, and its last answer stays valid until the next one.
    """

    def at(self, when: datetime) -> GridIntensity:
        """The carbon intensity at `when`, which has a time zone."""
        ...


def is_constant(source: IntensitySource) -> bool:
    """Whether the source states that its answer never changes."""
    return bool(getattr(source, "constant", False))


def is_prompt(source: IntensitySource) -> bool:
    """Whether the source states that its `at` neither waits nor takes a lock."""
    return bool(getattr(source, "prompt", False))


class Fixed(Value):
    """A constant carbon intensity: a table's yearly mean or a user's own value."""

    intensity: GridIntensity
    constant: bool = True
    prompt: bool = True

    def at(self, when: datetime) -> GridIntensity:  # noqa: ARG002 - the protocol hands it in
        """The one value."""
        return self.intensity

    @classmethod
    def of(
        cls, g_per_kwh: float, *, zone: str = "custom", source: str = "given by the user"
    ) -> Fixed:
        """A single value in g CO2e/kWh, without an interval.

        Raises:
            ConfigError: the value is negative, not finite, or above 5,000 g/kWh, which no power
            station reaches (the worst coal is near 1,700: IPCC AR5 WG III, A.III).
        """
        if not 0.0 <= g_per_kwh <= 5000.0:
            raise ConfigError(
                f"an intensity of {g_per_kwh!r} g/kWh is not possible; give 0 to 5000 g CO2e/kWh"
            )
        return cls(GridIntensity(zone, g_per_kwh, g_per_kwh, g_per_kwh, source, None, "given"))


class Candidate(Protocol):
    """A source that may have no value for an instant.

    Attributes:
        prompt: whether `find` neither waits nor takes a lock.
    """

    @property
    def prompt(self) -> bool:
        """Whether `find` neither waits nor takes a lock."""
        ...

    def find(self, when: datetime) -> GridIntensity | None:
        """The intensity at `when`, from memory and at once, or None."""
        ...


class FailSafeSource:
    """A third-party source as a candidate: if it raises, it has no value."""

    prompt = False

    def __init__(
        self, name: str, source: IntensitySource, warn: Callable[[str, str], object] | None = None
    ) -> None:
        self._name, self._source, self._warn = name, source, warn

    def find(self, when: datetime) -> GridIntensity | None:
        """The source's answer, or None if it fails."""
        try:
            return self._source.at(when)
        except Exception as error:  # third-party code must not end the measured program
            pass_on(error)
            if self._warn is not None:
                self._warn(self._name, f"no carbon intensity from {self._name}: {error!r}")
            return None


class Chain:
    """Several sources, called in order; if no candidate has a value, the last source answers.

    Attributes:
        prompt: whether all of them answer without waiting; a third-party source may not.
    """

    def __init__(self, candidates: Sequence[Candidate], last: IntensitySource) -> None:
        self._candidates = tuple(candidates)
        self._last = last
        self.prompt = is_prompt(last) and all(one.prompt for one in self._candidates)

    def at(self, when: datetime) -> GridIntensity:
        """The intensity at `when`; its `source` states which one answered."""
        for candidate in self._candidates:
            found = candidate.find(when)
            if found is not None:
                return found
        return self._last.at(when)
