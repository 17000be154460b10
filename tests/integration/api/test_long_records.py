"""What readers would pass over is refused before the start, and cut where it grows later."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.record import LABELS_LIMIT, NAME_LIMIT, Record, checked_labels, plain, shortened
from carbontrack.report.read import iter_records
from carbontrack.sinks.factory import sink_for
from carbontrack.sinks.journal.journal import SEND, Journal, leftover_journals, queued
from carbontrack.testing import FakeMeter
from tests.support.records import a_record

FILES = ("runs.csv", "runs.jsonl", "runs.sqlite")


def labels_of(size: int) -> dict[str, str]:
    """Labels that are so many bytes as JSON."""
    return {"a": "x" * (size - len('{"a": ""}'))}


def read(path: Path) -> Record:
    """The one record of a file, in which no line is passed over."""
    skipped: list[str] = []
    (record,) = iter_records(path, on_skip=skipped.append)
    assert skipped == []
    return record


@pytest.mark.parametrize(
    "labels",
    [
        labels_of(LABELS_LIMIT + 1),
        {"a": "é" * (LABELS_LIMIT // 2)},
        {"a": "\x01" * (LABELS_LIMIT // 6)},
        {str(n): n for n in range(10_000)},
        {"a": [[0] * 1000] * 100},
        {"k" * LABELS_LIMIT: 1},
    ],
    ids=["text", "two bytes each", "escapes", "many", "nested", "key"],
)
def test_long_labels_are_refused_at_every_door(tmp_path: Path, labels: dict[str, object]) -> None:
    """A ConfigError before anything starts, which names the limit and the longest label."""
    with carbontrack.Tracker(meters=[FakeMeter()]) as tracker, tracker.span("root") as root:
        doors = (
            lambda: carbontrack.track("x", labels=labels, output=None),
            lambda: carbontrack.track(labels=labels, output=None)(len),
            lambda: carbontrack.progress([1], labels=labels, output=None),
            lambda: tracker.span("x", labels=labels),
            lambda: root.span("x", labels=labels),
        )
        for door in doors:
            with pytest.raises(ConfigError, match=rf"at most {LABELS_LIMIT} bytes") as refused:
                door()
            assert len(str(refused.value)) < 400


def test_labels_of_the_largest_size_are_read_back(tmp_path: Path) -> None:
    """The limit itself is allowed, in every file."""
    labels = labels_of(LABELS_LIMIT)
    for name in FILES:
        path = tmp_path / name
        with carbontrack.track("x", region="FR", labels=labels, output=path):
            pass
        assert read(path).labels == labels


def test_a_long_name_is_refused(tmp_path: Path) -> None:
    """A name has at most 10,000 characters, of any kind; those are read back."""
    name = "\N{EARTH GLOBE EUROPE-AFRICA}" * NAME_LIMIT
    with carbontrack.track(name, region="FR", output=tmp_path / "runs.csv"):
        pass
    assert read(tmp_path / "runs.csv").name == name
    with carbontrack.Tracker(meters=[FakeMeter()]) as tracker:
        for door in (carbontrack.track, tracker.span, tracker.span("root").span):
            with pytest.raises(ConfigError, match=f"at most {NAME_LIMIT} characters"):
                door(name + "x")


def test_a_command_has_the_same_limits(tmp_path: Path) -> None:
    """`run --label` and `run --name` are refused before the command starts."""
    many = [f"--label=k{n}={'x' * 10_000}" for n in range(7)]
    for options in (many, ["--name", "n" * (NAME_LIMIT + 1)]):
        done = subprocess.run(
            [sys.executable, "-m", "carbontrack", "run", "--output=none", *options, "echo", "ran"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[3]), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "at most" in done.stderr
        assert len(done.stderr) < 400


class Growing:
    """An object whose text is long by the end of the block."""

    text = "short"

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize("name", FILES)
def test_labels_that_grow_in_the_block_are_cut(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The row is there, readers take it, what was short is whole, and one warning says so."""
    grows = Growing()
    with carbontrack.track(
        "x", region="FR", output=tmp_path / name, labels={"n": 1, "object": grows}
    ) as run:
        grows.text = "y" * 3_000_000
        run.labels["list"] = list(range(300_000))
        run.labels["k" * 2_000_000] = 1
        for number in range(100_000):
            run.labels[f"e{number}"] = number
    record = read(tmp_path / name)

    assert record.labels["n"] == 1
    assert record.labels["object"].startswith("yyy")
    assert record.labels["…"].endswith("labels are left out")
    assert len(json.dumps(record.labels, ensure_ascii=False).encode()) <= LABELS_LIMIT


def test_a_record_by_hand_is_cut(tmp_path: Path) -> None:
    """Sinks that a program feeds itself write no row that our reader passes over."""
    huge = a_record(name="n" * 2_000_000, error="e" * 2_000_000, meters="m" * 2_000_000)
    for name in FILES:
        sink = sink_for(tmp_path / name)
        sink.write(huge)
        sink.close()
        found = read(tmp_path / name)
        assert found.record_id == huge.record_id
        assert found.name.startswith("nnn")
        assert found.energy_kwh == huge.energy_kwh


def test_the_journal_keeps_what_is_too_long(tmp_path: Path) -> None:
    """A checkpoint and an undelivered record are cut, too, instead of being refused."""
    journal = Journal(tmp_path)
    huge = a_record(labels={"a": "x" * 5_000_000, "b": 2})
    assert journal.enqueue(huge, "https://carbon.example/")
    assert journal.checkpoint(huge, [])
    journal.close()
    (file,) = leftover_journals(tmp_path)
    (kept,) = queued(file, "https://carbon.example/", 10)
    file.close()

    assert kept.labels["b"] == 2
    assert len(file.keys(SEND)) == 1


def test_every_record_that_is_cut_fits_its_readers() -> None:
    """Even where all of its texts are long, and of characters that need an escape."""
    long = '"\n\0\udcff' * 100_000
    texts = dict.fromkeys(("name", "error", "region", "meters", "faults", "cpu_model"), long)
    cut = shortened(a_record(**texts, labels={long: long, "n": 10**5000, "m": [long] * 9}))

    from carbontrack.report.read import LINE_LIMIT
    from carbontrack.sinks.csv_file import CsvSink
    from carbontrack.sinks.jsonl import JsonlSink

    assert len(CsvSink.line_of(cut)) < LINE_LIMIT
    assert len(JsonlSink.line_of(cut)) < LINE_LIMIT


def test_plain_ends_on_everything() -> None:
    """Lists that hold themselves, mappings that raise, numbers without a text."""

    class Raising(dict):
        def items(self):
            raise RuntimeError("no")

    itself: list[object] = []
    itself.extend([itself] * 10)
    done = threading.Event()

    def convert() -> None:
        json.dumps(plain({"itself": itself, "raising": Raising(a=1), "number": -(10**9999)}))
        done.set()

    thread = threading.Thread(target=convert, daemon=True)
    thread.start()
    assert done.wait(60.0)
    assert checked_labels({"number": 10**9999}).keys() == {"number"}
