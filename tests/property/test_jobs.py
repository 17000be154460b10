"""Useful energy against its definition, row by row, for any rows of any jobs."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.report.jobs import JOB_COLUMNS, jobs_of

ROW = st.fixed_dictionaries(
    {
        "job_id": st.sampled_from([None, "a", "b"]),
        "task_id": st.sampled_from([None, "t", "u"]),
        "rank": st.sampled_from([None, 0.0, 1.0]),
        "world_size": st.sampled_from([None, 2.0, 3.0]),
        "attempt": st.sampled_from([None, 0.0, 1.0, 2.0]),
        "host_id": st.sampled_from([None, "h", "i"]),
        "status": st.sampled_from(["ok", "budget", "error", "recovered", "interrupted"]),
        "energy_kwh": st.none() | st.floats(0.0, 10.0),
        "holder": st.integers(0, 30),
    }
)


def unit_of(row):
    """What the row is an attempt of; None: of nothing."""
    if row["job_id"] is None or (row["task_id"], row["rank"], row["attempt"]) == (None,) * 3:
        return None
    rank = row["rank"] if row["task_id"] is None else None
    return row["job_id"], row["task_id"], rank


def wasted_of(rows, holders):
    """Which rows are of attempts that are not the last successful one, by the definition."""
    last: dict = defaultdict(dict)
    for number, row in enumerate(rows):  # row n ends at second n // 2, the outer ones last
        unit, attempt = unit_of(row), row["attempt"] or 0.0
        place = (number // 2, holders[number] < 0, number)
        if unit is not None and last[unit].get(attempt, ((-1,), None))[0] < place:
            last[unit][attempt] = place, row["status"] in ("ok", "budget")
    useful = {
        unit: max((attempt for attempt, (_, ok) in found.items() if ok), default=None)
        for unit, found in last.items()
    }
    return [
        unit_of(row) is not None and (row["attempt"] or 0.0) != useful[unit_of(row)] for row in rows
    ]


def useful_kwh(rows, holders):
    """The useful energy of each job, by the definition; None where nothing is known."""
    wasted = wasted_of(rows, holders)
    used, lost = defaultdict(list), defaultdict(float)
    for number, row in enumerate(rows):
        chain = [number]
        while holders[chain[-1]] >= 0:
            chain.append(holders[chain[-1]])
        if len(chain) == 1 and row["energy_kwh"] is not None:
            used[row["job_id"]].append(row["energy_kwh"])
        if wasted[number] and not any(wasted[around] for around in chain[1:]):
            lost[rows[chain[-1]]["job_id"]] += row["energy_kwh"] or 0.0
    return {job: max(0.0, sum(known) - lost[job]) for job, known in used.items() if job is not None}


@settings(max_examples=40)  # most of the time goes into data frames
@given(st.lists(ROW, max_size=24))
def test_useful_energy_is_what_its_definition_says(rows):
    """Whatever is nested in whatever; it is never more than the energy used."""
    holders = np.array(
        [row["holder"] if row["holder"] < number else -1 for number, row in enumerate(rows)],
        dtype="int64",
    )
    frame = pd.DataFrame(rows, columns=[*JOB_COLUMNS, "host_id", "status", "energy_kwh"])
    numbers = dict.fromkeys(("rank", "world_size", "attempt", "energy_kwh"), "float64")
    frame = frame.astype(numbers | dict.fromkeys(("job_id", "task_id", "host_id"), "category"))
    frame["ended_at"] = pd.to_datetime([number // 2 for number in range(len(rows))], unit="s")
    jobs = jobs_of(frame, holders, np.ones(len(rows)))

    expected = useful_kwh(rows, holders)
    assert {job.key for job in jobs} == {row["job_id"] for row in rows} - {None}
    for job in jobs:
        assert job.key is not None
        known = expected.get(job.key)
        if known is None:
            assert job.useful_energy_kwh is None
        else:
            assert job.useful_energy_kwh is not None
            assert abs(job.useful_energy_kwh - known) < 1e-9
        own = [row for row in rows if row["job_id"] == job.key]
        ranks = {(r["rank"], r["attempt"] or 0.0) for r in own if r["rank"] is not None}
        assert (job.ranks or 0) == len(ranks)
        assert (job.hosts or 0) == len({r["host_id"] for r in own} - {None})
