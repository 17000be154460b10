"""Records as typed columns of pandas: what `read_records` returns.

An intact block of CSV comes as columns of texts. Each distinct text of a column is converted once,
by the record's own converter, so the columns are those that records read one by one would make.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from carbontrack.record import (
    COLUMNS,
    CONVERTERS,
    NUMBER_COLUMNS,
    REQUIRED,
    TRUTH_COLUMNS,
    Record,
)
from carbontrack.report.spreadsheet import damage, number_text, truth_text
from carbontrack.sinks.csv_file import restored

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = frozenset(NUMBER_COLUMNS)
TRUTHS = frozenset(TRUTH_COLUMNS)
TIMES = ("started_at", "ended_at")
_DAMAGED = frozenset({"record_id", "run_id", "parent_id", *TIMES})
"""Where a spreadsheet may have left what cannot be undone."""
_WHOLE_COLUMNS = frozenset(f.name for f in fields(Record) if str(f.type).split(" ")[0] == "int")
_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Record)} | {"labels": {}}
_EMPTY = _DEFAULTS | {"calls": None}
"""What an empty cell stands for; only a row without the column `calls` means one call."""


def cell_text(name: str, cell: str) -> str:
    """A cell as it was before it was written."""
    if name in NUMBERS:
        return number_text(cell)
    return truth_text(cell) if name in TRUTHS else restored(name, cell)


def frame_of_records(records: Sequence[Record]) -> pd.DataFrame:
    """A row for each record."""
    import pandas as pd

    columns = ((name, [getattr(record, name) for record in records]) for name in COLUMNS)
    found: pd.DataFrame = pd.DataFrame({name: _typed(name, cells) for name, cells in columns})
    return found


def frame_of_texts(texts: pd.DataFrame) -> pd.DataFrame:
    """A row for each row of texts, as they are in the file.

    Raises:
        ValueError: a row holds no record; also other errors of `int` and `float`.
    """
    import pandas as pd

    columns = {name: _typed(name, _cells(name, texts)) for name in COLUMNS}
    found: pd.DataFrame = pd.DataFrame(columns)
    return found


def _cells(name: str, texts: pd.DataFrame) -> Any:
    """The values of a column, in an array of objects."""
    import numpy as np
    import pandas as pd

    column = texts[name] if name in texts else pd.Series([None] * len(texts), dtype=object)
    codes, distinct = pd.factorize(column)
    if name in REQUIRED and (codes < 0).any():
        raise ValueError(f"a row has no {name}")
    values = np.empty(len(distinct) + 1, dtype=object)
    for place, text in enumerate(distinct):
        if name in _DAMAGED and (reason := damage({name: text})) is not None:
            raise ValueError(reason)
        values[place] = CONVERTERS[name](cell_text(name, text))
    values[-1] = (_EMPTY if name in texts else _DEFAULTS)[name]
    cells = values[codes]
    return [dict(labels) for labels in cells] if name == "labels" else cells


def _typed(name: str, cells: Any) -> Any:
    import pandas as pd

    if name in _WHOLE_COLUMNS:
        return pd.array(cells, dtype="Int64")
    if name in NUMBERS:
        return pd.array(cells, dtype="float64")
    column = pd.Series(cells, dtype=object)
    if name in TIMES:
        return pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
    return column


def distinct(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows without exact repetitions, and without checkpoints of runs that did finish."""
    ids, recovered = frame["record_id"], frame["status"] == "recovered"
    dropped = recovered & ids.isin(ids[~recovered])
    seen: set[str] = set()
    for place in ids.index[ids.duplicated(keep=False)]:
        if not dropped[place]:
            content = repr(frame.loc[place].tolist())
            dropped[place] = content in seen
            seen.add(content)
    return frame[~dropped].reset_index(drop=True) if dropped.any() else frame


def joined(blocks: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All blocks as one frame."""
    import pandas as pd

    frames = [block for block in blocks if len(block)]
    return pd.concat(frames, ignore_index=True) if frames else frame_of_records([])
