"""CodeCarbon's trackers in whole programs: what they leave in files, processes and signals."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.testing import Zone, build_powercap

JOULES = 6.0
"""What the processor uses in a tenth of a second, as its limit of power allows."""
PROGRAM = """
import gc, json, os, signal, sys, time
from pathlib import Path
events = []
sys.addaudithook(lambda event, given: event in ("socket.connect", "socket.getaddrinfo")
                 and events.append(event))
handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
from carbontrack.compat.codecarbon import EmissionsTracker, OfflineEmissionsTracker
counter = Path(os.environ["CARBONTRACK_SYSFS_PATH"],
               "devices/virtual/powercap/intel-rapl/intel-rapl:0/energy_uj")
def use(joules):
    time.sleep(0.1)
    counter.write_text(str(int(counter.read_text()) + int(joules * 1e6)))
"""
QUIET = """
tracker = EmissionsTracker(force_carbon_intensity_g_co2e_kwh=500, allow_multiple_runs=False)
tracker.start()
use(6)
emissions = tracker.stop()
print(json.dumps([emissions, events, handlers == {n: signal.getsignal(n) for n in handlers}]))
"""
RAISES = """
def main():
    tracker = OfflineEmissionsTracker(country_iso_code="FRA")
    tracker.start()
    use(6)
    raise KeyError("lost")
try:
    main()
except KeyError:
    gc.collect()
raise RuntimeError("uncaught")
"""
FORKS = """
tracker = EmissionsTracker()
tracker.start()
use(6)
for last in (lambda: None, tracker.stop):
    child = os.fork()
    if not child:
        print(json.dumps(last()), flush=True)
        sys.exit()
    os.waitpid(child, 0)
tracker.stop()
"""
WORKER = """
import multiprocessing
def work():
    tracker = EmissionsTracker(project_name="worker")
    tracker.start()
    use(6)
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
"""


def run(
    folder: Path, program: str, **environ: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run a program on simulated hardware, in an empty folder."""
    work, home = folder / "work", folder / "home"
    work.mkdir()
    home.mkdir()
    tree = build_powercap(folder / "sys", [Zone("package-0", "intel-rapl:0", range_uj=10**15)])
    found = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program],
        cwd=work,
        env={
            **found,
            "HOME": str(home),
            "CARBONTRACK_SYSFS_PATH": str(tree.sysfs),
            "CARBONTRACK_STATE_DIR": str(folder / "state"),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, work


def rows(work: Path) -> list[dict[str, str]]:
    """The rows of CodeCarbon's file."""
    with (work / "emissions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_row_and_nothing_else(tmp_path: Path) -> None:
    """No look-up on the network, no lock file, no handler of signals, nothing but the file."""
    done, work = run(tmp_path, QUIET)
    assert done.returncode == 0, done.stderr
    emissions, events, same_handlers = json.loads(done.stdout)
    [row] = rows(work)
    assert float(row["cpu_energy"]) == pytest.approx(JOULES / 3.6e6)
    assert emissions == float(row["emissions"])
    assert emissions == pytest.approx(float(row["energy_consumed"]) * 0.5)
    assert (events, same_handlers) == ([], True)
    assert [path.name for path in work.iterdir()] == ["emissions.csv"]
    assert list((tmp_path / "home").iterdir()) == []
    assert "allow_multiple_runs=False creates no lock file here" in done.stderr


def test_an_exception_leaves_a_row(tmp_path: Path) -> None:
    """Uncaught or not, also of a tracker that the program has dropped."""
    done, work = run(tmp_path, RAISES)
    assert "RuntimeError: uncaught" in done.stderr
    [row] = rows(work)
    assert float(row["cpu_energy"]) >= JOULES / 3.6e6 * (1.0 - 1e-9)
    assert row["country_iso_code"] == "FRA"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_writes_no_row_of_its_parents(tmp_path: Path) -> None:
    """Neither at its end nor when it calls `stop`."""
    # the counter stands still while the children end, and a model takes over after a while
    done, work = run(tmp_path, FORKS)
    assert done.stdout.split() == ["null", "null"], done.stderr
    [row] = rows(work)
    assert float(row["cpu_energy"]) >= JOULES / 3.6e6 * (1.0 - 1e-9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_worker_that_does_not_stop_leaves_a_row(tmp_path: Path) -> None:
    """Though multiprocessing runs no `atexit` functions in its workers."""
    done, work = run(tmp_path, WORKER)
    assert done.returncode == 0, done.stderr
    assert [row["project_name"] for row in rows(work)] == ["worker"]


def test_carbontracks_own_record_stands_beside_where_it_was_asked_for(tmp_path: Path) -> None:
    """It says what the row cannot, and its label leads to the row."""
    done, work = run(tmp_path, QUIET, CARBONTRACK_OUTPUT="own.csv")
    assert done.returncode == 0, done.stderr
    with (work / "own.csv").open(newline="", encoding="utf-8") as file:
        [own] = csv.DictReader(file)
    assert json.loads(own["labels"]) == {"codecarbon_run_id": rows(work)[0]["run_id"]}
    assert float(own["cpu_kwh"]) == pytest.approx(JOULES / 3.6e6)
    assert own["cpu_basis"] == "measured"


def test_disabled_nothing_is_written(tmp_path: Path) -> None:
    """CARBONTRACK_DISABLE turns it into a no-op; what it returns can still be printed."""
    done, work = run(tmp_path, QUIET, CARBONTRACK_DISABLE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0.0, [], True]
    assert list(work.iterdir()) == []
