"""Partial sums: records that are alike in a few texts, added up.

A report adds up as many records as there are, but what it prints needs only the sums of each kind.
So records come in any number of frames, each is condensed to a row for each kind at once, and
memory grows with the kinds, not with the records. What is summed, and by which texts, is the
business of `report.totals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    import pandas as pd

_FEW = 50_000
"""Rows of condensed frames that are kept side by side before they are condensed again."""


class PartialSums:
    """Sums of numbers by texts, of any number of frames; a sum of nothing known is unknown, nan."""

    def __init__(self) -> None:
        self._frames: list[pd.DataFrame] = []
        self._rows = 0
        self._most = _FEW

    def add(self, texts: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        """Add rows: categorical columns, whose texts tell the kind, and arrays of numbers."""
        self._append(_condensed(texts, numbers))

    def joined(self) -> pd.DataFrame:
        """A row for each kind, in the order of its texts, which are categorical columns.

        Raises:
            ValueError: nothing was added, so that the columns are not known.
        """
        self._join()
        found = self._frames[0]
        names = _texts_of(found)
        found = found.assign(**{name: _categorical(found[name]) for name in names})
        order = _lexsorted([found[name].cat.codes.to_numpy() for name in names])
        ordered: pd.DataFrame = found.take(order).reset_index(drop=True)
        return ordered

    def _append(self, frame: pd.DataFrame) -> None:
        self._frames.append(frame)
        self._rows += len(frame)
        if self._rows > self._most:
            self._join()

    def _join(self) -> None:
        import pandas as pd

        if not self._frames:
            raise ValueError("there are no sums")
        if len(self._frames) > 1:
            # what has no known number in one frame may have in another
            whole = pd.concat(self._frames, ignore_index=True)
            texts = {name: _categorical(whole[name]) for name in _texts_of(whole)}
            numbers = {str(n): whole[n].to_numpy() for n in whole if n not in texts}
            self._frames = [_condensed(texts, numbers)]
        self._rows = len(self._frames[0])
        self._most = max(_FEW, 2 * self._rows)


class Groups:
    """The group of each of some sums, as a number, and sums by group.

    Attributes:
        keys: what the records of each group have in common; the last is for those without a key.
    """

    def __init__(self, column: pd.Series, *, grouped: bool = True) -> None:
        """`column` holds the keys; without `grouped`, all are one group."""
        keys = map(str, column.cat.categories) if grouped else ()
        self.keys: list[str | None] = [*keys, None]
        self._codes = codes_of(column) % len(self.keys) if grouped else codes_of(column) * 0

    def of(self, column: pd.Series) -> Groups:
        """These groups, for sums of other kinds."""
        import pandas as pd

        # as objects: pandas' own texts of pyarrow hold no lone surrogates
        keys = column.cat.set_categories(pd.Index(self.keys[:-1], dtype=object))
        return Groups(keys, grouped=len(self.keys) > 1)

    def sum(self, column: Any, rows: Any = slice(None)) -> Any:
        """The sum over the rows of each group; unknown counts as 0."""
        import numpy as np

        weights = np.nan_to_num(column.to_numpy()[rows])
        return np.bincount(self._codes[rows], weights=weights, minlength=len(self.keys))

    def known_sum(self, column: Any) -> Any:
        """As `sum`, but nan where nothing is known."""
        import numpy as np

        is_known = column.notna().to_numpy()
        known = np.bincount(self._codes[is_known], minlength=len(self.keys))
        return np.where(known > 0, self.sum(column), np.nan)

    def units(self, units: Any) -> Units:
        """The units, such as hosts, of each group; a number for each row, -1 for none."""
        import pandas as pd

        count = int(units.max(initial=-1)) + 2
        pairs, found = pd.factorize(self._codes * count + units + 1)
        return Units(pairs, found // count)

    def sum_of_squares(self, column: Any, units: Units) -> Any:
        """For each group, the squares of its units' sums, added up."""
        import numpy as np

        weights = np.nan_to_num(column.to_numpy())
        sums = np.bincount(units.of_rows, weights=weights, minlength=len(units.groups))
        return np.bincount(units.groups, weights=sums**2, minlength=len(self.keys))


class Units(NamedTuple):
    """The units of all groups: the unit of each row, and the group of each unit."""

    of_rows: Any
    groups: Any


def codes_of(column: Any) -> Any:
    """The numbers of a categorical column's cells; pandas keeps them in as few bits as it can."""
    return column.cat.codes.to_numpy().astype("int64")


def _condensed(texts: Mapping[str, Any], numbers: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each combination of texts, as objects, and the sums of the numbers."""
    import numpy as np
    import pandas as pd

    kinds = np.zeros(len(next(iter(texts.values()))), dtype="int64")
    for column in texts.values():
        count = len(column.cat.categories) + 1
        kinds = pd.factorize(kinds * count + column.cat.codes.to_numpy() + 1)[0].astype("int64")
    # the first row of each kind has its texts
    firsts = np.flatnonzero(~pd.Series(kinds).duplicated().to_numpy())
    found = {name: _objects(column.take(firsts)) for name, column in texts.items()}
    sums = pd.DataFrame(dict(numbers), copy=False).groupby(kinds, sort=False).sum(min_count=1)
    whole: pd.DataFrame = pd.concat([pd.DataFrame(found, dtype=object), sums], axis=1)
    return whole


def _objects(column: pd.Series) -> Any:
    """The texts of a categorical column as objects; None for none."""
    import numpy as np

    texts = np.empty(len(column.cat.categories) + 1, dtype=object)
    texts[:-1] = column.cat.categories
    return texts[column.cat.codes.to_numpy()]  # -1 is the last


def _categorical(column: pd.Series) -> pd.Series:
    import pandas as pd

    codes, texts = pd.factorize(column, sort=True)
    whole = pd.Categorical.from_codes(codes, categories=pd.Index(texts, dtype=object))
    found: pd.Series = pd.Series(whole, index=column.index)
    return found


def _texts_of(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame if frame[name].dtype == object]


def _lexsorted(columns: list[Any]) -> Any:
    import numpy as np

    return np.lexsort(columns[::-1])
