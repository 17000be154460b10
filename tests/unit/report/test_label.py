"""Energy labels: the thresholds are the published distribution's, and a grade says what it is."""

from __future__ import annotations

import json
import math
import re
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
from carbontrack.report.label_units import check_unit, plural
from carbontrack.sinks.csv_file import HEADER, record_line
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
    """Where 3 % are modelled it is; the mark and the basis are in every form."""
    found = label(
        tmp_path, runs(0.97e-3), runs(0.03e-3, record_id="b", cpu_basis="modelled"), units=1000
    )
    assert found.provisional
    assert "is rated A+ (provisional) for" in sentence(found)
    for text in (as_text(found), as_svg(found), as_markdown(found)):
        assert "97% measured, 3% modelled" in text
        assert "provisional" in text.lower()
    sure = label(tmp_path, runs(0.995e-3), runs(0.005e-3, record_id="b", cpu_basis="modelled"))
    assert not sure.provisional
    assert "PROVISIONAL" not in as_svg(sure)


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.97, 0.03), (1.0, 0.0)])
def test_no_sentence_is_provisional_and_measured_at_once(tmp_path: Path, shares):
    """A reader never meets the two words together, which would contradict each other."""
    measured, modelled = (0.001 * share for share in shares)
    parts = [("measured", measured), ("modelled", modelled)]
    found = label(tmp_path, *(runs(kwh, record_id=b, cpu_basis=b) for b, kwh in parts if kwh))
    svg = [element.text or "" for element in ET.fromstring(as_svg(found)).iter()]
    lines = [*as_text(found).splitlines(), *as_markdown(found).split(". "), *svg]
    assert [one for one in lines if "provisional" in one.lower() and "measured" in one] == []


def test_a_label_names_its_boundary(tmp_path: Path):
    """Which parts of the computer, and whether that is wall power, stands in every form."""
    found = label(tmp_path, runs(0.001, cpu_basis="modelled", ram_kwh=1e-4), units=1000)
    for text in (as_text(found), as_svg(found), as_markdown(found), as_json(found)):
        assert "CPU and memory, not wall power, before PUE" in text
    whole = label(tmp_path, runs(0.001, ram_kwh=1e-4, gpu_kwh=1e-4, other_kwh=1e-4), units=1000)
    assert whole.boundary == "CPU, GPU, memory and the rest of the machine, before PUE"


@pytest.mark.parametrize("kwh", [1e-9, 2.5e-6, 1.0, 40.0])
def test_every_energy_on_a_label_is_in_watt_hours(tmp_path: Path, kwh: float):
    """Figure, interval and scale can be compared at a glance, from microwatt-hours to kilowatts."""
    found = label(tmp_path, runs(kwh), units=1000)
    for text in (as_text(found), as_markdown(found), as_svg(found)):
        units = re.findall(r"\d ?([a-zµ]*(?:Wh|J))\b", text, re.IGNORECASE)
        assert len(units) >= 7
        assert set(units) == {"Wh"}
    assert not re.search(r"\de[-+]?\d", as_text(found))


def test_an_interval_over_a_threshold_names_both_grades(tmp_path: Path):
    """Where the interval reaches into the next grade, the label says so."""
    edge = find_task(TEXT).thresholds_kwh()[0]
    found = label(tmp_path, runs(edge * 0.99 / 2))
    assert (found.grade, found.grade_low, found.grade_high) == ("A+", "A+", "A")
    assert "Wh (A+ to A)" in as_text(found)


def test_thresholds_rule_and_source_are_printed(tmp_path: Path):
    """Whoever reads a grade can check how it was made."""
    found = label(tmp_path, runs(0.001))
    for text in (as_text(found), as_markdown(found)):
        assert found.rule in " ".join(text.split())
        assert "Luccioni" in text
        assert all(grade in text for grade in GRADES)
        for kwh in found.thresholds_kwh:
            assert f"up to {kwh * 1000:.2f} Wh" in text
    assert max(map(len, as_text(found).splitlines())) <= 100


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
        ({}, {"units": 1e-300}, "above 0"),
        ({"calls": None}, {}, "--units"),
    ],
)
def test_without_energy_or_units_there_is_no_label(tmp_path, changes, asked, said):
    """A missing number is an error, not guessed."""
    with pytest.raises(ConfigError, match=said):
        label(tmp_path, runs(0.001, **changes), **asked)


@pytest.mark.parametrize("calls", [None, 1])
def test_work_that_was_not_counted_gets_no_grade(tmp_path: Path, calls):
    """A command or a block is one call, whatever it did: two of them are not two inferences."""
    with pytest.raises(ConfigError, match=r"--units N, or decorate .* @carbontrack\.track"):
        label(tmp_path, runs(1e-9, calls=calls), runs(1e-9, record_id="b", calls=calls))


@pytest.mark.parametrize(
    ("task", "unit", "why"),
    [
        ("image-generation", "tokens", "'token' is a part of an inference"),
        ("text-generation", "output token", "'token' is"),
        ("text-generation", "million tokens", "'token' is"),
        ("text-classification", "image", "the task works on texts"),
        ("object-detection", "sentences", "the task works on images"),
        ("image-classification", "batches", "'batch' is several inferences"),
        ("summarization", "kWh", "'kwh' is an energy"),
        ("question-answering", "hours", "'hour' is a time"),
    ],
)
def test_a_unit_that_does_not_fit_the_task_is_refused(task, unit, why):
    """The grades are per 1,000 inferences; the error says what one is and what to give."""
    with pytest.raises(ConfigError, match=why) as raised:
        check_unit(task, unit)
    assert "per 1,000 inferences (one " in str(raised.value)
    assert "--units N" in str(raised.value)


