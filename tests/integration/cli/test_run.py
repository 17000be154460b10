"""`carbontrack run` around real commands: whatever passes through must come out unchanged."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

import carbontrack
from carbontrack.record import COLUMNS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and terminals are POSIX's")

ROOT = Path(carbontrack.__file__).parents[1]
CLI = (sys.executable, "-W", "error", "-m", "carbontrack")
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    """A machine without counters, a home without settings, a known grid."""
    (tmp_path / "sys").mkdir()
    (tmp_path / "home").mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": f"{tmp_path}/home",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "CARBONTRACK_REGION": "FR",
        "CARBONTRACK_SYSFS_PATH": f"{tmp_path}/sys",
    }


@pytest.fixture
def run(tmp_path: Path, environ: Mapping[str, str]) -> Run:
    """Run `carbontrack run` to its end, away from any terminal."""

    def go(
        *arguments: str, given: bytes = b"", fds: Sequence[int] = (), **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*CLI, "run", *arguments],
            input=given,
            capture_output=True,
            cwd=tmp_path,
            env={**environ, **variables},
            pass_fds=fds,
            start_new_session=True,
            timeout=60,
            check=False,
        )

    return go


def records(folder: Path) -> list[dict[str, str]]:
    path = folder / "emissions.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("code", [0, 1, 2, 3, 77, 255])
def test_the_commands_exit_code_is_ours(run: Run, tmp_path: Path, code: int) -> None:
    """Scripts that look at the code see no difference, and the record says what it was."""
    done = run("--", "sh", "-c", f"exit {code}")

    assert done.returncode == code
    (row,) = records(tmp_path)
    assert row["status"] == ("error" if code else "ok")
    assert row["error"] == (f"exit code {code}" if code else "")


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [("KILL", 137, "error"), ("TERM", 143, "error"), ("INT", 130, "interrupted")],
)
def test_a_killed_command_gives_the_shells_code(
    run: Run, tmp_path: Path, name: str, code: int, status: str
) -> None:
    """128+n, and the record names the signal."""
    done = run("--", "sh", "-c", f"kill -{name} $$")

    assert done.returncode == code
    (row,) = records(tmp_path)
    assert (row["status"], row["error"]) == (status, f"ended by SIG{name}")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT"])
def test_a_signal_to_us_reaches_the_command(
    tmp_path: Path, environ: Mapping[str, str], name: str
) -> None:
    """A scheduler knows only our process id; the command still gets the chance to tidy up."""
    code = (
        "import signal, sys;"
        f"signal.signal(signal.{name}, lambda *_: sys.exit(42));"
        "print('ready', flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [*CLI, "run", "--", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environ,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, name))
        assert process.wait(timeout=60.0) == 42

    (row,) = records(tmp_path)
    assert row["error"] == "exit code 42"


def test_a_signal_that_we_were_told_to_ignore_stays_ignored(run: Run, tmp_path: Path) -> None:
    """`nohup carbontrack run …` survives the end of the terminal, and so does the command."""
    inner = f"{' '.join(CLI)} run --quiet -- sh -c 'kill -HUP $$; kill -HUP $PPID; echo alive'"

    done = subprocess.run(
        ["sh", "-c", f"trap '' HUP; exec {inner}"],
        capture_output=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"alive\n", b"")


def test_streams_pass_through_byte_by_byte(run: Run) -> None:
    """Binary data in is binary data out, and stderr carries the command's own lines first."""
    noise = os.urandom(1 << 18)

    done = run("--", "sh", "-c", "cat; echo own >&2", given=noise)

    assert done.stdout == noise
    assert done.stderr.startswith(b"own\n")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
def test_a_closed_stream_changes_nothing(
    environ: Mapping[str, str], tmp_path: Path, closed: str
) -> None:
    """A daemon may have no streams; its command's exit code is passed on all the same."""
    inner = f"{' '.join(CLI)} run -- sh -c 'exit 6'"

    done = subprocess.run(["sh", "-c", f"{inner} {closed}"], cwd=tmp_path, env=environ, check=False)

    assert done.returncode == 6
    assert len(records(tmp_path)) == 1


def test_other_descriptors_pass_through(run: Run) -> None:
    """A job server's pipe or a lock held by the shell is not closed on the way."""
    reading, writing = os.pipe()
    try:
        code = f"import os; os.write({writing}, b'hello\\n')"
        done = run("--", sys.executable, "-c", code, fds=[writing])
        os.close(writing)

        assert done.returncode == 0
        assert os.read(reading, 100) == b"hello\n"
    finally:
        os.close(reading)


