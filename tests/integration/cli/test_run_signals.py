"""Signals around `carbontrack run`: each one reaches the command once, whoever sends it to whom.

The table is sender x target x signal. The command catches every signal, and says how often each one
came.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

import carbontrack
from carbontrack.cli.signal_relay import WINDOW_S

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux says which signals a process was sent"
)

ROOT = Path(carbontrack.__file__).parents[1]
RUN = (sys.executable, "-m", "carbontrack", "run", "--output", "none", "--quiet", "--")
CATCHABLE = sorted(
    set(map(int, signal.valid_signals())) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
)
ALL_BUT_CONT = [number for number in CATCHABLE if number != signal.SIGCONT]
"""SIGCONT and a stop undo each other while they are pending, as in the kernel."""

RECORDER = """\
import os, signal, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, lambda number, frame: os.write(file, b"%d " % number))
print("ready", os.getpid(), flush=True)
while True:  # until the other end is closed
    try:
        if not os.read(0, 1):
            break
    except OSError:
        break
time.sleep(0.3)  # a hang-up may end the input first
sys.exit(7)
"""
"""Ends when its stdin does, and writes the numbers of the signals that come to a file."""


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    """A machine without counters, a home without settings, a known grid."""
    (tmp_path / "home").mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": f"{tmp_path}/home",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "CARBONTRACK_REGION": "FR",
    }


class Job:
    """The recorder under what is before it: its process, the wrapper's, and what it was sent."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, depth: int) -> None:
        self.process = process
        assert process.stdout is not None
        word, pid = process.stdout.readline().split()
        assert word == b"ready"
        self.command = int(pid)
        parents = psutil.Process(self.command).parents()
        self.wrapper = parents[depth].pid
        self.group = os.getpgid(self.command)
        self._file = folder / "got"
        self._sent = 0
        self.name = str(self._file)
        # what is sent before the probe is there counts as sent before the command was
        until(lambda: len(psutil.Process(self.wrapper).children()) == 2)

    def send(self, by: Callable[[Job, int], None], number: int) -> None:
        """Send one that is to arrive once."""
        by(self, number)
        self._sent += 1

    def settle(self) -> None:
        """Wait until all have come, a second one would have come too, and we await the next."""
        with suppress(AssertionError):  # what is missing is told by what has come
            until(lambda: self.came().total() >= self._sent, tries=500)
        time.sleep(2 * WINDOW_S)
        with suppress(AssertionError):
            until(lambda: _has_a_fresh_probe(self.wrapper), tries=500)

    def came(self) -> Counter[int]:
        """How often each signal has reached the command."""
        return Counter(map(int, self._file.read_text().split()))

    def got(self) -> Counter[int]:
        """The same, once the command has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60.0)
        until(lambda: not psutil.pid_exists(self.command))  # a shell may end before its job
        return self.came()


def _has_a_fresh_probe(wrapper: int) -> bool:
    try:
        children = psutil.Process(wrapper).children()
        texts = [Path(f"/proc/{child.pid}/status").read_text() for child in children]
    except (OSError, psutil.NoSuchProcess):  # one has ended meanwhile
        return False
    pending = [int(text.partition("ShdPnd:")[2].split()[0], 16) for text in texts]
    return len(children) == 2 and not any(pending)


def until(holds: Callable[[], bool], *, tries: int = 3000) -> None:
    """Wait for something that takes a moment; half a minute at most."""
    for _ in range(tries):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it has not come to pass")


@contextmanager
def job(
    environ: Mapping[str, str],
    folder: Path,
    *,
    before: Sequence[str] = (),
    runs: int = 1,
    options: Sequence[str] = (),
) -> Iterator[Job]:
    """A recorder under `runs` wrappers, under a command of ours such as timeout."""
    recorder = [sys.executable, "-c", RECORDER, f"{folder}/got"]
    with subprocess.Popen(
        [*before, *(*RUN[:-1], *options, "--") * runs, *recorder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=environ,
        start_new_session=True,
    ) as process:
        try:
            yield Job(process, folder, runs - 1)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def alone(job: Job, number: int) -> None:
    """As a scheduler that knows one process id."""
    os.kill(job.wrapper, number)


def the_command(job: Job, number: int) -> None:
    """As somebody who has looked for it, or the command itself."""
    os.kill(job.command, number)


def the_group(job: Job, number: int) -> None:
    """As `kill -s NAME -- -PGID`, a shell's `kill %1`, or a terminal."""
    os.killpg(job.group, number)


