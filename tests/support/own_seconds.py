"""A simulated machine for processes that tests start: each counts its own CPU seconds at 10 W.

`install` writes a package with the meter, and returns the variables of a process that measures with
nothing else. In scope machine a row then has exactly what its process used, whatever else runs.
"""

from __future__ import annotations

import os
from pathlib import Path

WATTS = 10.0
_MODULE = """
import time

class OwnSeconds:
    id, component, covers = "own-seconds", "cpu", ("cpu", "gpu", "ram", "other")
    basis, resolution_s, relative_uncertainty, max_period_s = "measured", 0.0, 0.0, 60.0

    def read_joules(self, now_s):
        return time.process_time() * {watts}

    def close(self):
        pass

def make(host):
    return [OwnSeconds()]
"""


def install(folder: Path) -> dict[str, str]:
    """Put the meter into a folder that processes import from; they need these variables."""
    (folder / "own_seconds_meter.py").write_text(_MODULE.format(watts=WATTS))
    info = folder / "own_seconds_meter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-seconds-meter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[carbontrack.meters]\nown-seconds = own_seconds_meter:make\n"
    )
    path = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "CARBONTRACK_METER_PLUGINS": "own-seconds",
        "CARBONTRACK_SCOPE": "machine",
        "CARBONTRACK_GPU_IDS": "none",
        "CARBONTRACK_REGION": "FR",
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
    }