def test_our_own_descriptors_do_not_leak(run: Run) -> None:
    """The command finds the three streams and nothing of ours."""
    listing = "import os; print(sorted(int(n) for n in os.listdir('/dev/fd')))"

    done = run("--quiet", "--", sys.executable, "-c", listing)

    assert done.stdout in {b"[0, 1, 2, 3]\n", b"[0, 1, 2]\n"}


@pytest.mark.parametrize(("make", "code"), [(None, 127), (0o600, 126)])
def test_a_command_that_cannot_start_leaves_no_record(
    run: Run, tmp_path: Path, make: int | None, code: int
) -> None:
    """No energy was spent, so none is written down; the code is the shell's."""
    program = tmp_path / "program"
    if make is not None:
        program.write_text("#!/bin/sh\n")
        program.chmod(make)

    done = run("--", str(program))

    assert done.returncode == code
    assert done.stderr.startswith(b"carbontrack: ")
    assert done.stderr.count(b"\n") == 1
    assert records(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says ETXTBSY")
def test_a_start_that_the_system_refuses_leaves_no_record(run: Run, tmp_path: Path) -> None:
    """Even where the refusal comes after the measurement has begun."""
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o700)

    with program.open("ab"):  # a program that is being written cannot be executed
        done = run("--", str(program))

    assert done.returncode == 126
    assert done.stderr == f"carbontrack: cannot start {program}: Text file busy\n".encode()
    assert records(tmp_path) == []


def test_a_script_without_a_first_line_is_the_shells(run: Run, tmp_path: Path) -> None:
    """As with every other launcher."""
    script = tmp_path / "script"
    script.write_text("exit 7\n")
    script.chmod(0o700)

    assert run("--quiet", "--", "./script").returncode == 7


def test_a_wrong_setting_stops_us_before_the_command(run: Run, tmp_path: Path) -> None:
    """Nobody wants to learn after a week that the output had no directory."""
    for arguments in (
        ["--region", "Atlantis"],
        ["--output", "no/such/place.csv"],
        ["--interval", "0"],
        ["--budget", "5 bananas"],
    ):
        done = run(*arguments, "--", "touch", "started")

        assert done.returncode == 2, arguments
        assert b"Traceback" not in done.stderr
    assert not (tmp_path / "started").exists()


def test_json_is_one_line_on_stderr_and_nothing_else(run: Run, tmp_path: Path) -> None:
    """A program reads it without looking for it."""
    done = run("--json", "--name", "job", "--label", "n=3", "--label", "k=a=b", "--", "true")

    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    found = json.loads(done.stderr)
    assert set(found) == set(COLUMNS)
    assert found["name"] == "job"
    assert found["labels"] == {"n": "3", "k": "a=b"}
    assert found["energy_kwh"] > 0
    assert found["region"] == "FR"
    (row,) = records(tmp_path)
    assert row["record_id"] == found["record_id"]


def test_quiet_is_quiet_and_still_writes(run: Run, tmp_path: Path) -> None:
    """Not a byte of ours; the record is there."""
    done = run("--quiet", "--", "sh", "-c", "echo out; echo err >&2")

    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    assert len(records(tmp_path)) == 1


def test_the_summary_is_plain_text_in_a_file(run: Run, tmp_path: Path) -> None:
    """No escape sequences where nobody interprets them, and all that matters is said."""
    shown = run("--", "sleep", "1.2").stderr
    (row,) = records(tmp_path)

    assert b"\x1b" not in shown
    assert f"carbontrack: sleep, {float(row['duration_s']):.1f} s".encode() in shown
    for label in (b"energy", b"emissions", b"how", b"grid", b"record"):
        assert b"\n  " + label in shown


def test_output_goes_where_it_is_told(run: Run, tmp_path: Path) -> None:
    """To another file, or nowhere."""
    assert run("--output", "runs.csv", "--", "true").returncode == 0
    assert run("--output", "none", "--", "true").returncode == 0

    assert (tmp_path / "runs.csv").exists()
    assert records(tmp_path) == []


def test_the_command_knows_its_parent(run: Run, tmp_path: Path) -> None:
    """A tracked program inside can point to our record, so that reports add up only one."""
    done = run("--quiet", "--", "sh", "-c", "echo $CARBONTRACK_PARENT_ID")

    (row,) = records(tmp_path)
    record_id, _, facts = done.stdout.decode().strip().partition("@")
    assert record_id == row["record_id"]
    assert facts.split(":")[2] == row["pid"], "the process that counts it"