def the_tree(job: Job, number: int) -> None:
    """As psutil's recipe, an IDE's stop button or a control group's: one after the other."""
    first = psutil.Process(job.wrapper)
    each_of([first, *first.children(recursive=True)], number)


def the_tree_from_its_leaves(job: Job, number: int) -> None:
    """The same, in the other order."""
    first = psutil.Process(job.wrapper)
    each_of([*reversed(first.children(recursive=True)), first], number)


def each_of(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            process.send_signal(number)


def the_session(job: Job, number: int) -> None:
    """As batch systems that follow sessions: every process id of it."""
    session = os.getsid(job.wrapper)
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session:
                os.kill(pid, number)
        except ProcessLookupError:  # it has ended meanwhile
            continue


def what_a_pattern_finds(job: Job, number: int) -> None:
    """As `pkill -f train.py`: whatever has a name out of the command in its arguments."""
    each_of(matching(re.escape(job.name)), number)


def what_a_pattern_of_ours_finds(job: Job, number: int) -> None:
    """As `pkill -f "carbontrack run"`."""
    each_of(matching(f"carbontrack run .*{re.escape(job.name)}"), number)


def matching(pattern: str) -> list[psutil.Process]:
    """The processes that `pgrep -f` shows."""
    each = psutil.process_iter(["cmdline"])
    return [p for p in each if re.search(pattern, " ".join(p.info["cmdline"] or []), re.DOTALL)]


@pytest.mark.parametrize("send", [alone, the_command, the_group])
def test_each_signal_reaches_the_command_once(
    environ: Mapping[str, str], tmp_path: Path, send: Callable[[Job, int], None]
) -> None:
    """Sent to us, to the command, or to all of us at once; none of them ends or stops us."""
    with job(environ, tmp_path) as it:
        for number in ALL_BUT_CONT:
            it.send(send, number)
        it.settle()
        it.send(send, signal.SIGCONT)
        it.settle()

        assert it.got() == Counter(CATCHABLE)
        assert it.process.returncode == 7


SETS = (
    the_tree,
    the_tree_from_its_leaves,
    the_session,
    what_a_pattern_finds,
    what_a_pattern_of_ours_finds,
)


@pytest.mark.parametrize("send", SETS)
def test_a_sender_that_goes_from_process_to_process(
    environ: Mapping[str, str], tmp_path: Path, send: Callable[[Job, int], None]
) -> None:
    """It finds the command beside us, or us alone; either way the command is reached once."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGXCPU, signal.SIGRTMIN + 1]
    with job(environ, tmp_path) as it:
        for number in numbers:
            it.send(send, number)
            it.settle()
        it.send(send, signal.SIGTERM)
        it.settle()

        assert it.got() == Counter([*numbers, signal.SIGTERM])
        assert it.process.returncode == 7


OUTLIVES = "trap : TERM HUP INT QUIT USR1; "
SHELLS = {
    "script": OUTLIVES + '"$@"',
    "exec": 'exec "$@"',
    "background": OUTLIVES + 'exec 3<&0; "$@" <&3 & wait $!; wait $!',
    "pipeline": OUTLIVES + '"$@" | (trap "" TERM HUP INT QUIT USR1; cat)',
    "ignored": 'trap "" INT QUIT HUP CHLD; exec "$@"',
}


@pytest.mark.parametrize("send", [alone, the_group])
@pytest.mark.parametrize("shell", SHELLS)
def test_wherever_a_shell_has_put_us(
    environ: Mapping[str, str], tmp_path: Path, shell: str, send: Callable[[Job, int], None]
) -> None:
    """A shell's background jobs ignore SIGINT and SIGQUIT; a command that asks for it gets them."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1]
    with job(environ, tmp_path, before=("sh", "-c", SHELLS[shell], "sh")) as it:
        for number in numbers:
            it.send(send, number)
        it.settle()

        assert it.got() == Counter(numbers)


@pytest.mark.parametrize("send", [alone, the_group, the_tree])
def test_a_run_within_a_run(
    environ: Mapping[str, str], tmp_path: Path, send: Callable[[Job, int], None]
) -> None:
    """Two wrappers hand on as one."""
    with job(environ, tmp_path, runs=2) as it:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN):
            it.send(send, number)
            it.settle()

        assert it.got() == Counter([signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN])
        assert it.process.returncode == 7


@pytest.mark.parametrize("option", ["--preserve-status", "--foreground"])
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
def test_a_signal_by_way_of_timeout(
    environ: Mapping[str, str], tmp_path: Path, option: str, name: str
) -> None:
    """It sends to its child and then to the group, and SIGCONT in the same way."""
    number = signal.Signals[f"SIG{name}"]
    with job(environ, tmp_path, before=("timeout", option, "600")) as it:
        os.kill(it.process.pid, number)
        it.settle()

        expected = Counter([number] if option == "--foreground" else [number, signal.SIGCONT])
        assert it.got() == expected


