"""What others left behind costs a program nothing, however much it is, and is worked off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.file import JournalFile, entry_line
from carbontrack.sinks.journal.journal import FOLDER, LOOK_LIMIT, RUN, SEND, Journal, sparse
from carbontrack.sinks.journal.pickup import TAKE_LIMIT
from carbontrack.sinks.journal.recovery import pick_up, recover
from carbontrack.system.host import boot_id
from carbontrack.testing.receiver import Receiver
from tests.support.records import a_record
from tests.support.said import said

ROOT = Path(__file__).parents[3]
MANY = 2000

BLOCK = """
import json, os, sys, threading

state = os.environ["CARBONTRACK_STATE_DIR"]
seen = []
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.link"):
        if str(arguments[0]).startswith(state):
            seen.append([event, threading.current_thread() is threading.main_thread()])
sys.addaudithook(watch)

import carbontrack
with carbontrack.track("block", region="FR", output="rows.csv") as run:
    {inside}
at_block = len(seen)
import atexit
def tell():
    print(json.dumps([run.record.parent_id, seen[:at_block], seen[at_block:]]))
{later}
"""
# registered before ours, and so called after it
AT_EXIT = BLOCK.format(inside="pass", later="").replace(
    "import carbontrack\n",
    "import atexit\natexit.register(lambda: tell())\nimport carbontrack\n",
)


def leave_behind(state: Path, count: int, *outputs: str, pid: int = 0, begin: int = 0) -> Path:
    """The journals of so many killed processes, each with one open run that had these outputs."""
    place = state / FOLDER
    place.mkdir(parents=True, mode=0o700, exist_ok=True)
    boot = (boot_id() or "boot")[:8]
    for number in range(begin, begin + count):
        record = a_record(number)
        path = place / f"{boot}-{pid or 10_000_000 + number}-{number}.0.journal"
        entry = {"record": sparse(record), "outputs": list(outputs)}
        path.write_bytes(entry_line((RUN, record.record_id), entry))
    return place


def run(folder: Path, code: str = AT_EXIT) -> Any:
    """What a program has looked at in the state folder, up to the end of its block and after."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CARBONTRACK_STATE_DIR": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, said(done.stderr)) == (0, []), done.stderr
    return json.loads(done.stdout)


def on_main(events: list[list[Any]]) -> Counter[str]:
    """How often the program's own thread did what."""
    return Counter(event for event, is_main in events if is_main)


def test_a_start_does_not_look_at_what_others_left(tmp_path: Path) -> None:
    """The program's thread does what it does where there are none, and one look more."""
    _, without, _ = run(tmp_path / "without")
    leave_behind(tmp_path / "few" / "state", 3, str(tmp_path / "few" / "recovered.csv"))
    leave_behind(tmp_path / "many" / "state", MANY, str(tmp_path / "many" / "recovered.csv"))
    _, few, _ = run(tmp_path / "few")
    _, many, _ = run(tmp_path / "many")

    assert on_main(many) == on_main(few)
    assert sum(on_main(many).values()) <= sum(on_main(without).values()) + 2


def test_a_start_takes_a_share_and_the_next_ones_the_rest(tmp_path: Path) -> None:
    """A short program works off some in its last moment; after so many starts none is left."""
    count = 2 * TAKE_LIMIT + 5
    place = leave_behind(tmp_path / "state", count, str(tmp_path / "recovered.csv"))
    left = [count]
    while left[-1] and len(left) <= count:
        _, _, after = run(tmp_path)
        left.append(len(list(place.iterdir())))
        opened = Counter(event for event, is_main in after if not is_main)
        assert on_main(after)["os.scandir"] == 0
        assert left[-2] - TAKE_LIMIT <= left[-1] <= left[-2]
        assert opened["open"] <= 8 * TAKE_LIMIT
    rows = Counter(record.record_id for record in iter_records(tmp_path / "recovered.csv"))

    assert left[-1] == 0
    assert rows == {a_record(number).record_id: 1 for number in range(count)}


LONG = BLOCK.format(
    inside="pass",
    later="""
import time
place = os.path.join(state, "journal")
before, end_s = len(os.listdir(place)), time.monotonic() + 30.0
while len(os.listdir(place)) > before - 64 and time.monotonic() < end_s:
    time.sleep(0.01)
time.sleep(0.5)
tell()
""",
)


def test_a_program_that_goes_on_takes_no_more_than_its_share(tmp_path: Path) -> None:
    """Its thread looks at so many files, works off so many journals, and is done."""
    place = leave_behind(tmp_path / "state", MANY, str(tmp_path / "recovered.csv"))
    _, _, after = run(tmp_path, LONG)
    locked = Counter(event for event, is_main in after if not is_main)

    assert len(list(iter_records(tmp_path / "recovered.csv"))) == TAKE_LIMIT
    assert len(list(place.iterdir())) == MANY - TAKE_LIMIT
    assert locked["open"] <= LOOK_LIMIT


def test_journals_in_use_are_looked_at_within_bounds(tmp_path: Path) -> None:
    """Those of hundreds of processes that run: a start tries the locks of some of them."""
    place = leave_behind(tmp_path / "state", 0)
    held = [JournalFile.create(place, f"in-use-{number}") for number in range(LOOK_LIMIT + 100)]
    _, _, after = run(tmp_path)
    for file in held:
        file.close()

    opened = Counter(event for event, is_main in after if not is_main)
    assert LOOK_LIMIT <= opened["open"] <= LOOK_LIMIT + 2


