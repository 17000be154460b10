"""The other figures of the page: each again from the records, by sums written out here."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import carbontrack
from carbontrack.grid.names import name_of
from carbontrack.grid.tables import lookup
from carbontrack.record import Record
from carbontrack.units import format_grams, format_joules, format_seconds
from tests.integration.report.test_page import browser, opened
from tests.support.records import a_record

__all__ = ["browser", "opened"]

pytestmark = pytest.mark.xdist_group("figures")  # one browser for all tests

JOULES = 3.6e6
PARTS = ("cpu", "gpu", "ram", "other")
BASES = ("measured", "modelled", "assumed")
LOAD = (math.log(0.47 / 0.20), math.log(1.05 / 0.47))  # half load: 0.47 of TDP, 0.20 to 1.05
THREADS = (math.log(3.5 / 1.4), math.log(9.0 / 3.5))  # 3.5 W per thread, 1.4 to 9
RAM = (1.0 - 0.045 / 0.15, 0.60 / 0.15 - 1.0)  # 0.15 W/GiB, 0.045 to 0.60
USUAL = {
    "cpu": (
        (0.07, 0.07),
        (1.0 - math.exp(-LOAD[0]), math.exp(LOAD[1]) - 1.0),
        (
            1.0 - math.exp(-math.hypot(LOAD[0], THREADS[0])),
            math.exp(math.hypot(LOAD[1], THREADS[1])) - 1.0,
        ),
    ),
    "gpu": ((0.05, 0.05), (0.40, 0.40), (0.255 / 0.42, 0.33 / 0.42)),
    "ram": ((0.07, 0.07), RAM, RAM),
    "other": ((0.10, 0.10), (0.50, 0.50), (1.0, 0.34 / 0.08)),
}
"""As docs/explanation/adding-up-intervals.md prints them, for measured, modelled and assumed: below
and above."""
COMMON = 0.5
EQUIVALENTS = Path(carbontrack.__file__).with_name("data") / "equivalents.csv"


def mixed_runs(count: int, *, scale: float = 1.0) -> list[Record]:
    """Runs of every basis on three hosts and grids, with lopsided intervals; some lack a part."""
    by = Random(count)
    return [_mixed(n, by, scale) for n in range(count)]


def _mixed(number: int, by: Random, scale: float) -> Record:
    kwh: dict[str, float | None] = {p: by.uniform(0.1, 2.0) * scale for p in PARTS}
    if number % 3 == 0:
        kwh["gpu"] = None
    if number % 4:
        kwh["other"] = None
    pue = by.uniform(1.0, 1.6)
    whole = pue * math.fsum(part or 0.0 for part in kwh.values())
    low, high = whole * by.uniform(0.5, 0.95), whole * by.uniform(1.05, 1.8)
    grid = by.uniform(30.0, 700.0)
    grid_low, grid_high = grid * by.uniform(0.7, 0.98), grid * by.uniform(1.02, 1.5)
    return a_record(
        number,
        name=f"job {number % 5}",
        duration_s=by.uniform(1.0, 5000.0),
        **{f"{part}_kwh": kwh[part] for part in PARTS},
        energy_kwh=whole,
        energy_low_kwh=low,
        energy_high_kwh=high,
        emissions_g=whole * grid,
        emissions_low_g=low * grid_low,
        emissions_high_g=high * grid_high,
        intensity_g_per_kwh=grid,
        intensity_low_g_per_kwh=grid_low,
        intensity_high_g_per_kwh=grid_high,
        water_l=by.uniform(0.01, 3.0) * scale if number % 5 else None,
        embodied_g=by.uniform(0.1, 40.0) * scale if number % 7 else None,
        pue=pue,
        basis=by.choice(BASES),
        cpu_basis=by.choice(BASES),
        gpu_basis=None if kwh["gpu"] is None else by.choice(BASES),
        ram_basis=by.choice(BASES),
        host_id=f"host {number % 3}",
        cpu_model=f"processor {number % 2}",
        region=("FR", "DE", "PL")[by.randrange(3)],
    )


def basis_of(run: Record, part: str) -> str | None:
    return run.basis if part == "other" else getattr(run, f"{part}_basis")


def half_width(runs: Iterable[Record], end: str, *, grams: bool) -> float:
    """Rule 1 to 3 of the page on adding up: split, add within a kind, combine the kinds."""
    kinds: dict[tuple[str, str], dict[Any, float]] = defaultdict(lambda: defaultdict(float))
    for run in runs:
        half = abs(getattr(run, f"energy_{end}_kwh") - run.energy_kwh)
        weight = {}
        for part in PARTS:
            kwh, basis = getattr(run, f"{part}_kwh"), basis_of(run, part)
            if kwh is not None and basis is not None:
                weight[part] = kwh * USUAL[part][BASES.index(basis)][end == "high"]
        norm = math.hypot(*weight.values())
        for part, own in weight.items():
            basis = basis_of(run, part)
            model = part in ("cpu", "ram") and basis != "measured"
            unit = run.cpu_model if model else run.host_id if part == "gpu" else None
            width = half * own / norm * (run.intensity_g_per_kwh if grams else 1.0)
            kinds[part, "model" if model else basis][unit] += width
    return math.sqrt(sum(squared(*kind, list(units.values())) for kind, units in kinds.items()))


def squared(part: str, way: str, widths: Sequence[float]) -> float:
    """The square of a kind's half-width, from those of its processors or hosts."""
    common = COMMON if way == "model" else 0.0 if (part, way) == ("gpu", "measured") else 1.0
    return common * math.fsum(widths) ** 2 + (1.0 - common) * math.fsum(w * w for w in widths)


