"""An intensity that changes with time, from your own figures: a utility's data, a solar roof."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.grid.intensity import GridIntensity
from carbontrack.grid.slots import (
    HIGHEST_G_PER_KWH,
    Slot,
    courses,
    in_order,
    parse_time_s,
    slot_at,
    utc,
)

if TYPE_CHECKING:
    import pandas as pd

_TIMES = ("datetime_utc", "datetime", "timestamp", "time", "date", "start", "from", "ts")
_AMOUNTS = ("g_per_kwh", "gco2e_per_kwh", "gco2_per_kwh", "intensity", "carbon_intensity")


class Series:
    """Hourly, or otherwise regular, figures: each holds until the next one begins.

    Outside its hours, and in its gaps, `at` gives the mean of the whole series with its lowest and
    highest value as interval, and says so in `source`; `find` gives None there.
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
        """Keep the slots in order of time; `relative_uncertainty` 0.1 makes an interval of ± 10 %.

        Raises:
            ConfigError: there is no slot, or one with an impossible value or length.
        """
        given = tuple(slots)
        self.slots: Sequence[Slot] = in_order(given)
        if not self.slots or len(self.slots) < len(given):
            raise ConfigError(
                f"{source}: needs at least one time, each once, with 0 to {HIGHEST_G_PER_KWH:g} "
                f"g CO2e/kWh; {len(given) - len(self.slots)} of {len(given)} are not so"
            )
        self._zone, self.source = zone, source
        self._relative_uncertainty = relative_uncertainty
        self._last: tuple[Slot | None, GridIntensity] | None = None

    @classmethod
    def of(cls, times_s: Sequence[float], g_per_kwh: Sequence[float], **about: Any) -> Series:
        """A series from instants, in seconds since 1970, and the values that begin there.

        The last value lasts as long as most others do; so does one before a gap.
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
        """Read a CSV file with a column of ISO 8601 times (UTC where no offset stands) and values.

        Columns are found by their usual names ("datetime", "g_per_kwh"), else the first two are
        taken. `about` is what the constructor takes: zone, source, relative_uncertainty.

        Raises:
            ConfigError: the file cannot be read, or a cell is no time or no number.
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
            ConfigError: the index holds no times, or the column is missing.
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
        """The figure at an instant, or None where the series has none."""
        slot = slot_at(self.slots, when.timestamp())
        return None if slot is None else self._intensity(slot)

    def at(self, when: datetime) -> GridIntensity:
        """The figure at an instant; outside the series its mean, with its whole range."""
        return self._intensity(slot_at(self.slots, when.timestamp()))

    def _intensity(self, slot: Slot | None) -> GridIntensity:
        """The same object for the same slot, so that a sampler sees that nothing has changed."""
        if self._last is None or self._last[0] is not slot:
            self._last = slot, self._mean() if slot is None else self._of(slot)
        return self._last[1]

    def _of(self, slot: Slot) -> GridIntensity:
        g, ratio = slot.g_per_kwh, 1.0 + self._relative_uncertainty
        year = utc(slot.start_s).year
        return GridIntensity(self._zone, g, g / ratio, g * ratio, self.source, year, "given")

    def _mean(self) -> GridIntensity:
        values = [slot.g_per_kwh for slot in self.slots]
        runs = courses(self.slots)
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
