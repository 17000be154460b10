"""Every output with every text of the table of hostile ones: text stays text, and data is exact."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt

import carbontrack
from carbontrack.cli import main
from carbontrack.cli.journals import UnreadableJournals
from carbontrack.integrations.pytest_plugin import output as plugin
from carbontrack.integrations.pytest_plugin import table as plugin_table
from carbontrack.integrations.pytest_plugin.metrics import Measurement
from carbontrack.integrations.pytest_plugin.results import SessionTotal, TestResult
from carbontrack.record import Record, Sink, plain_html, record_html
from carbontrack.report.read import iter_records, read_records
from carbontrack.sinks.csv_file import CsvSink, restored
from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.jsonl import JsonlSink
from carbontrack.sinks.sqlite import SqliteSink
from carbontrack.testing.receiver import Receiver
from carbontrack.text import cut_to, visible
from tests.support.budget_project import Project
from tests.support.hostile_texts import ALL_IN_ONE, BINARY, SHOWN, TEXTS, stored
from tests.support.latex import check_latex, tables_of
from tests.support.records import a_record

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]
Command = Callable[..., str]

every_text = pytest.mark.parametrize("text", TEXTS, ids=ascii)
FACTS = ("name", "host_id", "region", "intensity_source", "cpu_model", "gpu_models", "error")
"""Columns of a record that come from outside."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a state folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARBONTRACK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CARBONTRACK_REGION", "FR")
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """What a command prints on both streams; nothing in it steers a terminal or hides."""

    def call(*arguments: str, code: int = 0, stream: str = "out") -> str:
        assert main(list(arguments)) == code
        printed = capsys.readouterr()
        is_data = "csv" in arguments
        for text in (printed.err, "" if is_data else printed.out):
            assert_visible(text)
        return str(getattr(printed, stream))

    return call


def assert_visible(text: str) -> None:
    """Line feeds apart, nothing in the text controls or hides."""
    assert [visible(line) for line in text.split("\n")] == text.split("\n")


def record_of(text: str, number: int = 0, **changes: Any) -> Record:
    """A record with the text wherever one comes from outside."""
    facts: dict[str, Any] = dict.fromkeys(FACTS, text)
    facts |= {"labels": {text: text}, "carbontrack": text, "basis": "modelled"}
    facts |= {"cpu_basis": "modelled", "embodied_g": 1.0, "calls": 5, "os": text, "python": text}
    return a_record(number, **(facts | changes))


def runs(*records: Record) -> str:
    """A file of records."""
    sink = CsvSink("runs.csv")
    for record in records:
        sink.write(record)
    sink.close()
    return "runs.csv"


def lines_of(text: str) -> list[str]:
    """The lines of a text, by line feeds alone."""
    assert text.endswith("\n")
    return text[:-1].split("\n")


# -- data: what is read back is what was there ---------------------------------------------------


@every_text
@pytest.mark.parametrize(
    ("sink", "name", "exact"),
    [(CsvSink, "a.csv", False), (JsonlSink, "a.jsonl", True), (SqliteSink, "a.db", False)],
)
def test_files_of_records_are_exact(
    text: str, sink: Callable[[str], Sink], name: str, exact: bool
) -> None:
    """A record comes back as it was, but for what no text file can hold."""
    expected = record_of(text) if exact else record_of(stored(text), labels={text: text})
    opened = sink(name)
    opened.write(record_of(text))
    opened.write(record_of("x", 1))
    opened.close()

    if sink is SqliteSink and "\0" in text:  # which a column of SQLite holds
        expected = record_of(text)
    assert list(iter_records(name)) == [expected, record_of("x", 1)]
    if sink is JsonlSink:
        written = Path(name).read_bytes().decode()
        assert_visible(written)
        assert len(lines_of(written)) == 2


@every_text
def test_a_server_gets_the_record_as_it_is(text: str) -> None:
    """What is posted is JSON of the same content, with escapes in it."""
    bodies: list[bytes] = []

    class Keeping(Receiver):
        def answer(self, headers: Any, body: bytes) -> Any:
            bodies.append(body)
            return super().answer(headers, body)

    with Keeping() as receiver:
        sink = JournaledHttpSink(receiver.url)
        sink.write(record_of(text))
        sink.close()

    (body,) = bodies
    assert_visible(body.decode())
    assert [Record.from_row(row) for row in json.loads(body)] == [record_of(text)]


# -- `report` ------------------------------------------------------------------------------------


