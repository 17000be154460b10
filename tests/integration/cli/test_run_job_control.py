"""Job control around `carbontrack run`: an interactive shell sees what it sees without us.

Each test runs twice, with the plain command and with ours around it, and expects the same.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

import carbontrack

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("bash") is None,
    reason="a stopped command is followed on Linux; bash is the shell",
)

ROOT = Path(carbontrack.__file__).parents[1]
RUN = f"{sys.executable} -m carbontrack run --output none --quiet -- "
PROMPT = b"PROMPT$ "


@pytest.fixture(params=["", RUN], ids=["plain", "wrapped"])
def run(request: pytest.FixtureRequest) -> str:
    """What is typed before a command."""
    return str(request.param)


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    """A machine without counters, a home without settings, a known grid."""
    (tmp_path / "home").mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": f"{tmp_path}/home",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "PS1": PROMPT.decode(),
        "PYTHONPATH": str(ROOT),
        "CARBONTRACK_REGION": "FR",
    }


class Shell:
    """An interactive bash on a terminal: what is typed, and what is shown."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.pid, self._side = pty.fork()
        if self.pid == 0:  # pragma: no cover - replaced by the shell
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], {**environ})
        self.shown = b""
        self.expect("PROMPT")

    def type(self, text: str, *expected: str) -> None:
        """Type; then wait for each expression in what is shown afterwards, in this order."""
        self.shown = b""
        os.write(self._side, text.encode())
        for pattern in expected:
            self.expect(pattern)

    def expect(self, pattern: str) -> re.Match[bytes]:
        """Wait until it is shown; what is before it is forgotten."""
        until = time.monotonic() + 30
        while not (found := re.search(pattern.encode(), self.shown)):
            left_s = until - time.monotonic()
            assert left_s > 0, (pattern, self.shown)
            if select.select([self._side], [], [], left_s)[0]:
                self.shown += os.read(self._side, 65536)
        self.shown = self.shown[found.end() :]
        return found

    def press(self, key: str, *expected: str) -> None:
        """Press a key once the job has the terminal and runs; then as `type`."""
        until(lambda: self._has_a_running_job)
        self.type(key, *expected)

    @property
    def _has_a_running_job(self) -> bool:
        group = os.tcgetpgrp(self._side)
        if group == self.pid:
            return False
        states = [p.status() for p in self.commands() if os.getpgid(p.pid) == group]
        return bool(states) and "stopped" not in states

    def commands(self) -> list[psutil.Process]:
        """The processes below the shell, first ones first."""
        return psutil.Process(self.pid).children(recursive=True)

    def close(self) -> None:
        """Hang up."""
        os.close(self._side)
        for process in self.commands():
            process.kill()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def shell(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Shell]:
    """A shell in a folder with the scripts and nothing else."""
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    shell = Shell(environ, tmp_path)
    yield shell
    shell.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that takes a moment; half a minute at most."""
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it has not come to pass")


SCRIPTS = {
    "works.py": """\
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("ready", flush=True)
while True:
    time.sleep(0.1)
""",
    "tidies.py": """\
import os, signal, time
got = []
def suspend(number, frame):
    os.write(1, b"tidied\\n")
    os.kill(os.getpid(), signal.SIGSTOP)
    got.append(number)
signal.signal(signal.SIGTSTP, suspend)
print("ready", flush=True)
while not got:
    time.sleep(0.05)
print("back again")
""",
    "goes_on.py": """\
import os, signal
signal.signal(signal.SIGTSTP, lambda *_: os.write(1, b"not now\\n"))
print("ready", flush=True)
input()
print("end of it")
""",
}
WORKS, TIDIES, GOES_ON = (f"{sys.executable} {name}" for name in SCRIPTS)


def test_stopped_continued_in_the_background_and_brought_back(shell: Shell, run: str) -> None:
    """Ctrl-Z, fg, Ctrl-Z, bg, jobs, fg, Ctrl-C, with the shell's usual words."""
    shell.type(f"{run}{WORKS}\n", "ready\r\n")
    for _ in range(3):
        shell.press("\x1a", r"\[1\]\+  Stopped", "PROMPT")
        shell.type("jobs\n", r"\[1\]\+  Stopped", "PROMPT")
        assert {p.status() for p in shell.commands()} <= {"stopped", "sleeping"}
        shell.type("bg\n", r"\[1\]\+ .*&", "PROMPT")
        shell.type("jobs\n", r"\[1\]\+  Running", "PROMPT")
        shell.type("fg\n", "works.py\r\n")
    shell.press("\x03", "PROMPT")
    shell.type("echo code $?\n", "code 130\r\n")


def test_quit_by_key(shell: Shell, run: str) -> None:
    r"""Ctrl-\ ends it, and the shell has the terminal again."""
    shell.type(f"{run}{WORKS}\n", "ready\r\n")
    shell.press("\x1c", "PROMPT")
    shell.type("echo code $?\n", "code 131\r\n")


def test_the_shell_continues_a_job_many_times(shell: Shell, run: str) -> None:
    """However fast one follows the other, it goes on, and ends when it is told to."""
    shell.type(f"{run}{WORKS} &\n", "ready\r\n")
    for _ in range(20):
        shell.type("kill -TSTP %1; kill -CONT %1\n", "PROMPT")
    shell.type("kill -TSTP %1; kill -CONT %1; echo sent\n", "sent\r\n")
    shell.type("kill %1; wait %1; echo code $?\n", "code 9\r\n")


