"""Sums of any number of records in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carbontrack.report.frame import Summed
from carbontrack.report.nesting import SHARED, NotAdded
from carbontrack.report.parquet import ENDING, import_pyarrow
from carbontrack.report.read import import_pandas
from carbontrack.report.scale.engine import FEATURE, Engine, EngineLimits, import_duckdb
from carbontrack.report.scale.once import Once
from carbontrack.report.scale.relation import make_view
from carbontrack.report.scale.staging import StagedFiles
from carbontrack.report.selection import EVERY_RUN, Selection
from carbontrack.report.sources import Position, Progress, Source
from carbontrack.report.totals import SUM_FIGURES, SUM_TEXTS, RecordSums, key_column
from carbontrack.system.log import LOGGER

_LIMITS = EngineLimits()
_RULE_COLUMNS = ("status", "parent_holds", "host_id", "scope", "energy_kwh")


def summed(
    sources: Sequence[Source],
    by: str,
    *,
    progress: Progress | None = None,
    distinct: bool = False,
    limits: EngineLimits = _LIMITS,
    only: Selection = EVERY_RUN,
) -> Summed:
    """The sums of the records in all sources, by a grouping and of all.

    Each record counts once, and rows that others hold, or that overlap, as in any report. With
    `distinct`, no record is there twice, and none is looked for. `only` has the runs to count.

    Raises:
        MissingExtra: pandas, pyarrow or duckdb is not installed.
        OSError: a source cannot be read, or nothing is left on the disk.
        ConfigError: there is no such grouping, or a source cannot be read.
    """
    key = key_column(by)
    import_pandas("scale", FEATURE)
    import_duckdb()
    with _scratch() as folder:
        staging = StagedFiles(folder, (*_RULE_COLUMNS, *SUM_FIGURES, *SUM_TEXTS, key))
        files = list(_files(staging, sources, progress))
        engine = Engine(folder, limits)
        try:
            return _summed(engine, files, by, staging, distinct=distinct, only=only)
        finally:
            engine.close()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what does not fit into memory."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="carbontrack-report-") as folder:
        yield Path(folder)


def _files(
    staging: StagedFiles, sources: Sequence[Source], progress: Progress | None
) -> Iterator[Path]:
    """The sources as files of Parquet, in their order."""
    position = Position(sources, progress)
    for source in sources:
        if not isinstance(source, Path) or source.suffix.lower() != ENDING:
            yield staging.staged(source, position.at)
        elif _is_parquet(source):
            yield source
        else:
            staging.rows.skip()
        position.done(source)


def _is_parquet(file: Path) -> bool:
    """Whether the file is one; if not, the log says why, and what is in it is one skipped line.

    Raises:
        OSError: it cannot be opened.
    """
    pa = import_pyarrow(FEATURE)
    with file.open("rb") as content:
        try:
            pa.parquet.read_schema(content)
        except (pa.ArrowException, ValueError) as error:
            LOGGER.warning("%s: %s; it is skipped", file, error)
            return False
    return True


def _summed(
    engine: Engine,
    files: Sequence[Path],
    by: str,
    staging: StagedFiles,
    *,
    distinct: bool,
    only: Selection,
) -> Summed:
    key = key_column(by)
    wanted = [*dict.fromkeys((*_RULE_COLUMNS, *SUM_FIGURES, *SUM_TEXTS, key))]
    sums, rows = RecordSums(by), staging.rows
    if not files:
        return Summed(sums, 0, rows.skipped_lines, 0, NotAdded(), rows.reason)
    without = make_view(engine, files, wanted, only.since_ms)
    once = Once(engine)
    repeated = 0 if distinct else once.leave_out_repeats()
    not_added = once.leave_out_the_rest()
    if only.last is not None:
        repeated, not_added = 0, once.leave_out_all_but_last(only.last)
    records = 0
    needed = [*dict.fromkeys((*SUM_FIGURES, *SUM_TEXTS, key))]
    for batch in engine.batches(f"SELECT share, {', '.join(needed)} FROM {once.added}"):
        frame = _frame(batch)
        records += len(frame)
        sums.add(frame)
    return Summed(sums, records, rows.skipped_lines + without, repeated, not_added, rows.reason)


def _frame(batch: Any) -> Any:
    """The records of a batch as `report.frame` has them, overlapping ones with their share."""
    import numpy as np
    import pandas as pd

    share = batch.column("share").to_numpy()
    columns: dict[str, Any] = {}
    for name in batch.schema.names:
        column = batch.column(name)
        if name in SUM_FIGURES:
            figures = column.to_numpy(zero_copy_only=False).astype("float64")
            columns[name] = figures * share if name in SHARED else figures
        elif name == "started_at":
            columns[name] = pd.Series(
                column.fill_null(np.iinfo("int64").min).to_numpy().view("datetime64[ms]")
            )
        elif name != "share":
            texts = column.dictionary_encode()
            codes = texts.indices.fill_null(-1).to_numpy()
            categories = pd.Index(texts.dictionary.to_numpy(zero_copy_only=False), dtype=object)
            columns[name] = pd.Categorical.from_codes(codes, categories=categories)
    return pd.DataFrame(columns, copy=False)
