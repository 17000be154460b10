"""The records of any number of files as one compact pandas frame: the input of every report.

Repeated texts are kept once and ids as 64-bit hashes, so a million records take 250 MB. Every
record counts once: repeated deliveries, and checkpoints of runs that did finish, are left out; so
are rows that their parent holds, and rows that overlap on a machine get their share. What is left
out is decided before the columns are joined, so that no second frame is made of the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from carbontrack.record import NUMBER_COLUMNS
from carbontrack.report.jobs import JOB_COLUMNS, Job, jobs_of
from carbontrack.report.nesting import (
    RULE_COLUMNS,
    SHARED,
    NotAdded,
    added_rows,
    hashed,
    kept_rows,
    placed_rows,
    truths,
)
from carbontrack.report.read import NO_ROW, AnyPath, Row, Rows, import_pandas, records_in
from carbontrack.report.selection import EVERY_RUN, Selection
from carbontrack.report.sources import Position, Progress, blocks_of_source, sources_of
from carbontrack.report.spreadsheet import damage
from carbontrack.sinks.csv_file import restored

if TYPE_CHECKING:
    import pandas as pd

    from carbontrack.report.totals import RecordSums

IDS = ("record_id", "run_id", "parent_id")
TIMES = ("started_at", "ended_at")
TEXTS = (
    *("name", "status", "region", "basis", "cpu_basis", "gpu_basis", "ram_basis", "host_id"),
    *("scope", "cpu_model", "gpu_models", "faults"),
)
NUMBERS = (
    *("duration_s", "calls", "cpu_kwh", "gpu_kwh", "ram_kwh", "other_kwh", "energy_kwh"),
    *("energy_low_kwh", "energy_high_kwh", "emissions_g", "emissions_low_g", "emissions_high_g"),
    *("water_l", "embodied_g", "abiotic_kg_sb", "market_emissions_g", "pue"),
    "intensity_g_per_kwh",
    *("intensity_low_g_per_kwh", "intensity_high_g_per_kwh"),
)
HOW = (
    *("region_basis", "intensity_source", "intensity_year", "meters", "coverage"),
    *("cpu_model", "carbontrack"),
)
"""Columns that only a page shows."""
_TYPED_ROWS = 5_000
"""Rows of a store that are made columns of at a time."""
_TYPES = (
    dict.fromkeys(IDS, "uint64") | dict.fromkeys(TIMES, "datetime64[ms]") | {"parent_holds": "int8"}
)
"""Of the columns that are neither numbers nor codes."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The frame, and what was left out of it.

    Attributes:
        frame: a row for each record that is added up.
        skipped_lines: lines that hold no record.
        repeated: records that were there twice, or checkpoints of finished runs.
        not_added: what was left out of the sums, so that nothing counts twice.
        reason: why the first of the skipped lines holds none; None where it is no whole row.
        jobs: the jobs of all rows, also of those that are not added up, if they were asked for.
    """

    frame: pd.DataFrame
    skipped_lines: int
    repeated: int
    not_added: NotAdded
    reason: str | None = None
    jobs: Sequence[Job] = ()

    @property
    def nested(self) -> int:
        """The rows that their parent holds."""
        return self.not_added.nested


@dataclass(frozen=True, slots=True)
class Summed:
    """The sums of records, how many they are, and what was left out of them, as in `Loaded`."""

    sums: RecordSums
    records: int
    skipped_lines: int
    repeated: int
    not_added: NotAdded
    reason: str | None = None
    jobs: Sequence[Job] = ()


def load(
    paths: Sequence[AnyPath],
    *,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
    with_jobs: bool = False,
    only: Selection = EVERY_RUN,
    named: str | None = None,
) -> Loaded:
    """The records of files and directories that a sum adds up.

    `extra` names columns beyond the usual ones. `with_jobs`: also find the jobs. `only` has the
    runs to count; jobs are found in all rows since its time. `named`: read just the records of
    this name, so that those are added which are nested in a record of another name.

    Raises:
        MissingExtra: pandas is not installed.
        OSError: a file cannot be opened.
        ConfigError: a file has an ending that no sink writes, or a directory holds none.
    """
    pd = import_pandas("report", "carbontrack report")
    sources = sources_of(paths)
    wanted = columns_of(extra, with_jobs=with_jobs)
    columns = _Columns(pd, wanted, only, named)
    position = Position(sources, progress)
    for source in sources:
        for block in blocks_of_source(source, wanted, position.at):
            columns.add(block)
        position.done(source)
    return columns.loaded(with_jobs=with_jobs)


def columns_of(extra: Sequence[str] = (), *, with_jobs: bool = False) -> tuple[str, ...]:
    """The columns that a frame has, those of jobs, and `extra` ones."""
    jobs = JOB_COLUMNS if with_jobs else ()
    return tuple(dict.fromkeys((*IDS, *TIMES, "parent_holds", *TEXTS, *NUMBERS, *extra, *jobs)))


def load_rows(
    rows: Iterable[Mapping[str, object]], *, extra: Sequence[str] = (), with_jobs: bool = False
) -> Loaded:
    """As `load`, from rows that have the types of a record already, such as those of a store.

    A row has the columns of `columns_of(extra, with_jobs=with_jobs)`; labels are a mapping.

    Raises:
        MissingExtra: pandas is not installed.
    """
    wanted = columns_of(extra, with_jobs=with_jobs)
    columns = _Columns(import_pandas("report", "a report"), wanted)
    rows = iter(rows)
    while some := list(islice(rows, _TYPED_ROWS)):
        columns.add_typed(some)
    return columns.loaded(with_jobs=with_jobs)


class WholeRows:
    """Blocks of rows as frames of the wanted columns, without the rows that are no records.

    Attributes:
        skipped_lines: lines that hold no record.
        reason: why the first of these holds none; None where it is no whole row.
    """

    def __init__(self, pd: Any, wanted: Sequence[str]) -> None:
        self._pd = pd
        self._wanted = wanted
        self.skipped_lines = 0
        self.reason: str | None = None

    def of(self, block: pd.DataFrame | Rows) -> tuple[pd.DataFrame, bool]:
        """The rows that have ids and a start, and whether their texts are as in the file.

        pandas leaves the cells as they are there; rows have their texts restored already. Times
        are times.
        """
        as_in_file = not isinstance(block, list)
        frame: Any = self._from_rows(block) if isinstance(block, list) else block
        return self._complete(frame), as_in_file

    def of_typed(self, rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
        """As `of`, from rows whose cells have the types of their columns."""
        block: Any = self._pd.DataFrame(rows, columns=list(self._wanted), dtype=object)
        if "labels" in block:
            block["labels"] = [json.dumps(one, ensure_ascii=False) for one in block["labels"]]
        found: pd.DataFrame = self._complete(block)
        return found

    def skip(self) -> None:
        """Count a line, or a file, that holds no record."""
        self._count_skipped(NO_ROW)

    def _complete(self, frame: Any) -> Any:
        missing = [name for name in self._wanted if name not in frame]
        return self._whole(frame.assign(**dict.fromkeys(missing, None)) if missing else frame)

    def _whole(self, block: Any) -> Any:
        """The rows that have ids and a start; times that a spreadsheet rewrote are no times."""
        import numpy as np

        whole = block[["record_id", "run_id", "started_at"]].notna().all(axis=1).to_numpy(copy=True)
        self.skipped_lines += int((~whole).sum())
        for name in TIMES:
            texts = block[name].to_numpy(dtype=object)
            times = self._pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")
            block[name] = times
            for place in np.flatnonzero(whole & times.isna()):
                if (reason := damage({name: texts[place]})) is not None:
                    whole[place] = False
                    self._count_skipped(reason)
        return block if whole.all() else block[whole]

    def _from_rows(self, rows: Iterable[Row | None]) -> pd.DataFrame:
        records = [record.to_row() for record in records_in(rows, self._count_skipped)]
        found: pd.DataFrame = self._pd.DataFrame(records, columns=list(self._wanted), dtype=object)
        return found

    def _count_skipped(self, reason: str) -> None:
        self.skipped_lines += 1
        if self.reason is None and reason != NO_ROW:
            self.reason = reason


def texts_of(pd: Any, name: str, column: pd.Series, *, as_in_file: bool) -> tuple[Any, list[str]]:
    """The column as codes, and the texts that they stand for, without what a file added to them.

    Two codes may stand for one text.
    """
    # sorted, so that what depends on the order of texts does not depend on that of rows
    codes, uniques = pd.factorize(column, sort=True)
    return codes, [restored(name, str(text)) if as_in_file else str(text) for text in uniques]


class _Columns:
    """Joins blocks column by column; a column of text is kept as codes into its distinct texts."""

    def __init__(
        self,
        pd: Any,
        wanted: Sequence[str],
        only: Selection = EVERY_RUN,
        named: str | None = None,
    ) -> None:
        self._pd = pd
        self._wanted = wanted
        self._only = only
        self._named = named
        self._parts: dict[str, list[Any]] = {name: [] for name in wanted}
        self._texts: dict[str, dict[str, int]] = {
            name: {}
            for name in wanted
            if name not in (*IDS, *TIMES, *NUMBER_COLUMNS, "parent_holds")
        }
        self._rows = WholeRows(pd, wanted)

    def add(self, block: Any) -> None:
        block, as_in_file = self._rows.of(block)
        if self._named is not None:
            codes, names = texts_of(self._pd, "name", block["name"], as_in_file=as_in_file)
            wanted = [place for place, name in enumerate(names) if name == self._named]
            block = block[self._pd.Index(codes).isin(wanted)]
        if self._only.since is not None:
            block = block[block["started_at"] >= self._pd.Timestamp(self._only.since)]
        self._add(block, as_in_file=as_in_file)

    def add_typed(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add rows whose cells have the types of their columns."""
        self._add(self._rows.of_typed(rows), as_in_file=False)

    def _add(self, block: Any, *, as_in_file: bool) -> None:
        for name in self._wanted:
            self._parts[name].append(self._column(name, block, as_in_file=as_in_file))

    def loaded(self, *, with_jobs: bool = False) -> Loaded:
        """What a sum adds up of all blocks, and what was left out; the blocks are freed."""
        import numpy as np

        # of all rows, before those that are not added up are left out
        jobs = self._jobs() if with_jobs else ()
        rule = self._frame(RULE_COLUMNS)
        is_kept = kept_rows(rule)
        is_added, shares, not_added = added_rows(rule[is_kept])
        del rule
        rows, repeated = np.flatnonzero(is_kept)[is_added], int((~is_kept).sum())
        if self._only.last is not None:
            rows, shares, not_added = self._last(rows)
            repeated = 0
        columns = {}
        for name in self._wanted:
            column = self._joined(name).take(rows)
            columns[name] = column if shares is None or name not in SHARED else column * shares
            del self._parts[name]
        frame = self._pd.DataFrame(columns, copy=False)
        skipped, reason = self._rows.skipped_lines, self._rows.reason
        return Loaded(frame, skipped, repeated, not_added, reason, jobs)

    def _last(self, rows: Any) -> tuple[Any, Any, NotAdded]:
        """The last of the rows that are added up, and their shares of what is theirs alone."""
        import numpy as np

        # an unknown start is the least number
        starts = self._joined("started_at").take(rows).view("int64")
        rows = np.sort(rows[np.argsort(starts, kind="stable")[-(self._only.last or 0) :]])
        _, shares, not_added = added_rows(self._frame(RULE_COLUMNS).take(rows))
        return rows, shares, replace(not_added, not_covered=0)

    def _jobs(self) -> Sequence[Job]:
        rows = self._frame((*RULE_COLUMNS, *JOB_COLUMNS))
        rows = rows[kept_rows(rows)]
        placed = placed_rows(rows)
        return jobs_of(rows, placed.holders, placed.shares)

    def _frame(self, names: Sequence[str]) -> Any:
        return self._pd.DataFrame({name: self._joined(name) for name in names}, copy=False)

    def _joined(self, name: str) -> Any:
        """The whole column; its parts are freed."""
        import numpy as np

        column = np.concatenate(self._parts[name] or [np.empty(0, _TYPES.get(name))])
        self._parts[name] = [column]
        if name not in self._texts:
            return column
        texts = self._pd.Index(list(self._texts[name]), dtype=object)
        return self._pd.Categorical.from_codes(column.astype("int32"), categories=texts)

    def _column(self, name: str, block: pd.DataFrame, *, as_in_file: bool) -> Any:
        import numpy as np

        column = block[name]
        if name in IDS:
            return hashed(column)
        if name in self._texts:
            return self._codes(name, column, as_in_file=as_in_file)
        if name == "parent_holds":
            return truths(column)
        if name in TIMES:
            return column.dt.tz_localize(None).to_numpy(dtype="datetime64[ms]")
        return column.to_numpy(dtype="float64", na_value=np.nan)

    def _codes(self, name: str, column: Any, *, as_in_file: bool) -> Any:
        """The column as codes into the texts seen so far; -1 for none."""
        import numpy as np

        codes, texts = texts_of(self._pd, name, column, as_in_file=as_in_file)
        seen = self._texts[name]
        ours = [*(seen.setdefault(text, len(seen)) for text in texts), -1]
        return np.array(ours, dtype=np.min_scalar_type(-len(seen) - 1))[codes]
