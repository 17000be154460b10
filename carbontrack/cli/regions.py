"""`carbontrack regions`: the regions of the tables, and what the same work would emit there."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from carbontrack.api.assembly import current_environment, find_region
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.config.load import load_settings
from carbontrack.errors import ConfigError, NoIntensity, UnknownRegion
from carbontrack.grid import names, region, rows, tables
from carbontrack.grid.advice import Place, compare, same_method
from carbontrack.grid.history import checked_year
from carbontrack.grid.intensity import GridIntensity
from carbontrack.report.nesting import one_per_id, shares_of
from carbontrack.report.read import iter_records
from carbontrack.text import cut_to, padded, visible, width_of
from carbontrack.units import format_grams, format_interval

_ABOUT = "Show the carbon intensity of places, or where the same work would emit less."
_EPILOG = """\
examples:
  carbontrack regions france                  all that is known of a place
  carbontrack regions FR DE us-east1          several places
  carbontrack regions aws                     all regions of a provider
  carbontrack regions gcp --energy-kwh 120 --here us-east1
  carbontrack regions --compare emissions.csv
"""
_FOOTNOTES = {
    "unclear": "unclear: the intervals of the two grids overlap, so either may emit less.",
    "other method": "other method: the two intensities are not computed in the same way.",
}
"""For each result of a comparison that needs a word."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `regions` and its options."""
    parser = new_parser(
        subparsers,
        "regions",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        keep_lines=True,
    )
    add = parser.add_argument
    add("queries", nargs="*", metavar="PLACE", help="a code, a name or a cloud provider")
    add("--energy-kwh", type=float, metavar="X", help="rank places by what X kWh would emit there")
    add("--compare", metavar="FILE", help="the same for the energy of the records in a file")
    add("--here", metavar="R", help="compare with this region; default: that of this machine")
    add("--year", type=int, metavar="Y", help="the grids of an earlier year, from 2000")
    add("--top", type=int, default=15, metavar="N", help="show the first N places (15); 0 for all")
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """List the regions, or rank them."""
    if args.year is not None:
        checked_year(args.year)
    if args.compare is None and args.energy_kwh is None:
        return _list(args)
    if args.compare is not None and args.energy_kwh is not None:
        raise ConfigError("give either --energy-kwh or --compare, not both")
    if args.compare is not None:
        energy_kwh, here = _energy_of(Path(args.compare))
    else:
        energy_kwh, here = args.energy_kwh, None
    return _rank(args, energy_kwh, args.here or here)


def _list(args: Namespace) -> int:
    found = _with_figures(args.queries)
    terminal = Terminal(sys.stdout)
    if args.json:
        print(terminal.json([facts(code, args.year) for code in found], indent=2))
        return 0
    if len(found) == 1:
        terminal.say(terminal.table(about(found[0], args.year)) + "\n")
        return 0
    shown = found if args.queries or args.top <= 0 else found[: args.top]
    rows = [_cells(tables.lookup(code, year=args.year)) for code in shown]
    _print_table(terminal, ("region", "g CO2e/kWh", "interval", "year", "place"), rows)
    if len(shown) < len(found):
        rest = f"{len(found) - len(shown)} more; name a place, or give --top 0 for all"
        Terminal(sys.stderr).say(rest + "\n")
    return 0


def _with_figures(queries: Sequence[str]) -> list[str]:
    """The codes that match any of the queries, each once, that have an intensity.

    Raises:
        ConfigError: nothing matches a query, or the place that matches has no figure.
    """
    found: dict[str, None] = {}
    for query in queries or ("",):
        codes = [code for code in matching(query) if _has_figure(code)]
        if not codes:
            codes = [names.normalise(query)]
            try:
                tables.lookup(codes[0])
            except NoIntensity as error:
                raise ConfigError(str(error)) from error
        found |= dict.fromkeys(codes)
    return list(found)


def matching(query: str) -> list[str]:
    """The codes that match a query: a region, a provider or part of a name; all for ""."""
    text = query.strip()
    codes = [row["zone"] for row in rows.rows("zones")]
    clouds = [row["region"] for row in rows.rows("cloud_regions")]
    if not text:
        return codes
    provider = text.lower().rstrip(":")
    if of_provider := [code for code in clouds if code.startswith(f"{provider}:")]:
        return of_provider
    try:
        exact = [names.normalise(text)]
    except UnknownRegion:
        exact = []
    if exact:
        return exact + [code for code in codes if code.startswith(f"{exact[0]}-")]
    part = names.fold(text)
    return [code for code in codes + clouds if part and part in names.fold(names.name_of(code))]


