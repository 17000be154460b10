"""Energy labels: the thresholds are the published distribution's, and a grade says what it is."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist, fmean, stdev

import pytest

from carbontrack.cli import main
from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.report.label import (
    GRADES,
    Label,
    as_json,
    as_markdown,
    as_png,
    as_svg,
    as_text,
    find_task,
    label_of,
    sentence,
    tasks,
)
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.units import format_joules
from tests.support.records import HOSTILE, a_record

TEXT = "text-classification"


def runs(kwh: float, **changes: object) -> Record:
    facts = {
        "name": "bert-tiny",
        "calls": 500,
        "cpu_kwh": kwh,
        "ram_kwh": None,
        "pue": 1.5,
        "energy_kwh": 1.5 * kwh,
        "energy_low_kwh": 1.5 * kwh * 0.95,
        "energy_high_kwh": 1.5 * kwh * 1.05,
        "basis": "measured",
        "cpu_basis": "measured",
    }
    return a_record(**(facts | changes))


def label(tmp_path: Path, *records: Record, **asked: object) -> Label:
    from carbontrack.report.frame import load
    from carbontrack.report.totals import totals

    path = tmp_path / "runs.csv"
    path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
    return label_of(totals(load([path]).frame)[0], TEXT, model="bert-tiny", **asked)


def test_every_task_has_a_source_and_a_year():
    """No threshold without a published distribution behind it."""
    assert len(tasks()) == 10
    for task in tasks().values():
        assert min(task.mean_kwh, task.sd_kwh) > 0
        assert "table 2" in task.source
        assert task.year == 2024
        assert list(task.thresholds_kwh()) == sorted(task.thresholds_kwh())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text-generation", "image-generation"])
def test_each_grade_holds_a_fifth_of_the_published_distribution(name: str):
    """A log-normal of the thresholds' own quantiles has the published mean and deviation."""
    task = find_task(name)
    variance = math.log(1 + (task.sd_kwh / task.mean_kwh) ** 2)
    normal = NormalDist(math.log(task.mean_kwh) - variance / 2, math.sqrt(variance))
    for place, threshold in enumerate(task.thresholds_kwh(), 1):
        assert normal.cdf(math.log(threshold)) == pytest.approx(place / 5)
    drawn = [math.exp(x) for x in normal.samples(200_000, seed=7)]
    assert fmean(drawn) == pytest.approx(task.mean_kwh, rel=0.02)
    assert stdev(drawn) == pytest.approx(task.sd_kwh, rel=0.06)
    grades = [task.grade(kwh) for kwh in drawn]
    for grade in GRADES:
        assert grades.count(grade) / len(drawn) == pytest.approx(0.2, abs=0.005)


def test_the_paper_s_own_median_is_in_the_middle():
    """Text generation's published median, 0.042 kWh, is a B, the middle grade."""
    assert find_task("Text generation").grade(0.042) == "B"
    assert find_task("text_generation").grade(0.0469 * 0.09) == "A+"


def test_energy_is_per_1000_units_before_pue(tmp_path: Path):
    """The building is left out, as in the published figures; the interval is scaled alike."""
    found = label(tmp_path, runs(0.0004), runs(0.0006, record_id="b"), units=2000)
    assert found.kwh_per_1000 == pytest.approx(0.0005)
    assert found.kwh_per_1000_low == pytest.approx(0.0005 * 0.95)
    assert found.grade == "A+"
    assert not found.provisional


def test_calls_are_the_units_where_none_are_given(tmp_path: Path):
    """Two records of 500 calls are 1,000 inferences."""
    found = label(tmp_path, runs(0.001), runs(0.001, record_id="b"))
    assert (found.units, found.kwh_per_1000) == (1000, pytest.approx(0.002))


def test_a_grade_without_a_measured_basis_is_provisional(tmp_path: Path):
    """One modelled run in a hundred parts is enough; the mark is in every form."""
    found = label(
        tmp_path, runs(0.97e-3), runs(0.03e-3, record_id="b", cpu_basis="modelled"), units=1000
    )
    assert found.provisional
    assert "is a provisional" in sentence(found)
    assert "Only 97% of the energy was measured" in as_text(found)
    assert "PROVISIONAL" in as_svg(found)
    assert "provisional" in as_markdown(found)
    sure = label(tmp_path, runs(0.995e-3), runs(0.005e-3, record_id="b", cpu_basis="modelled"))
    assert not sure.provisional


