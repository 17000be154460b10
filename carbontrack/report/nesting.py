"""What a sum of records adds up, so that no energy is counted twice: the only place of the rule.

Nested rows: a row is left out exactly if its parent row is in the data and holds it. `parent_holds`
says whether it does. Where that is unknown, as in schema 1, the parent holds what lies inside its
time on its host.

Overlapping rows: rows of scope `machine` on one host measure the same machine. Where k runs overlap
in time, each gets 1/k of that time. A row's energy is taken as spread evenly over its time, so the
row counts with its mean share. Rows of one run share the machine's energy among themselves already.

Both are here twice: on columns, with numpy, for frames of any size; and on records, for commands
that must not need it. docs/explanation/adding-up-intervals.md derives them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

from carbontrack.record import Record
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    import pandas as pd

SLACK_S = 1.0
"""How far a row may begin before its parent, or end after it, and still lie inside. Two processes
read the clock a moment apart, and spreadsheets cut times to seconds."""
SHARED = (
    *("cpu_kwh", "gpu_kwh", "ram_kwh", "other_kwh", "energy_kwh", "energy_low_kwh"),
    *("energy_high_kwh", "machine_kwh", "emissions_g", "emissions_low_g", "emissions_high_g"),
    *("water_l", "embodied_g", "market_emissions_g", "abiotic_kg_sb"),
)
"""The columns that are multiplied by a row's share."""
MACHINE = "machine"
_SLACK_MS = int(SLACK_S * 1000)
ALL = 1.0 - 1e-12
"""A share from here on is all of the row: the rest is rounding."""
UNKNOWN_MS = -(1 << 63)
"""Stands for a time that is unknown."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Truth = TypeVar("Truth", bool, Any)


@dataclass(frozen=True, slots=True)
class NotAdded:
    """What was left out of the sums, so that nothing counts twice, and what could not be decided.

    Attributes:
        nested: rows whose parent is in the data and holds them.
        nested_energy_kwh: their energy; None where it is unknown.
        not_covered: rows that do not say whether their parent holds them, and whose parent is in
            the data, but on another host or at another time; they are added.
        overlapping: rows of scope machine that overlap with those of other runs on their host.
        overlapping_hosts: the number of these hosts.
        overlapping_energy_kwh: the part of their energy that is not added again.
    """

    nested: int = 0
    nested_energy_kwh: float | None = None
    not_covered: int = 0
    overlapping: int = 0
    overlapping_hosts: int = 0
    overlapping_energy_kwh: float | None = None


def is_held(holds: Truth, unsaid: Truth, same_host: Truth, inside: Truth) -> Truth:
    """Whether a parent row that is in the data holds a row; takes truth values, or arrays of them.

    Args:
        holds: the row says that its parent holds it.
        unsaid: the row does not say whether its parent holds it.
        same_host: both are on one host, or the host of one is unknown.
        inside: the row's time lies inside the parent's.
    """
    return holds | (unsaid & same_host & inside)


# -- columns -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Columns:
    """The columns that the rule needs, as arrays of one length.

    Attributes:
        record_id, run_id, parent_id: numbers that stand for the ids; 0 for none.
        host: numbers that stand for the hosts; -1 for unknown.
        holds: 1 for true, 0 for false, -1 for unknown.
        start_ms, end_ms: since 1970; the smallest integer for unknown.
        is_machine: whether the scope is `machine`.
    """

    record_id: Any
    run_id: Any
    parent_id: Any
    host: Any
    holds: Any
    start_ms: Any
    end_ms: Any
    is_machine: Any


RULE_COLUMNS = (
    *("record_id", "run_id", "parent_id", "parent_holds", "host_id", "scope", "status"),
    *("started_at", "ended_at", "energy_kwh"),
)
"""What `kept_rows` and `added_rows` look at."""


def counted_once(frame: pd.DataFrame) -> tuple[pd.DataFrame, NotAdded]:
    """The rows of a frame that a sum adds up, overlapping ones with their share of the figures."""
    is_added, shares, not_added = added_rows(frame)
    added = frame if is_added.all() else frame[is_added].reset_index(drop=True)
    if shares is not None:
        added = added.copy(deep=False)  # whole columns are replaced: the frame keeps its own
        for name in SHARED:
            if name in added:
                added[name] = added[name].to_numpy(dtype="float64", na_value=float("nan")) * shares
    return added, not_added


def added_rows(frame: pd.DataFrame) -> tuple[Any, Any, NotAdded]:
    """Which rows a sum adds up, the share of each of these, and what was left out.

    Where no two runs overlap, each row counts as a whole, and the shares are None.
    """
    placed = placed_rows(frame)
    held = placed.holders >= 0
    shares = placed.shares
    return ~held, shares[~held] if (shares < ALL).any() else None, placed.not_added


class Placed(NamedTuple):
    """For each row the place of the one that holds it, -1 for none, and the share that is added."""

    holders: Any
    shares: Any
    not_added: NotAdded


def placed_rows(frame: pd.DataFrame) -> Placed:
    """Where the energy of each row is, in itself or in another, and what a sum leaves out."""
    import numpy as np

    columns = _columns_of(frame)
    holders, not_covered = holding_rows(columns)
    held = holders >= 0
    shares = machine_shares(columns, ~held)
    kwh = frame["energy_kwh"].to_numpy(dtype="float64", na_value=np.nan)
    overlapping = shares < ALL
    not_added = NotAdded(
        nested=int(held.sum()),
        nested_energy_kwh=_known_sum(kwh[held]),
        not_covered=int(not_covered.sum()),
        overlapping=int(overlapping.sum()),
        overlapping_hosts=len(np.unique(columns.host[overlapping])),
        overlapping_energy_kwh=_known_sum((kwh * (1.0 - shares))[overlapping]),
    )
    return Placed(holders, shares, not_added)


def one_row_per_id(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Each record once, the finished rather than its checkpoint, and how many were repeated."""
    keep = kept_rows(frame)
    once = frame if keep.all() else frame[keep].reset_index(drop=True)
    return once, int((~keep).sum())


