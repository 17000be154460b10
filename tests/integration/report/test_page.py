"""The page of `carbontrack report --html` in a real, headless Chromium, without any network."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from carbontrack.cli import main
from carbontrack.grid.names import name_of
from carbontrack.grid.tables import lookup
from carbontrack.record import Record
from carbontrack.report.tables import format_grams
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.sinks.timelines import TimelineFiles
from carbontrack.text import visible
from carbontrack.tracking.timeline import Timeline, timeline_object
from tests.support.browsers import chromium
from tests.support.records import HOSTILE, a_record

pytestmark = pytest.mark.xdist_group("browser")  # one browser for all tests

ROWS = 20
"""Of a page of the table."""
NASTY = [
    "<script>window.owned = 1</script>",
    "</script><img src=x onerror='window.owned = 1'>",
    "<!--<script>",
    "${alert(1)} {{7*7}}",
    "javascript:window.owned=1",
    "\"'><svg onload=window.owned=1>",
    *HOSTILE,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Write the page of some records and open it; complaints and requests are gathered."""
    contexts = []

    def open_page(records: Sequence[Record], **context: Any) -> Any:
        source, target = tmp_path / "runs.csv", tmp_path / "report.html"
        source.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
        assert main(["report", str(source), "--html", str(target)]) == 0
        contexts.append(browser.new_context(offline=True, **context))
        page = contexts[-1].new_page()
        page.complaints, page.asked = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(target.as_uri())
        # a selector: a function that has to wait is evaluated by the page, whose policy forbids it
        page.wait_for_selector("html[data-charts]", state="attached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()


def some_runs(count: int) -> list[Record]:
    zones = ("FR", "DE", "PL")
    return [
        a_record(
            n,
            name=f"job {n % 5}",
            labels={},
            started_at=f"2026-10-{1 + n % 20:02d}T06:00:00Z",
            cpu_kwh=0.2,
            ram_kwh=0.1,
            cpu_basis="measured" if n % 2 else "modelled",
            ram_basis="modelled",
            pue=1.5,
            energy_kwh=0.45,
            energy_low_kwh=0.4,
            energy_high_kwh=0.5,
            emissions_g=0.45 * (100 + n),
            emissions_low_g=0.4 * 90,
            emissions_high_g=0.5 * (110 + n),
            intensity_g_per_kwh=100 + n,
            intensity_low_g_per_kwh=90,
            intensity_high_g_per_kwh=110 + n,
            region=zones[n % 3],
        )
        for n in range(count)
    ]


def cells(page: Any, column: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#table tbody tr:not(.more) td:nth-child({column})", "all => all.map(e => e.textContent)"
    )


def test_it_draws_every_chart_and_asks_nothing_of_any_network(opened: Callable[..., Any]) -> None:
    """Four charts, no word on the console, and the file itself is all that was asked for."""
    page = opened(some_runs(60))
    assert page.complaints == []
    assert len(page.asked) == 1
    assert page.evaluate("document.querySelectorAll('.chart svg').length") == 4


def test_it_draws_the_power_of_runs_that_kept_it(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    """The six largest have a curve and its figures as a table; a gap is a gap; names are inert."""
    runs = [replace(run, name=name) for run, name in zip(some_runs(8), NASTY, strict=False)]
    timeline = Timeline(
        (0.0, 1.0, 2.0, 3.0),
        {"cpu": (0.0, 50.0, 50.0, 150.0), "ram": (0.0, 5.0, 10.0, 15.0)},
        {"cpu": (1.0, 0.0, 2.0), "ram": (1.0, 1.0, 1.0)},
    )
    files = TimelineFiles([tmp_path / "runs.csv"])
    for run in runs:
        files.write(timeline_object(run, timeline))
    page = opened(runs)
    assert page.complaints == []
    assert page.evaluate("window.owned") is None
    assert page.locator("[id^='c-power-'] svg").count() == 6
    table = page.locator("section:has(#c-power-0) table tbody tr")
    cells = table.evaluate_all("all => all.map(e => [...e.cells].map(c => c.textContent))")
    assert [row[2:] for row in cells] == [
        ["50.0 W", "5.00 W"],
        ["gap", "5.00 W"],
        ["50.0 W", "5.00 W"],
    ]


def test_its_figures_are_those_of_the_records(opened: Callable[..., Any]) -> None:
    """Headline, groups and other grids, each computed here again from the records."""
    runs = some_runs(60)
    page = opened(runs)
    grams = math.fsum(run.emissions_g for run in runs)
    kwh = math.fsum(run.energy_kwh for run in runs)
    assert format_grams(grams) in page.inner_text("h1")
    assert f"{kwh:.1f} kWh" in page.inner_text(".cards")
    tables = {
        name: dict(
            page.eval_on_selector_all(
                f"[aria-labelledby=h-{name}] tbody tr",
                "all => all.map(r => [r.cells[0].textContent, r.cells[1].textContent])",
            )
        )
        for name in ("c-groups", "c-regions", "c-elsewhere")
    }
    for job in {run.name for run in runs}:
        own = math.fsum(run.emissions_g for run in runs if run.name == job)
        assert tables["c-groups"][job] == format_grams(own)
    for zone in ("FR", "DE", "PL"):
        own = math.fsum(run.emissions_g for run in runs if run.region == zone)
        assert tables["c-regions"][name_of(zone)] == format_grams(own)
        there = kwh * lookup(zone).g_per_kwh
        assert tables["c-elsewhere"][name_of(zone)] == format_grams(there)
    parts = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    drawn = parts["charts"]["c-time"]["data"]["values"]
    assert math.fsum(value["amount"] for value in drawn) == pytest.approx(kwh * 1e3)


def test_the_table_sorts_filters_and_turns_pages(opened: Callable[..., Any]) -> None:
    """By the mouse and by the keyboard; what is shown is summed in words."""
    page = opened(some_runs(120))
    assert "Page 1 of 6" in page.inner_text("#page")
    assert cells(page, 5)[0] == format_grams(0.45 * 219)
    page.click("th[data-key=emissions_g] button")
    assert page.get_attribute("th[data-key=emissions_g]", "aria-sort") == "ascending"
    assert cells(page, 5)[0] == format_grams(45.0)
    page.focus("th[data-key=name] button")
    page.keyboard.press("Enter")
    assert cells(page, 1) == sorted(cells(page, 1))
    page.fill("#q", "JOB 3")
    assert set(cells(page, 1)) == {"job 3"}
    assert page.inner_text("#shown").startswith("24 runs")
    page.select_option("#f-region", "PL")
    assert page.inner_text("#shown").startswith("8 runs")
    page.fill("#q", "no such run")
    assert "No run matches" in page.inner_text("#shown")
    page.click("#clear")
    assert page.inner_text("#shown").startswith("120 runs")
    assert not page.is_visible("#clear")
    page.click("#next")
    assert "Page 2 of 6" in page.inner_text("#page")
    page.click("td.name > button >> nth=0")
    assert "Grid" in page.inner_text("tr.more")
    assert page.get_attribute("td.name > button >> nth=0", "aria-expanded") == "true"


def test_hostile_names_are_text_and_nothing_else(opened: Callable[..., Any]) -> None:
    """Tags, quotes, templates and a thousand characters are shown as they are, and do nothing."""
    hostile = [
        a_record(
            n,
            name=name,
            labels={name: name},
            host_id=name,
            region=name,
            intensity_source=name,
            cpu_model=name,
            emissions_g=float(n + 1),
        )
        for n, name in enumerate(NASTY)
    ]
    page = opened(hostile, viewport={"width": 1280, "height": 900})
    assert page.complaints == []
    assert page.evaluate("window.owned") is None
    assert page.inner_text("#page") == "Page 1 of 2"
    names = "all => all.map(e => e.textContent)"
    shown = page.eval_on_selector_all("td.name > button", names)
    page.click("#next")
    shown += page.eval_on_selector_all("td.name > button", names)
    assert sorted(shown) == sorted(map(visible, NASTY))
    for place in range(3):
        page.click(f"td.name > button >> nth={place}")
    page.click("td.name .label >> nth=0")
    assert page.inner_text("#shown").startswith("1 run:")
    page.click("#active button")
    assert page.inner_text("#shown").startswith(f"{len(NASTY)} runs")
    assert page.evaluate("window.owned") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


@pytest.mark.parametrize(
    "context",
    [
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 780}, "color_scheme": "light"},
    ],
    ids=["desktop", "dark", "phone"],
)
def test_it_fits_the_screen_and_can_be_read(opened: Callable[..., Any], context: Any) -> None:
    """Nothing hangs over the edge, and text stands out from its ground by 4.5 to 1 (WCAG AA)."""
    page = opened(some_runs(30), **context)
    width = context["viewport"]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.evaluate(
            "Math.max(...[...document.querySelectorAll('svg')].map(s => "
            "s.getBoundingClientRect().right))"
        )
        <= width
    )
    for selector in (
        "h1",
        ".soft",
        ".brand",
        "td.name button",
        ".chip",
        "a.chip",
        "th",
        "summary",
        "code",
        ".range",
    ):
        text, ground = page.eval_on_selector(selector, _COLOURS)
        assert contrast(text, ground) >= 4.5, selector


