"""Fakes for tests of programs that use carbontrack; carbontrack's own tests use the same ones.

clock = FakeClock()
meter = FakeMeter(watts=100.0)
sink = MemorySink()
tracker = carbontrack.Tracker(meters=[meter], sinks=[sink], clock=clock)
with tracker.span("train"):
    clock.advance(10.0)
assert sink.records[0].cpu_kwh == 1000.0 / 3.6e6
"""

from __future__ import annotations

from carbontrack.testing.clock import FakeClock
from carbontrack.testing.meter import FakeMeter
from carbontrack.testing.powercap import Powercap, Zone, build_powercap
from carbontrack.testing.sink import FailingSink, MemorySink

__all__ = [
    "FailingSink",
    "FakeClock",
    "FakeMeter",
    "MemorySink",
    "Powercap",
    "Zone",
    "build_powercap",
]
