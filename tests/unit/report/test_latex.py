"""LaTeX and BibTeX of a report: what TeX reads, with one unit a column and a source for each."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbontrack.grid import rows
from carbontrack.impact.embodied import embodied_item
from carbontrack.record import Record
from carbontrack.report.digits import ENERGY, MASS, interval_in, three_digits, unit_for
from carbontrack.report.references import BY_KEY, of_intensity
from tests.support.latex import check_latex, tables_of
from tests.support.records import HOSTILE, a_record

EMBER = "Ember Yearly Electricity Data (2026), processed by Our World in Data"
PAPER = r"""
\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\begin{document}
\input{statement}
\input{table}
Tables~\ref{tab:carbontrack} and~\ref{tab:carbontrack-statement}.
\bibliographystyle{plain}
\bibliography{refs}
\end{document}
"""
PRINTABLE = [
    *(r"\input{x} 100% _ $ & # ^ ~", "}{", "[2ex] first", "* star", "a | b < c > d", '"q"'),
    *("`tick`", "CO2e of µ", "--dashes--", "@misc{a,", "é ü ß ø"),
]
Report = Callable[..., str]


def run(number: int, **changes: Any) -> Record:
    facts = {
        "cpu_kwh": 0.9,
        "ram_kwh": 0.1,
        "pue": 1.0,
        "energy_kwh": 1.0,
        "energy_low_kwh": 0.9,
        "energy_high_kwh": 1.2,
        "emissions_g": 56.0,
        "emissions_low_g": 40.0,
        "emissions_high_g": 80.0,
        "intensity_source": EMBER,
        "intensity_year": 2025,
        "cpu_basis": "measured",
        "ram_basis": "measured",
        "basis": "measured",
        "meters": "rapl:package-0;rapl:dram-0",
        "cpu_model": "AMD EPYC 7763 64-Core Processor",
        "duration_s": 7200.0,
        "carbontrack": "1.2.3",
    }
    return a_record(number, **(facts | changes))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0.0, "0"),
        (0.0000141, "0.0000141"),
        (1e-9, "<0.000001"),
        (0.9999, "1.00"),
        (1.005, "1.00"),
        (12.34, "12.3"),
        (999.6, "1,000"),
        (1234567.0, "1,230,000"),
    ],
)
def test_a_number_has_three_digits_and_no_exponent(amount: float, text: str):
    """Small and large figures of one column can be compared by eye."""
    assert three_digits(amount) == text


def test_a_column_has_the_unit_of_its_middle_figure():
    """So that most figures have one to three digits before the point; unknown ones do not count."""
    assert unit_for([None, 0.0, 2.0, 5e3, 9e9], ENERGY).name == "Wh"
    assert unit_for([], MASS).name == "g"
    assert unit_for([1e-9], MASS).name == "µg"
    assert interval_in(3600.0, None, ENERGY[2]) is None
    assert interval_in(1800.0, 7200.0, ENERGY[2]) == "0.500 to 2.00"


def test_a_table_has_a_caption_a_label_and_one_unit_in_each_column(report: Report):
    """Numbers stand alone in their cells, whatever their size; the unit stands in the head."""
    small = run(2, name="small", energy_kwh=2e-4, energy_low_kwh=1e-4, energy_high_kwh=3e-4)
    text = report("latex", run(1), small, run(3, name="middle", energy_kwh=0.5))
    check_latex(text)
    assert r"\label{tab:carbontrack}" in text
    assert text.count(r"\caption{") == 1
    (table,) = tables_of(text)
    heads, units, *cells = table
    assert heads[:5] == ["name", "runs", "energy", "interval", "emissions"]
    assert units[2:4] == ["(Wh)", "(Wh)"]
    for row in cells:
        for cell in row[1:]:
            assert re.fullmatch(r"[\d.,<]+(--[\d.,]+)?|--", cell), cell
    by_name = {row[0]: row for row in cells}
    assert by_name["train"][2:4] == ["1,000", "900--1,200"]
    assert by_name["small"][2] == "0.200"


def test_a_caption_says_how_the_figures_were_made(report: Report):
    """Interval, basis, method, intensity with source and year, boundary, embodied emissions."""
    text = " ".join(report("latex", run(1), more=("--embodied-g", "120")).split())
    for needed in (
        "location-based emissions of 1 run.",
        "uncertainty intervals",
        r"Energy basis: 100\% measured",
        r"56 g CO\textsubscript{2}e/kWh for France (FR)",
        f"({EMBER}, data of 2025)",
        "Boundary: the share of CPU, GPU and memory energy",
        "not included: network, storage outside the machine, displays",
        r"Embodied emissions: not included (120 g CO\textsubscript{2}e, given by the user)",
    ):
        assert needed in text, needed


def test_one_group_needs_no_total(report: Report):
    """Two rows of the same figures would make a reader look for the difference."""
    assert "total" not in [row[0] for row in tables_of(report("latex", run(1)))[0]]
    two = tables_of(report("latex", run(1), run(2, name="other")))[0]
    assert two[-1][:3] == ["total", "2", "2.00"]


@pytest.mark.parametrize("form", ["latex", "statement-latex"])
def test_hostile_texts_are_texts_to_tex(report: Report, form: str):
    """No name, source or processor is markup, or ends a row, a group or an environment."""
    for name in [*HOSTILE, *PRINTABLE]:
        texts = dict.fromkeys(("name", "cpu_model", "intensity_source", "region", "scope"), name)
        text = report(form, run(1, **texts), run(2))
        check_latex(text)
        assert len(tables_of(text)) == 1


def test_the_statement_in_latex_is_that_in_markdown(report: Report):
    """The same items and contents, escaped for TeX."""
    plain = report("statement", run(1), run(2, market_emissions_g=5.0))
    text = report("statement-latex", run(1), run(2, market_emissions_g=5.0))
    check_latex(text)
    items = re.findall(r"^\| (.*?) \| (.*) \|$", plain, re.MULTILINE)
    unescaped = text.replace(r"\textsubscript{2}", "2").replace(r"\%", "%")
    unescaped = unescaped.replace(r"\textmu{}", "µ").replace(r"\textless{}", "<")
    (table,) = tables_of(unescaped)
    assert [tuple(row) for row in table] == [
        (head, re.sub(r"\\(.)", r"\1", cell)) for head, cell in items if head != "---"
    ]


def keys_of(bibtex: str) -> list[str]:
    """The keys of the entries."""
    return re.findall(r"^@\w+\{([^,]+),$", bibtex, re.MULTILINE)


def test_the_statement_cites_what_the_bibliography_has(report: Report):
    """Every key exists, and an entry for the program and the intensity is cited."""
    records = [run(1), run(2, region="US-CA", intensity_source="Office of 100% & more")]
    text = report("statement-latex", *records)
    cited = {key for keys in re.findall(r"\\cite\{([^}]*)\}", text) for key in keys.split(",")}
    assert cited == {"carbontrack", "ember2026", "intensity1"}
    assert cited <= set(keys_of(report("bibtex", *records)))


def test_every_entry_has_an_author_a_title_and_what_it_is_used_for(report: Report):
    """Of all sources that a report can have: each entry once, braces balanced."""
    cards = "NVIDIA H100 80GB HBM3;NVIDIA A100-SXM4-80GB"
    made = {"embodied_g": 3.5, "gpu_models": cards, "water_l": 2.0}
    text = report(
        "bibtex",
        run(1, **made, meters="model:cpu;model:ram"),
        run(2, **made, region="aws:eu-west-3", pue=1.1),
        run(3, **made, intensity_source=f"{EMBER} (60.0%); Energy-Charts (40.0%)"),
    )
    keys = keys_of(text)
    assert len(keys) == len(set(keys))
    assert {"carbontrack", "ember2026", "energycharts", "specpower2008", "davy2021"} <= set(keys)
    assert {"boavizta2021", "nvidia2025", "ademe2026", "macknick2012"} <= set(keys)
    assert text.count("{") == text.count("}")
    for entry in text.split("\n\n"):
        for field in ("author", "title", "note"):
            assert f"  {field} = {{" in entry, entry
        assert "Used for: " in entry
    assert "CC BY 4.0" in text


def test_a_pue_of_a_provider_is_cited(report: Report):
    """Where the energy has the published PUE of a cloud region, its publisher is in the list."""
    from carbontrack.grid.tables import site

    place = site("aws:eu-west-3")
    assert place is not None
    assert place.pue is not None
    text = report("bibtex", run(1, region="aws:eu-west-3", pue=place.pue))
    assert "@misc{pueaws," in text
    assert "{{Amazon Web Services}}" in text
    assert "pueaws" not in report("bibtex", run(1, region="aws:eu-west-3", pue=1.5))


def test_a_figure_of_the_user_is_not_given_another_source(report: Report):
    """The entry says who gave it, and asks for its source."""
    text = report("bibtex", run(1, intensity_source="given by the user", region="custom"))
    assert "given by the user" in text
    assert "Replace this entry by the source of the figure" in text
    assert "ember2026" not in text


def test_rows_of_codecarbon_name_their_tool(report: Report):
    """Its figures are not said to be carbontrack's data."""
    text = report("bibtex", run(1, intensity_source="CodeCarbon"))
    (entry,) = [entry for entry in text.split("\n\n") if entry.startswith("@misc{codecarbon,")]
    assert "title = {{CodeCarbon}}" in entry
    assert "rows in CodeCarbon's files" in entry
    assert "3.3.2" not in entry


