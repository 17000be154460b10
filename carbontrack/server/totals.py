"""The totals of a project, from its rows in the store, as in `carbontrack report`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timezone
from typing import Any

from carbontrack.report.frame import Loaded, columns_of, load_rows
from carbontrack.report.tables import Summary
from carbontrack.report.totals import RecordSums, Total
from carbontrack.server.limits import Refused
from carbontrack.store.base import Store
from carbontrack.values import NamedTuple


class ReportQuery(NamedTuple):
    """The parameters of a report.

    Attributes:
        project: whose records.
        by: the grouping, as that of `carbontrack report`.
        since, until: only of records that started at that time or later, and before that time.
    """

    project: str
    by: str = "name"
    since: datetime | None = None
    until: datetime | None = None


def query_of(project: str, given: Mapping[str, str]) -> ReportQuery:
    """The query of a URL: `by`, `since` and `until`.

    Raises:
        Refused: a parameter is unknown, or a time is invalid.
    """
    if unknown := sorted(set(given) - {"by", "since", "until"}):
        known = "by, since and until"
        raise Refused(400, f"there is no parameter {unknown[0][:80]!r}; use {known}")
    times = {name: _time(name, given[name]) for name in ("since", "until") if given.get(name)}
    return ReportQuery(project, given.get("by") or "name", times.get("since"), times.get("until"))


def _time(name: str, text: str) -> datetime:
    """A day or a time; in UTC unless it has a time zone."""
    try:  # before 3.11 Python does not know the Z
        found = datetime.fromisoformat(f"{text[:-1]}+00:00" if text.endswith("Z") else text)
        return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).astimezone(
            timezone.utc
        )
    except (ValueError, OverflowError):
        raise Refused(
            400, f"{name} {text[:80]!r} is not a time such as 2026-11-24 or 2026-11-24T03:00:00Z"
        ) from None


def load_project(store: Store, query: ReportQuery, most: int) -> Loaded:
    """The records that the query asks for, as a report reads them; blocks.

    Raises:
        Refused: they are more than `most`.
        StoreUnavailable: the store does not answer.
        MissingExtra: pandas is not installed.
    """
    extra = ("labels",) if query.by.startswith("label:") else ()
    with_jobs = query.by == "job"
    columns = columns_of(extra, with_jobs=with_jobs)
    found = store.rows(query.project, since=query.since, until=query.until, columns=columns)
    with closing(found) as rows:
        return load_rows(_at_most(rows, most), extra=extra, with_jobs=with_jobs)


def _at_most(rows: Iterator[dict[str, Any]], most: int) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows):
        if number == most:
            raise Refused(
                422,
                f"there are more than {most:,} records; select a part of them with since and until",
            )
        yield row


def summary_of(loaded: Loaded, query: ReportQuery) -> Summary:
    """The sums by the grouping of the query, and the rows that they leave out.

    Raises:
        ConfigError: there is no such grouping.
    """
    sums = RecordSums(query.by)
    sums.add(loaded.frame)  # an unknown grouping is an error even where there are no records
    if len(loaded.frame) == 0:
        return Summary(query.by, no_total(), (), [query.project])
    return Summary(
        by=query.by,
        total=sums.totals()[0],
        groups=sums.totals(query.by),
        sources=[query.project],
        skipped_lines=loaded.skipped_lines,
        repeated=loaded.repeated,
        not_added=loaded.not_added,
        reason=loaded.reason,
        jobs=loaded.jobs,
        modelled_on=sums.modelled_on(),
        uncounted=sums.uncounted(),
    )


def no_total() -> Total:
    """The sum of no records: all its values are unknown."""
    unknown: dict[str, Any] = dict.fromkeys(Total.__dataclass_fields__)
    return Total(**unknown | {"runs": 0, "unknown_runs": 0})