def test_a_label_of_modelled_energy_says_of_what_it_is(tmp_path: Path):
    """The boundary stands beside the figure in every form, and not where all is measured."""
    found = label(tmp_path, runs(0.001, cpu_basis="modelled", ram_kwh=1e-4), units=1000)
    assert "It is the energy of processor and memory, not the wall." in as_text(found)
    assert "PROVISIONAL: processor and memory, not the wall" in as_svg(found)
    assert json.loads(as_json(found))["boundary"] == "processor and memory, not the wall"
    mixed = label(tmp_path, runs(0.9e-3), runs(1e-4, record_id="b", cpu_basis="modelled"))
    assert "PROVISIONAL: not all measured, not the wall" in as_svg(mixed)
    assert "not the wall" not in as_text(label(tmp_path, runs(0.001)))


def test_an_interval_over_a_threshold_names_both_grades(tmp_path: Path):
    """Where the interval reaches into the next grade, the label says so."""
    edge = find_task(TEXT).thresholds_kwh()[0]
    found = label(tmp_path, runs(edge * 0.99 / 2))
    assert (found.grade, found.grade_low, found.grade_high) == ("A+", "A+", "A")
    assert "so A+ to A" in as_text(found)


def test_thresholds_rule_and_source_are_printed(tmp_path: Path):
    """Whoever reads a grade can check how it was made."""
    found = label(tmp_path, runs(0.001))
    for text in (as_text(found), as_markdown(found)):
        assert found.rule in text
        assert "Luccioni" in text
        assert all(grade in text for grade in GRADES)
        for kwh in (*found.thresholds_kwh, found.thresholds_kwh[-1]):
            assert format_joules(kwh * 3.6e6) in text


@pytest.mark.parametrize("name", [*HOSTILE, "<script>alert(1)</script>", "a' onload='x", "a | b"])
def test_a_hostile_name_stays_a_name(tmp_path: Path, name: str):
    """The picture is well-formed whatever it is called, and holds no element that it should not."""
    found = replace(label(tmp_path, runs(0.001)), model=name)
    tree = ET.fromstring(as_svg(found))
    kinds = {element.tag.partition("}")[2] for element in tree.iter()}
    assert kinds == {"svg", "title", "rect", "text", "polygon"}
    assert not any(key.startswith("on") for element in tree.iter() for key in element.attrib)


def test_the_picture_in_pixels_is_a_png(tmp_path: Path):
    """Twice the size of the drawing."""
    png = as_png(label(tmp_path, runs(0.001)))
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(png[16:20], "big") == 880


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({"cpu_kwh": None, "energy_kwh": None}, {}, "known energy"),
        ({}, {"units": 0}, "above 0"),
        ({}, {"units": math.nan}, "above 0"),
        ({"calls": None}, {}, "--units"),
    ],
)
def test_without_energy_or_units_there_is_no_label(tmp_path, changes, asked, said):
    """A missing number is an error, not guessed."""
    with pytest.raises(ConfigError, match=said):
        label(tmp_path, runs(0.001, **changes), **asked)


def test_an_unknown_task_names_those_that_were_published():
    """Nobody has to guess what can be graded."""
    with pytest.raises(ConfigError, match="image-captioning"):
        find_task("poetry")


def test_the_command_prints_and_writes(tmp_path: Path, capsys):
    """Text on stdout; a file of each kind by its ending; JSON with every attribute."""
    source = tmp_path / "runs.csv"
    source.write_bytes(HEADER + record_line(runs(0.0005).to_row()))
    ask = ["label", str(source), "--task", TEXT, "--units", "1000"]
    assert main(ask) == 0
    assert capsys.readouterr().out.startswith(
        "bert-tiny is an A+ for text classification: 500 mWh"[:44]
    )
    assert main([*ask, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["grade"] == "A+"
    for ending in ("svg", "png", "json", "md", "txt"):
        target = tmp_path / f"label.{ending}"
        assert main([*ask, "--output", str(target)]) == 0
        assert target.stat().st_size > 100
    assert main([*ask, "--output", str(tmp_path / "label.gif")]) == 2
    assert main([*ask, "--only", "other"]) == 2
    assert "no records named 'other'" in capsys.readouterr().err
