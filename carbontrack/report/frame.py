"""The records of any number of files as one compact pandas frame: the input of every report.

Repeated texts are kept once and ids as 64-bit hashes, so a million records take 300 MB. Every
record counts once: repeated deliveries, and checkpoints of runs that did finish, are left out; so
are rows whose parent is in the data, since the parent's figures include theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.record import NUMBER_COLUMNS, TIMELINE_SUFFIX
from carbontrack.report.read import (
    ROWS,
    AnyPath,
    Row,
    blocks_of,
    check_ending,
    import_pandas,
    records_in,
)
from carbontrack.sinks.csv_file import restored

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes of all files."""
IDS = ("record_id", "run_id", "parent_id")
TEXTS = ("name", "status", "region", "basis", "cpu_basis", "gpu_basis", "ram_basis", "host_id")
NUMBERS = (
    *("duration_s", "calls", "cpu_kwh", "gpu_kwh", "ram_kwh", "other_kwh", "energy_kwh"),
    *("energy_low_kwh", "energy_high_kwh", "emissions_g", "emissions_low_g", "emissions_high_g"),
    *("water_l", "embodied_g", "pue", "intensity_g_per_kwh"),
    *("intensity_low_g_per_kwh", "intensity_high_g_per_kwh"),
)
HOW = (
    *("region_basis", "intensity_source", "intensity_year", "meters", "scope", "coverage"),
    *("cpu_model", "gpu_models", "carbontrack"),
)
"""Columns that only a page shows."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The frame, and what was left out of it.

    Attributes:
        frame: a row for each root record.
        skipped_lines: lines that hold no record.
        repeated: records that were there twice, or checkpoints of finished runs.
        nested: rows whose parent is in the data.
    """

    frame: pd.DataFrame
    skipped_lines: int
    repeated: int
    nested: int


def load(
    paths: Sequence[AnyPath],
    *,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
) -> Loaded:
    """The root records of files and directories; `extra` names columns beyond the usual ones.

    Raises:
        MissingExtra: pandas is not installed.
        OSError: a file cannot be opened.
        ConfigError: a file has an ending that no sink writes, or a directory holds none.
    """
    pd = import_pandas("report", "carbontrack report")
    files = files_of(paths)
    wanted = (*IDS, "started_at", *TEXTS, *NUMBERS, *extra)
    columns = _Columns(pd, wanted)
    position = _Position(files, progress)
    for file in files:
        for block in blocks_of(file, wanted, position.at):
            columns.add(block)
        position.done(file)
    return _distinct_roots(columns.frame(), columns.skipped_lines)


def files_of(paths: Sequence[AnyPath]) -> list[Path]:
    """The files of records among files and directories.

    Raises:
        OSError: a file is not there.
        ConfigError: as `load`.
    """
    return [file for path in paths for file in _files(Path(path).expanduser())]


def _files(path: Path) -> list[Path]:
    """The file, or the files of a directory that have an ending that sinks write."""
    if path.is_dir():
        next(path.iterdir(), None)  # rglob would skip a directory that may not be read
        found = sorted(file for file in path.rglob("*") if _holds_records(file))
        if not found:
            raise ConfigError(f"{path} holds no file that ends in {', '.join(ROWS)}")
        return found
    check_ending(path)
    if not _holds_records(path):
        raise ConfigError(f"{path} holds timelines; name the file of records beside it")
    path.stat()  # a missing file is an error before any other is read
    return [path]


def _holds_records(file: Path) -> bool:
    name = file.name.lower()
    return file.suffix.lower() in ROWS and not name.endswith(TIMELINE_SUFFIX)


class _Position:
    """Reports how many bytes of all files have been read."""

    def __init__(self, files: Sequence[Path], progress: Progress | None) -> None:
        self._progress = progress
        self._all = sum(file.stat().st_size for file in files)
        self._before = 0

    def at(self, position: int) -> None:
        if self._progress is not None:
            self._progress(self._before + position, self._all)

    def done(self, file: Path) -> None:
        self._before += file.stat().st_size
        self.at(0)


