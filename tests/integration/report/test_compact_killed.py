"""`carbontrack compact` that is killed, meets a full disk, or another one at the same archive."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from carbontrack.report.archive.compact import compact
from tests.support.archives import cells_in, contents_of, rows_in, write_source
from tests.support.records import a_record

MONTHS = 2
COMMAND = "from carbontrack.cli import main; raise SystemExit(main())"
AT_EVENT = """
import os, signal, sys
sys.path.insert(0, {root!r})
import carbontrack.report.archive.compact, carbontrack.cli.compact, duckdb, pyarrow.parquet
from carbontrack.cli import main
def hook(event, args):
    global left
    if event not in ("os.rename", "os.link", "shutil.rmtree"):
        return
    if not any(".compacting" in str(a) or "month=" in str(a) or "runs.csv" in str(a) for a in args):
        return
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
for line in sys.stdin:
    left = int(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)
        sys.addaudithook(hook)
        os._exit(main(sys.argv[1:]))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""For each number read, the command: killed before it renames, links or removes for that time.

Each is a process of its own, forked once all is imported, which takes longer than the command.
"""
LIMITED = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from carbontrack.errors import SinkError
from carbontrack.report.archive.compact import compact
def fill(_=None):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
if not {later}:
    fill()
try:
    compact([Path(sys.argv[1])], Path(sys.argv[2]), on_source=fill)
except SinkError as error:
    raise SystemExit(f"told: {{error}}")
"""
ROOT = Path(__file__).parents[3]


def records_of(numbers: range, *, status: str = "ok") -> list:
    """Records in some months."""
    return [
        a_record(
            number,
            status=status,
            started_at=f"2026-{number % MONTHS + 1:02d}-03T00:00:00.{number:06d}Z",
            ended_at=f"2026-{number % MONTHS + 1:02d}-03T00:00:09.000000Z",
            labels={"n": number},
        )
        for number in numbers
    ]


@pytest.fixture
def before(tmp_path) -> Path:
    """A folder with an archive of checkpoints, and a file of what replaces them, and more."""
    first = write_source(tmp_path / "first.csv", records_of(range(20), status="recovered"))
    compact([first], tmp_path / "archive")
    write_source(tmp_path / "second.csv", records_of(range(40)))
    return tmp_path


@contextmanager
def command_at_events(*arguments: str) -> Iterator[Callable[[int], bool]]:
    """A call runs the command: whether it was killed before that change, or has done its work."""
    with subprocess.Popen(
        [sys.executable, "-c", AT_EVENT.format(root=str(ROOT)), "compact", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def killed_at(after: int) -> bool:
            print(after, file=process.stdin, flush=True)
            code = process.stdout.readline()
            assert code in ("0\n", f"{-signal.SIGKILL}\n")
            return code != "0\n"

        yield killed_at


def state_of(folder: Path) -> dict[str, tuple[int, set[str]]]:
    """By month, how many rows there are, and their statuses."""
    found: dict[str, tuple[int, set[str]]] = {}
    for row in rows_in(folder):
        count, statuses = found.get(row["month"], (0, set()))
        found[row["month"]] = (count + 1, statuses | {row["status"]})
    return found


OLD = {f"2026-{n + 1:02d}": (10, {"recovered"}) for n in range(MONTHS)}
NEW = {f"2026-{n + 1:02d}": (20, {"ok"}) for n in range(MONTHS)}


def test_a_killed_run_leaves_the_old_state_or_the_new_one(before):
    """Before whichever of its changes: a reader sees each month as it was, or as it is to be.

    The next run, whatever its sources, finds one state or the other, and leaves nothing behind.
    """
    archive, second = before / "archive", str(before / "second.csv")
    saved = contents_of(archive)
    compact([before / "second.csv"], archive)
    expected = contents_of(archive)
    found = []
    with command_at_events(second, "--into", str(archive)) as killed_at:
        for after in range(100):
            for name in expected:
                (archive / name).write_bytes(saved[name])
            was_killed = killed_at(after)
            for month, seen in state_of(archive).items():
                assert seen in (OLD[month], NEW[month])
            compact([before / "first.csv"], archive)  # brings in nothing that is not there
            state = contents_of(archive)
            assert state in (saved, expected), after
            found.append(state == expected)
            if not was_killed:
                break
    assert found[0] is False
    assert found[-1] is True
    assert found == sorted(found), "what is once committed stays"
    assert len(found) > 2 * MONTHS


def test_a_run_that_is_killed_at_any_time_loses_nothing(before):
    """Killed again and again, and started again, it comes to the state of one that was not."""
    archive, second = before / "archive", before / "second.csv"
    command = [sys.executable, "-c", COMMAND, "compact", str(second), "--into", str(archive)]
    chance = Random(21)
    for _ in range(6):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.1, 1.2))
        process.kill()
        process.wait()
        for month, seen in state_of(archive).items():
            assert seen in (OLD[month], NEW[month])
    compact([second], archive)
    compact([before / "first.csv", second], before / "other")
    assert contents_of(archive) == contents_of(before / "other")


def test_a_csv_file_is_there_whole_or_not_at_all(before):
    """And what a killed run has left beside it is gone after the next."""
    archive, out = str(before / "archive"), before / "runs.csv"
    with command_at_events(archive, "--into", str(out)) as killed_at:
        for after in range(100):
            out.unlink(missing_ok=True)
            was_killed = killed_at(after)
            if out.exists():
                assert cells_in(out) == cells_in(before / "first.csv")
            if not was_killed:
                break
    assert after > 2
    assert sorted(p.name for p in before.iterdir()) == [
        "archive", "first.csv", "runs.csv", "second.csv",
    ]  # fmt: skip


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("limit", [10, 5_000])
def test_a_full_disk_leaves_the_archive_as_it_was(before, limit, later):
    """It is said, and nothing stays of what did not fit."""
    archive = before / "archive"
    saved = contents_of(archive)
    script = LIMITED.format(root=str(ROOT), limit=limit, later=later)
    done = subprocess.run(
        [sys.executable, "-c", script, str(before / "second.csv"), str(archive)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("told: "), done.stderr
    assert contents_of(archive) == saved


def test_runs_at_the_same_archive_follow_each_other(tmp_path):
    """Each adds its own, also where none has made the folder yet."""
    processes = []
    for number in range(3):
        source = write_source(
            tmp_path / f"{number}.csv", records_of(range(number * 10, number * 10 + 15))
        )
        arguments = ["compact", str(source), "--into", str(tmp_path / "archive")]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", COMMAND, *arguments], cwd=ROOT, stderr=subprocess.PIPE
            )
        )
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0, 0]
    ids = [row["record_id"] for row in rows_in(tmp_path / "archive")]
    assert sorted(ids) == sorted(f"run-7f3a:{n}" for n in range(35))
