"""Rebuild the grid, cloud and water tables from the raw data pack.

    python docs/tools/rebuild_data.py PACK

For maintainers; nothing in carbontrack imports it. The README of `carbontrack/data` explains the
columns, the choice of method, and the rule behind every interval. Names of places and of time zones
are made here as well.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import carbontrack
from carbontrack.grid import history
from carbontrack.grid.names import fold

DATA = Path(carbontrack.__file__).with_name("data")
ALIASES = DATA / "aliases.csv"
ZONEINFO = Path("/usr/share/zoneinfo")
# names of UTC offsets, which newer editions of tzdata link to some city
NO_PLACE = frozenset(
    ("CET", "CST6CDT", "EET", "EST", "EST5EDT", "HST", "MET", "MST", "MST7MDT", "PST8PDT", "WET")
)

Line = tuple[object, ...]


def folded_names(zones: Iterable[Line]) -> list[Line]:
    """Every name and alias, folded, with the codes that it may mean."""
    index: dict[str, list[str]] = {}
    named = [(str(line[-1]), str(line[0])) for line in zones]
    named += [(name.partition(" (")[0], code) for name, code in named]
    with ALIASES.open(encoding="utf-8", newline="") as lines:
        named += [(row["name"], row["zone"]) for row in csv.DictReader(lines)]
    for name, code in named:
        codes = index.setdefault(fold(name), [])
        if code not in codes:
            codes.append(code)
    return [(name, " ".join(codes)) for name, codes in sorted(index.items())]


def time_zones() -> list[Line]:
    """The country of each named time zone and of its older names (tzdata, public domain).

    Nothing on a machine without the source files of tzdata: the table then stays as it is.
    """
    if not (ZONEINFO / "tzdata.zi").exists():
        return []
    country = {}
    for text in (ZONEINFO / "zone.tab").read_text().splitlines():
        if not text.startswith("#"):
            code, _, name = text.split("\t")[:3]
            country[name] = code
    links = [
        text.split(" ")[1:3]
        for text in (ZONEINFO / "tzdata.zi").read_text().splitlines()
        if text[:2] == "L "
    ]
    for target, name in links:
        if target in country and name not in NO_PLACE:
            country.setdefault(name, country[target])
    return sorted(country.items())


REFERENCE_YEAR = 2026
"""The year the tables are for; a figure older than that carries its trend in its interval."""
FACTOR_FLOOR = 0.10
CARBON_FREE_G_PER_KWH = 24.0
"""Lifecycle median of hydropower (IPCC AR5), which a direct figure counts as nothing."""
EGRID = "US EPA eGRID2024 total output rate (EPA hub of 26 May 2026; one transcription, grade C)"
TECHNOLOGY = {
    "coal_share": "coal_pc",
    "gas_share": "gas_cc",
    "oil_share": "oil",
    "nuclear_share": "nuclear",
    "hydro_share": "hydro",
    "solar_share": "solar_pv_utility",
    "wind_share": "wind_onshore",
    "biofuel_share": "biomass_dedicated",
    "other_renewable_share": "geothermal",
}

Row = dict[str, str]


class Pack:
    """The raw tables, and the sources that the rebuilt rows refer to by number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources: dict[tuple[str, str], str] = {}
        self.countries = {row["iso2"]: row for row in self.read("grid/grid_intensity_country.csv")}
        self.series = self._series()
        self.egrid = {r["subregion"]: r for r in self.read("grid/egrid2024_subregions.csv")}
        self.subnational = [
            self._with_egrid(row) for row in self.read("grid/grid_intensity_subnational.csv")
        ]
        self.factor_sets = self._factor_sets()
        self.factor_spread = self._factor_spread()
        reported = [row for row in self.countries.values() if row["method"] == "reported"]
        self.usual_noise = percentile([_noise(row) for row in reported], 90)
        self.usual_trend = percentile([_trend(row) for row in reported], 90)

    def read(self, name: str) -> list[Row]:
        """All rows of a file of the pack."""
        with (self.root / name).open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))

    def source(self, text: str, licence: str) -> str:
        """The number under which sources.csv keeps a source."""
        return self.sources.setdefault((text, licence), str(len(self.sources) + 1))

    def _series(self) -> dict[str, dict[int, float]]:
        """The yearly figures of each place. A source that rounds to 0 g knows none."""
        series: dict[str, dict[int, float]] = {}
        for row in self.read("grid/grid_intensity_country_history.csv"):
            year, amount = int(row["year"]), float(row["gco2e_per_kwh"])
            if year >= history.FIRST_YEAR and amount > 0.0:
                series.setdefault(row["code"], {})[year] = amount
        return series

    def _with_egrid(self, row: Row) -> Row:
        """A row of a US subregion with the rate of the newest eGRID; any other row as it is."""
        newest = self.egrid.get(row["code"].removeprefix("US-"))
        if row["level"] != "eGRID subregion" or newest is None:
            return row
        year, rate = newest["year"], newest["co2e_g_per_kwh"]
        ratio = self.series["US"][int(year)] / float(self.egrid["US"]["co2e_g_per_kwh"])
        how = f"x{ratio:.4f} = Ember US {year} lifecycle / eGRID US {year}"
        return row | {
            "year": year,
            "gco2e_per_kwh": rate,
            "lifecycle_estimate_gco2e_per_kwh": f"{float(rate) * ratio:.2f}",
            "lifecycle_estimate_method": how,
            "source": EGRID,
        }

    def _factor_sets(self) -> dict[str, dict[str, float]]:
        """Lifecycle medians of each published set, by technology."""
        sets: dict[str, dict[str, float]] = {}
        for row in self.read("grid/energy_source_factors.csv"):
            if row["basis"] == "lifecycle" and row["median_gco2e_per_kwh"]:
                factors = sets.setdefault(row["dataset"], {})
                factors[row["source"]] = float(row["median_gco2e_per_kwh"])
        return sets

    def _factor_spread(self) -> dict[str, float]:
        """Half the range of a country's intensity under three sets of factors, over their mean."""
        sets = self.factor_sets
        spread = {}
        for mix in self.read("grid/electricity_mix_country.csv"):
            totals = [
                sum(
                    float(mix[s]) * (f.get(t) or sets["IPCC AR5"][t]) for s, t in TECHNOLOGY.items()
                )
                for f in sets.values()
            ]
            spread[mix["code"]] = (max(totals) - min(totals)) / 2 / (sum(totals) / len(totals))
        return spread

    def interval(
        self, code: str, amount: float, year: int, extra: float = 0.0
    ) -> tuple[float, float]:
        """Low and high of `amount`: weather, age and factors in quadrature; see README.md."""
        age = max(0, REFERENCE_YEAR - year)
        spread = self.spread(code, is_old=age > history.OLD_AFTER_YEARS)
        factors = max(spread.factors, extra / amount)
        return history.interval(amount, spread._replace(factors=factors), age)

    def spread(self, code: str, *, is_old: bool = False) -> history.Spread:
        """How far a country's figures may be off, by its own series or, without one, as usual."""
        country = self.countries[code]
        noise, trend = _noise(country), _trend(country)
        if is_old or not country["detrended_sd_gco2e_per_kwh"]:
            noise, trend = self.usual_noise, self.usual_trend
        return history.Spread(noise, trend, max(FACTOR_FLOOR, self.factor_spread.get(code, 0.0)))


