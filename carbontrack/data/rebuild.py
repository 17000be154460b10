"""Rebuild the grid, cloud and water tables from the raw data pack.

    python -m carbontrack.data.rebuild PACK

For maintainers; nothing in carbontrack imports it. README.md beside this file explains the
columns, the choice of method, and the rule behind every interval.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from carbontrack.data.rebuild_names import folded_names, time_zones
from carbontrack.data.rebuild_pack import CARBON_FREE_G_PER_KWH, Pack, percentile

HERE = Path(__file__).parent
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
FIGURES = "zone,g_per_kwh,low_g_per_kwh,high_g_per_kwh,year,method,source"
TABLES = {
    "intensity.csv": FIGURES,
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

Line = tuple[object, ...]


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


def _members(pack: Pack, code: str) -> list[float]:
    """The figures of the countries in an aggregate; nothing for what is no aggregate of places."""
    inside = {r["iso2"] for r in pack.read("grid/iso_countries.csv")}
    if code == "EU27":
        rows = pack.read("grid/grid_direct_country.csv")
        inside = {r["code"] for r in rows if r["source"].startswith("EEA")} - {"EU27"}
    elif code in AGGREGATES:
        column, name = AGGREGATES[code]
        inside = {r["iso2"] for r in pack.read("grid/iso_countries.csv") if r[column] == name}
    elif code != "WORLD":
        return []
    reporting = [
        r for r in pack.countries.values() if r["iso2"] in inside and r["method"] != "proxy"
    ]
    return [float(r["gco2e_per_kwh"]) for r in reporting]


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
    for row in pack.subnational:
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


def main(root: Path, target: Path = HERE) -> None:
    """Write all tables into `target`, from the pack at `root`."""
    pack = Pack(root)
    write(target, "intensity.csv", national(pack) + subnational(pack))
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
