"""A budget on a decorated function: what is said, and noted in its rows, when it is exceeded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from carbontrack.budget import Budget
from carbontrack.records import Record

_log = logging.getLogger("carbontrack")


def judge_with(budget: Budget) -> Callable[[Record], Record]:
    """Mark rows that are over the budget, and warn of each; failures keep their own status.

    The budget is that of one call. A row that sums many is judged by all of them together, which
    is by their mean.
    """

    def judge(record: Record) -> Record:
        limit, calls = budget.limit, record.calls or 1
        verdict = Budget(replace(limit, amount=limit.amount * calls)).check(record)
        if verdict.outcome != "over":
            return record
        _log.warning("%s is %s", record.name, verdict.text)
        if record.status != "ok":
            return record
        return replace(record, status="budget", error=verdict.text)

    return judge
