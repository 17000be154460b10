"""A carbon intensity that changes with time: slots of constant intensity, and series of them.

`Series` is a source made from the user's own values, such as those of a utility or of solar panels.
Live services and forecasts use the slots and their integrals too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from itertools import accumulate, pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.grid.intensity import GridIntensity
from carbontrack.system.interrupts import pass_on
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    import pandas as pd


HIGHEST_G_PER_KWH = 2500.0
"""Higher than any grid: the worst lignite plant emits about 1,700 g/kWh (IPCC AR5 WG III, A.III),
the worst national grid of the tables 1,306. A value above it, or below zero, is an error."""


class Slot(NamedTuple):
    """A span of time, in seconds since 1970 (UTC), and its intensity in g CO2e per kWh."""

    start_s: float
    end_s: float
    g_per_kwh: float
    estimated: bool = False
    """A forecast, or the provider's own estimate of a value that it does not have yet."""


def in_order(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """Sorted, without impossible values, and each ended where the next begins."""
    good = [slot for slot in slots if _possible(slot)]
    latest = {slot.start_s: slot for slot in sorted(good, key=lambda slot: slot.start_s)}
    ordered = list(latest.values())
    cut = [slot._replace(end_s=min(slot.end_s, after.start_s)) for slot, after in pairwise(ordered)]
    return (*cut, *ordered[-1:])


def _possible(slot: Slot) -> bool:
    sound = all(isfinite(number) for number in slot[:3])
    return sound and slot.start_s < slot.end_s and 0.0 <= slot.g_per_kwh <= HIGHEST_G_PER_KWH


def slot_at(slots: Sequence[Slot], at_s: float) -> Slot | None:
    """The slot that contains an instant, or None."""
    slot = last_before(slots, at_s)
    return slot if slot is not None and at_s < slot.end_s else None


def last_before(slots: Sequence[Slot], at_s: float) -> Slot | None:
    """The last slot that started at or before an instant, ended or not; or None."""
    place = bisect_right(slots, at_s, key=lambda slot: slot.start_s)
    return slots[place - 1] if place else None


class GaplessRun:
    """The integral over slots without a gap; instants outside count as its ends."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Take slots that follow each other without a gap, at least one."""
        self.start_s, self.end_s = slots[0].start_s, slots[-1].end_s
        self.edges_s = [*(slot.start_s for slot in slots), self.end_s]
        areas = ((slot.end_s - slot.start_s) * slot.g_per_kwh for slot in slots)
        self._areas = list(accumulate(areas, initial=0.0))
        self._slots = slots

    def _area_to(self, at_s: float) -> float:
        at_s = min(max(at_s, self.start_s), self.end_s)
        place = min(bisect_right(self.edges_s, at_s), len(self._slots)) - 1
        slot = self._slots[place]
        return self._areas[place] + (at_s - slot.start_s) * slot.g_per_kwh

    def mean_g_per_kwh(self, start_s: float, end_s: float) -> float:
        """The mean over a part of the run, in g/kWh: what constant power would emit per kWh."""
        return (self._area_to(end_s) - self._area_to(start_s)) / (end_s - start_s)


def gapless_runs(slots: Sequence[Slot]) -> list[GaplessRun]:
    """The runs of slots that lie between gaps."""
    runs: list[list[Slot]] = []
    for slot in slots:
        if runs and runs[-1][-1].end_s == slot.start_s:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return [GaplessRun(run) for run in runs]


def parse_time_s(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; without an offset it is UTC.

    Raises:
        ValueError: the text is no such time.
    """
    text = text.strip()
    if text.endswith(("Z", "z")):
        text = f"{text[:-1]}+00:00"
    head, dot, tail = text.partition(".")
    if dot:  # Python 3.10 parses three or six digits of a second; servers send other numbers
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def utc(at_s: float) -> datetime:
    """The instant as a datetime with the time zone UTC."""
    return datetime.fromtimestamp(at_s, timezone.utc)


_TIMES = ("datetime_utc", "datetime", "timestamp", "time", "date", "start", "from", "ts")
_AMOUNTS = ("g_per_kwh", "gco2e_per_kwh", "gco2_per_kwh", "intensity", "carbon_intensity")


class Series:
    """Hourly, or otherwise regular, values: each is valid until the next one starts.

    Outside its hours, and in its gaps, `at` returns the mean of the whole series with its lowest
    and highest value as the interval, and `source` states this; `find` returns None there.
    """

    prompt = True

    def __init__(
        self,
        slots: Iterable[Slot],
        *,
        zone: str = "custom",
        source: str = "series given by the user",
        relative_uncertainty: float = 0.0,
    ) -> None:
        """Keep the slots in chronological order.

        `relative_uncertainty` 0.1 makes an interval of ± 10 %.

        Raises:
            ConfigError: there is no slot, or one with an impossible value or length.
        """
        given = tuple(slots)
        self.slots: Sequence[Slot] = in_order(given)
        if not self.slots or len(self.slots) < len(given):
            raise ConfigError(
                f"{source}: needs at least one time, each once, with 0 to {HIGHEST_G_PER_KWH:g} "
                f"g CO2e/kWh; {len(given) - len(self.slots)} of {len(given)} are not valid"
            )
        self._zone, self.source = zone, source
        self._relative_uncertainty = relative_uncertainty
        self._last: tuple[Slot | None, GridIntensity] | None = None

    @classmethod
    def of(cls, times_s: Sequence[float], g_per_kwh: Sequence[float], **about: Any) -> Series:
        """A series from instants, in seconds since 1970, and the values that begin there.

        The last value, and one before a gap, are valid for the most frequent duration.
        """
        points = sorted(zip(times_s, g_per_kwh, strict=True))
        steps = [after[0] - before[0] for before, after in pairwise(points)]
        step_s = Counter(steps).most_common(1)[0][0] if steps else 3600.0
        lengths_s = [min(step, step_s) for step in steps] + [step_s]
        return cls(
            (
                Slot(start_s, start_s + length_s, g)
                for (start_s, g), length_s in zip(points, lengths_s, strict=bool(points))
            ),
            **about,
        )

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        time_column: str | None = None,
        column: str | None = None,
        **about: Any,
    ) -> Series:
        """Read a CSV file with columns of ISO 8601 times (UTC if there is no offset) and values.

        Columns are found by their usual names ("datetime", "g_per_kwh"), else the first two are
        used. `about` has the arguments of the constructor: zone, source, relative_uncertainty.

        Raises:
            ConfigError: the file cannot be read, or a cell is not a time or not a number.
        """
        import csv

        path = Path(path)
        about.setdefault("source", path.name)
        times_s, amounts = [], []
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                reader = csv.reader(lines)
                header = next(reader, [])
                times = _column(header, time_column, _TIMES, 0, path)
                values = _column(header, column, _AMOUNTS, 1, path)
                for cells in filter(None, reader):
                    times_s.append(parse_time_s(cells[times]))
                    amounts.append(float(cells[values]))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            pass_on(error)
            raise ConfigError(f"cannot read the series {path}: {error}") from error
        except (ValueError, IndexError) as error:
            if isinstance(error, ConfigError):
                raise
            line = f"{path}, line {reader.line_num}"
            raise ConfigError(f"{line}: needs a time and a number, {error}") from error
        return cls.of(times_s, amounts, **about)

    @classmethod
    def from_frame(
        cls, frame: pd.Series[float] | pd.DataFrame, *, column: str | None = None, **about: Any
    ) -> Series:
        """Take a pandas Series, or a column of a DataFrame, with a DatetimeIndex (UTC if naive).

        Raises:
            ConfigError: the index contains no times, or the column is missing.
        """
        import pandas as pd

        if not isinstance(frame.index, pd.DatetimeIndex):
            raise ConfigError("the series needs a DatetimeIndex; call set_index on its time column")
        if isinstance(frame, pd.DataFrame):
            names = [str(name) for name in frame.columns]
            frame = frame.iloc[:, _column(names, column, _AMOUNTS, 0, "the frame")]
        times_s = [when.timestamp() for when in frame.index]
        return cls.of(times_s, [float(g) for g in frame], **about)

    def find(self, when: datetime) -> GridIntensity | None:
        """The value at an instant, or None if the series has none."""
        slot = slot_at(self.slots, when.timestamp())
        return None if slot is None else self._intensity(slot)

    def at(self, when: datetime) -> GridIntensity:
        """The value at an instant; outside the series its mean, with its whole range."""
        return self._intensity(slot_at(self.slots, when.timestamp()))

    def _intensity(self, slot: Slot | None) -> GridIntensity:
        """The same object for the same slot, so that callers can see that nothing has changed."""
        if self._last is None or self._last[0] is not slot:
            self._last = slot, self._mean() if slot is None else self._of(slot)
        return self._last[1]

    def _of(self, slot: Slot) -> GridIntensity:
        g, ratio = slot.g_per_kwh, 1.0 + self._relative_uncertainty
        year = utc(slot.start_s).year
        return GridIntensity(self._zone, g, g / ratio, g * ratio, self.source, year, "given")

    def _mean(self) -> GridIntensity:
        values = [slot.g_per_kwh for slot in self.slots]
        runs = gapless_runs(self.slots)
        hours_s = sum(run.end_s - run.start_s for run in runs)
        area = sum(
            run.mean_g_per_kwh(run.start_s, run.end_s) * (run.end_s - run.start_s) for run in runs
        )
        source = f"{self.source} (mean of the series, outside its hours)"
        low, high = min(values), max(values)
        return GridIntensity(self._zone, area / hours_s, low, high, source, None, "given")


def _column(
    header: Sequence[str],
    wanted: str | None,
    usual: Sequence[str],
    otherwise: int,
    where: object,
) -> int:
    names = [name.strip() for name in header]
    if wanted is not None:
        if wanted not in names:
            raise ConfigError(f"{where} has no column {wanted!r}; it has {', '.join(names)}")
        return names.index(wanted)
    lower = [name.lower() for name in names]
    found = next((lower.index(name) for name in usual if name in lower), otherwise)
    if found >= len(names):
        raise ConfigError(f"{where} needs a column of times and one of g CO2e/kWh")
    return found
