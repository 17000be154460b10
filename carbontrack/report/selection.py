"""Which runs a report is about: all of them, those since a time, or the last ones."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.values import Value

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w|seconds?|min(?:utes?)?|hours?|days?|weeks?)"


class Selection(Value):
    """The runs to count.

    Rows that started before `since` are not read at all, so that a row that is nested in one of
    them counts as a run. The last runs are those that started last, of the rows that are added up.

    Attributes:
        since: the earliest start, with its time zone; None: any.
        last: how many runs, from 1; None: all.
    """

    since: datetime | None = None
    last: int | None = None

    @property
    def since_ms(self) -> int | None:
        """The earliest start in milliseconds since 1970."""
        return None if self.since is None else round(self.since.timestamp() * 1e3)

    @property
    def text(self) -> str | None:
        """The selection as part of a sentence; None for all runs."""
        last = "" if self.last is None else f"the last {'run' if self.last == 1 else self.last}"
        last += " runs" if self.last is not None and self.last > 1 else ""
        if self.since is None:
            return last or None
        return f"{last or 'runs'} since {self.since.astimezone():%Y-%m-%d %H:%M %z}"

    def to_dict(self) -> dict[str, Any]:
        """`since` as RFC 3339 in UTC, and `last`."""
        since = self.since and self.since.astimezone(timezone.utc).isoformat()
        return {"since": since and since.replace("+00:00", "Z"), "last": self.last}


EVERY_RUN = Selection()


def since_of(text: str, now: datetime) -> datetime:
    """The time that `--since` names.

    Args:
        text: a date or a time in ISO 8601, without a zone of this machine's; a time of today such
            as "18:00"; an age such as "30min", "2h", "7d" or "1w"; "today" or "yesterday".
        now: the present time, with a zone.

    Raises:
        ConfigError: it is none of these, or in the future.
    """
    try:
        found = _time_of(text.strip(), now)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--since {text!r} is not a time; write a date such as 2026-03-01, a time such as "
            "18:00 or 2026-03-01T18:00, an age such as 30min, 2h or 7d, or today or yesterday"
        ) from None
    if found > now:
        raise ConfigError(f"--since {text!r} is in the future: {found:%Y-%m-%d %H:%M %z}")
    return found


def _time_of(text: str, now: datetime) -> datetime:
    plain, today = text.lower(), now.astimezone().date()
    if plain in ("today", "yesterday"):
        return _midnight(today - timedelta(days=plain == "yesterday"))
    if (age := re.fullmatch(_AGE, plain)) is not None:
        return now - timedelta(seconds=float(age[1]) * _SECONDS[age[2][0]])
    if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", plain):
        hour, _, rest = plain.partition(":")
        return datetime.combine(today, time.fromisoformat(f"{hour:>02}:{rest}")).astimezone()
    iso = text.upper()
    # which Python reads since 3.11 only
    return datetime.fromisoformat(f"{iso[:-1]}+00:00" if iso.endswith("Z") else iso).astimezone()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time.min).astimezone()
