"""Reading the journals of running processes, none of which is changed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from carbontrack.sinks.journal.journal import Journal, folder, leftover_journals
from carbontrack.sinks.journal.open_entries import open_entries
from carbontrack.sinks.journal.open_runs import open_runs, started_at_s
from carbontrack.system.host import pid_namespace
from tests.support.records import a_record

OUTPUTS = ("/tmp/runs.csv",)


def looked(state_dir, **world):
    return open_runs(state_dir, **world)


def test_a_run_is_seen_with_the_power_between_its_last_checkpoints(tmp_path):
    """One kJ more in ten seconds is 100 W, whatever the mean since the start."""
    journal = Journal(tmp_path)
    first = a_record(duration_s=10.0, energy_kwh=5000.0 / 3.6e6)
    journal.checkpoint(first, OUTPUTS)
    journal.checkpoint(replace(first, duration_s=20.0, energy_kwh=6000.0 / 3.6e6), OUTPUTS)
    (run,) = looked(tmp_path)
    assert run.pid == os.getpid()
    assert run.record.duration_s == 20.0
    assert run.watts == pytest.approx(100.0)
    journal.close()


def test_an_update_is_a_checkpoint_too(tmp_path):
    """What differs from the first one is enough to know the run as it is now."""
    journal = Journal(tmp_path)
    first = a_record(duration_s=10.0, energy_kwh=5000.0 / 3.6e6)
    journal.checkpoint(first, OUTPUTS)
    for step in (1, 2):
        kwh = (5000.0 + 1000.0 * step) / 3.6e6
        journal.update(
            replace(first, duration_s=10.0 + 10.0 * step, energy_kwh=kwh, faults=None),
            OUTPUTS,
            first,
        )
    (run,) = looked(tmp_path)
    assert (run.record.duration_s, run.record.name) == (30.0, first.name)
    assert run.watts == pytest.approx(100.0)
    journal.close()


def test_what_runs_have_in_common_is_in_each_of_them(tmp_path):
    """Facts are written once, before the first run that was kept with them."""
    journal = Journal(tmp_path)
    facts = {"host_id": "h", "scope": "machine"}
    columns = {"run_id": "r", "started_at": "2026-01-01", "ended_at": "2026-01-01"}
    for number in range(2):
        own = columns | {"record_id": f"r-{number}", "name": f"run {number}"}
        journal.keep([journal.row_line({**own, "duration_s": 0.0}, facts, OUTPUTS)])
    later = {**own, "duration_s": 10.0, "energy_kwh": 5000.0 / 3.6e6}
    journal.keep([journal.row_line(later, facts, OUTPUTS)])

    (path,) = folder(tmp_path).iterdir()
    assert path.read_bytes().count(b'"host_id"') == 1
    found = looked(tmp_path)
    assert [(run.record.name, run.record.host_id) for run in found] == [
        ("run 0", "h"),
        ("run 1", "h"),
    ]
    assert [run.watts for run in found] == [None, pytest.approx(500.0)]
    entries = open_entries(path)
    assert [(one.record_id, one.scope) for one in entries] == [
        ("r-0", "machine"),
        ("r-1", "machine"),
    ]
    assert {one.pid_namespace for one in entries} == {pid_namespace()}
    journal.close()


def test_a_single_checkpoint_gives_the_mean_and_a_fresh_one_nothing(tmp_path):
    """Energy over time where there is time; at the very start the power is unknown."""
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(0, duration_s=10.0, energy_kwh=5000.0 / 3.6e6), OUTPUTS)
    journal.checkpoint(a_record(1, duration_s=0.0004, energy_kwh=1e-9), OUTPUTS)
    journal.checkpoint(a_record(2, duration_s=10.0, energy_kwh=None), OUTPUTS)
    watts = [run.watts for run in looked(tmp_path)]
    assert watts == [pytest.approx(500.0), None, None]
    journal.close()


def test_finished_runs_and_queued_records_are_not_shown(tmp_path):
    """Only what is open is."""
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(0), OUTPUTS)
    journal.enqueue(a_record(1), "https://carbon.example/")
    journal.finished(a_record(0).record_id)
    assert looked(tmp_path) == []
    journal.close()


def test_a_journal_is_read_without_a_lock_or_a_change(tmp_path):
    """Its process goes on writing, nobody acquires it, and no byte of it has changed."""
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(), OUTPUTS)
    (path,) = folder(tmp_path).iterdir()
    before, status = path.read_bytes(), path.stat()
    looked(tmp_path)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert list(leftover_journals(tmp_path)) == []
    assert journal.checkpoint(a_record(duration_s=3.0), OUTPUTS)
    journal.close()


def test_a_gone_process_is_not_shown(tmp_path):
    """Nor one of another boot, nor one whose number belongs to a younger process by now."""
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(), OUTPUTS)
    (path,) = folder(tmp_path).iterdir()
    written_s = path.stat().st_mtime
    assert looked(tmp_path, start_of=lambda pid: None) == []
    assert looked(tmp_path, boot_id="another-boot") == []
    assert looked(tmp_path, start_of=lambda pid: written_s + 60.0) == []
    assert len(looked(tmp_path, start_of=lambda pid: written_s - 60.0)) == 1
    journal.close()


def test_what_is_no_journal_is_passed_over(tmp_path):
    """Torn lines, strange files and a missing folder do no harm."""
    assert looked(tmp_path / "nowhere") == []
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(), OUTPUTS)
    (path,) = folder(tmp_path).iterdir()
    with path.open("ab") as file:
        file.write(b'deadbeef {"put":["run","x"]}\nhalf a li')
    (path.parent / "notes.txt").write_text("hello")
    (path.parent / f"{path.stem.split('-')[0]}-x-y.journal").write_text("hello")
    assert len(looked(tmp_path)) == 1
    journal.close()


def test_a_process_that_is_not_there_has_no_start():
    """A number that no process has."""
    assert started_at_s(os.getpid()) is not None
    assert started_at_s(2**30) is None