def test_light_and_dark_can_be_chosen(opened: Callable[..., Any]) -> None:
    """The button turns the page over, charts included, and names what it leads to."""
    page = opened(some_runs(5), color_scheme="light")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page.inner_text("#theme") == "Dark"
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert page.inner_text("#theme") == "Light"


def test_every_control_has_a_name_and_charts_have_tables(opened: Callable[..., Any]) -> None:
    """What a screen reader says: labelled sections and controls, and figures as tables."""
    page = opened(some_runs(30))
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(e => "
        "!(e.textContent.trim() || e.labels?.length)).length"
    )
    assert nameless == 0
    assert page.evaluate(
        "[...document.querySelectorAll('.chart')].every(e => "
        "e.closest('section').querySelector('details table tbody tr'))"
    )
    assert page.evaluate(
        "[...document.querySelectorAll('section')].every(e => "
        "document.getElementById(e.getAttribute('aria-labelledby')))"
    )


def test_ten_thousand_runs_stay_usable(opened: Callable[..., Any]) -> None:
    """The first paint comes before the charts, and a search over all rows before the next one."""
    page = opened(some_runs(10_000))
    paint, charts = page.evaluate(
        "[performance.getEntriesByName('first-contentful-paint')[0].startTime, performance.now()]"
    )
    assert paint < charts
    page.fill("#q", "job 4")
    assert page.inner_text("#shown").startswith("2,000 runs")
    assert len(cells(page, 1)) == ROWS
    assert page.complaints == []


