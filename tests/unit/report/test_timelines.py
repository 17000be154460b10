"""Timelines in their files: written beside the records, read back, and kept apart from them."""

from __future__ import annotations

import json
import math

import pytest

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.record import timeline_path
from carbontrack.report.charts import run_power
from carbontrack.report.frame import load
from carbontrack.report.timelines import RunTimeline, iter_timelines, largest
from carbontrack.sinks.timelines import TimelineFiles
from carbontrack.testing import build_powercap
from carbontrack.tracking.timeline import Timeline, timeline_object, with_timeline
from tests.support.records import HOSTILE, a_record

TIMELINE = Timeline(
    (0.0, 1.0, 2.5),
    {"cpu": (0.0, 0.1, 0.1 + 0.2), "ram": (0.0, 1.0, 1.0)},
    {"cpu": (1.0, 1.5), "ram": (1.0, 0.0)},
)


def test_a_timeline_comes_back_as_it_was(tmp_path):
    """Energy to the last bit, whatever the run is called; the records' file names it too."""
    output = tmp_path / "runs.csv"
    files = TimelineFiles([output, output.with_suffix(".jsonl")])
    for number, name in enumerate(HOSTILE):
        files.write(timeline_object(a_record(number, name=name), TIMELINE))
    found = list(iter_timelines(output))
    assert [run.name for run in found] == HOSTILE
    assert {run.record_id for run in found} == {a_record(n).record_id for n in range(len(HOSTILE))}
    assert all(run.timeline == TIMELINE for run in found)
    assert timeline_path(output).name == "runs.timeline.jsonl"


def test_a_torn_line_is_passed_over(tmp_path):
    """What a killed writer left, and what never was a timeline, harms no other line."""
    place = tmp_path / "runs.timeline.jsonl"
    TimelineFiles([tmp_path / "runs.csv"]).write(timeline_object(a_record(), TIMELINE))
    whole = place.read_bytes()
    odd = json.loads(whole) | {"edges_s": [0.0]}
    lines = [b"[]\n", json.dumps(odd).encode() + b"\n", b"null\n", whole, whole[:40]]
    place.write_bytes(b"".join(lines))
    skipped = []
    assert len(list(iter_timelines(place, on_skip=lambda: skipped.append(1)))) == 1
    assert len(skipped) == 4


def test_the_frame_has_a_row_for_each_bin_and_component(tmp_path):
    """Times in UTC, watts missing in a gap, and a run that is there twice counted once."""
    files = TimelineFiles([tmp_path / "runs.csv"])
    for _ in range(2):
        files.write(timeline_object(a_record(started_at="2026-11-24T03:00:00Z"), TIMELINE))
    frame = carbontrack.read_timeline(tmp_path / "runs.csv")
    assert list(frame["component"]) == ["cpu", "ram", "cpu", "ram"]
    assert str(frame["at"][2]) == "2026-11-24 03:00:01+00:00"
    assert frame["watts"].isna().tolist() == [False, False, False, True]
    assert math.fsum(frame.loc[frame["component"] == "ram", "energy_j"]) == 1.0


def test_reading_nothing_is_an_error_that_says_so(tmp_path):
    """No path, and a path without a file."""
    with pytest.raises(ConfigError, match="needs a file"):
        carbontrack.read_timeline()
    with pytest.raises(OSError, match=r"runs\.timeline\.jsonl"):
        carbontrack.read_timeline(tmp_path / "runs.csv")


def test_a_report_does_not_take_timelines_for_records(tmp_path):
    """In a directory they are ignored; where one is named, the message says what to name."""
    output = tmp_path / "runs.jsonl"
    TimelineFiles([output]).write(timeline_object(a_record(), TIMELINE))
    output.write_text(json.dumps(a_record().to_row()) + "\n")
    loaded = load([tmp_path])
    assert (len(loaded.frame), loaded.skipped_lines) == (1, 0)
    with pytest.raises(ConfigError, match="name the file of records next to it"):
        load([timeline_path(output)])


def test_the_page_shows_the_runs_that_used_most(tmp_path):
    """Runs of the data, each once, the largest first; timelines of other runs are not drawn."""
    output = tmp_path / "runs.jsonl"
    records = [a_record(n, energy_kwh=float(n % 7)) for n in range(10)]
    output.write_text("".join(json.dumps(record.to_row()) + "\n" for record in records))
    stranger = RunTimeline("stranger", "x", "", TIMELINE)
    runs = [RunTimeline(record.record_id, record.name, "", TIMELINE) for record in records]
    found = largest([stranger, *runs, *runs], load([output]).frame, 3)
    ids = [record.record_id for record in records]
    assert [ids.index(run.record_id) % 7 for run in found] == [6, 5, 4]


def test_a_timeline_without_a_figure_is_not_drawn():
    """No chart is better than an empty one."""
    assert run_power(RunTimeline("a", "a", "", Timeline((0.0, 1.0)))) is None
    assert run_power(RunTimeline("a", "a", "", Timeline(()))) is None
    silent = Timeline((0.0, 1.0), {"cpu": (0.0, 0.0)}, {"cpu": (0.0,)})
    assert run_power(RunTimeline("a", "a", "", silent)) is None


def test_the_setting_leads_to_a_file_whose_sums_are_the_records(tmp_path):
    """From `track(timeline=True)` to the file beside the output: the energies are the same."""
    root, output = tmp_path / "sys", tmp_path / "runs.csv"
    build_powercap(root)
    with carbontrack.track(
        "a", timeline=True, output=output, sysfs_path=root, interval_s=0.01,
        state_dir=tmp_path, region="FR",
    ) as run:  # fmt: skip
        while len({row.start_s for row in run.timeline()}) < 5:
            run.snapshot()
    (found,) = iter_timelines(output)
    assert found.record_id == run.record.record_id
    assert found.timeline.energy_j == with_timeline(run)[1].energy_j
    for component, joules in found.timeline.energy_j.items():
        assert joules[-1] / 3.6e6 == getattr(run.record, f"{component}_kwh")
