"""The command of `carbontrack run` as a child process: its streams, signals and exit code."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from carbontrack.cli.signal_relay import PlainRelay, SignalRelay, WhileStopped
from carbontrack.record import Status
from carbontrack.values import NamedTuple

NOT_EXECUTABLE, NOT_FOUND, KILLED = 126, 127, 128
"""The exit codes of the shell (POSIX, Shell and Utilities, 2.8.2); a signal's number is added."""

_IGNORE_CHILDREN = """\
import os, sys
from signal import *
signal(SIGCHLD, SIG_IGN)
signal(SIGPIPE, SIG_DFL)
signal(SIGXFSZ, SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Becomes a command that ignores SIGCHLD, as we were told to; a shell would not pass that on."""


_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Why no process can be started although the program is in order."""


class End(NamedTuple):
    """How a command ended: the exit code to pass on, and the status and error of its record."""

    code: int
    status: Status = "ok"
    error: str | None = None
    started: bool = True
    is_no_room: bool = False
    """Whether it could not start only because no other process can, beside us."""

    @classmethod
    def before_start(cls, code: int, reason: str) -> End:
        """It never ran."""
        return cls(code, "error", reason, started=False)

    @classmethod
    def of(cls, returncode: int) -> End:
        """From the return code of `subprocess`: an exit code, or -n for an end by signal n."""
        if returncode >= 0:
            return cls(returncode, "error", f"exit code {returncode}") if returncode else cls(0)
        status: Status = "interrupted" if returncode == -signal.SIGINT else "error"
        try:
            name = signal.Signals(-returncode).name
        except ValueError:  # a real-time signal has no name
            name = f"signal {-returncode}"
        return cls(KILLED - returncode, status, f"ended by {name}")


class Child:
    """A command that shares our streams, our terminal and our process group.

    So what addresses the group, such as a terminal or `timeout`, reaches the command itself;
    a signal that only we got is relayed.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._relay = SignalRelay() if hasattr(signal, "sigtimedwait") else PlainRelay()

    def start(self, command: Sequence[str], *, environ: Mapping[str, str]) -> End | None:
        """Start the command; its end if the system refuses, for lack of memory for example."""
        started = command
        if self._relay.ignores_children:
            started = [sys.executable, "-I", "-S", "-c", _IGNORE_CHILDREN, *command]
        try:
            with self._relay.lifted():
                self._process = _spawn(started, environ)
        except OSError as error:
            end = End.before_start(NOT_EXECUTABLE, f"cannot start {command[0]}: {error.strerror}")
            return end._replace(is_no_room=error.errno in _NO_ROOM)
        self._relay.serve(self._process, command)
        return None

    @property
    def running(self) -> int | None:
        """The process id of the command while it runs; None before and after."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    @property
    def has_started(self) -> bool:
        """Whether the command was started, whether or not it has ended since."""
        return self._process is not None

    def wait(self, while_stopped: WhileStopped = nullcontext) -> End:
        """Wait until the command has ended, within `signals`.

        Args:
            while_stopped: entered before we are stopped as the command was, and left afterwards.
        """
        assert self._process is not None
        if self._process.returncode is None:
            self._relay.wait(while_stopped)
        return End.of(self._process.returncode)

    def signals(self) -> AbstractContextManager[object]:
        """Take and relay signals while the block runs; none of them ends or stops us.

        Threads that are started before it would get signals too, and are better started in it.
        """
        return self._relay


def _spawn(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # our descriptors have close-on-exec set; those of the user are inherited
    try:
        return subprocess.Popen(command, env=environ, close_fds=False)  # noqa: S603 - it is the job
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # a script without "#!" is run by the shell, as execvp(3) does
        script = ["/bin/sh", shutil.which(command[0]) or command[0], *command[1:]]
        return subprocess.Popen(script, env=environ, close_fds=False)  # noqa: S603 - as above


def become(command: Sequence[str], environ: Mapping[str, str]) -> End:
    """Go on as the command, where no process can be started beside us; its end if that fails."""
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them; the command is to have the defaults
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    given, script = [*command], ["/bin/sh", shutil.which(command[0]) or command[0], *command[1:]]
    failure: OSError | None = None
    for words in (given, script):  # the second as in `_spawn`
        try:
            os.execvpe(words[0], words, environ)  # noqa: S606 - it is the job
        except OSError as error:
            failure = failure or error
            if error.errno != errno.ENOEXEC:
                break
    reason = f"cannot start {command[0]}: {failure.strerror if failure else ''}"
    return End.before_start(NOT_EXECUTABLE, reason)


def obstacle(command: Sequence[str]) -> End | None:
    """Why the command cannot start, with the shell's exit code; None if it can.

    Checked before anything is measured, so that no record is written of a command that never ran.
    """
    program = command[0]
    path = shutil.which(program)
    if path is None:
        there = next((each for each in _candidates(program) if each.exists()), None)
        if there is None:
            return End.before_start(NOT_FOUND, f"there is no command {program!r}{_here(program)}")
        reason = "is a directory" if there.is_dir() else f"is not executable{_how_to(there)}"
        return End.before_start(NOT_EXECUTABLE, f"{there} {reason}")
    interpreter = _interpreter(Path(path))
    if interpreter and not Path(interpreter).is_file():
        return End.before_start(NOT_EXECUTABLE, f"{path} needs {interpreter}, which is not there")
    return None


def _here(program: str) -> str:
    """What to write for a file of the working directory, which a shell does not search either."""
    if "/" in program or not Path(program).is_file():
        return ""
    started = f"python {program}" if program.endswith(".py") else f"./{program}"
    return f"; for the file in this directory: carbontrack run -- {started}"


def _how_to(file: Path) -> str:
    if file.suffix == ".py":
        return f"; write: carbontrack run -- python {file}"
    return "; see chmod +x"


def _candidates(program: str) -> Iterator[Path]:
    if "/" in program:
        yield Path(program)
        return
    for folder in os.get_exec_path():
        if not (path := Path(folder, program)).is_dir():
            yield path


def _interpreter(path: Path) -> str:
    """The interpreter that a script names after "#!"; "" if there is none or it is unreadable."""
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError:
        return ""
    if not start.startswith(b"#!"):
        return ""
    words = start[2:].split(b"\n")[0].split()
    return os.fsdecode(words[0]) if words else ""


def default_name(command: Sequence[str]) -> str:
    """The name of a command's record: the script of an interpreter, else the program."""
    program = os.path.basename(command[0])  # noqa: PTH119 - text in, text out
    rest = list(command[1:])
    if program.startswith(("python", "pypy", "bash", "sh", "node", "Rscript", "julia")) and rest:
        if rest[0] == "-m" and len(rest) > 1:
            return rest[1]
        if not rest[0].startswith("-"):
            return os.path.basename(rest[0]) or program  # noqa: PTH119 - as above
    return program or command[0]