def kept_rows(frame: pd.DataFrame) -> Any:
    """Which rows hold each record once: the finished one rather than its checkpoint."""
    ids = frame["record_id"].reset_index(drop=True)
    recovered = (frame["status"] == "recovered").to_numpy()
    keep = ~ids.duplicated(keep="last").to_numpy()
    if recovered.any():
        keep &= ~(recovered & ids.isin(ids[~recovered]).to_numpy())
        keep |= _last_finished(ids, recovered)
    return keep


def _last_finished(ids: Any, recovered: Any) -> Any:
    """Which records are the last finished one of their id, though a checkpoint may follow it."""
    import numpy as np

    finished = ids[~recovered]
    keep = np.zeros(len(ids), dtype=bool)
    keep[finished.index[~finished.duplicated(keep="last")]] = True
    return keep


def hashed(column: Any) -> Any:
    """A column of texts as 64-bit numbers; 0 for none."""
    import numpy as np
    from pandas.util import hash_array

    numbers = hash_array(column.to_numpy(dtype=object), categorize=False)
    return np.where(column.isna(), np.uint64(0), numbers)


def truths(column: Any) -> Any:
    """A column of true and false, as values or texts, as 1 and 0; -1 for none."""
    import numpy as np
    import pandas as pd

    codes, found = pd.factorize(column, use_na_sentinel=True)
    known = [1 if str(one).strip().lower() in ("true", "1", "1.0") else 0 for one in found]
    return np.array([*known, -1], dtype="int8")[codes]


def _columns_of(frame: pd.DataFrame) -> Columns:
    import pandas as pd

    ids = {}
    for name in ("record_id", "run_id", "parent_id"):
        column = frame[name]
        ids[name] = column.to_numpy() if column.dtype == "uint64" else hashed(column)
    host = frame["host_id"]
    codes = host.cat.codes.to_numpy() if host.dtype == "category" else pd.factorize(host)[0]
    holds = frame["parent_holds"]
    return Columns(
        host=codes,
        holds=holds.to_numpy() if holds.dtype == "int8" else truths(holds),
        start_ms=_milliseconds(frame["started_at"]),
        end_ms=_milliseconds(frame["ended_at"]),
        is_machine=(frame["scope"] == MACHINE).to_numpy(dtype=bool),
        **ids,
    )


def _milliseconds(times: Any) -> Any:
    import pandas as pd

    if times.dtype.kind != "M":
        times = pd.to_datetime(times, utc=True, errors="coerce", format="ISO8601")
    return times.to_numpy(dtype="datetime64[ms]").astype("int64")


def _known_sum(kwh: Any) -> float | None:
    known = kwh[kwh == kwh]  # noqa: PLR0124 - NaN is not itself
    return float(known.sum()) if len(known) else None