def facts(code: str, year: int | None = None) -> dict[str, Any]:
    """The data of the tables on a region, as plain values; for a year, the intensity of then."""
    site, water = tables.site(code), tables.grid_water(code)
    return {
        "region": code,
        "name": names.name_of(code),
        **_figures(tables.lookup(code, year=year)),
        "pue": site.pue if site else None,
        "wue_l_per_kwh": site.wue_l_per_kwh if site else None,
        "water_l_per_kwh": water.l_per_kwh if water else None,
    }


def about(code: str, year: int | None = None) -> list[tuple[str, str]]:
    """The data of the tables on a region, as labels and texts; for a year, the grid of then."""
    grid = tables.lookup(code, year=year)
    ends = format_interval(grid.low_g_per_kwh, grid.high_g_per_kwh, ".3g")
    lines = [
        ("region", f"{code}  {names.name_of(code)}"),
        ("intensity", f"{grid.g_per_kwh:.3g} g CO2e/kWh  ({ends})"),
        ("year", str(grid.year)),
        ("method", grid.method.replace("_", " ")),
        ("source", grid.source),
    ]
    if (beyond := tables.beyond_interval(code, grid.method)) is not None:
        lines.append(("imports", beyond))
    methods: tuple[tables.Method, ...] = ("direct", "marginal")
    for method in methods:
        try:
            other = tables.lookup(code, method=method, year=year)
        except NoIntensity:
            continue
        lines.append((method, f"{other.g_per_kwh:.3g} g CO2e/kWh in {other.year}; {other.source}"))
    if (site := tables.site(code)) is not None:
        lines.append(("PUE", f"{site.pue:g} in {site.pue_year}, {_words(site.pue_basis)}"))
        if site.wue_l_per_kwh is not None:
            wue = f"{site.wue_l_per_kwh:g} L/kWh in {site.wue_year}, {_words(site.wue_basis)}"
            lines.append(("WUE", wue))
    if (water := tables.grid_water(code)) is not None:
        evaporated = f"{water.with_reservoirs_l_per_kwh:.3g} with evaporation from reservoirs"
        lines.append(("water", f"{water.l_per_kwh:.3g} L/kWh at power stations, {evaporated}"))
    return lines


def _words(text: str | None) -> str:
    return (text or "unknown").replace("_", " ")


def _cells(grid: GridIntensity) -> tuple[str, ...]:
    ends = f"{grid.low_g_per_kwh:.0f} to {grid.high_g_per_kwh:.0f}"
    year = str(grid.year or "")
    return grid.zone, f"{grid.g_per_kwh:.1f}", ends, year, names.name_of(grid.zone)


def _print_table(
    terminal: Terminal,
    heads: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    *,
    bold: Callable[[tuple[str, ...]], bool] = lambda _: False,
) -> None:
    """Print columns of text: the first and the last to the left, those between to the right.

    On a terminal the last column is cut to the width.
    """
    widths = [max(map(width_of, column)) for column in zip(heads, *rows, strict=True)]
    room = terminal.size[0] - sum(width + 2 for width in widths[:-1])
    for row in (heads, *rows):
        first, *between, last = row
        cells = [padded(first, widths[0]), *map(str.rjust, between, widths[1:-1])]
        if terminal.is_terminal:
            last = cut_to(last, max(8, room), terminal.fit("…"))
        line = "  ".join([*cells, last]).rstrip()
        line = terminal.dim(line) if row is heads else terminal.bold(line) if bold(row) else line
        terminal.say(line + "\n")


def _rank(args: Namespace, energy_kwh: float, here_text: str | None) -> int:
    settings = load_settings({"region": here_text}, writes=False)
    here_region = find_region(settings, current_environment())
    here = _in_year(region.intensity_for(here_region).intensity, args.year)
    queries = args.queries or [here_region.cloud_provider or ""]
    matches = dict.fromkeys(code for query in queries for code in matching(query))
    codes = [code for code in matches if _is_place(code) and _has_figure(code)]
    if not codes:
        asked = " or ".join(map(repr, args.queries))
        raise UnknownRegion(f"no place matches {asked}; to list all: carbontrack regions --top 0")
    grids = [tables.lookup(code, year=args.year) for code in codes]
    if not args.queries:
        grids = [grid for grid in grids if same_method(here, grid)]
    places = compare(energy_kwh, here, grids)
    shown = _with_here(places, args.top)
    terminal = Terminal(sys.stdout)
    if args.json:
        print(terminal.json(_ranking(energy_kwh, here, shown), indent=2))
        return 0
    why = ", because no region is set or detected" if here_region.basis == "unknown" else ""
    terminal.say(f"{energy_kwh:g} kWh, compared with {visible(here.zone)}{why}\n\n")
    _print_ranking(terminal, shown)
    return 0


