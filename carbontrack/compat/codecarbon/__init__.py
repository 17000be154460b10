"""CodeCarbon's public names: a program with `import codecarbon` runs unchanged.

    from carbontrack.compat.codecarbon import install
    install()            # before the first `import codecarbon`

does that in one process, and `carbontrack run --as-codecarbon -- COMMAND` in a command and all
processes that it starts. Each name is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from carbontrack.compat.codecarbon.aliases import install
    from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData
    from carbontrack.compat.codecarbon.decorators import (
        TaskEmissionsTracker,
        track_emissions,
        track_task_emissions,
    )
    from carbontrack.compat.codecarbon.outputs import (
        BaseOutput,
        FileOutput,
        GoogleCloudLoggerOutput,
        HTTPOutput,
        LoggerOutput,
        OutputMethod,
    )
    from carbontrack.compat.codecarbon.tracker import (
        BaseEmissionsTracker,
        EmissionsTracker,
        OfflineEmissionsTracker,
    )

    __version__: str

__all__ = [
    "BaseEmissionsTracker",
    "BaseOutput",
    "EmissionsData",
    "EmissionsTracker",
    "FileOutput",
    "GoogleCloudLoggerOutput",
    "HTTPOutput",
    "LoggerOutput",
    "OfflineEmissionsTracker",
    "OutputMethod",
    "TaskEmissionsData",
    "TaskEmissionsTracker",
    "install",
    "track_emissions",
    "track_task_emissions",
]

_HOMES = {
    **dict.fromkeys(("install", "__version__"), "aliases"),
    **dict.fromkeys(("EmissionsData", "TaskEmissionsData"), "data"),
    **dict.fromkeys(
        ("TaskEmissionsTracker", "track_emissions", "track_task_emissions"), "decorators"
    ),
    **dict.fromkeys(("BaseOutput", "OutputMethod", "FileOutput", "HTTPOutput"), "outputs"),
    **dict.fromkeys(("LoggerOutput", "GoogleCloudLoggerOutput"), "outputs"),
    **dict.fromkeys(
        ("BaseEmissionsTracker", "EmissionsTracker", "OfflineEmissionsTracker"), "tracker"
    ),
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