class Links(NamedTuple):
    """The rows whose parent is in the data.

    Attributes:
        children, parents: their places, and those of their parents.
        held: whether the parent holds the row; rows of a circle would hold each other.
        not_covered: whether the row does not state it, and its parent does not cover it.
    """

    children: Any
    parents: Any
    held: Any
    not_covered: Any


def holding_rows(columns: Columns) -> tuple[Any, Any]:
    """The place of the row that holds each, -1 where none does; and which rows are not covered.

    Not covered is a row that does not say whether its parent holds it, and whose parent does not.
    """
    import numpy as np

    count = len(columns.record_id)
    held, not_covered = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    holders = np.full(count, -1)
    links = links_of(columns)
    if len(links.children):
        held[links.children] = links.held
        not_covered[links.children] = links.not_covered
        open_circles(held, links.children, links.parents)
        holders[links.children] = np.where(held[links.children], links.parents, -1)
    return holders, not_covered


def links_of(columns: Columns) -> Links:
    """The rows whose parent is in the data, and what their parents are to them."""
    import numpy as np

    parent_id = columns.parent_id
    own = (parent_id == columns.record_id) | (parent_id == columns.run_id)
    children = np.flatnonzero((parent_id != 0) & ~own)  # no row is its own parent
    ids = np.unique(parent_id[children])
    by_record, by_run = _among(columns.record_id, ids), _among(columns.run_id, ids)
    ids = np.union1d(columns.record_id[by_record], columns.run_id[by_run])
    children = children[_among(parent_id[children], ids)]
    if not len(children):
        return Links(children, children, children > 0, children > 0)
    parents, inside = _parents_of(columns, children, by_record, by_run)
    hosts, theirs = columns.host[children], columns.host[parents]
    same_host = (hosts == theirs) | (hosts < 0) | (theirs < 0)
    holds, unsaid = columns.holds[children] == 1, columns.holds[children] < 0
    held = is_held(holds, unsaid, same_host, inside)
    return Links(children, parents, held, unsaid & ~held)


def _among(wanted: Any, ids: Any) -> Any:
    """The places of what is among some sorted ids; numpy's own way sorts all that is looked for."""
    import numpy as np

    if not len(ids):
        return np.zeros(0, dtype="int64")
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.flatnonzero(ids[place] == wanted)


def _parents_of(columns: Columns, children: Any, by_record: Any, by_run: Any) -> tuple[Any, Any]:
    """The parent row of each child, whose id is in the data, and whether it covers the child.

    An id may be that of a run, which has any number of rows. Of these it is the one that ends last
    among those that have begun when the child begins: if any covers the child, that one does.
    """
    import numpy as np

    ids = np.union1d(columns.record_id[by_record], columns.run_id[by_run])
    rows = np.concatenate((by_record, by_run))
    group = np.searchsorted(
        ids, np.concatenate((columns.record_id[by_record], columns.run_id[by_run]))
    )
    end_ms = np.where(columns.start_ms == UNKNOWN_MS, UNKNOWN_MS, columns.end_ms)
    order = np.lexsort((rows, end_ms[rows], columns.start_ms[rows], group))
    rows, group = rows[order], group[order]
    starts, start_rank = np.unique(columns.start_ms[rows], return_inverse=True)
    ends, end_rank = np.unique(end_ms[rows], return_inverse=True)
    # one number for group and rank, so that one sorted array holds all groups
    place = group * (len(starts) + 1) + start_rank
    latest = np.maximum.accumulate(group * len(ends) + end_rank)
    ends_last = latest == group * len(ends) + end_rank
    ends_last = np.maximum.accumulate(np.where(ends_last, np.arange(len(rows)), 0))

    own_group = np.searchsorted(ids, columns.parent_id[children])
    first = np.searchsorted(group, own_group, side="left")
    from_ms, until_ms = columns.start_ms[children], end_ms[children]
    begun = np.searchsorted(starts, from_ms + _SLACK_MS, side="right")
    behind = np.searchsorted(place, own_group * (len(starts) + 1) + begun, side="left")
    has_begun = behind > first
    parents = rows[np.where(has_begun, ends_last[behind - 1], first)]
    inside = has_begun & (until_ms != UNKNOWN_MS)
    inside &= end_ms[parents] >= np.maximum(until_ms, UNKNOWN_MS + _SLACK_MS) - _SLACK_MS
    return parents, inside