TRACKED = "import carbontrack\nwith carbontrack.track('inner'): pass"


@pytest.mark.parametrize(
    ("variables", "job_id"),
    [
        ({}, None),
        ({"CARBONTRACK_JOB_ID": "mine"}, "mine"),
        ({"SLURM_JOB_ID": "17", "SLURM_CLUSTER_NAME": "alps"}, "alps/17"),
    ],
    ids=["none", "named", "batch"],
)
def test_the_command_is_of_our_job(
    run: Run, tmp_path: Path, variables: dict[str, str], job_id: str | None
) -> None:
    """One id in both rows: the one that there is, else a new one."""
    assert run("--quiet", "--", sys.executable, "-c", TRACKED, **variables).returncode == 0

    inner, outer = records(tmp_path)
    assert inner["name"] == "inner"
    assert inner["job_id"] == outer["job_id"] == (job_id or outer["job_id"])
    assert outer["job_id"]


def test_a_step_in_a_batch_job_is_of_our_job(run: Run, tmp_path: Path) -> None:
    """The launcher that the command starts names a job of its own; ours is the wider one."""
    step = ("env", "SLURM_STEP_ID=0", "SLURM_PROCID=1", "SLURM_NTASKS=2", "SLURM_LOCALID=0")
    command = (*step, sys.executable, "-c", TRACKED)
    assert run("--quiet", "--", *command, SLURM_JOB_ID="17").returncode == 0

    inner, outer = records(tmp_path)
    assert (inner["job_id"], outer["job_id"]) == ("17", "17")
    assert (inner["rank"], inner["world_size"], inner["local_rank"]) == ("1", "2", "0")
    assert (outer["rank"], outer["local_rank"], outer["attempt"]) == ("", "", "0")


def test_two_runs_are_two_jobs(run: Run, tmp_path: Path) -> None:
    """But ranks that are each under a run of their own have no id made up for them."""
    for variables in ({}, {}, {"PMI_RANK": "0", "PMI_SIZE": "2"}):
        assert run("--quiet", "--", "true", **variables).returncode == 0

    first, second, rank = (row["job_id"] for row in records(tmp_path))
    assert first
    assert second
    assert first != second
    assert rank == ""


@pytest.mark.xdist_group("serial")
def test_the_work_of_children_counts(run: Run, tmp_path: Path) -> None:
    """What the command's own children compute is billed to it, even after they have ended."""
    work = "x = 0\nfor i in range(6_000_000): x += i"
    busy = f"{sys.executable} -c '{work}' & wait"

    # a neighbour bears the idle energy, which would be ours alone on an idle machine
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        for script in ("sleep 1", busy):
            assert run("--quiet", "--", "sh", "-c", script).returncode == 0
        neighbour.kill()

    asleep, awake = (float(row["cpu_share"]) for row in records(tmp_path))
    assert awake > 4 * asleep


def test_a_budget_fails_only_a_command_that_did_not_fail(run: Run) -> None:
    """3 where the command's own code was 0; its own code otherwise."""
    assert run("--budget", "0 J", "--", "sleep", "0.3").returncode == 3
    assert run("--budget", "0 J", "--", "sh", "-c", "exit 9").returncode == 9
    done = run("--budget", "1 t", "--json", "--", "true")
    assert done.returncode == 0
    assert json.loads(done.stderr)["budget"] == {"limit": "1.00 t CO2e", "outcome": "within"}
    assert b"over budget" in run("--budget", "0 J", "--", "sleep", "0.3").stderr


def test_a_budget_ends_the_command_where_asked(run: Run, tmp_path: Path) -> None:
    """SIGTERM to the command and what it started, 3, and a record that says why."""
    done = run("--budget", "0 J", "--on-exceed", "terminate", "--", "sh", "-c", "sleep 70; true")

    assert done.returncode == 3
    assert b"carbontrack: sh is over budget: " in done.stderr
    (row,) = records(tmp_path)
    assert row["status"] == "budget"
    assert row["error"].startswith("over budget: ")
    assert float(row["duration_s"]) < 35.0