@every_text
def test_a_table_of_the_report(text: str, command: Command) -> None:
    """A group is a line, its columns stand under their heads, and so does a group's label."""
    runs(record_of(text), record_of("x", 1))

    heads, *rows = lines_of(command("report", "runs.csv"))[:5]
    by_label = lines_of(command("report", "runs.csv", "--by", f"label:{text}"))

    assert len(rows) == 4
    assert [row for row in rows if row.startswith(cut_to(SHOWN[text], 40).rstrip())]
    assert heads.startswith("name")
    assert by_label[0].startswith(cut_to(visible(f"label:{text}"), 40).rstrip())


def markdown_table(text: str) -> tuple[list[list[str]], list[str]]:
    """The cells of the table and the paragraphs, as a page shows them; all of it is text."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    rows: list[list[str]] = []
    paragraphs: list[str] = []
    in_cell = False
    for token in parser.parse(text):
        in_cell = {"td_open": True, "th_open": True, "paragraph_open": False}.get(
            token.type, in_cell
        )
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "text_special", "code_inline", "strong_open", "strong_close",
                             "softbreak", "hardbreak"}  # fmt: skip
            shown = "".join(child.content for child in token.children or ())
            (rows[-1] if in_cell else paragraphs).append(shown)
        else:
            assert not token.type.startswith(("html", "code", "fence", "list", "blockquote"))
    return rows, paragraphs


def squeezed(text: str) -> str:
    """The text without its outer spaces, as a table of Markdown shows it."""
    return text.strip(" ")


@every_text
def test_markdown_of_the_report(text: str, command: Command) -> None:
    """A group is a row of eight cells, whatever it is called, and shows no markup."""
    runs(record_of(text), record_of("x", 1))

    rows, _ = markdown_table(command("report", "runs.csv", "--format", "markdown"))
    head, *_ = markdown_table(
        command("report", "runs.csv", "--format", "markdown", "--by", f"label:{text}")
    )[0]

    assert [len(row) for row in rows] == [8] * 4
    assert squeezed(SHOWN[text]) in {row[0] for row in rows}
    assert head[0] == squeezed(visible(f"label:{text}"))


_MACROS = re.compile(r"\\(?:text[a-z]+\{\}|[&%$#_])")
_SPECIAL = set("\\{}$&#^_%~")


def plain_latex(cell: str) -> str:
    """The cell without macros for characters; nothing in it is special to TeX any more."""
    left = _MACROS.sub("", cell)
    assert not set(left) & _SPECIAL, cell
    return left


@every_text
@pytest.mark.parametrize(("form", "columns"), [("latex", 8), ("statement-latex", 2)])
def test_latex_of_the_report(text: str, form: str, columns: int, command: Command) -> None:
    """Every row has its cells, and no character of a text has its meaning for TeX."""
    runs(record_of(text, scope=text), record_of("x", 1))

    printed = command("report", "runs.csv", "--format", form)

    check_latex(printed)
    (table,) = tables_of(printed)
    assert {len(row) for row in table} == {columns}


@every_text
def test_csv_and_json_of_the_report_are_exact(text: str, command: Command) -> None:
    """Programs read the names that the records have."""
    runs(record_of(text), record_of("x", 1))

    printed = command("report", "runs.csv", "--format", "csv")
    found = json.loads(command("report", "runs.csv", "--json"))

    rows = list(csv.DictReader(io.StringIO(printed, newline="")))
    assert stored(text) in {restored("key", row["key"]) for row in rows}
    assert len(rows) == 2
    assert stored(text) in {group["key"] for group in found["groups"]}


def test_csv_on_a_terminal_is_visible(command: Command) -> None:
    """Into a pipe it is exact; a terminal would obey it."""
    runs(record_of("a\x1b[2Jb\nc"))
    controller, terminal = pty.openpty()
    arguments = [sys.executable, "-m", "carbontrack", "report", "runs.csv", "--format", "csv"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}

    on_screen = subprocess.run(arguments, stdout=terminal, env=environ, check=True)
    os.close(terminal)
    piped = subprocess.run(arguments, stdout=subprocess.PIPE, env=environ, check=True)

    shown = os.read(controller, 65536).decode()
    os.close(controller)
    assert on_screen.returncode == 0
    assert "\x1b" not in shown
    assert r"a\x1b[2Jb" in shown
    assert b"a\x1b[2Jb\nc" in piped.stdout


@every_text
def test_the_statement(text: str, command: Command) -> None:
    """A paragraph and a table of two columns, with the texts in them and no markup."""
    runs(record_of(text, scope=text))

    rows, paragraphs = markdown_table(command("report", "runs.csv", "--format", "statement"))

    assert {len(row) for row in rows} == {2}
    shown = " ".join(paragraphs).count(SHOWN[text].strip())
    assert shown >= 3 or "http" in text or " " in text
    assert len(paragraphs) == 3


def entries_of(text: str) -> list[dict[str, str]]:
    """The entries of a BibTeX file, read as BibTeX does: braces count, escaped or not."""
    found = []
    while start := re.search(r"@(\w+)\{(\w+),\n", text):
        depth, end = 1, start.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        body, text = text[start.end() : end - 1], text[end:]
        fields = re.findall(r"^  (\w+) = \{(.*)\},$", body, re.MULTILINE)
        assert len(body.strip("\n").split("\n")) == len(fields)
        found.append(dict(fields))
    assert text.strip() == ""
    return found


@every_text
def test_bibtex(text: str, command: Command) -> None:
    """Entries stay entries, of one line for each field, whatever a source is called."""
    runs(record_of(text.replace(";", "")))

    first, *others = entries_of(command("report", "runs.csv", "--format", "bibtex"))

    assert first["title"].startswith("{carbontrack")
    assert len(others) == 7  # of the grid, the models, and embodied emissions
    for entry in others:
        plain_latex(entry["title"].removeprefix("{").removesuffix("}"))
        plain_latex(entry["author"].removeprefix("{").removesuffix("}"))
        plain_latex(entry["note"])


@every_text
def test_documents_in_yaml_and_json_are_exact(text: str, command: Command, folder: Path) -> None:
    """Whoever reads them gets the names that the records have."""
    runs(record_of(text, region=text, labels={}))
    about = {
        "task": {
            "taskStage": "training",
            "taskFamily": text,
            "algorithms": [{"algorithmName": text}],
            "dataset": [{"dataUsage": "input", "dataType": "text"}],
        }
    }
    (folder / "about.json").write_text(json.dumps(about))

    card = yaml.safe_load(command("report", "runs.csv", "--format", "modelcard"))
    boamps = command("report", "runs.csv", "--format", "boamps", "--about", "about.json")
    sci = command("report", "runs.csv", "--format", "sci", "--unit-name", text)

    assert stored(text) in card["co2_eq_emissions"]["geographical_location"]
    assert stored(text) in card["co2_eq_emissions"]["hardware_used"]
    parts = json.loads(boamps)["infrastructure"]["components"]
    assert parts[0]["componentName"] == stored(text)
    assert json.loads(boamps)["task"] == about["task"]
    assert json.loads(sci)["unit"] == text


class Page(HTMLParser):
    """The elements of a page with their attributes, and its texts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.attributes: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [content or "" for _, content in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("texts", [TEXTS[n : n + 11] for n in range(0, len(TEXTS), 11)], ids=len)
def test_the_page(texts: list[str], command: Command) -> None:
    """It has the elements of a page of plain names, and shows the visible texts."""
    pages = []
    for names in (texts, [f"name {n}" for n in range(len(texts))]):
        key = f"<b>{names[0]}" if names is texts else "b"
        records = [record_of(name, n, labels={key: name}) for n, name in enumerate(names)]
        source_name = "ev\x1b<b>\u202eil.csv" if names is texts else "runs.csv"
        Path(runs(*records)).rename(source_name)
        command("report", source_name, "--html", "page.html", "--by", f"label:{key}")
        source = Path("page.html").read_bytes().decode()
        # the charts' program and that of the page are not made of texts
        pages.append(re.sub(r"<script>\n.*?\n</script>", "", source, flags=re.DOTALL))
    page, plain = map(Page, pages)

    assert_visible(pages[0])
    assert page.elements == plain.elements
    assert f"CO2e by label:<b>{visible(texts[0])}" in page.texts
    assert [text for text in page.texts if r"from ev\x1b<b>\u202eil.csv. This" in text]
    shown = [visible(stored(text)) for text in texts]
    assert set(shown) <= set(page.texts)
    data = json.loads(next(text for text in page.texts if text.startswith('{"runs"')))
    assert sorted(data["runs"]["texts"]["name"]) == sorted(shown)
    # a space without width keeps the names of two bars apart
    assert_visible(json.dumps(data, ensure_ascii=False).replace("\u200b", ""))


# -- notebooks -----------------------------------------------------------------------------------


@every_text
def test_records_in_a_notebook(text: str) -> None:
    """A cell shows the visible text, and no element more than for a plain name."""
    runs(record_of(text), record_of(text, 1, status="error"))
    for source, plain in (
        (record_html(record_of(text)), record_html(record_of("x"))),
        (plain_html(text), plain_html("x")),
        (read_records("runs.csv")._repr_html_(), None),  # type: ignore[operator]
    ):
        page = Page(source)
        assert_visible(source)
        if plain is not None:
            assert page.elements == Page(plain).elements
        known = {"div", "b", "table", "tr", "th", "td", "p", "thead", "tbody", "code"}
        assert {tag for tag, _ in page.elements} <= known
        assert [one for one in page.texts if visible(stored(text)) in one or SHOWN[text] in one]


# -- labels --------------------------------------------------------------------------------------

LABEL = ("label", "runs.csv", "--task", "text-classification", "--units", "5")


@every_text
def test_labels(text: str, command: Command) -> None:
    """Of each format, with a model and a unit of that name."""
    runs(record_of("x"))
    named = (*LABEL, "--model", text, "--unit-name", text)

    first, *_ = lines_of(command(*named))
    rows, paragraphs = markdown_table(command(*named, "--format", "markdown"))
    drawn = command(*named, "--format", "svg")
    found = json.loads(command(*named, "--json"))

    assert first.startswith(f"{SHOWN[text]} is rated ")
    assert {len(row) for row in rows} == {2}
    assert squeezed(paragraphs[0]).startswith(SHOWN[text].strip())
    assert (found["model"], found["unit"]) == (text, text)
    picture = ElementTree.fromstring(drawn)
    tags = {element.tag.partition("}")[2] for element in picture.iter()}
    assert tags == {"svg", "title", "rect", "text", "polygon"}
    texts = [element.text or "" for element in picture.iter() if element.tag.endswith("}text")]
    assert cut_to(SHOWN[text], 34) in texts
    assert picture.attrib["aria-label"].startswith(SHOWN[text])
    for ending in ("txt", "md", "svg"):
        command(*named, "--output", f"label.{ending}")
        assert_visible(Path(f"label.{ending}").read_bytes().decode())


# -- commands that measure or recover ------------------------------------------------------------


@pytest.mark.parametrize("text", [*TEXTS[::5], ALL_IN_ONE], ids=ascii)
def test_the_summary_of_a_run(text: str, command: Command, folder: Path) -> None:
    """The name of a run is on the first line of its summary, and nowhere else."""
    del_ = ("--", sys.executable, "-c", "pass")
    told = command("run", "--output", "none", "--name", text, *del_, stream="err")
    line = command("run", "--json", "--output", "none", "--name", text, "--label", f"a={text}",
                   *del_, stream="err")  # fmt: skip

    assert lines_of(told)[1].startswith(f"carbontrack: {visible(text)}, ")
    assert len([one for one in lines_of(told) if one.startswith("carbontrack: ")]) == 1
    found = json.loads(line)
    assert (found["name"], found["labels"]) == (text, {"a": text})
    assert len(lines_of(line)) == 1


def script(folder: Path, name: str) -> Path:
    """A program of that name, or a reason to skip."""
    try:
        path = folder / name
        path.write_text("#!/bin/sh\nexit 3\n")
    except OSError:
        pytest.skip("this file system has no such names")
    return path


@pytest.mark.parametrize("name", ["ev\x1b]0;PWNED\x07a.py", "ev\u202egpj\nb.py", "ev\udcffc.py"])
def test_a_script_and_an_output_of_any_name(name: str, folder: Path) -> None:
    """A run is called after its script, and a file and an error name what is there."""
    path = script(folder, name)
    shown = visible(name)
    base = [sys.executable, "-m", "carbontrack", "run", "--region", "FR"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*base, *arguments],
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
            check=False,
        )
        assert_visible(done.stderr)
        return done

    of_script = run("--output", "none", "--", "sh", str(path))
    into_file = run("--output", f"{name}.csv", "--", "true")
    refused = run("--output", "none", "--", f"./{name}")
    no_folder = run("--output", f"{name}/no/a.csv", "--", "true")

    assert of_script.stderr.startswith(f"\ncarbontrack: {shown}, ")
    assert f"{shown}.csv" in into_file.stderr.replace("\n          ", "")
    assert Path(f"{name}.csv").exists()
    assert (refused.returncode, no_folder.returncode) == (126, 2)
    assert refused.stderr.startswith(f"carbontrack: {folder}/{shown} is not") or (
        f"{shown} is not executable" in refused.stderr
    )
    assert len(lines_of(no_folder.stderr)) == 1