def test_each_source_of_the_tables_has_a_reference():
    """No intensity of the package is without author, year and address in a bibliography."""
    texts = [row["text"] for row in rows.rows("sources")]
    used = {cells["source"] for name in ("intensity", "intensity_direct", "intensity_marginal")
            for cells in rows.rows(name)}  # fmt: skip
    assert len(used) > 10
    for row in rows.rows("sources"):
        if row["source"] in used:
            found = of_intensity(row["text"])
            assert found, row["text"]
            assert all(one.author and one.year and one.url for one in found), row["text"]
    assert EMBER in texts
    assert all(one.url.startswith("https://") for one in BY_KEY.values() if one.url)
    assert embodied_item("H100", "datacenter") is not None


def test_embodied_emissions_of_the_user_are_used_where_records_hold_none(report: Report):
    """In SCI as M; where records hold them, or the figure is no amount, an error says so."""
    import json

    asked = ("--units", "10", "--embodied-g", "44")
    found = json.loads(report("sci", run(1), more=asked))
    assert (found["m_g"], found["m_source"]) == (44.0, "given by the user")
    assert found["sci_g_per_unit"] == pytest.approx((56.0 + 44.0) / 10)
    assert found["m_low_g"] is None
    half = json.loads(report("sci", run(1), run(2, embodied_g=1.0), more=asked))
    assert half["m_g"] == 44.0
    said = report("sci", run(1, embodied_g=2.0), more=asked, code=2)
    assert "every record has embodied emissions already, 2 g in total" in said
    for wrong in ("0", "-1", "nan", "inf"):
        said = report("sci", run(1), more=("--units", "1", "--embodied-g", wrong), code=2)
        assert "--embodied-g must be grams of CO2e above 0" in said
    said = report("markdown", run(1), more=("--embodied-g", "5"), code=2)
    assert "--embodied-g is for --format latex, statement" in said
    assert "--embodied-g G" in report("sci", run(1), more=("--units", "1"), code=2)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no LaTeX here")
def test_latex_compiles_them(report: Report, tmp_path: Path):
    """A paper with the statement, the table and the bibliography, and names full of markup."""
    records = [run(n, name=name, cpu_model=name, region=name) for n, name in enumerate(PRINTABLE)]
    for name, form in (("statement.tex", "statement-latex"), ("table.tex", "latex"),
                       ("refs.bib", "bibtex")):  # fmt: skip
        (tmp_path / name).write_text(report(form, *records), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(PAPER, encoding="utf-8")
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper"]
    for command in (latex, ["bibtex", "paper"], latex, latex):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Warning--" not in done.stdout
    assert "undefined" not in done.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
