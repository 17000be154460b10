"""`carbontrack.estimate` beside published runs and readings, and the page that shows it."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean, median, quantiles

import pytest

from carbontrack.meters.gpu_power import FULL_SHARE, IDLE_SHARE
from tests.support.published import MEASURED, Run, readings, runs, tables

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "published-runs.md"
TEXT = PAGE.read_text(encoding="utf-8")


def measured() -> list[Run]:
    """The runs whose power somebody measured."""
    return [run for run in runs() if run.row["known"] in MEASURED]


def test_the_page_shows_what_estimate_says() -> None:
    """Each line of the page's tables is what `estimate` gives today.

    Where a figure has changed with good reason: python -m tests.support.published
    """
    shown = {line for line in TEXT.splitlines() if line.startswith("|")}
    missing = [line for made in tables() for line in made.splitlines() if line not in shown]
    assert missing == []


def test_the_page_says_why_a_case_lies_outside() -> None:
    """Every run and machine outside the interval has its reason on the page, and none inside."""
    section = TEXT.split("## Outside, and why")[1].split("\n## ")[0]
    named = set(re.findall(r"^- \*\*(.+?)\*\*", section, re.MULTILINE))
    outside = {run.row["run"] for run in runs() if not run.inside}
    outside |= {
        f"{found.system}, {found.component}"
        for found in readings()
        if any(e is not None for _, _, e in found.points) and found.inside < len(found.points)
    }
    assert named == outside


def test_the_page_counts_what_lies_inside() -> None:
    """The counts in the text are those of the tables."""
    inside = sum(run.inside for run in measured())
    packages = [found for found in readings() if found.component == "package"]
    known = [found for found in packages if all(e is not None for _, _, e in found.points)]
    memory = [found for found in readings() if found.component == "dram"]
    for here, of, what in (
        (inside, len(measured()), "runs"),
        (sum(f.inside for f in known), sum(len(f.points) for f in known), "readings of packages"),
        (sum(f.inside for f in memory), sum(len(f.points) for f in memory), "readings of memory"),
    ):
        assert f"{here} of {of} {what}" in " ".join(TEXT.split())


def test_the_middle_is_nearer_than_design_power_times_hours() -> None:
    """The median ratio is near 1, half of the runs are near it, and design power is not."""
    ratio = median(run.ratio for run in measured())
    by_tdp = median(1.0 / run.tdp_share for run in measured())
    assert ratio == pytest.approx(1.0, abs=0.05)
    assert by_tdp > 1.3
    assert f"The median ratio is {ratio:.2f}" in TEXT
    assert f"a median ratio of {by_tdp:.2f} on the same runs" in TEXT
    near = [run for run in measured() if 0.8 <= run.ratio <= 1.25]
    assert len(near) >= len(measured()) / 2


def test_the_share_of_full_use_is_what_publications_measured() -> None:
    """Middle: the mean over publications. Ends: they hold nine in ten of the single runs."""
    by_source = {
        "Patterson": [r.tdp_share for r in measured() if r.row["gpu"] in ("TPU v2", "TPU v3")],
        "Strubell": [r.tdp_share for r in measured() if "Strubell" in r.row["source"]],
        "Luccioni": [r.tdp_share for r in measured() if "above idle" in r.row["boundary"]],
        "Dodge": [
            r.tdp_share
            for r in measured()
            if r.row["run"].startswith(("6.1 B", "ViT base", "ViT large", "ViT huge"))
        ],
    }
    assert mean(mean(shares) for shares in by_source.values()) == pytest.approx(
        FULL_SHARE.best, abs=0.005
    )
    single = [run.tdp_share for run in measured() if run.row["gpu"] != "TPU v4"]
    cuts = quantiles(single, n=20, method="inclusive")
    assert (FULL_SHARE.low, FULL_SHARE.high) == (
        pytest.approx(cuts[0], abs=0.03),
        pytest.approx(cuts[-1], abs=0.03),
    )
    assert sum(FULL_SHARE.low <= share <= FULL_SHARE.high for share in single) / len(single) >= 0.85


def test_the_shares_of_a_card_are_those_that_the_pages_show() -> None:
    """One pair for estimates and for GPUs without a sensor, in both pages' tables.

    The low end at full use is not above the least of all large cards (ViT tiny, 0.298).
    """
    least = next(run.tdp_share for run in measured() if run.row["run"] == "ViT tiny")
    assert round(FULL_SHARE.low, 2) <= round(least, 2)
    idle, full = (
        f"{share.best:.2f} ({share.low:.2f} to {share.high:.2f})"
        for share in (IDLE_SHARE, FULL_SHARE)
    )
    reference = PAGE.parents[1] / "reference" / "estimate.md"
    text = reference.read_text(encoding="utf-8")
    assert f"| accelerator, idle | {idle} |" in text
    assert f"| accelerator, busy | {full} |" in text
    lines = (
        f"{at_0:.2f} + {at_1 - at_0:.2f} u"
        for at_0, at_1 in zip(IDLE_SHARE, FULL_SHARE, strict=True)
    )
    text = (PAGE.parent / "meters.md").read_text(encoding="utf-8")
    assert f"| utilisation | {' | '.join(lines)} |" in text


def test_the_page_says_how_many_runs_the_other_publications_foretell() -> None:
    """Each publication left out in turn: its runs inside the ends of what the others measured."""
    by_source: dict[str, list[float]] = {}
    for run in measured():
        if run.row["gpu"] != "TPU v4":
            name = run.row["source"].partition(" et al")[0]
            by_source.setdefault(name, []).append(run.tdp_share)
    inside = {}
    for name, shares in by_source.items():
        others = [share for other in by_source if other != name for share in by_source[other]]
        low, *_, high = quantiles(others, n=20, method="inclusive")
        inside[name] = sum(low <= share <= high for share in shares)
    total = sum(len(shares) for shares in by_source.values())
    dodge, of_dodge = inside["Dodge"], len(by_source["Dodge"])
    text = " ".join(TEXT.split())
    assert f"{sum(inside.values())} of {total} runs lie inside the 5th to 95th percentile" in text
    assert f"which is {int(100 * sum(inside.values()) / total + 0.5)} %:" in text
    assert f"only {dodge} of {of_dodge}" in text
    assert f"of the rest {sum(inside.values()) - dodge} of {total - of_dodge}" in text
