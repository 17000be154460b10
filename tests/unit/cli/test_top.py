"""`carbontrack top`: its table, its totals and its figures as JSON."""

from __future__ import annotations

import io
import json
import threading
from argparse import Namespace
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from carbontrack.cli.terminal import Terminal, width_of
from carbontrack.cli.top import facts, page, run
from carbontrack.sinks.journal.open_runs import OpenRun
from carbontrack.testing import FakeClock
from tests.support.records import HOSTILE, a_record

NOW = datetime(2026, 11, 24, 3, 0, 5, 500_000, tzinfo=timezone.utc)


class Sized(Terminal):
    """A terminal of a given width and encoding that holds what was said."""

    def __init__(self, columns: int = 80, encoding: str = "utf-8", **environ: str) -> None:
        super().__init__(io.TextIOWrapper(io.BytesIO(), encoding=encoding), environ=environ)
        self.columns = columns

    @property
    def size(self) -> tuple[int, int]:
        """As it was said."""
        return self.columns, 24


def two_runs(**changes):
    outer = a_record(0, name="train", run_id="a", ended_at="2026-11-24T03:00:01.500Z")
    inner = a_record(1, name="epoch", run_id="b", parent_id=outer.record_id)
    alone = a_record(2, name="other", run_id="c", **changes)
    return [OpenRun(10, outer, 100.0), OpenRun(12, alone, None), OpenRun(11, inner, 90.0)]


def test_the_table_shows_each_run_once_and_what_lies_inside_below_it():
    """Totals count the runs that lie in no other; an unknown power is a dash."""
    heading, _, head, *lines = page(two_runs(), NOW, Sized())
    assert heading == "carbontrack  3 open (1 inside others) · 100 W · 1.68 mg CO2e so far"
    assert head.split() == ["PID", "NAME", "TIME", "POWER", "ENERGY", "CO2e", "KNOWN", "SEEN"]
    assert [line.split()[:2] for line in lines] == [
        ["10", "train"],
        ["11", "epoch"],
        ["12", "other"],
    ]
    assert lines[0].endswith("4 s ago")
    assert " - " in lines[2]


def test_a_run_that_its_parent_does_not_hold_is_a_row_of_its_own():
    """It is added to the totals, shown once, and not indented."""
    outer, other, inner = two_runs()
    free = OpenRun(11, replace(inner.record, parent_holds=False), 90.0)
    heading, _, _, *lines = page([outer, other, free], NOW, Sized())
    assert heading.startswith("carbontrack  3 open · 190 W · ")
    names = [line.split()[1] for line in lines]
    assert sorted(names) == ["epoch", "other", "train"]
    assert len({line.index(name) for line, name in zip(lines, names, strict=True)}) == 1
    assert facts([outer, other, free], NOW)["energy_kwh"] == pytest.approx(4.5e-05)


def test_an_open_parent_holds_a_run_whose_checkpoint_is_younger():
    """Checkpoints of two processes are up to ten seconds apart; both runs are open now."""
    outer, _, inner = two_runs()
    later = replace(inner.record, ended_at="2026-11-24T03:00:05.000Z", host_id="here")
    runs = [OpenRun(10, replace(outer.record, host_id="here"), 100.0), OpenRun(11, later, 90.0)]
    assert facts(runs, NOW)["watts"] == 100.0


def test_ranks_of_scope_machine_are_one_machine():
    """Eight runs that each measure this machine draw what it draws."""
    machine = {"scope": "machine", "host_id": "here", "energy_kwh": 1.0}
    runs = [OpenRun(n, a_record(n, run_id=f"r-{n}", **machine), 100.0) for n in range(8)]
    found = facts(runs, NOW)
    assert (found["watts"], found["energy_kwh"]) == (pytest.approx(100.0), pytest.approx(1.0))
    assert page(runs, NOW, Sized())[0].startswith("carbontrack  8 open · 100 W · ")


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_line_is_wider_than_the_terminal(columns, encoding):
    """Whatever a run is called: columns give way, names are cut, and no cursor moves."""
    terminal = Sized(columns, encoding)
    runs = [OpenRun(n, a_record(n, name=name), 1.0) for n, name in enumerate(HOSTILE)]
    for line in page([*two_runs(), *runs], NOW, terminal):
        assert width_of(line) < columns
        assert line.isprintable()
        line.encode(encoding)


def test_a_narrow_terminal_keeps_what_matters():
    """Name, power and grams are the last to go."""
    runs = [OpenRun(1, a_record(0, name="a rather long name of a run"), 1.0)]
    head = page(runs, NOW, Sized(42))[2]
    assert head.split() == ["NAME", "POWER", "CO2e"]


def test_wide_characters_keep_the_columns_straight():
    """A name in Japanese takes two columns a character."""
    runs = [
        OpenRun(1, a_record(0, name="日本語"), 1.0),
        OpenRun(2, a_record(1, name="abcdef"), 1.0),
    ]
    *_, first, second = page(runs, NOW, Sized())
    assert width_of(first) == width_of(second)


def test_nothing_open_is_said():
    """An empty table is a sentence, and in JSON an empty list with unknown sums."""
    assert page([], NOW, Sized()) == ["no run of yours is being measured"]
    assert facts([], NOW) == {
        "at": "2026-11-24T03:00:05Z", "runs": [], "watts": None, "energy_kwh": None,
        "emissions_g": None,
    }  # fmt: skip


def test_the_facts_are_plain_and_counted_once():
    """JSON with the unrounded figures; unknown is null; the sums are those of the outer runs."""
    found = json.loads(json.dumps(facts(two_runs(emissions_g=None), NOW)))
    assert [one["pid"] for one in found["runs"]] == [10, 12, 11]
    assert found["runs"][1]["watts"] is None
    assert found["runs"][0]["seen_s_ago"] == 4.0
    assert found["watts"] == 100.0
    assert found["emissions_g"] == 0.00084


def test_a_pipe_gets_one_look(tmp_path, capsys, monkeypatch):
    """Where no cursor moves there is nothing to refresh: it prints and is done."""
    monkeypatch.setenv("CARBONTRACK_STATE_DIR", str(tmp_path))
    never = threading.Event()
    assert run(Namespace(once=False, json=False), clock=FakeClock(), over=never) == 0
    assert capsys.readouterr().out == "no run of yours is being measured\n"


def test_what_is_not_measured_has_a_line_below():
    """For each run that lacks something, by its process; the table stays as it is."""
    lacking = [
        OpenRun(10, a_record(0, faults="gpu_unmeasured:1"), 1.0),
        OpenRun(11, a_record(1, faults="reset:1"), 1.0),
    ]
    assert page(lacking, NOW, Sized())[-2:] == ["", "missing in 10: 1 GPU is not measured"]
    elsewhere = OpenRun(None, a_record(0, name="far", faults="gpu_unmeasured:1"), 1.0)
    assert page([elsewhere], NOW, Sized())[-1] == "missing in far: 1 GPU is not measured"
    assert facts(lacking, NOW)["runs"][0]["faults"] == "gpu_unmeasured:1"
    assert all(width_of(line) < 20 for line in page(lacking, NOW, Sized(20)))