def test_a_command_that_ends_itself_at_sigterm_has_the_time_to(run: Run, tmp_path: Path) -> None:
    """What it saves on SIGTERM is saved; its own exit code gives way to 3."""
    script = (
        "exec 2>/dev/null; trap 'echo saved > saved.txt; exit 0' TERM; while :; do sleep 0.1; done"
    )
    done = run("--budget", "0 J", "--on-exceed", "terminate", "--quiet", "--", "sh", "-c", script)

    assert (done.returncode, done.stderr) == (3, b"")
    assert (tmp_path / "saved.txt").read_text() == "saved\n"


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(run: Run, tmp_path: Path) -> None:
    """And so is what it has started."""
    script = "trap '' TERM; sh -c 'while :; do sleep 0.1; done' & echo $! > pid; wait; wait"
    options = ["--budget", "0 J", "--on-exceed", "terminate", "--grace", "0.5"]
    done = run(*options, "--", "sh", "-c", script)

    assert done.returncode == 3
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_budget_that_holds_ends_nothing(run: Run, tmp_path: Path) -> None:
    """The command's own code passes through."""
    options = ["--budget", "1 t", "--on-exceed", "terminate"]
    assert run(*options, "--", "sh", "-c", "sleep 1; exit 4").returncode == 4
    assert records(tmp_path)[0]["status"] == "error"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--on-exceed", "warn"],
        ["--grace", "5"],
        ["--budget", "5 g", "--grace", "5"],
        ["--budget", "5 g", "--on-exceed", "explode"],
        ["--budget", "5 g", "--on-exceed", "terminate", "--grace", "soon"],
    ],
)
def test_what_would_do_nothing_is_refused(run: Run, arguments: Sequence[str]) -> None:
    """Before the command starts."""
    done = run(*arguments, "--", "true")

    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_disabled_is_as_if_we_were_not_there(run: Run, tmp_path: Path) -> None:
    """The emergency switch works here too."""
    done = run("--", "sh", "-c", "echo out; exit 5", CARBONTRACK_DISABLE="1")

    assert (done.returncode, done.stdout, done.stderr) == (5, b"out\n", b"")
    assert records(tmp_path) == []


def on_a_terminal(
    environ: Mapping[str, str],
    folder: Path,
    command: Sequence[str],
    *,
    keys: bytes = b"",
    columns: int = 80,
) -> tuple[int, bytes]:
    """Run on a terminal of 24 lines; `keys` are pressed once "ready" has appeared."""
    pid, side = pty.fork()
    if pid == 0:  # pragma: no cover - replaced by the command
        os.chdir(folder)
        os.execve(CLI[0], [*CLI, "run", *command], {**environ})
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(side, 65536)
        except OSError:  # Linux says EIO when the last process has closed the other side
            break
        if not part:
            break
        shown += part
        if keys and b"ready" in shown:
            os.write(side, keys)
            keys = b""
    os.close(side)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_a_terminal_shows_a_live_line_and_takes_it_away(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """Time, watts and grams at the foot; at the end the screen scrolls as a whole again."""
    code, shown = on_a_terminal(
        {**environ, "TERM": "xterm"}, tmp_path, ["--", "sh", "-c", "echo own; sleep 2.3"]
    )

    assert code == 0
    drawn, _, rest = shown.partition(b"\x1b7\x1b[24;1H\x1b[2K")
    assert b"own\r\n" in drawn
    assert b"\x1b[1;23r" in drawn, "the last line is set apart"
    assert b" s \xc2\xb7 " in rest
    assert b"W \xc2\xb7 " in rest
    erased, _, summary = rest.rpartition(b"\x1b7\x1b[r\x1b[24;1H\x1b[2K\x1b8")
    assert erased, "the last line is given back"
    assert b"emissions" in summary
    assert b"\x1b[24;1H" not in summary


@pytest.mark.parametrize(
    ("variables", "options", "escapes"),
    [
        ({"TERM": "dumb"}, [], False),
        ({"TERM": "xterm"}, ["--quiet"], False),
        ({"TERM": "xterm"}, ["--json"], False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, [], True),
    ],
)
def test_who_wants_no_line_or_no_colour_gets_none(
    environ: Mapping[str, str],
    tmp_path: Path,
    variables: Mapping[str, str],
    options: Sequence[str],
    escapes: bool,
) -> None:
    """Dumb terminals, --quiet and --json have no escape sequence; NO_COLOR has no colour."""
    _, shown = on_a_terminal({**environ, **variables}, tmp_path, [*options, "--", "sleep", "1.3"])

    assert (b"\x1b" in shown) is escapes
    assert b"\x1b[1m" not in shown
    assert b"\x1b[2m" not in shown


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_summary_and_the_live_line_fit_the_terminal(
    environ: Mapping[str, str], tmp_path: Path, columns: int, encoding: str
) -> None:
    """No line is wider, in any encoding; the bars of the power fit as well."""
    variables = {"TERM": "xterm", "PYTHONIOENCODING": encoding, "NO_COLOR": "1"}
    command = ["--timeline", "--interval", "0.05", "--", "sleep", "1.4"]
    code, shown = on_a_terminal({**environ, **variables}, tmp_path, command, columns=columns)

    assert code == 0
    text = shown.decode(encoding)
    live, _, summary = text.rpartition("\x1b8")
    lines = [line for line in summary.splitlines() if line.strip()]
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("  power  ") for line in lines)
    drawn = re.findall(r"\x1b\[24;1H\x1b\[2K([^\x1b]+)", live)
    assert drawn
    assert all(len(line) < columns and line.endswith("CO2e") for line in drawn)
    assert (tmp_path / "emissions.timeline.jsonl").exists()