def test_those_that_stay_do_not_starve_the_others(tmp_path: Path) -> None:
    """Behind hundreds whose output is gone, the one that can be written is found in the end."""
    place = leave_behind(tmp_path / "state", 3 * LOOK_LIMIT, str(tmp_path / "gone" / "rows.csv"))
    leave_behind(tmp_path / "state", 1, str(tmp_path / "rows.csv"), begin=3 * LOOK_LIMIT)
    for _ in range(300):
        pick_up(tmp_path / "state", most=LOOK_LIMIT)
        if (tmp_path / "rows.csv").exists():
            break
    assert len(list(iter_records(tmp_path / "rows.csv"))) == 1
    assert len(list(place.iterdir())) == 3 * LOOK_LIMIT


def test_recover_takes_all(tmp_path: Path) -> None:
    """What a start leaves is not left by the command."""
    place = leave_behind(tmp_path / "state", 3 * LOOK_LIMIT, str(tmp_path / "rows.csv"))
    assert len(recover(tmp_path / "state")) == 3 * LOOK_LIMIT
    assert list(place.iterdir()) == []


INSIDE = """
import os, subprocess, sys
import carbontrack
with carbontrack.track("outer", region="FR", output="rows.csv"):
    sys.stdout.write(subprocess.run([sys.executable, "-c", os.environ["CODE"]],
        capture_output=True, text=True, check=True, env={k: v for k, v in os.environ.items()
        if k != "CARBONTRACK_PARENT_ID"}).stdout)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs procfs")
def test_a_child_finds_its_parent_without_the_others(tmp_path: Path) -> None:
    """Its parent's journals are looked up by name: the folder is not listed for them."""
    looks = {}
    for name, count in (("few", 3), ("many", MANY)):
        folder = tmp_path / name
        leave_behind(folder / "state", count, str(folder / "recovered.csv"))
        os.environ["CODE"] = BLOCK.format(
            inside="import time; time.sleep(0.2); carbontrack.track('x').open().close()",
            later="tell()",
        )
        try:
            parent_id, looks[name], _ = run(folder, INSIDE)
        finally:
            del os.environ["CODE"]
        rows = {record.name: record for record in iter_records(folder / "rows.csv")}
        assert parent_id == rows["outer"].record_id
        assert rows["block"].parent_id == rows["outer"].record_id
        assert Counter(event for event, _ in looks[name])["os.listdir"] == 0
    assert on_main(looks["many"]) == on_main(looks["few"])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs procfs")
@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_parent_with_many_journals_is_found(tmp_path: Path, count: int) -> None:
    """Also where its open run is in one beyond those that have a number."""
    journals = [Journal(tmp_path) for _ in range(count)]
    for number, journal in enumerate(journals):
        journal.enqueue(a_record(number), "http://carbon.example/")
    record = a_record(99, scope="process", started_at="2026-01-01T00:00:00.000000Z")
    journals[-1].checkpoint(record, [])
    code = (
        "import sys; from pathlib import Path\n"
        "from carbontrack.tracking.remote_parent import RemoteParents\n"
        "parents = RemoteParents(None, Path(sys.argv[1])); parents.look()\n"
        "print(parents.parent_id, parents.holds)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    ).stdout
    for journal in journals:
        journal.delivered("http://carbon.example/", [a_record(n).record_id for n in range(count)])
        journal.finished(record.record_id)
        journal.close()

    assert found == f"{record.record_id} True\n"
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_the_records_of_killed_runs_go_to_their_server(tmp_path: Path) -> None:
    """Though a thread puts them into its queue, the sender of a new run finds them."""
    with Receiver() as receiver:
        leave_behind(tmp_path / "state", 20, receiver.url, str(tmp_path / "recovered.csv"))
        code = AT_EXIT.replace('output="rows.csv"', f"output={receiver.url!r}")
        run(tmp_path, code)
        assert {a_record(n).record_id for n in range(20)} < set(receiver.record_ids)
    assert len(list(iter_records(tmp_path / "recovered.csv"))) == 20
    assert list((tmp_path / "state" / FOLDER).iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_of_a_fork_does_not_keep_a_journal_locked(tmp_path: Path) -> None:
    """A thread may be working one off when the program forks: the child has no part in it."""
    journal = Journal(tmp_path)
    journal.enqueue(a_record(), "http://carbon.example/")
    journal.close()
    (path,) = (tmp_path / FOLDER).iterdir()
    taken = JournalFile.acquire(path)
    assert taken is not None
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    taken.abandon()
    again = JournalFile.acquire(path)
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)

    assert again is not None
    assert len(again.keys(SEND)) == 1


def test_several_at_once_share_the_work(tmp_path: Path) -> None:
    """Each journal is worked off by one of them."""
    leave_behind(tmp_path / "state", 200, str(tmp_path / "rows.csv"))
    threads = [threading.Thread(target=pick_up, args=(tmp_path / "state",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = Counter(record.record_id for record in iter_records(tmp_path / "rows.csv"))
    assert rows == {a_record(number).record_id: 1 for number in range(200)}


AT_THE_VERY_END = """
import os, sys
from pathlib import Path
from carbontrack.sinks.journal.pickup import hasten, pick_up_later
class Late:
    def __init__(self): self.me = self
    def __del__(self, write=os.write, ends=sys.is_finalizing, begin=pick_up_later, wait=hasten,
                place=Path(os.environ["CARBONTRACK_STATE_DIR"])):
        begin(place, is_ours=True)
        wait(place)
        write(1, b"true" if ends() else b"false")
Late()
"""


def test_no_thread_is_begun_when_the_interpreter_ends(tmp_path: Path) -> None:
    """Where a finalizer measures: the thread would never run, and its start would not return."""
    leave_behind(tmp_path / "state", 1, str(tmp_path / "rows.csv"))

    assert run(tmp_path, AT_THE_VERY_END) is True
    assert len(recover(tmp_path / "state")) == 1
