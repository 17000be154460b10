"""What making the hardware took, in reports: sums with low and high, wherever they are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from carbontrack.cli import main
from carbontrack.impact.embodied import spread_of
from carbontrack.record import Record
from carbontrack.report.frame import HOW, load
from carbontrack.report.page import page
from carbontrack.report.page_html import PageContext
from carbontrack.report.tables import Summary
from carbontrack.report.totals import Total, totals
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

H100 = "NVIDIA H100 80GB HBM3"


def made(number: int, **changes: Any) -> Record:
    return a_record(number, **{"embodied_g": 10.0, "abiotic_kg_sb": 1.5e-6, **changes})


def written(folder: Path, records: Sequence[Record]) -> Path:
    path = folder / "runs.csv"
    path.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    return path


def summed(folder: Path, *records: Record, by: str | None = None) -> list[Total]:
    return totals(load([written(folder, records)]).frame, by)


def figures(total: Total) -> tuple[float | None, ...]:
    g = (total.embodied_g, total.embodied_low_g, total.embodied_high_g)
    return (*g, total.abiotic_kg_sb, total.abiotic_low_kg_sb, total.abiotic_high_kg_sb)


def test_the_ends_are_those_of_such_a_machine(tmp_path: Path) -> None:
    """The record has the figure and the cards; the interval is that of hardware like it."""
    for cards in (None, H100):
        (total,) = summed(tmp_path, made(1, gpu_models=cards, gpu_count=0 if cards is None else 1))
        of_g, of_kg_sb = spread_of(cards)
        ends = (*(10.0 * end for end in of_g), *(1.5e-6 * end for end in of_kg_sb))
        assert figures(total) == pytest.approx(ends)


def test_sums_of_one_kind_and_of_several_are_linear(tmp_path: Path) -> None:
    """Many runs on the same hardware, and on others, rest on the same sets and err together."""
    one_kind = [made(n) for n in range(10)]
    twice = {"embodied_g": 20.0, "abiotic_kg_sb": 3e-6}
    cards = [made(100 + n, gpu_models=H100, gpu_count=1, **twice) for n in range(5)]
    (first,) = summed(tmp_path, *one_kind)
    (second,) = summed(tmp_path, *cards)
    (both,) = summed(tmp_path, *one_kind, *cards)
    (single,) = summed(tmp_path, one_kind[0])
    assert figures(first) == pytest.approx([10 * figure for figure in figures(single)])
    sums = [a + b for a, b in zip(figures(first), figures(second), strict=True)]
    assert figures(both) == pytest.approx(sums)


def test_what_no_record_knows_is_unknown(tmp_path: Path) -> None:
    """None, never 0; records without a figure are in no sum, and CO2e alone has no ends."""
    unknown = made(1, embodied_g=None, abiotic_kg_sb=None)
    (total,) = summed(tmp_path, unknown)
    assert figures(total) == (None,) * 6
    known = made(2, abiotic_kg_sb=None)
    (total,) = summed(tmp_path, unknown, known)
    assert total.embodied_g == 10.0
    assert figures(total)[1:3] == (None, None)
    assert figures(total)[3:] == (None,) * 3


def test_a_figure_that_is_not_the_tables_has_no_ends_of_it(tmp_path: Path) -> None:
    """As `embodied_g_per_h` gives it: the minerals and metals keep theirs, a sum with it none."""
    own = made(1, embodied_g=100.0)
    for runs in ([own], [own, made(2)]):
        (total,) = summed(tmp_path, *runs)
        assert total.embodied_g is not None
        assert (total.embodied_low_g, total.embodied_high_g) == (None, None)
        assert total.abiotic_low_kg_sb < total.abiotic_kg_sb < total.abiotic_high_kg_sb


def test_a_card_without_a_figure_leaves_no_ends(tmp_path: Path) -> None:
    """What is left without it is another machine."""
    for cards in ("Unheard-of 9000", f"{H100};Unheard-of 9000"):
        (total,) = summed(tmp_path, made(1, gpu_models=cards, gpu_count=1))
        assert figures(total) == (10.0, None, None, 1.5e-6, None, None)


def test_groups_have_their_own(tmp_path: Path) -> None:
    """The groups' figures add up to the total's."""
    runs = [made(n, name=f"job {n % 3}", gpu_models=H100 if n % 2 else None) for n in range(12)]
    groups, (total,) = summed(tmp_path, *runs, by="name"), summed(tmp_path, *runs)
    assert len(groups) == 3
    sums = [sum(each) for each in zip(*map(figures, groups), strict=True)]
    assert sums == pytest.approx(figures(total))


def test_json_and_csv_have_the_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same names in each total and group."""
    path = str(written(tmp_path, [made(1), made(2)]))
    assert main(["report", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for total in (told["total"], *told["groups"]):
        assert total["embodied_low_g"] < total["embodied_g"] == 20.0 < total["embodied_high_g"]
        low, high = total["abiotic_low_kg_sb"], total["abiotic_high_kg_sb"]
        assert total["abiotic_kg_sb"] == pytest.approx(3e-6)
        assert low < 3e-6 < high
        assert 9.0 < high / low < 16.0
    assert main(["report", path, "--format", "csv"]) == 0
    assert "abiotic_kg_sb,abiotic_low_kg_sb,abiotic_high_kg_sb" in capsys.readouterr().out


def test_a_statement_says_what_antimony_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In milligrams, with its interval and a sentence; nothing where a record lacks it."""
    assert main(["report", str(written(tmp_path, [made(1)])), "--format", "statement"]) == 0
    text = capsys.readouterr().out
    assert "1.50 mg Sb eq (0.35 to 4.03 mg)" in text
    assert "the amount of antimony that would be as scarce" in text
    assert "a factor of three to ten" in text
    assert "10.0 g CO2e (1.53 to 16.7 g)" in text
    runs = [made(1), made(2, abiotic_kg_sb=None)]
    assert main(["report", str(written(tmp_path, runs)), "--format", "statement"]) == 0
    assert "Sb eq" not in capsys.readouterr().out


@pytest.mark.parametrize("kg_sb", [None, 1.5e-6])
def test_the_page_has_a_card_of_it(tmp_path: Path, kg_sb: float | None) -> None:
    """A card with the interval, and the sentence below it, where a record knows it."""
    path = written(tmp_path, [made(1, abiotic_kg_sb=kg_sb, labels={})])
    frame = load([path], extra=("labels", *HOW)).frame
    (total,) = totals(frame)
    text = page(Summary(by="name", total=total, groups=[total]), frame, PageContext())
    known = kg_sb is not None
    assert ('<dd class="big ">1.50 mg</dd>' in text) == known
    assert ("0.35 to 4.03 mg, as antimony (Sb eq)" in text) == known
    assert ("antimony that would be as scarce" in text) == known
    assert "not part of the CO2e" in text


def test_sci_has_the_ends_of_m(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """M is a best figure in the sum, and its own interval stands beside it."""
    asked = ["--format", "sci", "--units", "10"]
    assert main(["report", str(written(tmp_path, [made(1)])), *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["m_low_g"] < told["m_g"] == 10.0 < told["m_high_g"]