def test_print_leaves_controls_out(opened: Callable[..., Any]) -> None:
    """On paper there are figures and tables, and nothing to press."""
    page = opened(some_runs(30), color_scheme="dark")
    page.emulate_media(media="print")
    for control in ("#filters", "#prev", "#next", "#theme"):
        assert not page.is_visible(control)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.is_visible("#table")


def test_paper_shows_whole_tables_and_charts(opened: Callable[..., Any]) -> None:
    """On paper, A4 within its margins, every table ends on the sheet and every chart fills it."""
    page = opened(some_runs(120), viewport={"width": 1200, "height": 1000})
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") == 688
    right = "all => all.map(e => Math.round(e.getBoundingClientRect().right))"
    drawn = page.locator("table:visible").evaluate_all(right)
    assert len(drawn) >= 3
    assert set(drawn) == {688}
    charts = page.locator(".chart svg").evaluate_all(right)
    assert len(charts) >= 3
    assert set(charts) == {688}
    assert page.inner_text("#page") == "Page 1 of 6"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert (len(cells(page, 1)), page.inner_text("#page")) == (50, "Page 1 of 3")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert (len(cells(page, 1)), page.inner_text("#page")) == (ROWS, "Page 1 of 6")


@pytest.mark.parametrize(("embodied_g", "kg_sb"), [(None, None), (9.0, None), (9.0, 1e-6)])
@pytest.mark.parametrize("water_l", [None, 2.0])
@pytest.mark.parametrize("market_emissions_g", [None, 0.0])
def test_the_cards_fill_their_rows(
    opened: Callable[..., Any],
    embodied_g: float | None,
    kg_sb: float | None,
    water_l: float | None,
    market_emissions_g: float | None,
) -> None:
    """However many figures there are, the last row of cards reaches as far as the first."""
    beside = {
        "embodied_g": embodied_g,
        "abiotic_kg_sb": kg_sb,
        "water_l": water_l,
        "market_emissions_g": market_emissions_g,
    }
    runs = [replace(r, **beside) for r in some_runs(3)]
    page = opened(runs, viewport={"width": 1600, "height": 900})
    for width in (390, 800, 1200):
        page.set_viewport_size({"width": width, "height": 900})
        edges = page.locator(".cards > div").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect()).map(e => [e.top, Math.round(e.right)])"
        )
        last_of_row = dict(edges)
        assert len(edges) == 4 + sum(figure is not None for figure in beside.values())
        assert len(set(last_of_row.values())) == 1, width


