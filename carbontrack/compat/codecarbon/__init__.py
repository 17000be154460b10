"""CodeCarbon's public names: a program that says `import codecarbon` runs unchanged.

`install()` of `carbontrack.compat.codecarbon.aliases` puts this in the place of that package.
"""

from __future__ import annotations

from carbontrack.compat.codecarbon.decorators import (
    TaskEmissionsTracker,
    track_emissions,
    track_task_emissions,
)
from carbontrack.compat.codecarbon.outputs import OutputMethod
from carbontrack.compat.codecarbon.tracker import EmissionsTracker, OfflineEmissionsTracker
from carbontrack.system.version import VERSION

__all__ = [
    "EmissionsTracker",
    "OfflineEmissionsTracker",
    "OutputMethod",
    "TaskEmissionsTracker",
    "track_emissions",
    "track_task_emissions",
]
__version__ = f"3.3.2+carbontrack.{VERSION.replace('+', '.')}"
"""The release of CodeCarbon whose names these are, as programs ask for `>= 3`, and ours behind."""
