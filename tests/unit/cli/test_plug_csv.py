"""A smart plug's file, read as plugs write it, and paired with our records."""

import pytest

from carbontrack.cli.calibrate import mean_w, paired, read_plug
from carbontrack.errors import ConfigError
from carbontrack.record import Record

T0 = 1_790_000_000.0  # 2026-09-21T14:13:20Z


@pytest.mark.parametrize(
    "text",
    [
        f"timestamp,watts\n{T0},60\n{T0 + 10},80\n",
        "entity_id,State,last_changed\nplug,60,2026-09-21T14:13:20Z\n"
        "plug,unavailable,2026-09-21T14:13:25Z\nplug,80,2026-09-21T14:13:30.000+00:00\n",
        "\ufeffTime,Power\n2026-09-21 16:13:30+02:00,80\n2026-09-21 16:13:20+02:00,60\n",
    ],
)
def test_files_of_several_makes_are_understood(tmp_path, text):
    """Epoch or ISO 8601, any order, gaps named as such, with a byte-order mark or without."""
    path = tmp_path / "plug.csv"
    path.write_text(text, encoding="utf-8")
    assert read_plug(path) == [(T0, 60.0), (T0 + 10, 80.0)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column of times: its header is empty"),
        ("a,b\n1,2\n", "no column of times: its header is a, b"),
        ("time,b\n1,2\n", "no column of watts"),
        ("time,watts\n", "0 readings"),
        ("time,watts\n1,2\n", "1 readings"),
        ("time,watts\nyesterday,2\n", "line 2"),
        ("time,watts\n1,2\n2,many\n", "line 3"),
        ("time,watts\n1,2\n2,-5\n", "line 3"),
        ("time,watts\n1,2\n2\n3,4\n4\n", None),
    ],
)
def test_what_makes_no_sense_is_named_with_its_line(tmp_path, text, says):
    """What is wrong, in which file and line; a short line is a gap."""
    path = tmp_path / "plug.csv"
    path.write_text(text)
    if says is None:
        assert len(read_plug(path)) == 2
        return
    with pytest.raises(ConfigError, match=rf"plug\.csv.*{says}"):
        read_plug(path)


def test_a_missing_file_is_named(tmp_path):
    """Like any other input."""
    with pytest.raises(ConfigError, match=r"none\.csv cannot be read"):
        read_plug(tmp_path / "none.csv")


def test_a_mean_is_weighted_by_time_and_covers_all_of_it():
    """A value holds until the next one; a hole gives no mean."""
    series = [(0.0, 60.0), (10.0, 80.0), (100.0, 80.0), (1000.0, 60.0)]
    assert mean_w(series, 0.0, 20.0) == pytest.approx(70.0)
    assert mean_w(series, 5.0, 15.0) == pytest.approx(70.0)
    assert mean_w(series, 50.0, 900.0) is None
    assert mean_w(series, -50.0, 10.0) is None


def record(**columns):
    start = {"started_at": "2026-09-21T14:13:20.000000Z", "duration_s": 60.0}
    own = {"host_id": "h", "meters": "a;b", "machine_kwh": 60 * 50 / 3.6e6, "record_id": "r"}
    names = {"run_id": "r", "name": "n", "ended_at": ""}
    return Record(**(start | own | names | columns))


def test_runs_that_both_saw_become_readings():
    """Mean powers of the run; every other run is counted with the reason why it is left out."""
    series = [(T0 + 10 * n, 100.0) for n in range(10)]
    records = [
        record(),
        record(host_id="elsewhere"),
        record(parent_id="p"),
        record(meters="a"),
        record(meters="a;b;wall:rest"),
        record(duration_s=5.0),
        record(machine_kwh=None),
        record(started_at="2026-09-21T15:13:20.000000Z"),
    ]
    readings, left_out = paired(records, series, ("a", "b"), "h")
    assert [(round(r.metered_w, 9), r.wall_w) for r in readings] == [(50.0, 100.0)]
    assert sum(left_out.values()) == len(records) - 1
    assert len(left_out) == len(records) - 1