def one_run(**changes: Any) -> Record:
    """A run whose CPU is modelled and whose GPU is measured."""
    facts: dict[str, Any] = {
        "name": "train",
        "cpu_kwh": 0.6,
        "gpu_kwh": 0.3,
        "ram_kwh": 0.1,
        "pue": 1.25,
        "energy_kwh": 1.25,
        "energy_low_kwh": 0.8,
        "energy_high_kwh": 2.0,
        "emissions_g": 70.0,
        "emissions_low_g": 40.0,
        "emissions_high_g": 126.0,
        "intensity_low_g_per_kwh": 40.0,
        "intensity_high_g_per_kwh": 80.0,
        "cpu_basis": "modelled",
        "gpu_basis": "measured",
        "ram_basis": "modelled",
        "duration_s": 4500.0,
        "calls": 3,
        "cpu_model": "Some Processor",
        "coverage": 0.98,
    }
    return a_record(1, **(facts | changes))


def test_one_run_has_a_page_of_its_own(opened: Callable[..., Any]) -> None:
    """Its name and interval lead, its parts are one bar, and every detail is open."""
    page = opened([one_run()])
    assert page.complaints == []
    assert page.title() == "train: 70.0 g CO2e (40.0 to 126 g)"
    assert page.inner_text("h1") == "train emitted 70.0 g CO2e"
    assert page.inner_text(".range") == "between 40.0 g and 126 g"
    assert page.locator("#table").count() == page.locator("#c-time").count() == 0
    rows = page.locator(".parts tbody tr")
    cells = rows.evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    assert [row[2] for row in cells] == ["48%", "24%", "8%", "20%"]
    assert [row[3] for row in cells] == ["modelled", "measured", "modelled", "PUE 1.25"]
    widths = page.locator(".stack i").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().width)"
    )
    bar = page.locator(".stack").bounding_box()["width"]
    assert widths == pytest.approx([0.48 * bar, 0.24 * bar, 0.08 * bar, 0.2 * bar], abs=6)
    words = page.inner_text(".record")
    for text in (
        "fold=3", "1.25 kWh (", "70.0 g CO2e (40.0 to 126 g)", "Some Processor",
        "France (FR), given as an argument", "56 g CO2e/kWh (40 to 80); test table, 2024", "98%",
        "process: this program's share of the machine",
    ):  # fmt: skip
        assert text in words
    assert "carbontrack run --timeline" in page.inner_text("[aria-labelledby=h-power]")
    causes = page.locator(".narrow li b").all_text_contents()
    assert causes[0] == "CPU energy is modelled"
    assert "Carbon intensity of the grid" in causes
    assert not [cause for cause in causes if "GPU" in cause]