def _noise(row: Row) -> float:
    return float(row["detrended_sd_gco2e_per_kwh"] or 0) / float(row["gco2e_per_kwh"])


def _trend(row: Row) -> float:
    return abs(float(row["trend_gco2e_per_kwh_per_year"] or 0)) / float(row["gco2e_per_kwh"])


def percentile(numbers: Iterable[float], percent: float) -> float:
    """The value below which `percent` % of the numbers lie, between neighbours linearly."""
    ordered = sorted(numbers)
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


AGGREGATES = {
    "EUROPE": ("region", "Europe"),
    "AFRICA": ("region", "Africa"),
    "ASIA": ("region", "Asia"),
    "OCEANIA": ("region", "Oceania"),
    "LATAM_CARIBBEAN": ("subregion", "Latin America and the Caribbean"),
}
SAME_ZONE = {"SE-SE3-GCP": "SE-SE3", "IN-CEA": "IN"}
LIFECYCLE, DIRECT = "lifecycle_generation", "direct_combustion_generation"

CLOUD_COLUMNS = (
    *("electricitymaps_zone", "status", "latitude", "longitude", "pue", "pue_year", "pue_basis"),
    *("wue_l_per_kwh", "wue_year", "wue_basis"),
)
HISTORY = "zone,noise,trend,factors,first_year,g_per_kwh,low_g_per_kwh,high_g_per_kwh"
FIGURES = "zone,g_per_kwh,low_g_per_kwh,high_g_per_kwh,year,method,source"
TABLES = {
    "intensity.csv": FIGURES,
    "intensity_history.csv": HISTORY,
    "intensity_direct.csv": FIGURES,
    "intensity_marginal.csv": FIGURES,
    "zones.csv": "zone,alpha3,kind,parent,supplied_like,name",
    "names.csv": "folded,codes",
    "cloud_regions.csv": "region,zone,direct_zone,live_zone,status,latitude,longitude,pue,pue_year,"
    "pue_basis,wue_l_per_kwh,wue_year,wue_basis,name",
    "cloud_providers.csv": "provider,pue,pue_year,pue_confidence,pue_source,wue_l_per_kwh,wue_year,"
    "wue_confidence,wue_source,name",
    "water.csv": "zone,l_per_kwh,with_reservoirs_l_per_kwh,with_reservoirs_low_l_per_kwh,"
    "with_reservoirs_high_l_per_kwh,year,source",
    "generation_factors.csv": "technology,g_per_kwh,low_g_per_kwh,high_g_per_kwh,year,source",
    "time_zones.csv": "time_zone,country",
    "sources.csv": "source,licence,text",
}


