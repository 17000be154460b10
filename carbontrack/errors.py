"""Every error carbontrack raises, and how their messages offer the right name.

    CarbontrackError
    ├── ConfigError (ValueError)          a setting or argument that cannot be used
    │   ├── UnknownSettingError           a name that no setting has
    │   ├── QuantityError                 text that is no quantity: "5 bananas"
    │   └── UnknownRegion                 a place that no table knows
    ├── NoIntensity (LookupError)         a known place without data
    ├── MissingExtra (ImportError)        an optional library that is used but not installed
    ├── MeterError
    │   ├── MeterUnavailable              never opened; says why and how to cure it
    │   ├── MeterReadError                this read only; the next one may answer
    │   └── MeterGone                     never again; another meter takes over
    ├── SinkError                         a record could not be written; it is counted and said
    ├── StoreUnavailable                  a team's store does not answer now; try again later
    │   └── StoreFull                     it has no room for more
    └── BudgetExceeded                    the only error a running measurement may raise, on request

Errors about bad input are raised before anything starts. Once a measurement runs, none of these
reaches the measured program, except `BudgetExceeded` where the program asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class CarbontrackError(Exception):
    """The root of every error that carbontrack raises on purpose."""


class ConfigError(CarbontrackError, ValueError):
    """A setting or an argument has a value that cannot be used."""


class UnknownSettingError(ConfigError):
    """A name is not the name of any setting; the message offers the nearest right one."""


class QuantityError(ConfigError):
    """A text is not a quantity of emissions or energy that carbontrack understands."""


class UnknownRegion(ConfigError):  # noqa: N818 - the public contract names it so
    """A region is not known; `matches` holds the nearest known ones, best first."""

    def __init__(self, message: str, matches: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.matches = tuple(matches)


class NoIntensity(CarbontrackError, LookupError):  # noqa: N818 - the public contract names it so
    """The place is known, but no table has a carbon intensity for it."""


class MissingExtra(CarbontrackError, ImportError):  # noqa: N818 - reads as the sentence it makes
    """An optional library is needed for what was asked; the message names the extra to install."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed; "
            f'install it with: pip install "carbontrack[{extra}]"'
        )
        self.extra = extra


class MeterError(CarbontrackError):
    """The root of what can go wrong with a meter."""


class MeterUnavailable(MeterError):  # noqa: N818 - states a condition
    """A meter cannot be opened on this machine; `cure` holds the lines that would change that."""

    def __init__(self, message: str, cure: str | None = None) -> None:
        super().__init__(message)
        self.cure = cure


class MeterReadError(MeterError):
    """One read failed; nothing is known for this instant and the next read may succeed."""


class MeterGone(MeterError):  # noqa: N818 - states a condition
    """The meter will not answer again in this process."""


class SinkError(CarbontrackError):
    """A record could not be written to its destination.

    `reason` says why in a few words; `lost_records` are those that are in no journal either.
    """

    def __init__(self, message: str, *, reason: str = "", lost_records: int = 0) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.lost_records = lost_records


class StoreUnavailable(CarbontrackError):  # noqa: N818 - states a condition
    """A team's store does not answer now, or not in time; the same call may succeed later.

    What was to be added may be there or not: adding it again does no harm.
    """


class StoreFull(StoreUnavailable):
    """A team's store has no room for more; nothing of what was to be added is there."""


class BudgetExceeded(CarbontrackError):  # noqa: N818 - the public contract names it so
    """A run used more than its budget allows, and the program asked to be told by an exception.

    `verdict` holds the limit, what was used, and the interval around it.
    """

    def __init__(self, message: str, verdict: Any = None) -> None:
        super().__init__(message)
        self.verdict = verdict


def close_matches(
    name: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6
) -> list[str]:
    """The known names that are spelt like `name`, best first; `cutoff` as difflib has it."""
    from difflib import get_close_matches  # 2 ms, and only for an error

    return get_close_matches(name, list(known), n=most, cutoff=cutoff)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error's sentence: "; did you mean 'region'?", or nothing if no name is near."""
    return did_you_mean(close_matches(name, known))


def did_you_mean(names: Iterable[str], form: Callable[[str], str] = repr) -> str:
    """The end of an error's sentence: "; did you mean 'FR' or 'FI'?", or nothing without names."""
    choices = " or ".join(map(form, names))
    return f"; did you mean {choices}?" if choices else ""
