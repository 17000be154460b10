"""What the page says on narrowing the interval: the causes, their shares and the advice."""

from __future__ import annotations

import re
from math import log
from pathlib import Path
from typing import Any

import pytest

from carbontrack.report.frame import HOW, load
from carbontrack.report.page_narrow import narrow
from carbontrack.report.totals import USUAL_UNCERTAINTY, totals
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

RUN: dict[str, Any] = {
    "cpu_kwh": 1.0,
    "gpu_kwh": 2.0,
    "ram_kwh": 0.2,
    "energy_kwh": 3.2,
    "energy_low_kwh": 2.0,
    "energy_high_kwh": 5.0,
    "emissions_g": 320.0,
    "intensity_g_per_kwh": 100.0,
    "intensity_low_g_per_kwh": 80.0,
    "intensity_high_g_per_kwh": 140.0,
    "cpu_basis": "modelled",
    "gpu_basis": "measured",
    "ram_basis": "modelled",
}


def section_of(tmp_path: Path, *runs: dict[str, Any]) -> str:
    path = tmp_path / "runs.csv"
    records = [a_record(n, **(RUN | changes)) for n, changes in enumerate(runs)]
    path.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    frame = load([path], extra=("labels", *HOW)).frame
    return narrow(totals(frame)[0], frame)


def causes_of(section: str) -> list[tuple[str, str]]:
    return re.findall(r"<li><b>(.*?)</b>(?: <span class=\"chip label\">(\d+)%)?", section)


def test_shares_are_those_of_the_rule(tmp_path: Path) -> None:
    """Of the variance of the logarithm above: parts by their squares, the grid by its ratio."""
    usual = {
        part: RUN[f"{part}_kwh"] * USUAL_UNCERTAINTY[part][RUN[f"{part}_basis"]].above
        for part in ("cpu", "gpu", "ram")
    }
    squares = sum(width**2 for width in usual.values())
    energy, grid = log(5.0 / 3.2) ** 2, log(1.4) ** 2
    expected = {
        "CPU energy is modelled": usual["cpu"] ** 2 / squares * energy / (energy + grid),
        "Memory energy is modelled": usual["ram"] ** 2 / squares * energy / (energy + grid),
        "Carbon intensity of the grid": grid / (energy + grid),
    }
    found = causes_of(section_of(tmp_path, {}))
    assert {what: int(share) for what, share in found} == {
        what: round(share * 100) for what, share in expected.items()
    }
    assert [what for what, _ in found] == sorted(expected, key=lambda what: -expected[what])


@pytest.mark.parametrize(("way", "said"), [("timezone", True), ("argument", False)])
def test_a_region_that_was_guessed_is_a_cause(tmp_path: Path, way: str, said: bool) -> None:
    """The advice is then to give it, and else to follow the grid by the hour."""
    section = section_of(tmp_path, {"region_basis": way})
    assert ("The region was not given" in section) == said
    assert ("CARBONTRACK_REGION=FR" in section) == said
    assert ("CARBONTRACK_INTENSITY_SOURCE" in section) != said


def test_of_many_runs_the_order_is_said_and_no_share(tmp_path: Path) -> None:
    """Shares of a sum depend on more than this page knows."""
    found = causes_of(section_of(tmp_path, {}, {"cpu_basis": "assumed"}))
    assert [share for _, share in found] == [""] * len(found)
    assert "CPU energy is assumed" in [what for what, _ in found]


def test_nothing_is_left_to_do_where_all_is_measured_and_given(tmp_path: Path) -> None:
    """No cause, and a sentence that says so."""
    known = {"cpu_basis": "measured", "ram_basis": "measured", "basis": "measured"}
    grid = dict.fromkeys(("intensity_low_g_per_kwh", "intensity_high_g_per_kwh"), 100.0)
    section = section_of(tmp_path, known | grid)
    assert causes_of(section) == []
    assert "Nothing here is modelled" in section


NOTHING = "Nothing here is modelled"
NO_ENERGY: dict[str, Any] = dict.fromkeys(
    (
        *("cpu_kwh", "gpu_kwh", "ram_kwh", "energy_kwh", "energy_low_kwh", "energy_high_kwh"),
        *("emissions_g", "intensity_low_g_per_kwh", "intensity_high_g_per_kwh"),
    )
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (NO_ENERGY, "No energy is known"),
        (NO_ENERGY | {"region_basis": "unknown"}, "No energy is known"),
        (
            dict.fromkeys(("cpu_basis", "gpu_basis", "ram_basis"))
            | {"intensity_high_g_per_kwh": None},
            "does not tell what would narrow it",
        ),
    ],
    ids=["no-energy", "no-energy-no-region", "unrecorded"],
)
def test_what_is_not_known_is_not_said_to_be_measured(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """Without energy, or without a word on its origin, there is no cause and no claim."""
    section = section_of(tmp_path, changes, changes)
    assert NOTHING not in section
    assert says in section
    assert "comes first" not in section


def test_a_negative_energy_of_another_program_stops_no_page(tmp_path: Path) -> None:
    """It has no logarithm, and no width."""
    assert 'id="narrow"' in section_of(tmp_path, {"energy_kwh": -3.2})