def _line(
    zone: str, g: float, low_high: tuple[float, float], year: str, method: str, source: str
) -> Line:
    return (zone, f"{g:g}", f"{low_high[0]:.4g}", f"{low_high[1]:.4g}", year, method, source)


def national(pack: Pack) -> list[Line]:
    """The default figure of every country that reports, and of the world and its parts."""
    lines = []
    for code, row in pack.countries.items():
        amount, method = float(row["gco2e_per_kwh"]), LIFECYCLE
        if row["kind"] == "country" and row["method"] != "proxy":
            if row["method"] == "estimated_from_mix":
                method = "lifecycle_generation_estimated_from_mix"
            limits = pack.interval(code, amount, int(row["year"]))
        elif members := _members(pack, code):
            limits = (percentile(members, 5), percentile(members, 95))
        else:
            continue
        source = pack.source(row["source"], row["licence"])
        lines.append(_line(code, amount, limits, row["year"], method, source))
    return lines


def _members(pack: Pack, code: str, year: int | None = None) -> list[float]:
    """The figures of the countries in an aggregate; nothing for what is no aggregate of places.

    They are the newest ones, or those of `year`, of the countries that have one.
    """
    inside = {r["iso2"] for r in pack.read("grid/iso_countries.csv")}
    if code == "EU27":
        rows = pack.read("grid/grid_direct_country.csv")
        inside = {r["code"] for r in rows if r["source"].startswith("EEA")} - {"EU27"}
    elif code in AGGREGATES:
        column, name = AGGREGATES[code]
        inside = {r["iso2"] for r in pack.read("grid/iso_countries.csv") if r[column] == name}
    elif code != "WORLD":
        return []
    if year is not None:
        series = (pack.series.get(iso2, {}) for iso2 in sorted(inside))
        return [figures[year] for figures in series if year in figures]
    reporting = [
        r for r in pack.countries.values() if r["iso2"] in inside and r["method"] != "proxy"
    ]
    return [float(r["gco2e_per_kwh"]) for r in reporting]


def yearly(pack: Pack) -> list[Line]:
    """The series of every place that has one, a row each: figures by year, "-" where unknown.

    For the world and its parts the ends are there as well. The others' ends follow from the row's
    spreads; those of the first row hold for figures that are far from the year asked for.
    """
    usual = (f"{pack.usual_noise:.5g}", f"{pack.usual_trend:.5g}")
    lines: list[Line] = [(history.ANY_COUNTRY, *usual, "", "", "", "", "")]
    for code, row in pack.countries.items():
        figures = pack.series.get(code, {})
        years = range(min(figures, default=0), max(figures, default=-1) + 1)
        best = " ".join(f"{figures[year]:g}" if year in figures else "-" for year in years)
        if row["kind"] == "country" and row["method"].startswith("reported"):
            spread = (f"{share:.5g}" for share in pack.spread(code))
            lines.append((code, *spread, years[0], best, "", ""))
        elif members := [_members(pack, code, year) for year in years if _members(pack, code)]:
            ends = (
                " ".join(f"{percentile(figures, percent):.4g}" for figures in members)
                for percent in (5, 95)
            )
            lines.append((code, "", "", "", years[0], best, *ends))
    return lines