def test_a_processor_of_any_name(folder: Path) -> None:
    """The model that the kernel tells is text in `run`, `doctor` and their JSON."""
    model = "Evil\x1b]0;x\x07 \u202eCPU\x9b2J"
    procfs = folder / "proc"
    procfs.mkdir()
    (folder / "sy\x1b[2J\u202es").mkdir()
    (procfs / "cpuinfo").write_text(
        f"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: {model}\n"
    )
    for name in ("stat", "meminfo", "uptime"):
        (procfs / name).write_bytes(Path("/proc", name).read_bytes())
    environ = os.environ | {
        "PYTHONPATH": str(ROOT),
        "CARBONTRACK_PROCFS_PATH": str(procfs),
        "CARBONTRACK_SYSFS_PATH": str(folder / "sy\x1b[2J\u202es"),
    }

    def call(*arguments: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "carbontrack", *arguments],
            capture_output=True,
            encoding="utf-8",
            env=environ,
            check=True,
        )
        assert_visible(done.stdout)
        assert_visible(done.stderr)
        return done.stdout, done.stderr

    of_run, json_of_run = (
        call("run", *options, "--output", "none", "--", "true")[1] for options in ([], ["--json"])
    )
    of_doctor, json_of_doctor = (call("doctor", *options)[0] for options in ([], ["--json"]))
    for text in (of_run, of_doctor):
        assert visible(model) in " ".join(text.split())
    assert json.loads(json_of_run)["cpu_model"] == model
    assert json.loads(json_of_doctor)["hardware"]["cpu_model"] == model


