"""The verdict: a pure function of limits, a measurement and a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from carbontrack.integrations.pytest_plugin.metrics import Measurement
from carbontrack.tracking.budget import Outcome, Verdict
from carbontrack.units import Quantity, format_grams, format_joules


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is said of a test: the outcome, and a sentence for each limit that is not kept."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()


def judge(limit: Quantity, measured: Measurement) -> Verdict:
    """Judge one limit.

    Over: even the lower bound is over the limit. Within: the best estimate is not, and if it is
    too small to be told from zero, the limit is not too small for that. All else is inconclusive;
    nothing passes because the meters did not see it.
    """
    if limit.kind == "emissions":
        used, low, high = measured.emissions_g, measured.emissions_low_g, measured.emissions_high_g
        resolution = measured.resolution_g
    else:
        used, low, high = (
            measured.energy_joules,
            measured.energy_low_joules,
            measured.energy_high_joules,
        )
        resolution = measured.resolution_joules
    return Verdict(_outcome(limit.amount, used, low, resolution), limit, used, low, high)


def _outcome(limit: float, used: float | None, low: float | None, resolution: float) -> Outcome:
    if used is None:
        return "inconclusive"
    if (used if low is None else low) > limit:
        return "over"
    unseen = used < resolution and limit < resolution
    return "inconclusive" if used > limit or unseen else "within"


def rule(limits: Sequence[Quantity], measured: Measurement) -> Ruling:
    """Judge all limits: one that is over decides; then one that is not sure."""
    verdicts = [judge(limit, measured) for limit in limits]
    for outcome in ("over", "inconclusive"):
        found = [verdict for verdict in verdicts if verdict.outcome == outcome]
        if found:
            return Ruling(outcome, tuple(sentence(verdict, measured) for verdict in found))
    return Ruling("within")


def sentence(verdict: Verdict, measured: Measurement) -> str:
    """Used, interval, metric and limit: "used 7.10 J (6.39 to 7.81, reference, least of 5)…"."""
    if verdict.used is None:
        return f"no meter answered, so {verdict.limit.text} can be neither kept nor exceeded"
    shown = format_grams if verdict.limit.kind == "emissions" else format_joules
    used = Quantity(verdict.limit.kind, verdict.used).text
    bounds = [
        shown(bound, like=verdict.used).split(" ", maxsplit=1)[0]
        for bound in (verdict.low, verdict.high)
        if bound is not None
    ]
    interval = f"{bounds[0]} to {bounds[1]}, " if len(bounds) == 2 else ""
    link = {"over": "over", "within": "within", "inconclusive": "not surely within or over"}
    return (
        f"used {used} ({interval}{how(measured)}), {link[verdict.outcome]} "
        f"the budget of {verdict.limit.text}"
    )


def how(measured: Measurement) -> str:
    """The metric and how many rounds stand behind the figure: "reference, least of 5"."""
    rounds = len(measured.rounds_joules)
    if rounds < 2:
        return measured.metric
    return (
        f"{measured.metric}, {'least' if measured.metric == 'reference' else 'median'} of {rounds}"
    )