def test_a_curve_shows_its_figures_under_the_pointer(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    """The bin that the pointer is on says when it was, and the power of each part in it."""
    run = one_run()
    timeline = Timeline(
        (0.0, 1.0, 2.0, 4.0),
        {"cpu": (0.0, 50.0, 50.0, 150.0), "ram": (0.0, 5.0, 10.0, 15.0)},
        {"cpu": (1.0, 0.0, 2.0), "ram": (1.0, 1.0, 2.0)},
    )
    TimelineFiles([tmp_path / "runs.csv"]).write(timeline_object(run, timeline))
    page = opened([run])
    page.locator("#c-power-0 .mark-rect path").nth(2).hover()
    shown = " ".join(page.locator("#vg-tooltip-element").inner_text().split())
    assert shown == "time 2.0 s to 4.0 s CPU 50.0 W memory 2.50 W sum 52.5 W"
    page.locator("#c-power-0 .mark-rect path").nth(1).hover()
    page.locator("#vg-tooltip-element", has_text="gap").wait_for()
    assert page.complaints == []


def test_labels_filter_by_a_click(opened: Callable[..., Any]) -> None:
    """A label leaves the runs that have it; each filter is shown, and can be taken off again."""
    runs = [replace(run, labels={"seed": n % 2, "n": n}) for n, run in enumerate(some_runs(12))]
    page = opened(runs)
    page.click("td.name .label:text-is('seed=1') >> nth=0")
    assert page.inner_text("#shown").startswith("6 runs")
    page.click("td.name .label:text-is('n=3')")
    assert page.inner_text("#shown").startswith("1 run:")
    page.focus("#active button >> nth=1")
    page.keyboard.press("Enter")
    assert page.inner_text("#shown").startswith("6 runs")
    page.fill("#q", "seed=0")
    assert "No run matches" in page.inner_text("#shown")
    page.click("#clear")
    assert page.inner_text("#shown").startswith("12 runs")
    page.fill("#q", "germany")
    assert page.inner_text("#shown").startswith("4 runs")


def test_a_phone_gets_weeks_and_dates_do_not_wrap(opened: Callable[..., Any]) -> None:
    """Where days are too many for the width; the sum is the same, and a wide screen has days."""
    page = opened(some_runs(40), viewport={"width": 390, "height": 800})
    axis = "#c-time .role-axis-title text"
    assert page.locator(axis).last.text_content() == "kWh per week"
    weeks = page.evaluate(
        "JSON.parse(document.getElementById('data').textContent).narrow['c-time'].data.values"
    )
    assert math.fsum(week["amount"] for week in weeks) == pytest.approx(40 * 0.45)
    lines = "e => e.getClientRects().length"
    assert page.locator(".date").first.evaluate(lines) == 1
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator(axis, has_text="Wh per day").wait_for()
    heights = page.locator("td.date").evaluate_all(
        "all => all.map(e => { const r = document.createRange(); r.selectNodeContents(e);"
        " return r.getClientRects().length; })"
    )
    assert set(heights) == {1}


def test_what_is_missing_is_said_and_how_to_get_it(opened: Callable[..., Any]) -> None:
    """No emissions: the reason, and what to set. No energy: no chart, and what to ask."""
    nowhere = dict.fromkeys(
        ("emissions_g", "emissions_low_g", "emissions_high_g", "intensity_g_per_kwh", "region")
    )
    page = opened([replace(run, **nowhere) for run in some_runs(3)])
    assert page.inner_text("h1") == "3 runs, emissions unknown"
    assert page.title() == "3 runs: emissions unknown"
    assert "CARBONTRACK_REGION=FR" in page.inner_text(".empty")
    assert page.inner_text("#shown").endswith("emissions unknown")
    parts = dict.fromkeys(("cpu_kwh", "ram_kwh", "energy_kwh", "energy_low_kwh", "energy_high_kwh"))
    page = opened([replace(run, **nowhere, **parts, duration_s=None) for run in some_runs(3)])
    assert page.complaints == []
    page.click("td.name button >> nth=0")
    assert " UTC, ok" in page.inner_text("tr.more")
    assert "no meter answered" in page.inner_text(".empty")
    assert page.locator(".chart").count() == 0


def test_water_below_a_millilitre_is_no_figure(opened: Callable[..., Any]) -> None:
    """So little says nothing; from a millilitre on it has a card."""
    shown = {}
    for water_l in (0.0009, 0.0011):
        page = opened([one_run(water_l=water_l)])
        shown[water_l] = page.locator(".cards dt", has_text="Water").count()
    assert shown == {0.0009: 0, 0.0011: 1}


_COLOURS = """element => {
  let ground = element;
  const none = 'rgba(0, 0, 0, 0)';
  while (getComputedStyle(ground).backgroundColor === none) ground = ground.parentElement;
  return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
}"""


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two CSS colours (WCAG 2.1, 1.4.3)."""

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


def test_a_thousand_runs_take_little_more_than_one(tmp_path: Path) -> None:
    """Texts are kept once and numbers in six digits: less than a CSV line for each run."""
    source, target = tmp_path / "runs.csv", tmp_path / "report.html"
    sizes = {}
    for count in (2, 1002):
        lines = b"".join(record_line(run.to_row()) for run in some_runs(count))
        source.write_bytes(HEADER + lines)
        assert main(["report", str(source), "--html", str(target)]) == 0
        sizes[count] = target.stat().st_size
    assert sizes[1002] - sizes[2] < len(lines) / 2
    assert sizes[1002] < 1.5 * sizes[2]


def test_the_file_needs_no_other(tmp_path: Path) -> None:
    """No address that a browser would fetch stands in the page, whatever browser it is."""
    source, target = tmp_path / "runs.csv", tmp_path / "report.html"
    source.write_bytes(HEADER + record_line(a_record(1).to_row()))
    assert main(["report", str(source), "--html", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    markup = re.sub(r"<script[^>]*>.*?</script>", "<script>", text, flags=re.DOTALL)
    assert not re.findall(r"<[^>]*\ssrc=|<link[^>]*href=\"(?!data:)|url\(", markup)
    assert "default-src 'none'" in text
    held = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert held is not None
    assert json.loads(held[1])["runs"]["count"] == 1
