"""What holds for every record of a tracker besides what was measured, and facts about the host."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from carbontrack.figures import Course
from carbontrack.grid.intensity import GridIntensity

if TYPE_CHECKING:
    from carbontrack.curve import Timeline
    from carbontrack.journal import Journal
    from carbontrack.records import Record


class Timelines(Protocol):
    """Somewhere timelines go."""

    def write(self, record: Record, timeline: Timeline) -> None:
        """Keep the timeline of a finished record; may raise, and is then said once."""
        ...


class Relatives(Protocol):
    """Who tells child processes which root they are counted with."""

    def opened(self, key: int, record_id: str) -> None:
        """A root has been opened; of a decorated call, which has no record yet, the run's id."""
        ...

    def closed(self, key: int) -> None:
        """It has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What holds for every record of a tracker, besides what was measured.

    Attributes:
        region_basis: how the region is known.
        parent_id: the record that the records of this process belong to; None for a tracker of
            its own.
        spans: which spans are written, "roots" or "all".
        water_l_per_kwh: what generating the power consumes, litres per kWh; None: unknown.
        making_g_per_h: CO2e of making the hardware for each hour of it, by component or for the
            whole "machine"; None: unknown.
        facts: columns of the record by name: host_id, rank, cloud_provider, …
        journal: where open runs leave checkpoints, so that a killed process loses little; None:
            nowhere.
        outputs: where recovered records are to go: absolute paths and URLs.
        checkpoint_s: seconds between two checkpoints of a run.
        timelines: where root spans' power over time goes; None: none is kept.
        relatives: who is told of open roots, for the processes that are started meanwhile.
    """

    region_basis: str | None = None
    parent_id: str | None = None
    spans: Literal["roots", "all"] = "roots"
    water_l_per_kwh: float | None = None
    making_g_per_h: Mapping[str, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    journal: Journal | None = None
    outputs: tuple[str, ...] = ()
    checkpoint_s: float = 10.0
    timelines: Timelines | None = None
    relatives: Relatives | None = None


class Ending(NamedTuple):
    """The end of a span or a window, and what was known then.

    Attributes:
        course: how it went.
        ended_at: the wall clock.
        grid: the grid's intensity; None where nothing is known.
        powers_w: the last known power of each meter.
    """

    course: Course
    ended_at: datetime
    grid: GridIntensity | None
    powers_w: Sequence[float | None]


def rfc3339(when: datetime) -> str:
    """An instant in UTC as RFC 3339 writes it, to the microsecond: 2026-01-01T00:00:00.000000Z."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond:06d}Z"


def system_name() -> str:
    """The operating system and its release: "Linux 6.8.0"."""
    if not hasattr(os, "uname"):
        return sys.platform
    system = os.uname()
    return f"{system.sysname} {system.release}"