OF_THE_C_LIBRARY = 1 << 31 | 1 << 32
"""Signals 32 and 33, which no program can send or catch; posix_spawn(3) of glibc ignores them."""


@pytest.mark.parametrize(
    "options",
    [("--budget", "1 t", "--on-exceed", "terminate"), ("--timeline",), ("--scope", "machine")],
    ids=lambda options: options[0],
)
def test_with_whatever_option(
    environ: Mapping[str, str], tmp_path: Path, options: Sequence[str]
) -> None:
    """Nor does a signal end one of our own threads' work."""
    with job(environ, tmp_path, options=options) as it:
        it.send(alone, signal.SIGUSR1)
        the_group(it, signal.SIGTERM)
        it.settle()

        assert it.got() == Counter([signal.SIGUSR1, signal.SIGTERM])
        assert it.process.returncode == 7


QUITS_AT_SECOND = """\
import os, signal, sys, time
got = []
def stop(number, frame):
    got.append(number)
    if len(got) == 2:
        os._exit(9)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
until = time.monotonic() + 30
while not got and time.monotonic() < until:
    time.sleep(0.05)
time.sleep(0.5)  # as long as its work takes to save
print("clean end", flush=True)
"""


def test_a_time_limit_gives_a_program_the_time_to_save(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """Many programs quit at once at the second SIGTERM; they get one."""
    done = subprocess.run(
        ["timeout", "2", *RUN, sys.executable, "-c", QUITS_AT_SECOND],
        capture_output=True,
        cwd=tmp_path,
        env=environ,
        timeout=60,
        check=False,
    )

    assert done.stdout == b"ready\nclean end\n"
    assert done.returncode == 124, "timeout's own code"


def test_a_timer_that_came_with_us_is_the_commands(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """`alarm` and `exec` are an old way to limit time; the timer is ours, the limit is meant so."""
    code = "import os, signal, sys; signal.alarm(3); os.execv(sys.argv[1], sys.argv[1:])"
    with job(environ, tmp_path, before=(sys.executable, "-c", code)) as it:
        time.sleep(3.0)
        it.settle()

        assert it.got() == Counter([signal.SIGALRM])


def test_a_signal_sent_twice_comes_twice(environ: Mapping[str, str], tmp_path: Path) -> None:
    """To all of us, to us alone and to all of us again: none of them is taken for another."""
    with job(environ, tmp_path) as it:
        for send in (the_group, alone, the_group, the_command, alone):
            it.send(send, signal.SIGUSR1)
            it.settle()
        for _ in range(3):
            it.send(alone, signal.SIGUSR2)
            time.sleep(0.1)
        it.settle()

        assert it.got() == Counter([signal.SIGUSR1] * 5 + [signal.SIGUSR2] * 3)


def test_a_held_key_is_counted_by_the_command_alone(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """Thirty a second to all of us; ours are dropped while the probe is renewed, too."""
    with job(environ, tmp_path) as it:
        for _ in range(60):
            the_group(it, signal.SIGINT)
            time.sleep(0.033)
        it.settle()

        # a busy program takes two that are pending for one, as without us; never one for two
        got = it.got()
        assert got.keys() == {signal.SIGINT}
        assert 30 < got[signal.SIGINT] <= 60


def test_a_command_in_a_group_of_its_own_gets_what_the_group_gets(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """It would have been in the group that was meant."""
    moves = "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    recorder = [sys.executable, "-c", RECORDER, f"{tmp_path}/got"]
    with subprocess.Popen(
        [*RUN, sys.executable, "-c", moves, *recorder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=environ,
        start_new_session=True,
    ) as process:
        it = Job(process, tmp_path, 0)
        os.killpg(it.wrapper, signal.SIGTERM)
        it.settle()

        assert it.group != it.wrapper
        assert it.got() == Counter([signal.SIGTERM])


def test_what_comes_before_the_command_is_not_lost(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """A job that is cancelled while we start is cancelled."""
    with subprocess.Popen(
        [*RUN, "sleep", "60"], cwd=tmp_path, env=environ, start_new_session=True
    ) as process:
        status = Path(f"/proc/{process.pid}/status")
        until(lambda: _catches(status.read_text(), signal.SIGUSR1))
        process.send_signal(signal.SIGUSR1)

        assert process.wait(timeout=60.0) == 128 + signal.SIGUSR1


def _catches(status: str, number: int) -> bool:
    mask = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def test_the_command_starts_with_the_mask_and_the_dispositions_of_a_program_without_us(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """What is blocked or ignored around us is so for the command, and nothing else."""
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2});"
        "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGHUP, signal.SIGCHLD)];"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL); signal.signal(signal.SIGXFSZ, 0);"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    shown = []
    for before in ((), RUN):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                code,
                *before,
                "grep",
                "-E",
                "Sig(Blk|Ign|Cgt)",
                "/proc/self/status",
            ],
            capture_output=True,
            cwd=tmp_path,
            env=environ,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0
        shown.append([int(mask, 16) & ~OF_THE_C_LIBRARY for mask in done.stdout.split()[1::2]])

    assert shown[0] == shown[1]
    assert shown[0][:2] == [
        1 << signal.SIGUSR2 - 1,
        1 << signal.SIGHUP - 1 | 1 << signal.SIGCHLD - 1,
    ]


def test_an_ignored_sigchld_leaves_the_exit_code(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """A parent that wants to hear nothing of its children has it ignored for us as well."""
    done = subprocess.run(
        ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *RUN, "sh", "-c", "exit 5"],
        cwd=tmp_path,
        env=environ,
        timeout=60,
        check=False,
    )

    assert done.returncode == 5


def test_a_killed_wrapper_leaves_the_command_and_nothing_else(
    environ: Mapping[str, str], tmp_path: Path
) -> None:
    """The command goes on, as after any parent's death; the probe ends by itself."""
    with job(environ, tmp_path) as it:
        others = [p for p in psutil.Process(it.wrapper).children() if p.pid != it.command]
        os.kill(it.wrapper, signal.SIGKILL)
        psutil.wait_procs(others, timeout=60.0)

        assert not any(process.is_running() for process in others)
        assert psutil.pid_exists(it.command)
        assert it.got() == Counter()


def test_a_probe_that_is_killed_is_replaced(environ: Mapping[str, str], tmp_path: Path) -> None:
    """By an administrator or for lack of memory; a signal to the group still comes once."""
    with job(environ, tmp_path) as it:
        (probe,) = (p for p in psutil.Process(it.wrapper).children() if p.pid != it.command)
        probe.kill()
        until(
            lambda: (
                [
                    p.pid
                    for p in psutil.Process(it.wrapper).children()
                    if p.pid not in (it.command, probe.pid)
                ]
                != []
            )
        )
        it.settle()
        it.send(the_group, signal.SIGTERM)
        it.settle()

        assert it.got() == Counter([signal.SIGTERM])


def on_a_pty(environ: Mapping[str, str], folder: Path, before: Sequence[str]) -> tuple[int, int]:
    """The recorder as the leader of a session on a terminal; the process and the terminal's end."""
    pid, side = pty.fork()
    if pid == 0:  # pragma: no cover - replaced by the command
        os.chdir(folder)
        command = [*before, sys.executable, "-c", RECORDER, f"{folder}/got"]
        os.execve(sys.executable, command, {**environ})
    shown = b""
    while b"ready" not in shown:
        assert select.select([side], [], [], 30)[0], shown
        shown += os.read(side, 65536)
    time.sleep(4 * WINDOW_S)
    return pid, side


@pytest.mark.parametrize("before", [(), RUN], ids=["plain", "wrapped"])
def test_keys_and_the_window_size_come_once(
    environ: Mapping[str, str], tmp_path: Path, before: Sequence[str]
) -> None:
    r"""Ctrl-C, Ctrl-\, Ctrl-Z and a new size, as without us."""
    pid, side = on_a_pty(environ, tmp_path, before)
    for key in (b"\x03", b"\x1c", b"\x1a"):
        os.write(side, key)
        time.sleep(0.3)
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    time.sleep(0.5)
    os.write(side, b"\x04")  # the end of input
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(side)

    assert code == 7
    assert Counter(map(int, (tmp_path / "got").read_text().split())) == Counter(
        [signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH]
    )


@pytest.mark.parametrize("before", [(), RUN], ids=["plain", "wrapped"])
def test_a_terminal_that_is_closed_hangs_up_once(
    environ: Mapping[str, str], tmp_path: Path, before: Sequence[str]
) -> None:
    """The kernel tells the leader of the session alone, which we are, or the command without us."""
    pid, side = on_a_pty(environ, tmp_path, before)
    os.close(side)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert code == 7
    got = Counter(map(int, (tmp_path / "got").read_text().split()))
    assert got == Counter([signal.SIGHUP, signal.SIGCONT])