def energy_of(runs: Sequence[Record]) -> tuple[float, float, float]:
    """Best, low and high, in kWh."""
    best = math.fsum(run.energy_kwh for run in runs)
    low, high = (half_width(runs, end, grams=False) for end in ("low", "high"))
    return best, max(0.0, best - low), best + high


def emissions_of(runs: Sequence[Record]) -> tuple[float, float, float]:
    """Best, low and high, in grams: rule 4."""
    best = math.fsum(run.emissions_g for run in runs)
    low, high = (half_width(runs, end, grams=True) for end in ("low", "high"))
    grid_low = math.fsum(run.energy_kwh * run.intensity_low_g_per_kwh for run in runs)
    grid_high = math.fsum(run.energy_kwh * run.intensity_high_g_per_kwh for run in runs)
    return times(
        (best, max(0.0, best - low), best + high), (1.0, grid_low / best, grid_high / best)
    )


def times(
    left: tuple[float, float, float], right: tuple[float, float, float]
) -> tuple[float, float, float]:
    """The product of two that err apart: the logarithms of their ratios in quadrature."""
    best = left[0] * right[0]
    low = math.hypot(math.log(left[0] / left[1]), math.log(right[0] / right[1]))
    high = math.hypot(math.log(left[2] / left[0]), math.log(right[2] / right[0]))
    return best, best * math.exp(-low), best * math.exp(high)


def in_grams(ends: tuple[float, float, float]) -> list[str]:
    """A figure and its ends in one unit, that of the largest."""
    return [format_grams(end, like=max(ends)) for end in ends]


def interval(texts: Sequence[str]) -> str:
    """Of the best estimate and both ends as texts: the ends, with the unit once."""
    return f"{texts[1].split()[0]} to {texts[2]}"


def cards(page: Any) -> dict[str, tuple[str, str]]:
    """The title of each card, its figure and what stands under it."""
    rows = page.eval_on_selector_all(
        ".cards > div", "all => all.map(e => [...e.children].map(c => c.textContent))"
    )
    return {title: (figure, more) for title, figure, more in rows}


def table_of(page: Any, chart: str) -> dict[str, list[str]]:
    rows = page.eval_on_selector_all(
        f"[aria-labelledby=h-{chart}] tbody tr",
        "all => all.map(r => [...r.cells].map(c => c.textContent))",
    )
    return {key: figures for key, *figures in rows}


def drawn(page: Any, chart: str) -> dict[str, dict[str, float]]:
    values = page.evaluate(
        "name => JSON.parse(document.getElementById('data').textContent).charts[name].data.values",
        chart,
    )
    return {value["key"]: value for value in values}


def test_both_ends_of_the_sums_are_those_of_the_rule(opened: Callable[..., Any]) -> None:
    """Energy and CO2e of all, of each name and each region, in words, table and band."""
    runs = mixed_runs(60)
    page = opened(runs)
    shown = cards(page)
    best, low, high = energy_of(runs)
    texts = [format_joules(end * JOULES, like=high * JOULES) for end in (best, low, high)]
    assert shown["Energy"] == (texts[0], interval(texts))
    said = in_grams(emissions_of(runs))
    assert shown["CO2e"] == (said[0], f"{said[1].split()[0]} to {said[2]}")
    for chart, column in (("c-groups", "name"), ("c-regions", "region")):
        table, bands = table_of(page, chart), drawn(page, chart)
        keys = {getattr(run, column) for run in runs}
        names = {key: name_of(key) if column == "region" else key for key in keys}
        assert set(table) == set(bands) == set(names.values())
        for key, name in names.items():
            ends = emissions_of([run for run in runs if getattr(run, column) == key])
            assert table[name] == in_grams(ends)
            band = bands[name]
            assert band["low_g"] / band["g"] == pytest.approx(ends[1] / ends[0], rel=1e-9)
            assert band["high_g"] / band["g"] == pytest.approx(ends[2] / ends[0], rel=1e-9)