def test_reading_in_the_background_stops_and_goes_on_in_the_foreground(
    shell: Shell, run: str
) -> None:
    """The kernel sends SIGTTIN to the group; the line that is typed after `fg` is the command's."""
    shell.type(f"{run}sh -c 'read line; echo got $line' &\n", "PROMPT")
    await_stop(shell)
    shell.type("jobs\n", r"\[1\]\+  Stopped", "PROMPT")
    shell.type("fg\n", "line'\r\n")
    shell.type("hello\n", "got hello\r\n", "PROMPT")


def test_writing_in_the_background_where_the_terminal_forbids_it(shell: Shell, run: str) -> None:
    """With `stty tostop` it stops by SIGTTOU, and goes on in the foreground."""
    shell.type(f"stty tostop; {run}sh -c 'echo written' &\n", "PROMPT")
    await_stop(shell)
    shell.type("jobs\n", r"\[1\]\+  Stopped", "PROMPT")
    shell.type("fg\n", "written'\r\n", "written\r\n", "PROMPT")


def await_stop(shell: Shell) -> None:
    """Until the job has stopped, and the shell has had time to be told."""
    until(lambda: _is_stopped(shell))
    time.sleep(0.5)


def _is_stopped(shell: Shell) -> bool:
    first = shell.commands()[:1]
    return bool(first) and first[0].status() == "stopped"


@pytest.mark.parametrize(
    "stops",
    [
        "os.kill(os.getpid(), signal.SIGTSTP)",
        "os.kill(0, signal.SIGTSTP)",
        "os.kill(0, signal.SIGSTOP)",
    ],
)
def test_a_command_that_suspends_itself_gives_the_terminal_back(
    shell: Shell, run: str, stops: str
) -> None:
    """As editors and `tmux` do it, and `fg` brings it back."""
    code = f"import os, signal; {stops}; print(6 * 7)"
    shell.type(f'{run}{sys.executable} -c "{code}"\n', r"\[1\]\+  Stopped", "PROMPT")
    shell.type("fg\n", r"\n42\r\n", "PROMPT")


def test_a_command_that_tidies_up_before_it_stops(shell: Shell, run: str) -> None:
    """It catches the key, restores the terminal and stops itself by SIGSTOP."""
    shell.type(f"{run}{TIDIES}\n", "ready\r\n")
    shell.press("\x1a", r"tidied\r\n", r"\[1\]\+  Stopped", "PROMPT")
    shell.type("fg\n", "back again\r\n", "PROMPT")


def test_a_command_that_ignores_the_key_goes_on(shell: Shell, run: str) -> None:
    """Then the shell is not told of a stop either."""
    shell.type(f"{run}{GOES_ON}\n", "ready\r\n")
    shell.press("\x1a", "not now\r\n")
    time.sleep(0.5)
    shell.type("\n", "end of it\r\n", "PROMPT")


def test_a_pipeline_stops_and_continues_as_one(shell: Shell, run: str) -> None:
    """A pager behind us keeps the terminal's keys."""
    shell.type(f"{run}{WORKS} | cat\n", "ready\r\n")
    shell.press("\x1a", r"\[1\]\+  Stopped", "PROMPT")
    shell.type("fg\n", "cat\r\n")
    shell.press("\x03", "PROMPT")


def test_a_shell_as_the_command_has_job_control_of_its_own(shell: Shell, run: str) -> None:
    """It takes the terminal and gives it back, and `suspend` leads to the outer shell."""
    shell.type(f"PS1='IN''NER> ' {run}bash --norc --noprofile --noediting -i\n", "INNER> ")
    shell.type(f"{WORKS}\n", "ready\r\n")
    shell.press("\x1a", r"\[1\]\+  Stopped", "INNER> ")
    shell.type("kill %1; fg\n", "INNER> ")
    shell.type("suspend\n", r"\[1\]\+  Stopped", "PROMPT")
    shell.type("fg\n", "INNER> ")
    shell.type("exit 6\n", "PROMPT")
    shell.type("echo code $?\n", "code 6\r\n")


def test_a_command_stopped_and_continued_alone_does_not_stop_us(
    shell: Shell, tmp_path: Path
) -> None:
    """As programs do that limit the share of a processor: they know only the command."""
    shell.type(f"{RUN}sh -c 'echo $$ > pid; echo ready; read line; exit 4'\n", "ready\r\n")
    pid = int((tmp_path / "pid").read_text())
    for _ in range(5):
        os.kill(pid, signal.SIGSTOP)
        until(lambda: psutil.Process(pid).status() == "stopped")
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
    shell.type("\n", "PROMPT")
    shell.type("echo code $?\n", "code 4\r\n")


def test_the_foot_of_the_terminal_is_given_back_to_the_shell(shell: Shell) -> None:
    """While the command is stopped, all lines scroll and the live line is gone."""
    shell.type(f"{RUN.replace(' --quiet', '')}{WORKS}\n", "ready\r\n")
    shell.expect(r"CO2e")
    shell.press("\x1a", r"\x1b\[r\x1b\[24;1H\x1b\[2K", r"\[1\]\+  Stopped", "PROMPT")
    assert b"CO2e" not in shell.shown
    shell.type("fg\n", r"\x1b\[1;23r", "CO2e")
    shell.press("\x03", r"\x1b\[r\x1b\[24;1H\x1b\[2K", "ended by SIGINT", "PROMPT")
