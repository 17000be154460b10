"""The records of any number of files as one lean frame: what reports add up.

Texts that repeat are kept once and ids as 64-bit hashes, so a million records take 300 MB. Every
record counts once: repeated deliveries, and checkpoints of runs that did finish, are left out; so
are rows whose parent is in the data, since the parent's figures hold theirs.

A million rows of CSV in seconds: clean blocks of text go to pandas, the others row by row.

`CsvRows` reads past whatever a killed process left in a file, and takes 20 us a row for it. Nearly
all text is clean; that is recognised a block at a time by its commas and quotes.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from carbontrack.errors import ConfigError, MissingExtra
from carbontrack.record import COLUMNS, NUMBER_COLUMNS, TIMELINE_SUFFIX, Record
from carbontrack.report.read import LINE_LIMIT, ROWS, CsvRows, text_lines
from carbontrack.sinks.csv_file import restored

if TYPE_CHECKING:
    import pandas as pd


BLOCK_BYTES = 1 << 24
"""Text taken at once; with its cells this is most of what reading needs beside its result."""

Rows = list[Mapping[str, object] | None]
"""Rows as they were read one by one; None for a line that belongs to none."""

_QUOTED = re.compile(b'"[^"]*"').sub
_NUMBERS = frozenset(NUMBER_COLUMNS)
_DISTINCT = frozenset({"record_id", "run_id", "parent_id", "started_at", "ended_at"})
"""Columns of text that differ from row to row."""


class CsvBlocks:
    """The rows of a CSV file in blocks: a pandas frame of the wanted columns, or a list of rows."""

    def __init__(
        self, file: BinaryIO, wanted: Sequence[str], block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._file = file
        self._wanted = wanted
        self._block_bytes = block_bytes
        self._header: tuple[str, ...] = COLUMNS

    def __iter__(self) -> Iterator[Any]:
        # the first line is nearly always the header, and may have a byte order mark before it
        block, first = self._file.readline(LINE_LIMIT), True
        while block:
            if not first and self._is_clean(block):
                yield from self._parsed(block)
            else:
                yield from self._line_by_line(block)
            first = False
            block = self._file.read(self._block_bytes)
            block += self._file.readline(LINE_LIMIT) if not block.endswith(b"\n") else b""

    def _is_clean(self, block: bytes) -> bool:
        """Whether every line is a row of as many cells as the header, to any CSV parser.

        A header in the middle, from files that were put together, is no row.
        """
        if not block.endswith(b"\n") or b"record_id" in block:
            return False
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return False
        bare = _QUOTED(b"", block) if b'"' in block else block
        return b'"' not in bare and _is_rectangular(bare, len(self._header) - 1)

    def _parsed(self, block: bytes) -> Iterator[Any]:
        try:
            frame = self._frame(block, "category")
            if any(_guessed(frame[name]) for name in frame):
                frame = self._frame(block, object)
        except ValueError:  # some cell is no number: the careful way finds out which
            yield from self._line_by_line(block)
        else:
            yield frame

    def _frame(self, block: bytes, text: Any) -> Any:
        import pandas as pd

        columns = [name for name in self._wanted if name in self._header]
        types = {name: object if name in _DISTINCT else text for name in columns}
        return pd.read_csv(
            BytesIO(block),
            header=None,
            names=list(self._header),
            usecols=columns,
            dtype={name: "float64" if name in _NUMBERS else types[name] for name in columns},
            keep_default_na=False,
            na_values={name: [""] for name in columns},
            skip_blank_lines=False,
            encoding_errors="replace",
        )

    def _line_by_line(self, block: bytes) -> Iterator[Rows]:
        """The rows of a block; the last one may take lines from beyond it."""
        inside = deque(text_lines(BytesIO(block)))
        lines = chain(_popped(inside), text_lines(self._file))
        found: Rows = []
        while inside:
            line = inside.popleft()
            if line is None:
                found.append(None)
            elif _is_header(line):
                self._header = tuple(line.strip("\r\n").split(","))
            elif line.strip("\r\n"):
                rows = CsvRows(chain([line], lines), self._header)
                for row in rows:
                    found.append(row)
                    if not rows.holds_lines:
                        break
        yield found


def _guessed(column: Any) -> bool:
    """Whether pandas took texts for numbers or truths, which it does where all look like some."""
    categories = getattr(column.dtype, "categories", None)
    return categories is not None and categories.dtype.kind in "biufc"


def _is_rectangular(text: bytes, commas: int) -> bool:
    """Whether each line of a text without quotes has so many commas."""
    import numpy as np

    letters = np.frombuffer(text, dtype=np.uint8)
    ends, marks = np.flatnonzero(letters == ord("\n")), np.flatnonzero(letters == ord(","))
    if len(marks) != len(ends) * commas or commas == 0:
        return False
    by_line = marks.reshape(len(ends), commas)
    return bool((by_line[:, -1] < ends).all() and (by_line[1:, 0] > ends[:-1]).all())


def _popped(lines: deque[str | None]) -> Iterator[str | None]:
    while lines:
        yield lines.popleft()


def _is_header(line: str) -> bool:
    if "record_id" not in line or '"' in line:
        return False
    cells = line.strip("\r\n").split(",")
    return "record_id" in cells and "run_id" in cells


AnyPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes of all files."""