def left_behind(folder: Path, outputs: list[str]) -> None:
    """A journal of killed runs, one for each text."""
    journal = Journal(folder / "state")
    for number, text in enumerate(TEXTS):
        journal.checkpoint(record_of(text, number, ended_at=text), outputs)
    journal.close()


def test_recovered_runs_of_any_name(command: Command, folder: Path) -> None:
    """A run is a line, in the order of the journal; as JSON they are what was in the journal."""
    output = folder / "recovered.jsonl"
    left_behind(folder, [str(output)])
    told = lines_of(command("recover"))
    left_behind(folder, [])
    found = json.loads(command("recover", "--json"))

    told, lost = told[: len(TEXTS)], told[len(TEXTS) :]
    assert lost[0] == "What a killed process used after the time shown is lost:"
    for text, line in zip(TEXTS, told, strict=True):
        assert line.startswith(f"{SHOWN[text]} (1.5 s, ")
        assert line.endswith(f", until {SHOWN[text]}): written to {output}")
    assert [one["record"]["name"] for one in found] == TEXTS
    written = output.read_bytes().decode()
    assert_visible(written)
    assert {json.loads(line)["name"] for line in lines_of(written)} == set(TEXTS)


def test_open_runs_of_any_name(command: Command, folder: Path) -> None:
    """A run that is open is a line of `top`; as JSON it has the name that it was given."""
    journal = Journal(folder / "state")
    for number, text in enumerate(TEXTS):
        journal.checkpoint(record_of(text, number, basis=text), ["a.csv"])

    told = lines_of(command("top", "--once"))
    found = json.loads(command("top", "--json"))
    journal.close()

    assert len(told) == len(TEXTS) + 3
    for text in TEXTS:
        assert [line for line in told if f" {cut_to(SHOWN[text], 8, '')}" in line], text
    assert {run["name"] for run in found["runs"]} == set(TEXTS)
    assert {run["basis"] for run in found["runs"]} == set(TEXTS)