def test_both_ends_on_other_grids(opened: Callable[..., Any]) -> None:
    """The energy times the other grid, with its interval; the work's own row as it was."""
    runs = mixed_runs(60)
    page = opened(runs)
    energy = energy_of(runs)
    table = table_of(page, "c-elsewhere")
    assert table.pop("these runs") == in_grams(emissions_of(runs))
    assert {"France", "Poland", "World"} <= set(table)
    for place, figures in table.items():
        grid = lookup(place)
        ends = (grid.g_per_kwh, grid.low_g_per_kwh, grid.high_g_per_kwh)
        assert figures == in_grams(times(energy, ends))


def test_both_ends_of_every_run(opened: Callable[..., Any]) -> None:
    """The band of each row and the words behind its name are the record's own ends."""
    runs = mixed_runs(20)
    page = opened(runs)
    titles = page.eval_on_selector_all(
        "#table td.span [title]", "all => all.map(e => e.getAttribute('title'))"
    )
    ordered = sorted(runs, key=lambda run: -run.emissions_g)
    own = [(r.emissions_g, r.emissions_low_g, r.emissions_high_g) for r in ordered]
    assert titles == [interval(in_grams(ends)) for ends in own]
    page.click("td.name button >> nth=0")
    words = page.eval_on_selector("tr.more", "row => row.textContent")
    texts = in_grams(own[0])
    assert f"{texts[0]} ({interval(texts)})" in words
    kwh = (ordered[0].energy_kwh, ordered[0].energy_low_kwh, ordered[0].energy_high_kwh)
    texts = [format_joules(k * JOULES, like=max(kwh) * JOULES) for k in kwh]
    assert f"{texts[0]} ({interval(texts)})" in words


def test_a_sum_with_unknown_ends_shows_none(opened: Callable[..., Any]) -> None:
    """Where more than a hundredth has no interval, the page shows the figure and no ends."""
    runs = mixed_runs(10)
    nothing = {"energy_low_kwh": None, "energy_high_kwh": None}
    runs[3] = replace(runs[3], **nothing, emissions_low_g=None, emissions_high_g=None)
    page = opened(runs)
    shown = cards(page)
    assert shown["Energy"][1] == shown["CO2e"][1] == "no interval"
    assert table_of(page, "c-groups")["job 3"][1:] == ["", ""]
    others = [run for run in runs if run.name == "job 1"]
    assert table_of(page, "c-groups")["job 1"] == in_grams(emissions_of(others))


def test_the_shares_of_how_energy_is_known(opened: Callable[..., Any]) -> None:
    """Of the parts before PUE: as chips, and part by part as a table."""
    runs = mixed_runs(60)
    page = opened(runs)
    kwh: dict[tuple[str, str], float] = defaultdict(float)
    for run in runs:
        for part in PARTS:
            if (own := getattr(run, f"{part}_kwh")) is not None:
                kwh[part, str(basis_of(run, part))] += own
    whole = math.fsum(kwh.values())
    share = {b: math.fsum(k for (_, basis), k in kwh.items() if basis == b) / whole for b in BASES}
    assert min(share.values()) > 0.1
    chips = page.locator(".known .chip").all_text_contents()
    how = {"measured": "", "modelled": ": how to measure", "assumed": ": how to measure"}
    assert chips == [f"{share[basis]:.0%} {basis}{how[basis]}" for basis in BASES]
    page.click(".known a >> nth=0")
    assert page.evaluate("document.activeElement.id") == "narrow"
    rows = page.locator(".how table").first.locator("tbody tr")
    cells = rows.evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    names = {"CPU": "cpu", "GPU": "gpu", "memory": "ram", "other": "other"}
    assert {(names[part], basis): text for part, basis, text in cells} == {
        kind: format_joules(own * JOULES) for kind, own in kwh.items()
    }


