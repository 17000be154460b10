"""Outputs in a journal that are none: said, passed over, and in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.file import entry_line
from carbontrack.sinks.journal.journal import FOLDER, RUN, SEND, sparse
from carbontrack.sinks.journal.recovery import RETRY_FOR_S, pick_up, recover
from carbontrack.testing import FakeClock
from carbontrack.testing.receiver import Receiver
from tests.support.records import a_record

ROOT = Path(__file__).parents[3]
ADDRESSES = [
    "http://[",
    "https://[::1",
    "http://",
    "http://a b/",
    "http://x:port/",
    "http://u:p@h/",
]
PATHS = ["", ".", "\0", "a\0.csv", "relative.csv", "~nobody-of-this-name/x.csv", "../x.csv",
         "x" * 5000 + ".csv", "/" + "x/" * 3000 + "y.csv", "/nonexistent/folder/x.csv",
         "/dev/full", "/dev/zero", "/proc/self/mem.csv", "/\ud800.csv", "/x.unknown",
         "nosuchplugin:somewhere", "c:x.csv"]  # fmt: skip


def killed(state: Path, *outputs: str, number: int = 1) -> Path:
    """The journal of a killed run that had these outputs."""
    place = state / FOLDER
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = a_record(number)
    path = place / f"00000000-{number}-{number}.0.journal"
    path.write_bytes(
        entry_line((RUN, record.record_id), {"record": sparse(record), "outputs": list(outputs)})
    )
    return path


def carbontrack(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "carbontrack", *arguments],
        cwd=folder,
        env=os.environ | {"CARBONTRACK_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("output", [*ADDRESSES, *PATHS], ids=lambda text: ascii(text)[:30])
def test_an_output_that_is_none_is_said_and_passed_over(tmp_path: Path, output: str) -> None:
    """Between two good ones, in a run before a good one; by the command, and in a file of ours."""
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    killed(tmp_path / "state", str(first), output, str(second), number=1)
    killed(tmp_path / "state", str(first), number=2)
    shown = carbontrack(tmp_path, "recover")

    assert "Traceback" not in shown.stderr
    assert shown.returncode == 1
    told, has_advice, _ = shown.stdout.partition("What a killed process used after")
    assert (len(told.splitlines()), bool(has_advice)) == (4, True)
    assert len([line for line in shown.stdout.splitlines() if "not written: " in line]) == 1
    assert len(list(iter_records(first))) == 2
    assert len(list(iter_records(second))) == 1
    as_json = carbontrack(tmp_path, "recover", "--json")
    (waiting,) = json.loads(as_json.stdout)
    assert waiting["trouble"]
    assert as_json.returncode == 1
    assert not (tmp_path / "relative.csv").exists()
    assert carbontrack(tmp_path, "recover", "--output", "instead.csv").returncode == 0
    assert len(list(iter_records(tmp_path / "instead.csv"))) == 1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nor is a folder taken for a file."""
    os.mkfifo(tmp_path / "pipe.csv")
    os.mkfifo(tmp_path / "pipe.db")
    (tmp_path / "folder.csv").mkdir()
    names = ("pipe.csv", "pipe.db", "folder.csv", "good.csv")
    killed(tmp_path / "state", *(str(tmp_path / name) for name in names))
    shown = carbontrack(tmp_path, "recover").stdout

    assert shown.count("not written: ") == 3
    assert len(list(iter_records(tmp_path / "good.csv"))) == 1


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_none_holds_up_no_other(tmp_path: Path, address: str) -> None:
    """Nothing is tried there, so that `sync` need not wait for it, and the others get theirs."""
    with Receiver() as receiver:
        for number, url in enumerate((address, receiver.url)):
            path = killed(tmp_path / "state", number=number)
            record = a_record(number)
            entry = {"record": sparse(record)}
            path.write_bytes(entry_line((SEND, url, record.record_id), entry))
        shown = carbontrack(tmp_path, "sync")
        assert set(receiver.record_ids) == {a_record(1).record_id}

    assert "Traceback" not in shown.stderr
    assert shown.returncode == 1
    assert len(shown.stdout.splitlines()) == 2
    assert "connection" not in shown.stdout


@pytest.mark.parametrize("output", [*ADDRESSES, *PATHS], ids=lambda text: ascii(text)[:30])
def test_after_a_week_it_is_a_dead_letter(tmp_path: Path, output: str) -> None:
    """It is not tried for ever, and nothing of it is lost."""
    path = killed(tmp_path / "state", output)
    recover(tmp_path / "state")
    os.utime(path, (0, 0))
    clock = FakeClock(now=datetime.fromtimestamp(2 * RETRY_FOR_S, timezone.utc))
    recover(tmp_path / "state", clock=clock)
    (letters,) = (tmp_path / "state" / "dead-letter").iterdir()

    assert not path.exists()
    assert json.loads(letters.read_bytes())["record"]["record_id"] == a_record(1).record_id


def test_a_start_names_no_secret_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An address that cannot be parsed may be one with a key in it."""
    caplog.set_level("INFO", "carbontrack")
    killed(tmp_path / "state", "http://[hunter2", "http://user:hunter2@host/")
    pick_up(tmp_path / "state")

    assert len(caplog.records) == 2
    assert "hunter2" not in caplog.text