def subnational(pack: Pack) -> list[Line]:
    """The default figure of every zone below a country; README.md explains its method."""
    lines = []
    for row in pack.subnational:
        if row["code"] in SAME_ZONE:
            continue
        parent, year = row["parent_iso2"], int(row["year"])
        direct, method = float(row["gco2e_per_kwh"]), row["factor_type"]
        estimate = float(row["lifecycle_estimate_gco2e_per_kwh"] or 0)
        amount, extra = direct, 0.0
        if estimate:
            extra = max(abs(estimate - direct), CARBON_FREE_G_PER_KWH)
        if estimate > direct:
            amount, method = estimate, "lifecycle_generation_estimated"
        low, high = pack.interval(parent, amount, year, extra)
        low, high = min(low, direct), max(high, direct)
        if method == "lifecycle_generation_derived":  # the source leaves fuels out: a lower bound
            mean = float(pack.countries[parent]["gco2e_per_kwh"])
            high = max(high, pack.interval(parent, mean, int(pack.countries[parent]["year"]))[1])
        source = row["source"]
        if method == "lifecycle_generation_estimated":
            source += f"; {row['lifecycle_estimate_method']}"
        number = pack.source(source, row["licence"])
        lines.append(_line(row["code"], amount, (low, high), row["year"], method, number))
    return lines


def direct(pack: Pack) -> list[Line]:
    """Stack emissions only: countries, zones, and Google's own figure of each of its regions."""
    lines = []
    for row in pack.read("grid/grid_direct_country.csv"):
        if row["code"] == "US":
            newest = pack.egrid["US"]
            row |= {"year": newest["year"], "gco2e_per_kwh": newest["co2e_g_per_kwh"]}
            row["source"] = f"{EGRID}, US total"
        amount, parent = float(row["gco2e_per_kwh"]), row["code"]
        method = f"{row['factor_type']}_{row['basis'].split(' ')[0]}"
        source = pack.source(row["source"], row["licence"])
        limits = pack.interval(parent, amount, int(row["year"]))
        lines.append(_line(row["code"], amount, limits, row["year"], method, source))
    for row in pack.subnational:
        zone, amount = SAME_ZONE.get(row["code"], row["code"]), float(row["gco2e_per_kwh"])
        if row["factor_type"] == "lifecycle_generation_derived" or zone == "IN":
            continue
        source = pack.source(row["source"], row["licence"])
        limits = pack.interval(row["parent_iso2"], amount, int(row["year"]))
        lines.append(_line(zone, amount, limits, row["year"], row["factor_type"], source))
    for row in pack.read("cloud/cloud_regions.csv"):
        if row["direct_basis"] != "provider_published":
            continue
        amount, zone = float(row["direct_gco2e_per_kwh"]), f"{row['provider']}:{row['region']}"
        source = pack.source(row["direct_source"], "Apache-2.0")
        limits = pack.interval(row["country_iso2"], amount, int(row["direct_year"]))
        method = "direct_operational_consumption"
        lines.append(_line(zone, amount, limits, row["direct_year"], method, source))
    return lines


def marginal(pack: Pack) -> list[Line]:
    """What one more kWh emits, as far as the non-baseload rate of a US subregion tells."""
    lines = []
    for row in pack.read("grid/grid_intensity_subnational.csv"):  # rate and average of one year
        if row["marginal_gco2e_per_kwh"]:
            amount = float(row["marginal_gco2e_per_kwh"])
            source = pack.source(f"US EPA: {row['marginal_basis']}", "US public domain")
            average = float(row["gco2e_per_kwh"])
            low, high = pack.interval("US", amount, 2023)
            limits = (min(low, average), high)
            lines.append(
                _line(row["code"], amount, limits, "2023", "marginal_non_baseload", source)
            )
    return lines


def zones(pack: Pack) -> list[Line]:
    """Every place with a code; `supplied_like` is the grid that one without data resembles."""
    iso = {row["iso2"]: row for row in pack.read("grid/iso_countries.csv")}
    lines: list[Line] = []
    for code, row in pack.countries.items():
        if row["kind"] == "country" or _members(pack, code):
            name = iso.get(code, row)["name"]
            lines.append((code, row["iso3"], row["kind"], "", row["proxy_iso2"], _plain(name)))
    return lines + [
        (row["code"], "", row["level"], row["parent_iso2"], "", _plain(row["name"]))
        for row in pack.subnational
        if row["code"] not in SAME_ZONE
    ]


