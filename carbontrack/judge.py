"""A budget on a running program: what is said, and noted in the record, when it is exceeded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from carbontrack.budget import Budget
from carbontrack.records import Record

_log = logging.getLogger("carbontrack")


def judge_with(budget: Budget) -> Callable[[Record], Record]:
    """Mark records that are over the budget, and warn of each; failures keep their own status."""

    def judge(record: Record) -> Record:
        verdict = budget.check(record)
        if verdict.outcome != "over":
            return record
        _log.warning("%s is %s", record.name, verdict.text)
        if record.status != "ok":
            return record
        return replace(record, status="budget", error=verdict.text)

    return judge