def test_journals_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """The first is named as text."""
    unreadable = UnreadableJournals()
    unreadable(Path("a\x1b[2J\u202eb\n"), OSError(5, "no\x1bway"))

    assert unreadable.warn()
    told = capsys.readouterr().err
    assert_visible(told)
    assert r"a\x1b[2J\u202eb\n: no\x1bway" in told


def test_addresses_of_any_name(command: Command, folder: Path) -> None:
    """An address in a journal is a line of `sync`, whoever wrote it; a control is in no URL."""
    refused = ": 0 delivered, 1 still waiting (records cannot be sent to this address)"
    names = {
        "\x1b]0;PWNED\x07": refused,
        "gpj\u202eexe": ": 1 delivered",
        "a\x9b2J\x85": refused,
        "日本": ": 1 delivered",
    }
    with Receiver() as receiver:
        for arguments in ([], ["--json"]):
            journal = Journal(folder / "state")
            for number, name in enumerate(names):
                journal.enqueue(a_record(number), f"{receiver.url}/{name}")
            journal.close(keeps_runs=True)
            told = command("sync", *arguments, code=1)
            if arguments:
                found = [one["url"] for one in json.loads(told)["addresses"]]
                assert sorted(found) == sorted(f"{receiver.url}/{name}" for name in names)
            else:
                expected = [f"{receiver.url}/{visible(name)}{end}" for name, end in names.items()]
                assert sorted(lines_of(told)) == sorted(expected)


