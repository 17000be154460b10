"""CodeCarbon's trackers on simulated hardware, in a time that the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import carbontrack
from carbontrack.attribution.policy import Attribution
from carbontrack.compat.codecarbon import OfflineEmissionsTracker
from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData
from carbontrack.compat.codecarbon.outputs import BaseOutput
from carbontrack.testing import FakeClock, FakeMeter, MemorySink

CPU_W, RAM_W, GPU_W = 60.0, 10.0, 30.0
WATTS = CPU_W + RAM_W + GPU_W
G_PER_KWH = 500.0


class Kept(BaseOutput):
    """An output that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[EmissionsData, EmissionsData]] = []
        self.live: list[tuple[EmissionsData, EmissionsData]] = []
        self.tasks: list[list[TaskEmissionsData]] = []
        self.experiments: list[str] = []
        self.exits = 0

    def out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Keep the row."""
        self.rows.append((total, delta))

    def live_out(self, total: EmissionsData, delta: EmissionsData) -> None:
        """Keep the row."""
        self.live.append((total, delta))

    def task_out(self, data: Sequence[TaskEmissionsData], experiment_name: str) -> None:
        """Keep the rows."""
        self.tasks.append(list(data))
        self.experiments.append(experiment_name)

    def exit(self) -> None:
        """Count it."""
        self.exits += 1


class Machine:
    """A machine of known power, its clock, and what was written about it."""

    def __init__(self, *, pue: float = 1.0, without: Sequence[str] = ()) -> None:
        self.clock, self.sink, self.output = FakeClock(), MemorySink(), Kept()
        watts = {"cpu": CPU_W, "ram": RAM_W, "gpu": GPU_W}
        self.carbontrack = carbontrack.Tracker(
            meters=[
                FakeMeter(f"fake:{name}", name, watts=one)  # type: ignore[arg-type]
                for name, one in watts.items()
                if name not in without
            ],
            grid=G_PER_KWH,
            attribution=Attribution("machine", pue=pue),
            sinks=[self.sink],
            clock=self.clock,
        )

    def tracker(self, **parameters: Any) -> Simulated:
        """A tracker of CodeCarbon's on it."""
        parameters.setdefault("output_handlers", [self.output])
        return Simulated(self, **{"output_methods": [], **parameters})


class Simulated(OfflineEmissionsTracker):
    """A tracker that measures a `Machine`."""

    def __init__(self, machine: Machine, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._machine = machine

    def _tracker(self) -> carbontrack.Tracker:
        return self._machine.carbontrack