class _Columns:
    """Joins blocks column by column; a column of text is kept as codes into its distinct texts."""

    def __init__(self, pd: Any, wanted: Sequence[str]) -> None:
        self._pd = pd
        self._wanted = wanted
        self._parts: dict[str, list[Any]] = {name: [] for name in wanted}
        self._texts: dict[str, dict[str, int]] = {
            name: {}
            for name in wanted
            if name not in IDS and name not in NUMBER_COLUMNS and name != "started_at"
        }
        self.skipped_lines = 0

    def add(self, block: Any) -> None:
        # pandas leaves the cells as they are in the file; rows have their texts restored already
        as_in_file = not isinstance(block, list)
        if not as_in_file:
            block = self._from_rows(block)
        whole = block["record_id"].notna() & block["run_id"].notna() & block["started_at"].notna()
        if not whole.all():
            self.skipped_lines += int((~whole).sum())
            block = block[whole]
        for name in self._wanted:
            self._parts[name].append(self._column(name, block, as_in_file=as_in_file))

    def frame(self) -> Any:
        """All blocks as one frame; each column's parts are freed as soon as they are joined."""
        import numpy as np

        columns: dict[str, Any] = {}
        for name in self._wanted:
            parts = self._parts.pop(name) or [np.empty(0)]
            column = np.concatenate(parts)
            if name in self._texts:
                texts = list(self._texts[name])
                column = self._pd.Categorical.from_codes(
                    column.astype("int32"), categories=self._pd.Index(texts, dtype=object)
                )
            columns[name] = column
        return self._pd.DataFrame(columns, copy=False)

    def _from_rows(self, rows: Iterable[Row | None]) -> pd.DataFrame:
        records = [record.to_row() for record in records_in(rows, self._count_skipped)]
        found: pd.DataFrame = self._pd.DataFrame(records, columns=list(self._wanted), dtype=object)
        return found

    def _count_skipped(self, _: str) -> None:
        self.skipped_lines += 1

    def _column(self, name: str, block: pd.DataFrame, *, as_in_file: bool) -> Any:
        import numpy as np

        if name not in block:
            return np.full(len(block), -1 if name in self._texts else np.nan)
        column = block[name]
        if name in IDS:
            hashed = self._pd.util.hash_array(column.to_numpy(dtype=object), categorize=False)
            return np.where(column.isna(), np.uint64(0), hashed)
        if name in self._texts:
            return self._codes(name, column, as_in_file=as_in_file)
        if name == "started_at":
            times = self._pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
            return times.dt.tz_localize(None).to_numpy(dtype="datetime64[ms]")
        return column.to_numpy(dtype="float64", na_value=np.nan)

    def _codes(self, name: str, column: Any, *, as_in_file: bool) -> Any:
        """The column as codes into the texts seen so far; -1 for none."""
        import numpy as np

        kept = column.astype("category").cat
        codes, uniques = kept.codes, kept.categories
        seen = self._texts[name]
        texts = (restored(name, str(text)) if as_in_file else str(text) for text in uniques)
        ours = [seen.setdefault(text, len(seen)) for text in texts]
        return np.append(np.array(ours, dtype="int32"), np.int32(-1))[codes.to_numpy()]


def _distinct_roots(frame: pd.DataFrame, skipped_lines: int) -> Loaded:
    """Each record once, the finished before its checkpoint, and none that another one contains."""
    ids = frame["record_id"]
    recovered = (frame["status"] == "recovered").to_numpy()
    finished = ids[~recovered]
    keep = ~ids.duplicated(keep="last").to_numpy()
    if recovered.any():
        keep &= ~(recovered & ids.isin(finished).to_numpy())
        keep |= _last_finished(frame, recovered)
    once = frame if keep.all() else frame[keep]
    parents = once["parent_id"].to_numpy()
    is_child = parents != 0
    if is_child.any():
        import numpy as np

        known = np.union1d(once["record_id"].to_numpy(), once["run_id"].to_numpy())
        is_child &= np.isin(parents, known)
    roots = once if not is_child.any() else once[~is_child]
    return Loaded(
        frame=roots.reset_index(drop=True),
        skipped_lines=skipped_lines,
        repeated=int((~keep).sum()),
        nested=int(is_child.sum()),
    )


def _last_finished(frame: pd.DataFrame, recovered: Any) -> Any:
    """Which records are the last finished one of their id, though a checkpoint may follow it."""
    import numpy as np

    finished = frame["record_id"][~recovered]
    keep = np.zeros(len(frame), dtype=bool)
    keep[finished.index[~finished.duplicated(keep="last")]] = True
    return keep
