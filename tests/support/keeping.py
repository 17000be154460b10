"""A bench whose root spans keep their power over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carbontrack.testing import FakeMeter
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import Bench


class KeptTimelines:
    """Collects timelines for tests."""

    def __init__(self) -> None:
        self.kept: list[Mapping[str, object]] = []
        self.broken = False

    def write(self, timeline: Mapping[str, object]) -> None:
        """Keep it, or fail as a full disk would."""
        if self.broken:
            raise OSError("no space left")
        self.kept.append(timeline)


class KeepingBench(Bench):
    """As `Bench`; the timelines of its runs are in `timelines.kept`."""

    def __init__(self, meters: Sequence[FakeMeter] | None = None, **tracker: Any) -> None:
        super().__init__(meters, **tracker)
        self.timelines = KeptTimelines()
        builder = self.tracker.session.builder
        session = Session(builder, sinks=[self.sink], timelines=self.timelines)
        self.tracker = Tracker.of(session, owns_sampler=True)
