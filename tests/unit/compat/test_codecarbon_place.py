"""CodeCarbon's words for places, as our regions and back as its columns."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from carbontrack.compat.codecarbon.config import Conf
from carbontrack.compat.codecarbon.place import columns_of, region_of
from carbontrack.record import Record, unmeasured_record
from carbontrack.values import replace


def record(**facts: Any) -> Record:
    """A record in which only this is known."""
    return replace(unmeasured_record("x", {}, ("", "")), **facts)


SAID: list[tuple[dict[str, str], str | None]] = [
    ({}, None),
    ({"country_iso_code": "FRA"}, "FR"),
    ({"country_iso_code": "fra"}, "FR"),
    ({"country_2letter_iso_code": "FR"}, "FR"),
    ({"country_iso_code": "USA", "region": "california"}, "US-CA"),
    ({"country_iso_code": "USA", "region": "New York"}, "US-NY"),
    ({"country_iso_code": "USA", "region": "CA"}, "US-CA"),
    ({"country_iso_code": "CAN", "region": "quebec"}, "CA-QC"),
    ({"country_iso_code": "FRA", "region": "brittany"}, "FR"),
    ({"cloud_provider": "aws", "cloud_region": "eu-west-3"}, "aws:eu-west-3"),
    ({"cloud_provider": "gcp", "cloud_region": "us-central1"}, "gcp:us-central1"),
    ({"cloud_provider": "azure", "cloud_region": "westeurope"}, "azure:westeurope"),
]


@pytest.mark.parametrize(("given", "region"), SAID)
def test_places_are_understood(given: dict[str, str], region: str | None) -> None:
    """As CodeCarbon spells them; a region that is not known stands for its country."""
    assert region_of(Conf(given, {})) == region


@pytest.mark.parametrize(
    "given",
    [
        {"country_iso_code": "XYZ"},
        {"cloud_provider": "aws", "cloud_region": "eu-nowhere-9"},
        {"cloud_provider": "aws"},
    ],
)
def test_an_unknown_place_is_said_and_stands_for_none(
    given: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The logger `codecarbon` has an error, and the world's average holds."""
    assert region_of(Conf(given, {})) is None
    assert [(r.name, r.levelno) for r in caplog.records] == [("codecarbon", logging.ERROR)]


def test_a_place_may_come_from_the_environment() -> None:
    """For both trackers: none of them looks it up on the network."""
    assert region_of(Conf({}, {"country_iso_code": "DEU"}, ())) == "DE"


COLUMNS: list[tuple[dict[str, str], dict[str, Any], tuple[str, ...]]] = [
    ({"country_iso_code": "FRA"}, {}, ("France", "FRA", "", "", "", "N")),
    (
        {"country_iso_code": "USA", "region": "California"},
        {},
        ("United States", "USA", "california", "", "", "N"),
    ),
    (
        {"cloud_provider": "aws", "cloud_region": "us-east-1"},
        {},
        ("United States", "USA", "", "aws", "us-east-1", "Y"),
    ),
    ({}, {"region": "CA-QC"}, ("Canada", "CAN", "quebec", "", "", "N")),
    (
        {},
        {"region": "FR", "cloud_provider": "aws", "cloud_region": "eu-west-3"},
        ("France", "FRA", "", "aws", "eu-west-3", "Y"),
    ),
    ({}, {"region": "WORLD"}, ("", "", "", "", "", "N")),
    ({}, {"region": "custom"}, ("", "", "", "", "", "N")),
    ({"country_iso_code": "FRA"}, {"region": "custom"}, ("France", "FRA", "", "", "", "N")),
]


@pytest.mark.parametrize(("given", "facts", "columns"), COLUMNS)
def test_columns_name_the_place(
    given: dict[str, str], facts: dict[str, Any], columns: tuple[str, ...]
) -> None:
    """What was said, else what carbontrack found; the world's average is no country."""
    conf = Conf(given, {})
    found = columns_of(record(**facts), region_of(conf), conf)
    names = ("country_name", "country_iso_code", "region", "cloud_provider", "cloud_region")
    assert tuple(found[name] for name in (*names, "on_cloud")) == columns
