"""Measures the energy and carbon emissions of code, with their basis and uncertainty.

    import carbontrack

    with carbontrack.track("train", region="FR") as run:
        ...
    print(run.record.emissions_g, run.record.energy_kwh, run.record.basis)

Importing this package only defines names; each is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would cost 7 ms
if TYPE_CHECKING:
    from carbontrack.api.green import wait_for_green
    from carbontrack.api.http_sink import HttpSink
    from carbontrack.api.progress import progress
    from carbontrack.api.track import auto, current_span, track
    from carbontrack.attribution.policy import Attribution, IdlePower
    from carbontrack.errors import (
        BudgetExceeded,
        CarbontrackError,
        ConfigError,
        NoIntensity,
        UnknownRegion,
    )
    from carbontrack.grid.intensity import Fixed, GridIntensity, IntensitySource
    from carbontrack.grid.series import Series
    from carbontrack.grid.tables import lookup
    from carbontrack.impact.estimate import estimate
    from carbontrack.record import Record, Sink
    from carbontrack.report.read import read_records
    from carbontrack.report.timelines import read_timeline
    from carbontrack.sinks.csv_file import CsvSink
    from carbontrack.sinks.jsonl import JsonlSink
    from carbontrack.sinks.sqlite import SqliteSink
    from carbontrack.tracking.budget import Budget
    from carbontrack.tracking.context import wrap_context
    from carbontrack.tracking.span import Span
    from carbontrack.tracking.tracker import Tracker

    __version__: str

__all__ = [
    "Attribution",
    "Budget",
    "BudgetExceeded",
    "CarbontrackError",
    "ConfigError",
    "CsvSink",
    "Fixed",
    "GridIntensity",
    "HttpSink",
    "IdlePower",
    "IntensitySource",
    "JsonlSink",
    "NoIntensity",
    "Record",
    "Series",
    "Sink",
    "Span",
    "SqliteSink",
    "Tracker",
    "UnknownRegion",
    "auto",
    "current_span",
    "estimate",
    "lookup",
    "progress",
    "read_records",
    "read_timeline",
    "track",
    "wait_for_green",
    "wrap_context",
]

_HOMES = {
    "Attribution": "carbontrack.attribution.policy",
    "Budget": "carbontrack.tracking.budget",
    "BudgetExceeded": "carbontrack.errors",
    "CarbontrackError": "carbontrack.errors",
    "ConfigError": "carbontrack.errors",
    "CsvSink": "carbontrack.sinks.csv_file",
    "Fixed": "carbontrack.grid.intensity",
    "GridIntensity": "carbontrack.grid.intensity",
    "HttpSink": "carbontrack.api.http_sink",
    "IdlePower": "carbontrack.attribution.policy",
    "IntensitySource": "carbontrack.grid.intensity",
    "JsonlSink": "carbontrack.sinks.jsonl",
    "NoIntensity": "carbontrack.errors",
    "Record": "carbontrack.record",
    "Series": "carbontrack.grid.series",
    "Sink": "carbontrack.record",
    "Span": "carbontrack.tracking.span",
    "SqliteSink": "carbontrack.sinks.sqlite",
    "Tracker": "carbontrack.tracking.tracker",
    "UnknownRegion": "carbontrack.errors",
    "auto": "carbontrack.api.track",
    "current_span": "carbontrack.api.track",
    "estimate": "carbontrack.impact.estimate",
    "lookup": "carbontrack.grid.tables",
    "progress": "carbontrack.api.progress",
    "read_records": "carbontrack.report.read",
    "read_timeline": "carbontrack.report.timelines",
    "track": "carbontrack.api.track",
    "wait_for_green": "carbontrack.api.green",
    "wrap_context": "carbontrack.tracking.context",
}


def load_ipython_extension(shell: object) -> None:
    """Register `%%carbontrack` in IPython; called by `%load_ext carbontrack`."""
    from carbontrack.integrations.ipython import load

    load(shell)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from carbontrack.system.version import VERSION as found  # noqa: N811 - it is known by both names
    elif name in _HOMES:
        from importlib import import_module

        try:
            from carbontrack.system.forking import holding_forks, is_importing
        except ImportError:  # a signal's handler, in the middle of this import
            from carbontrack.system.stand_in import stand_in

            return stand_in(name)
        in_an_import = is_importing()
        with holding_forks():
            try:
                found = getattr(import_module(_HOMES[name]), name)
            except (AttributeError, ImportError):
                if not in_an_import:
                    raise
                from carbontrack.system.stand_in import stand_in

                return stand_in(name)
    else:
        raise AttributeError(f"module 'carbontrack' has no attribute {name!r}")
    import sys

    if type(sys.modules["os"]) is type(sys):
        globals()[name] = found
    # otherwise a test has faked the file system, and what is imported now does not outlast it
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
