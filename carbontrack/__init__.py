"""What did this code emit, how is that known, and how far may it be off? Ask carbontrack.

    import carbontrack

    with carbontrack.track("train", region="FR") as run:
        ...
    print(run.record.emissions_g, run.record.energy_kwh, run.record.basis)

Importing this package does nothing but define names: each is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing `typing` would cost 7 ms
if TYPE_CHECKING:
    from carbontrack.attribution.idle import IdlePower
    from carbontrack.attribution.policy import Attribution
    from carbontrack.budget import Budget
    from carbontrack.calculator.estimate import estimate
    from carbontrack.carry import wrap_context
    from carbontrack.errors import (
        BudgetExceeded,
        CarbontrackError,
        ConfigError,
        NoIntensity,
        UnknownRegion,
    )
    from carbontrack.front import auto, current_span, track
    from carbontrack.grid.intensity import Fixed, GridIntensity, IntensitySource
    from carbontrack.grid.series import Series
    from carbontrack.grid.table import lookup
    from carbontrack.http_sink import HttpSink
    from carbontrack.loop import progress
    from carbontrack.records import Record, Sink
    from carbontrack.report.read import read_records
    from carbontrack.report.timelines import read_timeline
    from carbontrack.sinks.csv_file import CsvSink
    from carbontrack.sinks.jsonl import JsonlSink
    from carbontrack.sinks.sqlite import SqliteSink
    from carbontrack.span import Span
    from carbontrack.tracker import Tracker
    from carbontrack.waiting import wait_for_green

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
    "Budget": "carbontrack.budget",
    "BudgetExceeded": "carbontrack.errors",
    "CarbontrackError": "carbontrack.errors",
    "ConfigError": "carbontrack.errors",
    "CsvSink": "carbontrack.sinks.csv_file",
    "Fixed": "carbontrack.grid.intensity",
    "GridIntensity": "carbontrack.grid.intensity",
    "HttpSink": "carbontrack.http_sink",
    "IdlePower": "carbontrack.attribution.idle",
    "IntensitySource": "carbontrack.grid.intensity",
    "JsonlSink": "carbontrack.sinks.jsonl",
    "NoIntensity": "carbontrack.errors",
    "Record": "carbontrack.records",
    "Series": "carbontrack.grid.series",
    "Sink": "carbontrack.records",
    "Span": "carbontrack.span",
    "SqliteSink": "carbontrack.sinks.sqlite",
    "Tracker": "carbontrack.tracker",
    "UnknownRegion": "carbontrack.errors",
    "auto": "carbontrack.front",
    "current_span": "carbontrack.front",
    "estimate": "carbontrack.calculator.estimate",
    "lookup": "carbontrack.grid.table",
    "progress": "carbontrack.loop",
    "read_records": "carbontrack.report.read",
    "read_timeline": "carbontrack.report.timelines",
    "track": "carbontrack.front",
    "wait_for_green": "carbontrack.waiting",
    "wrap_context": "carbontrack.carry",
}


def load_ipython_extension(shell: object) -> None:
    """Bring `%%carbontrack` into IPython; what `%load_ext carbontrack` calls."""
    from carbontrack.integrations.ipython import load

    load(shell)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from carbontrack.version import VERSION as found  # noqa: N811 - it is known by both names
    elif name in _HOMES:
        from importlib import import_module

        from carbontrack.forking import holding_forks

        with holding_forks():
            found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'carbontrack' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