def test_a_program_that_rules_the_screen_is_left_alone(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """An editor or a pager reads key by key; a line of ours would spoil its picture."""
    script = "stty -icanon; sleep 2.3; stty icanon"

    code, shown = on_a_terminal({**environ, "TERM": "xterm"}, tmp_path, ["--", "sh", "-c", script])

    assert code == 0
    assert b"\x1b[24;1H" not in shown
    assert b"\x1b7" not in shown
    assert b"emissions" in shown


def test_ctrl_c_reaches_the_command_once(environ: Mapping[str, str], tmp_path: Path) -> None:
    """The terminal sends it to both of us; the command must not get it a second time."""
    code = (
        "import signal, sys, threading; got = []; first = threading.Event();"
        "signal.signal(signal.SIGINT, lambda *_: (got.append(1), first.set()));"
        "print('ready', flush=True); first.wait(20); threading.Event().wait(0.5);"
        "sys.exit(10 + len(got))"
    )

    ended, shown = on_a_terminal(
        {**environ, "TERM": "xterm"}, tmp_path, ["--", sys.executable, "-c", code], keys=b"\x03"
    )

    assert ended == 11, shown
    assert b"Traceback" not in shown


def test_the_summary_names_the_file_that_was_written(run: Run, tmp_path: Path) -> None:
    """A file with other columns is left alone, and the row stands beside it."""
    (tmp_path / "emissions.csv").write_text("timestamp,project_name,emissions\n")
    done = run("--region", "FR", "--", "true")
    assert done.returncode == 0
    assert b"record     emissions.schema-2.csv" in done.stderr


def test_quiet_says_where_a_row_is_that_is_not_where_it_was_asked_for(
    run: Run, environ: Mapping[str, str], tmp_path: Path
) -> None:
    """In another file, or nowhere; one line, and nothing else."""
    (tmp_path / "emissions.csv").write_text("timestamp,project_name,emissions\n")
    other = run("--quiet", "--region", "FR", "--", "sh", "-c", "echo out; exit 4")
    assert (other.returncode, other.stdout) == (4, b"out\n")
    said = b"the record is in emissions.schema-2.csv, not in emissions.csv: "
    assert other.stderr == b"carbontrack: " + said + b"emissions.csv has other columns\n"

    # neither the output nor the journal has room
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    code = (
        f"{limit}; from carbontrack.cli import main; "
        "sys.exit(main(['run', '--quiet', '--output', 'runs.csv', '--', 'true']))"
    )
    lost = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          env=environ, check=False)  # fmt: skip
    assert lost.returncode == 0
    assert b"1 record could not be written and is lost" in lost.stderr


def test_the_summary_says_what_was_not_delivered(run: Run) -> None:
    """A server that is down gets the record later, and by which command."""
    done = run("--region", "FR", "--output", "http://127.0.0.1:9/records?key=s3cret", "--", "true")
    assert done.returncode == 0
    assert b"not delivered yet; to send it: carbontrack sync" in b" ".join(done.stderr.split())
    assert b"s3cret" not in done.stderr


def test_an_empty_output_is_a_mistake(run: Run) -> None:
    """An unset variable of a shell must not send the record nowhere."""
    done = run("--output", "", "--", "true")
    assert done.returncode == 2
    assert b"--output is empty" in done.stderr