@pytest.mark.parametrize(
    ("task", "unit"),
    [
        ("text-classification", "review"),
        ("image-generation", "image"),
        ("image-generation", "prompt"),
        ("image-captioning", "caption"),
        ("text-generation", "request"),
        ("question-answering", "question"),
    ],
)
def test_another_word_for_an_inference_is_taken(task, unit):
    """Whoever has one input and one output in each unit names it as they like."""
    check_unit(task, unit)


@pytest.mark.parametrize(
    ("unit", "count", "text"),
    [
        ("inference", 1, "inference"),
        ("query", 1000, "queries"),
        ("reply", 2, "replies"),
        ("box", 2, "boxes"),
        ("texts", 2, "texts"),
        ("day", 2, "days"),
    ],
)
def test_units_have_their_plural(unit: str, count: int, text: str):
    """One is one, and more are more."""
    assert plural(unit, count) == text


def test_an_unknown_task_names_those_that_were_published():
    """The error lists what can be graded, with the nearest name first."""
    with pytest.raises(ConfigError, match="image-captioning"):
        find_task("poetry")
    with pytest.raises(ConfigError, match="did you mean 'image-generation'"):
        find_task("image generaton")


def test_the_command_prints_and_writes(tmp_path: Path, capsys):
    """Text on stdout; a file of each kind by its ending; JSON with every attribute."""
    source = tmp_path / "runs.csv"
    source.write_bytes(HEADER + record_line(runs(0.0005).to_row()))
    ask = ["label", str(source), "--task", TEXT, "--units", "1000"]
    assert main(ask) == 0
    assert capsys.readouterr().out.startswith(
        "bert-tiny is rated A+ for text classification: 0.500 Wh per 1,000 inferences."
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


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Write records, and give back what the command prints about them."""

    def asked(*options: str, records: list[Record], code: int = 0) -> str:
        source = tmp_path / "runs.csv"
        source.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
        assert main(["label", str(source), "--task", TEXT, *options]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return asked


def test_a_basis_that_no_record_has_is_not_a_share(ask):
    """As in rows of CodeCarbon's files: the label says so, and is provisional."""
    text = ask(records=[runs(0.0005, basis=None, cpu_basis=None)])
    assert re.search(r"basis +not recorded\n", text)
    assert "(provisional)" in text


def test_several_names_need_a_choice(ask):
    """A label is for one model; the error lists the candidates, and --only chooses one."""
    records = [runs(0.0005), runs(0.5, record_id="b", name="gpt-huge")]
    for options in ((), ("--model", "bert"), ("--units", "1000")):
        said = ask(*options, records=records, code=2)
        assert "2 names" in said
        assert "'bert-tiny', 'gpt-huge'" in said
        assert "--only NAME" in said
    assert "gpt-huge is rated D" in ask("--only", "gpt-huge", records=records)
    assert "did you mean 'gpt-huge'?" in ask("--only", "gpt-hug", records=records, code=2)


def test_many_names_are_not_all_listed(ask):
    """A thousand names would hide what to do."""
    records = [runs(0.1, record_id=f"r{n}", name=f"model-{n:03d}") for n in range(200)]
    said = ask(records=records, code=2)
    assert "and 192 more" in said
    assert len(said) < 400


def test_the_chosen_name_may_be_nested_in_another_row(ask):
    """Calls inside a block are in no sum of all, but they are what is graded."""
    block = runs(0.01, name="serve", calls=1)
    inside = runs(0.001, record_id="b", parent_id=block.record_id, parent_holds=True)
    text = ask("--only", "bert-tiny", records=[block, inside])
    assert "2.00 Wh per 1,000 inferences" in text
    assert "500 inferences in 1 run" in text


def test_a_command_that_counts_nothing_is_refused(ask):
    """`carbontrack run -- true` is no classifier, however little it uses."""
    said = ask(records=[runs(1e-12, name="true", calls=1)], code=2)
    assert "--units N" in said


def test_records_that_name_their_unit_are_believed(ask):
    """The label `unit` of a record says what its calls are; another unit is not graded as it."""
    tokens = [runs(0.0005, labels={"unit": "token"})]
    assert "'token' is a part of an inference" in ask(records=tokens, code=2)
    reviews = [runs(0.0005, labels={"unit": "review"})]
    assert "per 1,000 reviews" in ask(records=reviews)
    assert "the records count units of 'review'" in ask(
        "--unit-name", "sentence", records=reviews, code=2
    )
    assert "per 1,000 reviews" in ask("--units", "20", "--unit-name", "review", records=tokens)
    both = [*reviews, runs(0.1, record_id="b", labels={"unit": "page"})]
    assert "several units: 'page', 'review'" in ask(records=both, code=2)


@pytest.mark.parametrize("labels", ["[1]", "not json", "null", '"unit"', "[" * 100_000])
def test_labels_of_another_program_name_no_unit(
    tmp_path: Path, labels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column of that name may hold anything; the work is then counted in inferences."""
    row = runs(0.0001).to_row() | {"labels": labels}
    path = tmp_path / "runs.csv"
    path.write_bytes(HEADER + record_line(row))
    assert main(["label", str(path), "--task", TEXT]) == 0
    assert "500 inferences in 1 run" in capsys.readouterr().out
