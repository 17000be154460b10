"""What a notebook shows of records, spans and frames: true, escaped, and never in the way."""

from __future__ import annotations

import copy
import pickle

import pandas as pd
import pytest

import carbontrack
from carbontrack.report.notebook import MOST_ROWS
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.tracking.noop import NoOpSpan
from tests.support.bench import Bench
from tests.support.records import HOSTILE, a_record


def frame_of(tmp_path, *records):
    path = tmp_path / "runs.csv"
    path.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    return carbontrack.read_records(path)


def test_a_record_shows_its_figures_with_their_intervals():
    """Energy and CO2e with both ends, the parts and how each is known, the grid and its source."""
    shown = a_record(
        cpu_basis="modelled", emissions_low_g=0.0004, emissions_high_g=0.001
    )._repr_html_()
    for text in ("54.0 J (36.0 to 72.0 J)", "0.84 mg (0.40 to 1.00 mg)", "CPU 45.0 J modelled",
                 "FR, 56 g CO2e/kWh, test table, 2024", "train", "1.5 s, ok"):  # fmt: skip
        assert text in shown


def test_what_is_modelled_says_where_it_ends(tmp_path):
    """In a record's row of energy, and beside the sum of a frame; not where all is measured."""
    modelled = a_record(basis="modelled", cpu_basis="modelled")
    measured = a_record(basis="measured", cpu_basis="measured")
    for shown in (modelled._repr_html_(), frame_of(tmp_path, modelled)._repr_html_()):
        assert "CPU and memory, not wall power" in shown
    for shown in (measured._repr_html_(), frame_of(tmp_path, measured)._repr_html_()):
        assert "not wall power" not in shown


def test_what_is_unknown_is_called_so():
    """A record without figures has words in their place."""
    shown = a_record(energy_kwh=None, emissions_g=None, duration_s=None)._repr_html_()
    assert shown.count("unknown") == 2


@pytest.mark.parametrize("name", [*HOSTILE, "<script>alert(1)</script>", "</td><img src=x>"])
def test_names_are_inert(tmp_path, name):
    """Whatever a run is called, no tag of its making reaches the page."""
    record = a_record(name=name, error=name, region=name)
    frame = frame_of(tmp_path, record)
    for shown in (record._repr_html_(), frame._repr_html_()):
        assert "<script" not in shown
        assert "<img" not in shown


def test_a_span_shows_what_there_is():
    """Not opened, open and closed: a word, the figures so far, the record."""
    with Bench() as bench:
        span = bench.tracker.span("<a>")
        assert span._repr_html_() == "<code>&lt;Span &#x27;&lt;a&gt;&#x27; not opened&gt;</code>"
        with span:
            bench.run(10.0)
            assert "still open" in span._repr_html_()
            assert "1.00 kJ" in span._repr_html_()
        assert span._repr_html_() == span.record._repr_html_()
    with NoOpSpan("off") as off:
        assert "off" in off._repr_html_()
    assert "disabled" in off._repr_html_()


def test_the_frame_shows_rows_and_the_sum_of_the_outer_ones(tmp_path):
    """What lies inside another run is in that one's figures already."""
    outer = a_record(0, energy_kwh=2.0 / 3.6e6, emissions_g=2.0)
    inner = a_record(1, parent_id=outer.record_id, energy_kwh=1.0 / 3.6e6, emissions_g=1.0)
    shown = frame_of(tmp_path, outer, inner)._repr_html_()
    assert "2 records, 1 of them nested in others: 2.00 J, 2.00 g CO2e" in shown
    assert shown.count("<tr>") == 3


def test_a_long_frame_shows_its_beginning(tmp_path):
    """The first rows and how many more there are; an empty one has no figures."""
    many = [a_record(n, name=f"run {n}") for n in range(MOST_ROWS + 5)]
    shown = frame_of(tmp_path, *many)._repr_html_()
    assert shown.count("<tr>") == MOST_ROWS + 1
    assert "5 more records" in shown
    assert "0 records: unknown energy" in frame_of(tmp_path)._repr_html_()


def test_the_frame_is_pandas_own_in_every_other_way(tmp_path):
    """Selections, copies and pickles are plain; one that lost columns is shown as pandas does."""
    frame = frame_of(tmp_path, a_record())
    assert isinstance(frame, pd.DataFrame)
    assert type(frame[["name"]]) is pd.DataFrame
    assert type(frame.copy()) is pd.DataFrame
    back = pickle.loads(pickle.dumps(frame))
    assert type(back) is pd.DataFrame
    assert back.attrs == frame.attrs
    pd.testing.assert_frame_equal(frame, back)
    pd.testing.assert_frame_equal(copy.deepcopy(frame), back)
    assert repr(frame) == repr(back)
    del frame["name"]
    assert "dataframe" in frame._repr_html_()
