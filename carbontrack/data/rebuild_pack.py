"""The raw data pack as the rebuild reads it, and the rule behind every interval (README.md)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

REFERENCE_YEAR = 2026
"""The year the tables are for; a figure older than that carries its trend in its interval."""
OLD_AFTER_YEARS = 5
FACTOR_FLOOR = 0.10
CARBON_FREE_G_PER_KWH = 24.0
"""Lifecycle median of hydropower (IPCC AR5), which a direct figure counts as nothing."""
HIGHEST_G_PER_KWH = 1095.0
"""The highest factor of any technology in the pack: hard coal, UNECE 2022."""
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
        self.subnational = self.read("grid/grid_intensity_subnational.csv")
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
        country, age = self.countries[code], max(0, REFERENCE_YEAR - year)
        noise, trend = _noise(country), _trend(country)
        if not country["detrended_sd_gco2e_per_kwh"] or age > OLD_AFTER_YEARS:
            noise, trend = self.usual_noise, self.usual_trend
        factors = max(FACTOR_FLOOR, self.factor_spread.get(code, 0.0)) * amount
        terms = (2 * noise * amount, trend * age * amount, max(factors, extra))
        half: float = sum(term**2 for term in terms) ** 0.5
        high = amount + half
        if amount < HIGHEST_G_PER_KWH:
            high = min(high, HIGHEST_G_PER_KWH)
        return amount * amount / (amount + half), high


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
