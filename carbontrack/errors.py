"""All errors that carbontrack raises, and how their messages suggest the right name.

    CarbontrackError
    ├── ConfigError (ValueError)          a setting or argument that cannot be used
    │   ├── UnknownSettingError           a name that no setting has
    │   ├── QuantityError                 text that is not a quantity: "5 bananas"
    │   └── UnknownRegion                 a place that no table knows
    ├── NoIntensity (LookupError)         a known place without data
    ├── MissingExtra (ImportError)        an optional library that is used but not installed
    ├── MeterError
    │   ├── MeterUnavailable              cannot be opened; with the reason and how to fix it
    │   ├── MeterReadError                this read failed; the next one may succeed
    │   └── MeterGone                     lost for good; another meter replaces it
    ├── SinkError                         a record could not be written; counted and logged
    ├── StoreUnavailable                  a team's store does not respond; try again later
    │   └── StoreFull                     it has no room for more
    └── BudgetExceeded                    the only error a running measurement may raise, on request

Errors about bad input are raised before anything starts. Once a measurement runs, none of these
reaches the measured program, except `BudgetExceeded` where the program asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class CarbontrackError(Exception):
    """The base class of all errors that carbontrack raises on purpose."""


class ConfigError(CarbontrackError, ValueError):
    """A setting or an argument has a value that cannot be used."""


class UnknownSettingError(ConfigError):
    """There is no setting with this name; the message suggests the nearest one."""


class QuantityError(ConfigError):
    """A text is not a quantity of emissions or energy that carbontrack understands."""


class UnknownRegion(ConfigError):  # noqa: N818 - the public contract names it so
    """A region is not known; `matches` contains the nearest known regions, best first."""

    def __init__(self, message: str, matches: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.matches = tuple(matches)


class NoIntensity(CarbontrackError, LookupError):  # noqa: N818 - the public contract names it so
    """The region is known, but no table has a carbon intensity for it."""


class MissingExtra(CarbontrackError, ImportError):  # noqa: N818 - reads as the sentence it makes
    """An optional library is needed but not installed; the message names the extra to install."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed; "
            f'install it with: pip install "carbontrack[{extra}]"'
        )
        self.extra = extra


class MeterError(CarbontrackError):
    """The base class of the errors of meters."""


class MeterUnavailable(MeterError):  # noqa: N818 - states a condition
    """A meter cannot be opened on this machine; `cure` contains commands that would change that."""

    def __init__(self, message: str, cure: str | None = None) -> None:
        super().__init__(message)
        self.cure = cure


class MeterReadError(MeterError):
    """One read failed: there is no value for this instant; the next read may succeed."""


class MeterGone(MeterError):  # noqa: N818 - states a condition
    """The meter will not respond again in this process."""


class SinkError(CarbontrackError):
    """A record could not be written to its destination.

    `reason` says why in a few words; `lost_records` are the records that are not in a journal
    either.
    """

    def __init__(self, message: str, *, reason: str = "", lost_records: int = 0) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.lost_records = lost_records


class StoreUnavailable(CarbontrackError):  # noqa: N818 - states a condition
    """A team's store does not respond, or not in time; the same call may succeed later.

    The records to add may have been stored or not; adding them again does no harm.
    """


class StoreFull(StoreUnavailable):
    """A team's store is full; none of the records to add was stored."""


class BudgetExceeded(CarbontrackError):  # noqa: N818 - the public contract names it so
    """A run used more than its budget allows, and the program asked for an exception.

    `verdict` contains the limit, the amount used, and its interval.
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
    """The end of an error message: "; did you mean 'region'?", or nothing if no name is near."""
    return did_you_mean(close_matches(name, known))


def did_you_mean(names: Iterable[str], form: Callable[[str], str] = repr) -> str:
    """The end of an error message: "; did you mean 'FR' or 'FI'?", or nothing without names."""
    choices = " or ".join(map(form, names))
    return f"; did you mean {choices}?" if choices else ""