BLOCK_ROWS = 50_000
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
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("pandas", "report", "carbontrack report") from error
    files = files_of(paths)
    wanted = (*IDS, "started_at", *TEXTS, *NUMBERS, *extra)
    gatherer = _Gatherer(pd, wanted)
    told = _Told(files, progress)
    for file in files:
        for block in _blocks(file, wanted, told):
            gatherer.add(block)
    frame = gatherer.frame()
    return _distinct_roots(frame, gatherer.skipped_lines)


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
        next(path.iterdir(), None)  # a search passes over what it may not read
        found = sorted(file for file in path.rglob("*") if _holds_records(file))
        if not found:
            raise ConfigError(f"{path} holds no file that ends in {', '.join(ROWS)}")
        return found
    if path.suffix.lower() not in ROWS:
        raise ConfigError(f"cannot read {path}: known endings are {', '.join(ROWS)}")
    if not _holds_records(path):
        raise ConfigError(f"{path} holds timelines; name the file of records beside it")
    path.stat()  # a missing file is told before others are read
    return [path]


def _holds_records(file: Path) -> bool:
    name = file.name.lower()
    return file.suffix.lower() in ROWS and not name.endswith(TIMELINE_SUFFIX)


class _Told:
    """Tells how far the reading is, now and then."""

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


def _blocks(file: Path, wanted: Sequence[str], told: _Told) -> Iterator[Any]:
    if file.suffix.lower() == ".csv":
        with file.open("rb") as source:
            for block in CsvBlocks(source, wanted):
                told.at(source.tell())
                yield block
    else:
        rows = ROWS[file.suffix.lower()](file)
        while block := list(islice(rows, BLOCK_ROWS)):
            yield block
    told.done(file)


class _Gatherer:
    """Puts blocks together, column by column, texts as numbers of distinct texts."""

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
        # pandas hands cells on as they stand in the file, the careful reader as they were meant
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
        """All of it; the parts are given up one column at a time."""
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

    def _from_rows(self, rows: Sequence[Mapping[str, object] | None]) -> pd.DataFrame:
        records = []
        for row in rows:
            try:
                records.append(Record.from_row(row or {}).to_row())
            except (ValueError, TypeError, OverflowError):
                self.skipped_lines += 1
        found: pd.DataFrame = self._pd.DataFrame(records, columns=list(self._wanted), dtype=object)
        return found

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
        """The column as numbers into the texts seen so far; -1 for none."""
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
    """Finished records that a later checkpoint of the same id would have pushed out."""
    import numpy as np

    finished = frame["record_id"][~recovered]
    keep = np.zeros(len(frame), dtype=bool)
    keep[finished.index[~finished.duplicated(keep="last")]] = True
    return keep