def open_circles(held: Any, children: Any, parents: Any) -> None:
    """Add up the rows of a circle of parents, in which each would be left out for the next.

    Each row's pointer leads to its parent, and after each round to twice as distant a row; in the
    end to a row that is added up, or to one of a circle.
    """
    import numpy as np

    leads_to = np.arange(len(held))
    inner = held[children]
    leads_to[children[inner]] = parents[inner]
    for _ in range(len(held).bit_length() + 1):
        farther = leads_to[leads_to]
        if (farther == leads_to).all():
            break
        leads_to = farther
    ends = np.unique(leads_to[held])
    held[ends[held[ends]]] = False


def machine_shares(columns: Columns, added: Any) -> Any:
    """The share of each row that is added: below 1 where runs of scope machine overlap on a host.

    Rows of other scopes, of unknown host or time, and those that are not `added`, have 1.
    """
    import numpy as np

    shares = np.ones(len(columns.record_id))
    is_known = (columns.host >= 0) & (columns.start_ms != UNKNOWN_MS)
    is_known &= columns.end_ms >= columns.start_ms
    rows = np.flatnonzero(added & columns.is_machine & is_known)
    if len(rows) < 2:
        return shares
    start_ms, end_ms = columns.start_ms[rows], columns.end_ms[rows]
    times, ranks = np.unique(np.concatenate((start_ms, end_ms)), return_inverse=True)
    # an instant of one host as one number, in the order of hosts and times
    keys = np.tile(columns.host[rows], 2).astype("int64") * len(times) + ranks
    instants, at = np.unique(keys, return_inverse=True)
    begins, ends = at[: len(rows)], at[len(rows) :]
    opens, closes = _changes(columns.run_id[rows], columns.host[rows], begins, ends)
    runs = np.cumsum(opens - closes)  # from each instant to the next
    gaps_ms = np.diff(times[instants % len(times)])
    # what is not added; a sum of it stays exactly 0 where nothing overlaps
    excess_ms = np.where(runs[:-1] > 1, gaps_ms * (1.0 - 1.0 / np.maximum(runs[:-1], 1)), 0.0)
    excess_ms = np.concatenate(([0.0], np.cumsum(excess_ms)))
    length_ms = end_ms - start_ms
    of_length = (excess_ms[ends] - excess_ms[begins]) / np.maximum(length_ms, 1)
    at_once = (runs + closes)[begins]  # a row without length: all that are open at that instant
    found = np.where(length_ms > 0, 1.0 - of_length, 1.0 / at_once)
    shares[rows] = np.clip(found, 1.0 / len(rows), 1.0)
    return shares


def _changes(run: Any, host: Any, begins: Any, ends: Any) -> tuple[Any, Any]:
    """How many runs open and close at each instant; a run is open while any of its rows is."""
    import numpy as np

    count = int(ends.max()) + 1
    order = np.lexsort((ends, begins, host, run))
    run, host, begins, ends = run[order], host[order], begins[order], ends[order]
    is_first = np.append(True, (run[1:] != run[:-1]) | (host[1:] != host[:-1]))
    number = np.cumsum(is_first)
    latest = np.maximum.accumulate(number * count + ends) - number * count
    # rows of a run that touch or overlap are one stretch
    starts = is_first | np.append(True, begins[1:] > latest[:-1])
    last = np.append(np.flatnonzero(starts)[1:] - 1, len(run) - 1)
    opens = np.bincount(begins[starts], minlength=count)
    return opens, np.bincount(latest[last], minlength=count)


# -- records -----------------------------------------------------------------------------------


def one_per_id(records: Iterable[Record]) -> list[Record]:
    """Each record once: the last finished one of an id, or its last checkpoint."""
    kept: dict[str, Record] = {}
    for record in records:
        before = kept.get(record.record_id)
        if before is None or record.status != "recovered" or before.status == "recovered":
            kept[record.record_id] = record
    return list(kept.values())


def shares_of(records: Sequence[Record]) -> list[float]:
    """The share of each record that a sum adds up; 0 where its parent holds it."""
    shares = [1.0 if holder is None else 0.0 for holder in holders(records)]
    by_host: dict[str, list[int]] = {}
    for at, record in enumerate(records):
        if shares[at] and record.scope == MACHINE and record.host_id is not None:
            by_host.setdefault(record.host_id, []).append(at)
    for rows in by_host.values():
        for at, share in _shares_on_host(records, rows):
            shares[at] = share
    return shares


