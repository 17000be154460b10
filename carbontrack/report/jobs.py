"""What the rows of a job say beside its sums: ranks, hosts, attempts, and how much was of use.

A launcher restarts ranks and a framework retries tasks. What every attempt used was used; *useful*
is what is left without the attempts that were repeated, or never succeeded. An attempt succeeded if
its last row ended well, and of several successful ones of a task or rank the last is the useful
one. Rows of neither, such as a driver's, are no attempts, and count as useful.

All rows of the data are looked at, also those that their parent holds: a sum has the energy of such
a row in its parent's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

JOB_COLUMNS = ("job_id", "task_id", "rank", "world_size", "attempt")
"""What `jobs_of` looks at, beside the columns of the rule."""
_SUCCEEDED = ("ok", "budget")
"""How an attempt ends that has done its work; "budget" is one that used more than it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The processes of one job; unknown is None.

    Attributes:
        key: the job's id; None for rows of no job, of which nothing else is known.
        ranks: how many ranks have a row, each attempt of a rank counted.
        expected_ranks: how many there were, by the world size of each attempt.
        world_size: the largest number of ranks at once.
        hosts: how many hosts have a row.
        attempts: how many attempts of the job, or of its tasks, were made one after another.
        tasks: how many tasks of a framework have a row.
        useful_energy_kwh: the energy without attempts that were repeated or never succeeded.
    """

    key: str | None
    ranks: int | None = None
    expected_ranks: int | None = None
    world_size: int | None = None
    hosts: int | None = None
    attempts: int | None = None
    tasks: int | None = None
    useful_energy_kwh: float | None = None

    @property
    def missing_ranks(self) -> int:
        """How many ranks have no row, as far as is known."""
        return max(0, (self.expected_ranks or 0) - (self.ranks or 0))


def jobs_of(frame: pd.DataFrame, holders: Any, shares: Any) -> list[Job]:
    """The jobs of rows of which each is there once.

    Args:
        frame: the columns of `JOB_COLUMNS` and `nesting.RULE_COLUMNS`.
        holders: for each row the place of the row that holds it; -1 where none does.
        shares: for each row that no other holds the share of it that is added up.
    """
    import pandas as pd

    rows = frame.reset_index(drop=True)
    rows["job"], keys = pd.factorize(rows["job_id"])
    rows["task"], _ = pd.factorize(rows["task_id"])
    kwh = rows["energy_kwh"].to_numpy(dtype="float64", na_value=float("nan"))
    tops, is_inside_wasted, wasted = _wasted(rows, holders)
    counted = rows.assign(used=(kwh * shares), lost=(kwh * shares[tops]))
    counted["top_job"] = rows["job"].to_numpy()[tops]
    lost = counted[wasted & ~is_inside_wasted].groupby("top_job")["lost"].sum()
    used = counted[holders < 0].groupby("job")["used"].sum(min_count=1)
    useful_kwh = used.sub(lost, fill_value=0.0).clip(lower=0.0).where(used.notna())
    figures = _ranks_of(rows)
    figures["useful_energy_kwh"] = useful_kwh
    by_job = rows[rows["job"] >= 0].groupby("job")
    for name, column in (("hosts", "host_id"), ("attempts", "attempt"), ("tasks", "task_id")):
        figures[name] = by_job[column].nunique()
    columns = [column.reindex(range(len(keys))).tolist() for column in figures.values()]
    of_jobs = (dict(zip(figures, own, strict=True)) for own in zip(*columns, strict=True))
    return [_job(str(key), own) for key, own in zip(keys, of_jobs, strict=True)]


def _ranks_of(rows: pd.DataFrame) -> dict[str, Any]:
    """The ranks of each job, how many there were in all its attempts, and the most at once."""
    ranks = rows[rows["rank"].notna() & (rows["job"] >= 0)]
    ranks = ranks.assign(attempt=ranks["attempt"].fillna(0.0))
    one_each = ranks.drop_duplicates(["job", "attempt", "rank"])
    sizes = ranks.groupby(["job", "attempt"])["world_size"].max().groupby("job")
    return {
        "ranks": one_each.groupby("job").size(),
        "expected_ranks": sizes.sum().where(sizes.count() == sizes.size()),
        "world_size": sizes.max().where(sizes.count() == sizes.size()),
    }


def _job(key: str, figures: dict[str, float]) -> Job:
    useful_kwh = figures.pop("useful_energy_kwh")
    known = {name: int(number) for name, number in figures.items() if number and number > 0}
    return Job(key=key, useful_energy_kwh=None if isnan(useful_kwh) else useful_kwh, **known)


def _wasted(rows: pd.DataFrame, holders: Any) -> tuple[Any, Any, Any]:
    """The outermost holder of each row, whether it is inside a wasted row, and whether it is one.

    A wasted row is one of an attempt that is not the last successful one of its task or rank.
    """
    import numpy as np

    wasted = _is_wasted(rows, holders)
    tops = np.arange(len(rows))
    inside = np.zeros(len(rows), dtype=bool)
    around = holders
    while (is_held := around >= 0).any():  # as often as rows are nested; there are no circles
        tops = np.where(is_held, around, tops)
        inside |= is_held & wasted[around]
        around = np.where(is_held, holders[around], -1)
    return tops, inside, wasted


def _is_wasted(rows: pd.DataFrame, holders: Any) -> Any:
    import pandas as pd

    is_task = rows["task_id"].notna()
    judged = is_task | rows["rank"].notna() | rows["attempt"].notna()
    judged &= rows["job_id"].notna()
    wasted = pd.Series(data=False, index=rows.index)
    found = pd.DataFrame(
        {
            "job": rows["job"],
            "task": rows["task"],
            "rank": rows["rank"].mask(is_task),  # a retry may run anywhere
            "attempt": rows["attempt"].fillna(0.0),
            "ended_at": rows["ended_at"],
            "is_outer": holders < 0,
            "ok": rows["status"].isin(_SUCCEEDED),
        }
    )[judged]
    if found.empty:
        return wasted.to_numpy()
    found["unit"] = found.groupby(["job", "task", "rank"], dropna=False, sort=False).ngroup()
    in_order = found.sort_values(["ended_at", "is_outer"], kind="stable", na_position="first")
    last = in_order.groupby(["unit", "attempt"])["ok"].last()
    useful = last[last].reset_index().groupby("unit")["attempt"].max()
    wasted[found.index] = found["attempt"] != found["unit"].map(useful)  # none: not equal
    return wasted.to_numpy()


def by_key(jobs: Sequence[Job]) -> dict[str | None, Job]:
    """The jobs by their ids, with one for rows of no job."""
    return {None: Job(key=None), **{job.key: job for job in jobs}}