def test_a_budget_of_a_run_of_any_name(command: Command) -> None:
    """What is said while the command runs, and at its end."""
    busy = "sum(range(150_000_000))"  # several times the half second between two checks
    told = command("run", "--output", "none", "--name", ALL_IN_ONE, "--budget", "1 ug",
                   "--", sys.executable, "-c", busy, code=3, stream="err")  # fmt: skip

    assert told.count(f"carbontrack: {visible(ALL_IN_ONE)}") >= 2


def test_files_that_commands_write(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each names its file as text."""
    name = "ev\x1b[2J\u202eil"
    runs(record_of("x"))
    monkeypatch.setenv("CARBONTRACK_STATE_DIR", str(folder / name))

    label = command(*LABEL, "--output", f"{name}.svg", stream="err")
    page = command("report", "runs.csv", "--html", f"{name}.html", stream="err")
    kept = command("calibrate", "45:98", "60:120")
    forgotten = command("calibrate", "--clear")

    assert label == f"carbontrack: wrote {visible(name)}.svg\n"
    assert page == f"carbontrack: wrote {visible(name)}.html\n"
    for told in (kept, forgotten):  # whose lines may break inside a name, which has no spaces
        assert visible(name) in "".join(told.split())


# -- commands that only show ---------------------------------------------------------------------


@every_text
def test_arguments_in_errors(text: str, command: Command) -> None:
    """Whatever is given, an error is one line, and bad usage."""
    given = [
        ("report", f"{text}.csv"),
        ("report", f"{text}.txt"),
        ("report", "runs.csv", "--by", text),
        ("report", "runs.csv", "--about", f"{text}.json", "--format", "boamps"),
        ("report", "runs.csv", "--html", f"{text}/no/page.html"),
        (*LABEL, "--output", f"{text}/no/label.svg"),
        (*LABEL, "--output", f"label.{text}"),
        (*LABEL, "--only", text),
        ("label", "runs.csv", "--task", text),
        ("regions", f"no place {text}"),
        ("regions", "--compare", f"{text}.csv"),
        ("estimate", "--gpu", f"no such {text}", "--hours", "1"),
        ("estimate", "--power-w", "5", "--hours", "1", "--region", f"no place {text}"),
        ("when", "--hours", "1", "--series", f"{text}.csv"),
        ("when", "--hours", "1", "--series", "x.csv", "--from", text),
        ("calibrate", "--plug", f"{text}.csv"),
        ("recover", "--output", text),
        ("run", "--output", f"{text}/no/a.csv", "--", "true"),
        ("run", "--region", f"no place {text}", "--", "true"),
    ]
    runs(record_of("x"))
    for arguments in given:
        if any("\0" in one for one in arguments):
            continue  # no argument of a process holds it
        told = command(*arguments, code=2, stream="err")
        assert len(lines_of(told)) == 1, arguments


@every_text
def test_mistakes_on_the_command_line(text: str, command: Command) -> None:
    """The parser's own messages, behind its usage, and what is no command at all."""
    given = [
        [f"no{text}"],
        ["report", f"--no{text}"],
        ["top", text],
        ["calibrate", f"x{text}:1"],
        ["report", "--format", f"no{text}"],
        ["run", "--label", text.replace("=", ""), "--", "true"],
        ["when", "--hours", text],
    ]
    for arguments in given:
        told = lines_of(command(*arguments, code=2, stream="err"))
        assert told[-1].startswith("carbontrack"), arguments


def test_files_that_commands_read(command: Command, folder: Path) -> None:
    """Regions, headers, sources and damaged cells in a file are text where they are shown."""
    runs(*(record_of(text, number) for number, text in enumerate(TEXTS)))
    (folder / "plug.csv").write_text(f'"{ALL_IN_ONE.replace(chr(34), "")}"\n1,2\n')
    (folder / "serie\x1b\u202es.csv").write_text(
        "time,g_per_kwh\n2026-03-01T00:00Z,40\n2026-03-01T01:00Z,41\n2026-03-01T02:00Z,40\n"
    )
    row = record_of("x").to_row()
    damaged = Path("damaged.csv")
    sink = CsvSink(damaged)
    sink.write(record_of("x"))
    sink.write(Record.from_row(row | {"started_at": "\x1b[2J\u202e", "record_id": "b"}))
    sink.close()

    compared = command("regions", "--compare", "runs.csv", code=2, stream="err")
    plug = command("calibrate", "--plug", "plug.csv", code=2, stream="err")
    series = command("when", "--hours", "1", "--series", "serie\x1b\u202es.csv",
                     "--from", "2026-03-01T00:00Z")  # fmt: skip
    for form in ("table", "markdown", "latex", "statement"):
        told = command("report", "damaged.csv", "--format", form)
        assert "holds no record" in told

    assert "the records are of several regions" in compared
    assert len(lines_of(plug)) == 1
    assert visible("serie\x1b\u202es.csv") in series


@pytest.mark.parametrize("disabled", ["", "1"])
def test_a_progress_bar(
    disabled: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loop is called stands before its bar as text, measured or not."""
    monkeypatch.setenv("CARBONTRACK_DISABLE", disabled)
    for _ in carbontrack.progress(range(2), name="ev\x1b[2J\u202eil\n", output=None):
        pass

    told = capsys.readouterr().err
    assert told.split("\r")[1].startswith(r"ev\x1b[2J\u202eil\n: ")
    assert not set(told) & set("\x1b\u202e")


# -- warnings ------------------------------------------------------------------------------------

WARNING = """
import logging, sys
{setup}
from pathlib import Path
import carbontrack
from carbontrack.report.read import read_records
from carbontrack.system.log import LOGGER, RateLimitedLog, warn_user
from tests.support.latex import check_latex, tables_of
from tests.support.hostile_texts import TEXTS
sys.stderr.reconfigure(encoding="utf-8", errors="strict")
for number, text in enumerate(TEXTS):
    warn_user(f"(a) {{text}}")
    RateLimitedLog().warn("topic", f"(b) {{text}}")
    LOGGER.warning("(c) %s, %s", text, Path(text))
    LOGGER.warning("(d) %s", carbontrack.ConfigError(text))
    LOGGER.warning("(e) " + text)
"""


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "logging.basicConfig(stream=sys.stderr)",
        "import warnings; warnings.simplefilter('error')",
    ],
)
def test_warnings(setup: str, folder: Path) -> None:
    """Each is one line, in a program without logging, with logging, and of Python's own kind."""
    done = subprocess.run(
        [sys.executable, "-c", WARNING.format(setup=setup)],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        check=True,
    )

    assert_visible(done.stderr)
    lines = [line for line in lines_of(done.stderr) if re.search(r"\([a-e]\) ", line)]
    for kind in "abcde":
        told = [line.partition(f"({kind}) ")[2] for line in lines if f"({kind}) " in line]
        for text in TEXTS:
            assert [line for line in told if line.startswith(SHOWN[text])], (kind, text)


# -- the pytest plugin ---------------------------------------------------------------------------


def result_of(text: str) -> TestResult:
    """A result with the text wherever one comes from a project."""
    measured = Measurement(metric=text, basis="measured", energy_joules=1.0, emissions_g=0.1)
    found = TestResult.of(f"test_it.py::test_{text}", "passed", measured)
    from dataclasses import replace

    return replace(found, budget=text, change=text, note=text, how=text, pins=text, reason=text,
                   verdict="inconclusive")  # fmt: skip


@every_text
def test_what_the_pytest_plugin_writes(text: str, folder: Path) -> None:
    """A test is a line of the table and a row of the page; JSON and CSV are exact."""
    results = [result_of(text), result_of("x")]
    total = SessionTotal.of(results, None)

    for width in (40, 60, 80, 200):
        for line in plugin_table.lines(results, width=width):
            assert_visible(line)
    assert all("\n" not in line for line in plugin_table.lines(results, width=1000))
    page = plugin_table.markdown(results, title="Emissions of the tests", notes=[])
    rows, _ = markdown_table(page)
    assert [len(row) for row in rows] == [6] * 3
    assert rows[1][0] == f"test_it.py::test_{SHOWN[text]}"
    assert_visible(page)
    for content in (plugin.report(results, total, text), plugin.benchmark_list(results)):
        plugin.write_json(folder / "o.json", content)
        written = (folder / "o.json").read_bytes().decode()
        assert json.loads(written) == json.loads(json.dumps(content))
        assert_visible(written)
    plugin.append_csv(folder / "o.csv", results, plugin.Origin(None, folder, "host"))
    first, _ = iter_records(folder / "o.csv")
    assert first.name == f"test_it.py::test_{stored(text)}"
    for _, content in result_of(text).properties:
        assert_visible(str(content))


@pytest.fixture
def project(pytester: pytest.Pytester) -> Iterator[Project]:
    return Project(pytester)


HOSTILE_METRIC = """
from tests.support.fake_energy import FakeMetric
class Metric(FakeMetric):
    name = "me\\x1b[2J\\u202etric"
    def describe(self):
        return "pins <b>\\x1b[2J\\u202e"
    def open(self, name):
        if "broken" in name:
            raise ValueError("no\\x1b[2J\\u202eway\\n")
        return super().open(name)
def pytest_carbon_metric(config):
    return Metric(width=0.5)
"""
HOSTILE_TESTS = """
import pytest
from tests.support.fake_energy import burn
@pytest.mark.carbon_budget("2 J")
def test_over(): burn(5)
@pytest.mark.carbon_budget("20 J")
def test_within():
    import os, shutil
    burn(1)
    if os.path.isdir("go\x1bne"):
        shutil.rmtree("go\x1bne")
@pytest.mark.carbon_budget("4 J")
def test_not_sure(): burn(5)
@pytest.mark.carbon_budget("20 J")
def test_broken(): burn(1)
"""


def test_a_project_with_hostile_names(project: Project) -> None:
    """Table, failure, warning, the summary of a workflow's step and junit's file show text."""
    (project.path / "conftest.py").write_text(HOSTILE_METRIC)
    folder = project.path / "ev\x1b[2J`|\u202eil"
    folder.mkdir()
    (folder / "test_it.py").write_text(HOSTILE_TESTS)
    (project.path / "go\x1bne").mkdir()
    page = project.path / "summary.md"
    done = project.run_apart(
        "-p", "no:cacheprovider", "--import-mode=importlib", "--carbon",
        "--carbon-compare=no\x1b\u202e.json", "--carbon-add=no\x1b\u202e.json",
        "--carbon-csv=go\x1bne/a.csv", GITHUB_STEP_SUMMARY=str(page), PYTHONIOENCODING="utf-8",
    )  # fmt: skip

    name = r"ev\x1b[2J`|\u202eil/test_it.py::test_over"
    ours = done.stdout[done.stdout.index("= carbontrack =") :].partition("short test summary")[0]
    assert_visible(ours)
    for told in (
        *(name, r"no\x1b\u202e.json", r"pins <b>\x1b[2J\u202e", r"go\x1bne/a.csv was not written"),
        r"me\x1b[2J\u202etric), possibly over",
    ):
        assert told in " ".join(ours.split())  # lines are broken at blanks
    lines = lines_of(done.stdout)
    for needed in (
        r"carbontrack: pins <b>\x1b[2J\u202e",
        r"carbon budget: used 5.00 J (2.50 to 7.50, me\x1b[2J\u202etric), over",
        r"carbontrack could not measure (ValueError: no\x1b[2J\u202eway\n, ",
    ):
        assert [line for line in lines if needed in line and visible(line) == line], needed
    text = page.read_text(encoding="utf-8")
    assert_visible(text)
    rows, notes = markdown_table(text.partition("\n\n")[2])
    assert name in {row[0] for row in rows}
    assert r"pins <b>\x1b[2J\u202e" in notes[-1]

    # pytest writes no XML that can be read where a folder has such a name
    (project.path / "test_it.py").write_text(HOSTILE_TESTS)
    project.run_apart("--junitxml=junit.xml", "test_it.py", PYTHONIOENCODING="utf-8")
    properties = project.properties()["test_over"]
    assert properties["carbon_metric"] == r"me\x1b[2J\u202etric"


def test_a_project_s_mistakes_in_hostile_words(project: Project) -> None:
    """Options, settings and markers that cannot be used are told in lines of text."""
    folder = project.path / "ev\x1b[2J\u202eil"
    folder.mkdir()
    (folder / "test_it.py").write_text(
        "import pytest\n@pytest.mark.carbon_budget()\ndef test(): pass\n"
    )
    for arguments, environ in (
        (["--carbon-csv=a\x1b[2J\u202e/no/b.csv"], {}),
        (["--carbon"], {"CARBONTRACK_SCOPE": "no\x1b[2J\u202eplace"}),
        (["--import-mode=importlib"], {}),
    ):
        done = project.run_apart(*arguments, PYTHONIOENCODING="utf-8", **environ)
        assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
        told = done.stdout + done.stderr
        lines = [line for line in lines_of(told) if "ERROR" in line and "carbon" in line]
        assert lines
        assert not set("".join(lines)) & set("\x1b\u202e")


# -- what the table is for -----------------------------------------------------------------------


def test_the_table_has_what_it_is_to_hold() -> None:
    """Each kind of character that steers or hides is in it, and what people write."""
    every = "".join(TEXTS)
    for sign in "\0\a\b\t\n\r\x1b\x7f\x85\x9b\u061c\u200b\u200d\u200e\u202e\u2028\u2066\ufeff":
        assert sign in every
    assert {"\U000e0068", "\udcff"} <= set(every)
    assert set(dict(BINARY.values())) <= set(TEXTS)