def _print_ranking(terminal: Terminal, shown: Sequence[Place]) -> None:
    heads = ("region", "emissions", "interval", "compared", "", "place")
    rows = [_ranked(place) for place in shown]
    here = [row for row, place in zip(rows, shown, strict=True) if place.verdict == "here"]
    _print_table(terminal, heads, rows, bold=here.__contains__)
    verdicts = {place.verdict for place in shown}
    said = [text for verdict, text in _FOOTNOTES.items() if verdict in verdicts]
    terminal.say("".join(f"\n{line}" for line in said) + "\n" * bool(said))


def _in_year(grid: GridIntensity, year: int | None) -> GridIntensity:
    return grid if year is None else tables.lookup(grid.zone, year=year)


def _is_place(code: str) -> bool:
    """Whether work can be moved there: a cloud's public region, or a country or zone."""
    cloud = rows.row("cloud_regions", code)
    if cloud is not None:
        return cloud["status"] == "public"
    zone = rows.row("zones", code)
    return zone is not None and zone["kind"] != "aggregate"


def _has_figure(code: str) -> bool:
    try:
        tables.lookup(code)
    except NoIntensity:
        return False
    return True


def _with_here(places: list[Place], top: int) -> list[Place]:
    """The first places, and this region's own even if it comes later."""
    if top <= 0:
        return places
    return places[:top] + [place for place in places[top:] if place.verdict == "here"]


def _ranked(place: Place) -> tuple[str, ...]:
    low_g, grams, high_g = place.emissions_low_g, place.emissions_g, place.emissions_high_g
    return (
        place.zone,
        format_grams(grams, like=high_g),
        format_interval(low_g, high_g, format_grams, like=grams, unit=False),
        "here" if place.verdict == "here" else compared_text(place.factor),
        place.verdict if place.verdict in _FOOTNOTES else "",
        names.name_of(place.zone),
    )


def compared_text(factor: float | None) -> str:
    """How many times something is of something else: "95% less", "20% more", "12 x"."""
    if factor is None:
        return ""
    if factor >= 9.95:
        return f"{factor:.0f} x"
    change = round(abs(factor - 1.0) * 100.0)
    if change == 0:
        return "the same"
    if change == 100 and factor < 1.0:
        return ">99% less"
    return f"{change}% {'less' if factor < 1.0 else 'more'}"


def _ranking(energy_kwh: float, here: GridIntensity, places: Iterable[Place]) -> dict[str, Any]:
    ranked = []
    for place in places:
        facts = {"region": place.zone, "name": names.name_of(place.zone), **asdict(place)}
        del facts["zone"], facts["intensity"]
        ranked.append(facts | _figures(place.intensity))
    return {"energy_kwh": energy_kwh, "here": here.zone, "places": ranked}


def _figures(grid: GridIntensity) -> dict[str, Any]:
    return {
        "intensity_g_per_kwh": grid.g_per_kwh,
        "intensity_low_g_per_kwh": grid.low_g_per_kwh,
        "intensity_high_g_per_kwh": grid.high_g_per_kwh,
        "intensity_source": grid.source,
        "intensity_year": grid.year,
        "intensity_method": grid.method,
    }


def _energy_of(path: Path) -> tuple[float, str | None]:
    """The energy of the records in a file, and the region where most of it was used."""
    by_region: dict[str | None, float] = {}
    for zone, kwh in _energies(path):
        by_region[zone] = by_region.get(zone, 0.0) + kwh
    if not by_region:
        raise ConfigError(f"{path} holds no record with an energy")
    main = max(by_region, key=lambda zone: by_region[zone])
    if len(by_region) > 1:
        others = ", ".join(str(zone) for zone in by_region if zone != main)
        note = f"the records are of several regions; compared with {main}, not {others}"
        Terminal(sys.stderr).say(visible(note) + "\n")
    return sum(by_region.values()), None if main == "custom" else main


def _energies(path: Path) -> Iterator[tuple[str | None, float]]:
    """The region and the energy of each record that a sum adds up."""
    try:
        records = one_per_id(iter_records(path))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    for record, share in zip(records, shares_of(records), strict=True):
        if share and record.energy_kwh is not None:
            yield record.region, record.energy_kwh * share
