"""`codecarbon` and its public submodules, replaced by carbontrack's counterparts.

They are found before an installed package of that name, which is logged once. A name that is not
available raises an ImportError with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from carbontrack.compat.codecarbon.log import LOGGER
from carbontrack.config.environment import is_first_to_say_codecarbon
from carbontrack.errors import ConfigError
from carbontrack.system.version import VERSION

NAME = "codecarbon"
INTERFACE = "3.3.2"
"""The release of CodeCarbon whose public names these are."""
__version__ = f"{INTERFACE}+carbontrack.{VERSION.replace('+', '.')}"
"""That release, because programs require `>= 3`, followed by carbontrack's."""
_HOME = "carbontrack.compat.codecarbon"
_TRACKERS = {
    "EmissionsTracker": "tracker",
    "OfflineEmissionsTracker": "tracker",
    "track_emissions": "decorators",
}
_ROWS = {"EmissionsData": "data", "TaskEmissionsData": "data"}
_BASES = {"BaseOutput": "outputs", "OutputMethod": "outputs"}
_LOGGERS = {"LoggerOutput": "outputs", "GoogleCloudLoggerOutput": "outputs"}
_FILES, _HTTP = {"FileOutput": "outputs"}, {"HTTPOutput": "outputs"}
MODULES: Mapping[str, Mapping[str, str]] = {
    NAME: {**_TRACKERS, "OutputMethod": "outputs"},
    f"{NAME}._version": {},
    f"{NAME}.emissions_tracker": {
        **_TRACKERS,
        "BaseEmissionsTracker": "tracker",
        "TaskEmissionsTracker": "decorators",
        "track_task_emissions": "decorators",
        **_ROWS,
        **_BASES,
    },
    f"{NAME}.external": {},
    f"{NAME}.external.logger": {"logger": "log", "set_logger_level": "log"},
    f"{NAME}.output": {**_BASES, **_ROWS, **_FILES, **_HTTP, **_LOGGERS},
    f"{NAME}.output_methods": {},
    f"{NAME}.output_methods.base_output": _BASES,
    f"{NAME}.output_methods.emissions_data": _ROWS,
    f"{NAME}.output_methods.file": _FILES,
    f"{NAME}.output_methods.http": _HTTP,
    f"{NAME}.output_methods.logger": _LOGGERS,
}
"""The public names of each module, and where they are defined here."""
_OTHERWISE_CALLED = {"logger": "LOGGER", "set_logger_level": "set_level"}


class _Aliases:
    """Finds and loads the modules.

    Each is a package, so that `from codecarbon.output import NAME` looks up a missing name here,
    and fails with a reason.
    """

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The spec of a module; None for everything that is not CodeCarbon's.

        Raises:
            ImportError: it is CodeCarbon's, and not available here.
        """
        if name in MODULES:
            return ModuleSpec(name, self, origin=f"{_HOME}, {name}", is_package=True)  # type: ignore[arg-type]
        if name.startswith(f"{NAME}."):
            raise ImportError(
                f"{name} is not available: carbontrack replaces codecarbon in this program and has "
                f"only the public names of {INTERFACE}. If the program needs it, run it with the "
                "codecarbon package.",
                name=name,
            )
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """A plain module."""

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its names."""
        names = MODULES[module.__name__]
        for name, home in names.items():
            own = getattr(import_module(f"{_HOME}.{home}"), _OTHERWISE_CALLED.get(name, name))
            setattr(module, name, own)
        module.__doc__ = f"The public names of {module.__name__}, on carbontrack."
        module.__version__ = __version__  # type: ignore[attr-defined]
        module.__all__ = list(names)  # type: ignore[attr-defined]
        if module.__name__ == NAME:
            # as CodeCarbon's: programs take its handlers away until it `hasHandlers()` no more
            LOGGER.propagate = False
            _tell_of_the_real_one()


FINDER = _Aliases()


def put_in_front() -> _Aliases:
    """Make the modules take precedence over all others, from the next import on."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    return FINDER


def install() -> None:
    """Make `import codecarbon` load this, in the whole process; a second call does nothing.

    Raises:
        ConfigError: CodeCarbon itself has been imported already.
    """
    loaded = sys.modules.get(NAME)
    if loaded is not None and getattr(loaded.__spec__, "loader", None) is not FINDER:
        raise ConfigError(
            f"codecarbon has been imported already, from {getattr(loaded, '__file__', 'memory')}; "
            f"call install() before the first import of it, or use "
            f"`carbontrack run --as-codecarbon -- COMMAND`"
        )
    put_in_front()
    for name in MODULES:
        import_module(name)


def _tell_of_the_real_one() -> None:
    found = PathFinder.find_spec(NAME)
    if found is not None and is_first_to_say_codecarbon():
        LOGGER.warning(
            "the codecarbon package at %s is not used: carbontrack replaces it",
            found.origin or "an unknown place",
        )