def cloud_regions(pack: Pack) -> list[Line]:
    """Each region's zone in our tables, its zone for live services, and its PUE and WUE."""
    lines: list[Line] = []
    estimated = {r["code"] for r in pack.subnational if r["lifecycle_estimate_gco2e_per_kwh"]}
    for row in pack.read("cloud/cloud_regions.csv"):
        subzone, country = row["subnational_key"], row["country_iso2"]
        zone = subzone if subzone in estimated else country
        copied = [row[column] for column in CLOUD_COLUMNS]
        code = f"{row['provider']}:{row['region'].lower()}"
        lines.append((code, zone, subzone or country, *copied, _plain(row["name"])))
    return lines


def providers(pack: Pack) -> list[Line]:
    """The fleet's PUE and site WUE of each provider, with year, source and confidence."""
    lines: list[Line] = []
    for row in pack.read("cloud/cloud_providers.csv"):
        pue_source = pack.source(row["pue_source"] or row["notes"], "facts")
        wue_source = pack.source(row["wue_source"], "facts") if row["wue_source"] else ""
        pue = (row["pue"], row["pue_year"], row["pue_confidence"], pue_source)
        wue = (row["wue_l_per_kwh"], row["wue_year"], row["wue_confidence"], wue_source)
        lines.append((row["provider"], *pue, *wue, _plain(row["name"])))
    return lines


def water(pack: Pack) -> list[Line]:
    """Water that generation consumes, without and with what reservoirs evaporate."""
    lines: list[Line] = []
    for row in pack.read("impact/water_intensity_country.csv"):
        source = pack.source(row["method"], row["licence"])
        with_hydro = (row["water_l_per_kwh"], row["low_l_per_kwh"], row["high_l_per_kwh"])
        lines.append(
            (row["code"], row["water_excl_hydro_l_per_kwh"], *with_hydro, row["year"], source)
        )
    return lines


def generation_factors(pack: Pack) -> list[Line]:
    """Lifecycle medians of IPCC AR5, each with its range over the published sets."""
    lines: list[Line] = []
    for row in pack.read("grid/energy_source_factors.csv"):
        technology = row["source"]
        if row["dataset"] == "IPCC AR5" and row["basis"] == "lifecycle":
            medians = [s[technology] for s in pack.factor_sets.values() if technology in s]
            source = pack.source(row["reference"], row["licence"])
            figures = (row["median_gco2e_per_kwh"], f"{min(medians):g}", f"{max(medians):g}")
            lines.append((technology, *figures, row["year"], source))
    return lines


def _plain(text: str) -> str:
    return text.replace(", ", " - ").replace(",", " ").strip()


def write(target: Path, name: str, lines: Iterable[Line]) -> None:
    """One table; only the last column may hold a comma, so that a reader need not unquote."""
    texts = [[str(cell) for cell in line] for line in lines]
    for cells in texts:
        if any("," in cell for cell in cells[:-1]) or any("\n" in cell for cell in cells):
            raise SystemExit(f"{name}: {cells} cannot stand in a plain table")
    body = "".join(",".join(cells) + "\n" for cells in [TABLES[name].split(","), *texts])
    (target / name).write_text(body, encoding="utf-8", newline="\n")


def main(root: Path, target: Path = DATA) -> None:
    """Write all tables into `target`, from the pack at `root`."""
    pack = Pack(root)
    write(target, "intensity.csv", national(pack) + subnational(pack))
    write(target, "intensity_history.csv", yearly(pack))
    write(target, "intensity_direct.csv", direct(pack))
    write(target, "intensity_marginal.csv", marginal(pack))
    write(target, "zones.csv", zones(pack))
    write(target, "names.csv", folded_names(zones(pack)))
    write(target, "cloud_regions.csv", cloud_regions(pack))
    write(target, "cloud_providers.csv", providers(pack))
    write(target, "water.csv", water(pack))
    write(target, "generation_factors.csv", generation_factors(pack))
    if zones_of_time := time_zones():
        write(target, "time_zones.csv", zones_of_time)
    texts = [(number, licence, text) for (text, licence), number in pack.sources.items()]
    write(target, "sources.csv", texts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
