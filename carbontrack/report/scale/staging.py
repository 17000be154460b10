"""Files of other formats as temporary files of Parquet.

They go through the careful readers of every report, so the same lines hold a record, and a cell is
the same text. One block is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.record import NUMBER_COLUMNS
from carbontrack.report.frame import IDS, TIMES, WholeRows, texts_of
from carbontrack.report.nesting import truths
from carbontrack.report.parquet import import_pyarrow
from carbontrack.report.read import import_pandas
from carbontrack.report.sources import Source, blocks_of_source

if TYPE_CHECKING:
    import pandas as pd

_FEATURE = "carbontrack report on many records"


class StagedFiles:
    """Writes files of Parquet with the wanted columns into a folder."""

    def __init__(self, folder: Path, wanted: Sequence[str]) -> None:
        self._folder = folder
        self._wanted = tuple(dict.fromkeys((*IDS, *TIMES, *wanted)))
        self._pd = import_pandas("scale", _FEATURE)
        self._pa = import_pyarrow(_FEATURE)
        self.rows = WholeRows(self._pd, self._wanted)

    def staged(self, source: Source, on_position: Callable[[int], None]) -> Path:
        """The file with the rows of the source that hold a record.

        Raises:
            OSError: the source cannot be read, or nothing is left on the disk.
            ConfigError: as `frame.load`.
        """
        path = self._folder / f"staged-{sum(1 for _ in self._folder.iterdir()):05d}.parquet"
        schema = self._pa.schema([(name, self._type_of(name)) for name in self._wanted])
        with self._pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            for block in blocks_of_source(source, self._wanted, on_position):
                frame, as_in_file = self.rows.of(block)
                if len(frame):
                    writer.write_table(self._table(frame, schema, as_in_file=as_in_file))
        return path

    def _table(self, frame: pd.DataFrame, schema: Any, *, as_in_file: bool) -> Any:
        columns = [
            self._column(field.name, frame[field.name], as_in_file=as_in_file).cast(field.type)
            for field in schema
        ]
        return self._pa.table(columns, schema=schema)

    def _column(self, name: str, column: pd.Series, *, as_in_file: bool) -> Any:
        pa = self._pa
        if name in TIMES:
            return pa.array(column.dt.tz_localize(None).astype("datetime64[ms]"), from_pandas=True)
        if name in NUMBER_COLUMNS:
            return pa.array(
                column.to_numpy(dtype="float64", na_value=float("nan")), from_pandas=True
            )
        if name == "parent_holds":
            holds = truths(column)
            return pa.array(holds > 0, mask=holds < 0)
        if name in IDS:
            return self._texts(column.to_numpy(dtype=object))
        codes, texts = texts_of(self._pd, name, column, as_in_file=as_in_file)
        indices = pa.array(codes, pa.int32(), mask=codes < 0)
        return pa.DictionaryArray.from_arrays(indices, self._texts(texts))

    def _texts(self, texts: Any) -> Any:
        """Texts, lone surrogates of JSON as the escapes that CSV has of them."""
        try:
            return self._pa.array(texts, self._pa.string(), from_pandas=True)
        except UnicodeEncodeError:
            cells = [*map(_encodable, texts)]
            return self._pa.array(cells, self._pa.string(), from_pandas=True)

    def _type_of(self, name: str) -> Any:
        pa = self._pa
        if name in TIMES:
            return pa.timestamp("ms", tz="UTC")
        if name in NUMBER_COLUMNS:
            return pa.float64()
        return pa.bool_() if name == "parent_holds" else pa.string()


def _encodable(text: Any) -> Any:
    return text.encode(errors="backslashreplace").decode() if isinstance(text, str) else text