def holders(records: Sequence[Record]) -> list[int | None]:
    """For each record the place of its parent among them, where that holds it; else None."""
    groups = _groups(records)
    found = [_holder_of(at, records, groups) for at in range(len(records))]
    walks = [0] * len(records)
    """In which walk along parents a record was first met; 0: in none."""
    for walk in range(1, len(records) + 1):
        at: int | None = walk - 1
        while at is not None and not walks[at]:
            walks[at] = walk
            at = found[at]
        while at is not None and walks[at] == walk:
            found[at], at = None, found[at]  # a circle: each would be left out for the next
    return found


_Span = tuple[int, int, int]
"""A record's start and end in milliseconds, and its place."""


def _groups(records: Sequence[Record]) -> dict[str, tuple[list[_Span], list[int]]]:
    """By id of a parent: its rows, the first to start first, and which ends last up to each."""
    found: dict[str, set[int]] = {r.parent_id: set() for r in records if r.parent_id is not None}
    for at, record in enumerate(records):
        for name in (record.record_id, record.run_id):
            if name in found:
                found[name].add(at)
    groups = {}
    for name, places in found.items():
        spans = sorted((*_span_ms(records[at]), at) for at in places)
        last: list[int] = []
        for at, (_, end_ms, _) in enumerate(spans):
            last.append(at if not last or end_ms >= spans[last[-1]][1] else last[-1])
        groups[name] = spans, last
    return groups


def _holder_of(
    at: int, records: Sequence[Record], groups: dict[str, tuple[list[_Span], list[int]]]
) -> int | None:
    """The place of the row that holds a record, if any does."""
    record = records[at]
    if record.parent_id in (None, record.record_id, record.run_id):
        return None  # no row is its own parent
    spans, last = groups[record.parent_id]
    if not spans:
        return None
    start_ms, end_ms = _span_ms(record)
    behind = bisect_right(spans, start_ms + _SLACK_MS, key=itemgetter(0))
    _, until_ms, parent = spans[last[behind - 1] if behind else 0]
    hosts = {record.host_id, records[parent].host_id} - {None}
    known = UNKNOWN_MS not in (start_ms, end_ms)
    inside = behind > 0 and known and until_ms >= end_ms - _SLACK_MS
    holds, unsaid = record.parent_holds is True, record.parent_holds is None
    return parent if is_held(holds, unsaid, len(hosts) < 2, inside) else None


def _shares_on_host(records: Sequence[Record], rows: Sequence[int]) -> Iterator[tuple[int, float]]:
    """The places of these rows of one host, and the share of each."""
    spans = [(*_span_ms(records[at]), at) for at in rows]
    spans = [span for span in spans if UNKNOWN_MS < span[0] <= span[1]]
    runs: dict[str, list[_Span]] = {}
    for span in sorted(spans):
        runs.setdefault(records[span[2]].run_id, []).append(span)
    changes: dict[int, list[int]] = {ms: [0, 0] for start, end, _ in spans for ms in (start, end)}
    for own in runs.values():
        for start_ms, end_ms in _stretches(own):
            changes[start_ms][0] += 1
            changes[end_ms][1] += 1
    excess: dict[int, float] = {}
    at_once: dict[int, int] = {}
    now, total_ms, before_ms = 0, 0.0, 0
    for at_ms, (opens, closes) in sorted(changes.items()):
        total_ms += (at_ms - before_ms) * (1.0 - 1.0 / now) if now > 1 else 0.0
        excess[at_ms], at_once[at_ms] = total_ms, now + opens
        now, before_ms = now + opens - closes, at_ms
    for start_ms, end_ms, at in spans:
        if start_ms == end_ms:
            yield at, 1.0 / at_once[start_ms]
        else:
            share = 1.0 - (excess[end_ms] - excess[start_ms]) / (end_ms - start_ms)
            yield at, min(max(share, 1.0 / len(rows)), 1.0)


def _stretches(spans: Sequence[_Span]) -> Iterator[tuple[int, int]]:
    """Rows of a run that touch or overlap, as one stretch each."""
    start_ms, end_ms, _ = spans[0]
    for begin_ms, until_ms, _ in spans[1:]:
        if begin_ms > end_ms:
            yield start_ms, end_ms
            start_ms = begin_ms
        end_ms = max(end_ms, until_ms) if begin_ms <= end_ms else until_ms
    yield start_ms, end_ms


def _span_ms(record: Record) -> tuple[int, int]:
    start_ms, end_ms = _time_ms(record.started_at), _time_ms(record.ended_at)
    return (start_ms, UNKNOWN_MS if start_ms == UNKNOWN_MS else end_ms)


def _time_ms(text: str) -> int:
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return UNKNOWN_MS
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return (at - _EPOCH) // timedelta(milliseconds=1)
