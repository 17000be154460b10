"""Processes that end in every way, disks that refuse: what was finished is there, once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from carbontrack.errors import SinkError
from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.journal.journal import RUN, SEND, Journal, leftover_journals, record_in
from carbontrack.sinks.journal.recovery import recover
from tests.support.records import a_record
from tests.support.said import said

ROOT = Path(__file__).parents[3]
URL = "https://carbon.example/records"

WRITER = """
import os, sys
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.csv_file import CsvSink
from tests.support.records import a_record

state, place, writer = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
journal, sink = Journal(state), CsvSink(place)
outputs = [place, "https://carbon.example/records"]
number = 0
while True:
    run = writer * 1_000_000 + number
    journal.checkpoint(a_record(run, energy_kwh=0.0), outputs)
    os.write(1, b"opened %d\\n" % run)
    for step in range(1, 4):
        journal.checkpoint(a_record(run, energy_kwh=float(step)), outputs)
    journal.enqueue(a_record(run, energy_kwh=4.0), outputs[1])
    os.write(1, b"waiting %d\\n" % run)
    sink.write(a_record(run, energy_kwh=4.0))
    journal.finished(a_record(run).record_id)
    os.write(1, b"closed %d\\n" % run)
    number += 1
"""


def kill_at_random(tmp_path: Path, times: int, chance: random.Random) -> dict[str, set[str]]:
    """Kill a writer again and again; the ids of its runs by how far they had come, as it said."""
    told = {"opened": set[str](), "waiting": set[str](), "closed": set[str]()}
    for turn in range(times):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "state", tmp_path / "runs.csv", str(turn)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        timer = threading.Timer(chance.uniform(0.0, 0.05), writer.kill)
        timer.start()
        rest, _ = writer.communicate()
        timer.join()
        assert writer.returncode == -signal.SIGKILL
        for line in (first + rest).decode().splitlines():
            word, number = line.split()
            told[word].add(a_record(int(number)).record_id)
    return told


@pytest.mark.parametrize(
    "times", [15, pytest.param(200, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_kill_at_any_instant_costs_no_record(tmp_path: Path, times: int) -> None:
    """Every finished record is there once, every open run is recovered, every journal readable."""
    told = kill_at_random(tmp_path, times, random.Random(times))
    opened, closed = told["opened"], told["closed"]
    state, place = tmp_path / "state", tmp_path / "runs.csv"
    bad_lines = 0
    for file in leftover_journals(state):
        bad_lines += file.bad_lines
        file.close()
    recovered = recover(state)
    skipped: list[str] = []
    rows = list(iter_records(place, on_skip=skipped.append))
    finished = Counter(row.record_id for row in rows if row.status != "recovered")
    waiting = {
        key[2]: record_in(file, key) for file in leftover_journals(state) for key in file.keys(SEND)
    }
    whole = {found for found, record in waiting.items() if record and record.status == "ok"}
    print(f"\n{times} kills: {len(closed)} records finished, {len(recovered)} runs recovered")

    assert len(closed) > times
    assert closed <= set(finished)
    assert set(finished.values()) == {1}
    assert opened <= {row.record_id for row in rows}
    assert opened <= set(waiting)
    assert closed <= told["waiting"] <= whole  # killed before it noted it as finished, or after
    assert all(recovered_.trouble is None for recovered_ in recovered)
    # A row that crosses a page of the file may be cut there: the kernel looks for a fatal signal
    # between two pages of one write. Its record was not finished then, and has been recovered.
    assert len(skipped) <= times // 10
    assert bad_lines <= times  # at most the one line that each kill tore
    assert recover(state) == []


ENDINGS = {
    "normal": "pass",
    "normal without close": "import threading",
    "sys.exit": "sys.exit(3)",
    "exception": "1 / 0",
    "SIGINT": "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "os._exit": "os._exit(0)",
    "abort": "os.abort()",
    "exec": "os.execv('/bin/true', ['true'])",
    "forked child": (
        "import multiprocessing as m; p = m.get_context('fork').Process(target=work, args=(100,));"
        "p.start(); p.join()"
    ),
    "pool worker": (
        "import concurrent.futures as c, multiprocessing as m\n"
        "with c.ProcessPoolExecutor(1, mp_context=m.get_context('fork')) as pool:\n"
        "    pool.submit(work, 100).result()"
    ),
}
ENDING_SCRIPT = """
import os, signal, sys, time, warnings
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.csv_file import CsvSink
from tests.support.records import a_record

warnings.simplefilter("ignore")
journal, sink = Journal(Path(sys.argv[1])), CsvSink(sys.argv[2])

def work(first):
    journal.checkpoint(a_record(first + 50), [sys.argv[2]])
    for number in range(first, first + 50):
        journal.checkpoint(a_record(number), [sys.argv[2]])
        sink.write(a_record(number))
        journal.finished(a_record(number).record_id)