def test_what_is_modelled_says_where_it_ends(opened: Callable[..., Any]) -> None:
    """Beside the shares, and with the rate that the interval holds at."""
    page = opened([a_record(basis="modelled", cpu_basis="modelled")])
    assert "CPU and memory, not wall power" in page.text_content(".known-text")
    assert "nine of ten published servers" in page.text_content(".how")
    assert "one country in three lies outside" in page.text_content(".how")
    page = opened([a_record(basis="measured", cpu_basis="measured", ram_basis="measured")])
    assert "not wall power" not in page.inner_text("main > section >> nth=0")


def test_the_grids_give_the_grams(opened: Callable[..., Any]) -> None:
    """The intensity of a grid and both its ends are means over the energy, not over the runs."""
    runs = mixed_runs(60)
    rows = opened(runs).locator(".how table").nth(1).locator("tbody tr")
    cells = rows.evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    assert {row[0] for row in cells} == {"France", "Germany", "Poland"}
    for region, _, intensity, source, year, count in cells:
        own = [run for run in runs if name_of(run.region) == region]
        assert (source, year, count) == ("test table", "2024", str(len(own)))
        kwh = math.fsum(run.energy_kwh for run in own)
        best, low, high = (
            math.fsum(r.energy_kwh * getattr(r, f"intensity_{end}g_per_kwh") for r in own) / kwh
            for end in ("", "low_", "high_")
        )
        assert best == pytest.approx(math.fsum(run.emissions_g for run in own) / kwh)
        assert intensity == f"{best:.4g} ({low:.3g} to {high:.3g})"


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ((0, 0), "2026-11-24 03:00 UTC on 2 hosts"),
        ((0, 2), "2026-11-24 03:00 to 2026-11-24 03:02 UTC on 2 hosts"),
    ],
)
def test_a_short_period_is_named_once(
    opened: Callable[..., Any], minutes: tuple[int, ...], said: str
) -> None:
    """A tick at both edges of each step of time, once each, and no minute that leads to itself."""
    runs = [
        replace(run, started_at=f"2026-11-24T03:{minute:02d}:10.000Z")
        for run, minute in zip(mixed_runs(2), minutes, strict=True)
    ]
    page = opened(runs)
    assert page.text_content("header p.soft") == said
    ticks = page.locator("#c-time .role-axis-label text").all_text_contents()
    assert [tick for tick in ticks if tick.startswith("03:")] == [
        f"03:{minute:02d}" for minute in range(minutes[-1] + 2)
    ]


@pytest.mark.parametrize(("count", "scale"), [(3, 1e-3), (60, 1.0), (400, 1.0)])
def test_time_water_and_making(opened: Callable[..., Any], count: int, scale: float) -> None:
    """The sums of what the records know, short and long, small and large."""
    runs = mixed_runs(count, scale=scale)
    shown = cards(opened(runs))
    seconds = math.fsum(run.duration_s for run in runs)
    hours = seconds / 3600.0
    time = f"{hours:,.0f} h" if hours >= 100.0 else format_seconds(seconds)
    assert shown["Total run time"] == (time, f"{count} runs together")
    litres = math.fsum(run.water_l for run in runs if run.water_l is not None)
    number, unit = (litres, "L") if litres >= 0.1 else (litres * 1e3, "mL")
    assert shown["Water"][0].split() == [f"{number:.3g}", unit]
    made = math.fsum(run.embodied_g for run in runs if run.embodied_g is not None)
    assert shown["Embodied emissions"][0] == format_grams(made)


@pytest.mark.parametrize("scale", [1e-6, 1e-5, 1e-3, 1.0, 1e3])
def test_the_comparison_is_one_of_the_table(opened: Callable[..., Any], scale: float) -> None:
    """The thing whose number is nearest to ten, and that number from its factor, with whom to cite.

    Every row of the table is tried here again; a number outside 1 to 1,000 is none.
    """
    runs = mixed_runs(8, scale=scale)
    amounts = {
        "energy": math.fsum(run.energy_kwh for run in runs) * JOULES,
        "emissions": math.fsum(run.emissions_g for run in runs),
    }
    with EQUIVALENTS.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    fitting = [(amounts[row["quantity"]] / float(row["amount"]), row) for row in rows]
    fitting = [(times, row) for times, row in fitting if 1.0 <= times <= 1000.0]
    times, row = min(fitting, key=lambda one: abs(math.log10(one[0]) - 1.0))
    number = f"{times:.2g}" if times < 9.95 else f"{times:.0f}"
    page = opened(runs)
    thing = f"{number} {row['one' if number == '1' else 'many']}"
    assert cards(page)["About as much as"] == (thing, row["cite"])
    assert f"{thing}: {row['source']}" in page.inner_text(".how")