work(0)
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_twelve_endings(tmp_path: Path, ending: str) -> None:
    """However a process ends, its 50 records are there and its open run is recovered."""
    place = tmp_path / "runs.csv"
    subprocess.run(
        [sys.executable, "-c", ENDING_SCRIPT + ENDINGS[ending], tmp_path / "state", place],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    recover(tmp_path / "state")
    firsts = (0, 100) if "child" in ending or "worker" in ending else (0,)
    rows = list(iter_records(place))
    statuses = {row.record_id: row.status for row in rows}

    for first in firsts:
        assert all(
            statuses[a_record(number).record_id] == "ok" for number in range(first, first + 50)
        )
        assert statuses[a_record(first + 50).record_id] == "recovered"
    assert len(rows) == len(firsts) * 51


RECOVERER = """
import sys
from pathlib import Path
from carbontrack.sinks.journal.recovery import recover

sys.stdin.readline()
print(len(recover(Path(sys.argv[1]))))
"""


def test_twenty_recover_at_once(tmp_path: Path) -> None:
    """However many start together, each run left behind is recovered by one of them."""
    place = tmp_path / "runs.csv"
    for number in range(200):
        journal = Journal(tmp_path / "state")
        journal.checkpoint(a_record(number), [str(place)])
        journal.close()
    recoverers = [
        subprocess.Popen(
            [sys.executable, "-c", RECOVERER, tmp_path / "state"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(20)
    ]
    for recoverer in recoverers:
        assert recoverer.stdin is not None
        recoverer.stdin.write("\n")
        recoverer.stdin.flush()
    counts = [int(recoverer.communicate()[0]) for recoverer in recoverers]

    assert sum(counts) == 200
    assert Counter(row.record_id for row in iter_records(place)) == Counter(
        a_record(number).record_id for number in range(200)
    )
    assert list((tmp_path / "state" / "journal").iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
from carbontrack.sinks.journal.journal import Journal
from tests.support.records import a_record

journal = Journal(Path(sys.argv[1]))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
kept = sum(journal.enqueue(a_record(number), "https://carbon.example/") for number in range(10))
journal.checkpoint(a_record(100), [])
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
kept += sum(journal.enqueue(a_record(number), "https://carbon.example/") for number in (10, 11))
print(kept)
"""


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_costs_only_what_did_not_fit(tmp_path: Path, room: int) -> None:
    """The journal says what it could not keep, and goes on, readable, when there is room."""
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(room)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (file,) = leftover_journals(tmp_path)

    assert len(said(ran.stderr)) == 1
    assert "the journal" in ran.stderr
    assert len(file.keys(SEND)) == int(ran.stdout)
    assert 2 <= int(ran.stdout) < 12
    assert file.keys(RUN) == []
    assert file.bad_lines == 0
    file.close()


def on_read_only(directory: Path) -> bool:
    """Mount a read-only file system there, if this user may."""
    options = ["-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(directory)]
    ran = subprocess.run(["mount", *options], capture_output=True, check=False)
    return ran.returncode == 0


def test_a_read_only_disk_stops_nobody(tmp_path: Path) -> None:
    """Where nothing can be written, the journal says so by its answer and raises nothing."""
    place = tmp_path / "ro"
    place.mkdir()
    if not on_read_only(place):
        pytest.skip("only root may mount")
    try:
        journal = Journal(place / "state")
        answers = [journal.enqueue(a_record(), URL), journal.checkpoint(a_record(), [])]
        journal.finished(a_record().record_id)
        journal.delivered(URL, [a_record().record_id])
        journal.close()
    finally:
        subprocess.run(["umount", str(place)], check=True)

    assert answers == [False, False]


def test_a_small_disk_that_fills_up(tmp_path: Path) -> None:
    """On a real file system of 64 KiB, every row is written, waits, or is counted as lost."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount")
    lost = 0
    try:
        (place / "ballast").write_bytes(b"x" * 20_000)
        sink = CsvSink(place / "runs.csv")
        for number in range(1500):
            try:
                sink.write(a_record(number))
            except SinkError:
                lost += 1
        written = list(iter_records(place / "runs.csv"))
        waiting = sink.pending_ids
        (place / "ballast").unlink()
        sink.write(a_record(1500))
        after = list(iter_records(place / "runs.csv"))
    finally:
        subprocess.run(["umount", str(place)], check=True)

    assert 0 < len(written) < 500
    assert len(written) + len(waiting) + lost == 1500
    assert lost > 0
    assert len(after) > len(written)
    assert [row.record_id for row in after] == [a_record(n).record_id for n in range(len(after))]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.xdist_group("serial")
def test_nothing_grows_with_the_number_of_records(tmp_path: Path) -> None:
    """After ten thousand runs there is no further descriptor or thread, and one small file."""
    journal, sink = Journal(tmp_path / "state"), CsvSink(tmp_path / "runs.csv")

    def runs(first: int, last: int) -> None:
        for number in range(first, last):
            journal.checkpoint(a_record(number), [str(sink.path)])
            sink.write(a_record(number))
            journal.finished(a_record(number).record_id)

    runs(0, 10)
    before = (descriptors(), threading.active_count())
    runs(10, 10_000)
    (file,) = (tmp_path / "state" / "journal").iterdir()

    assert (descriptors(), threading.active_count()) == before
    assert file.stat().st_size < 300_000
    journal.close()
