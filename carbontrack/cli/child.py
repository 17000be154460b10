"""Running a command as if we were not there: its streams, its signals, its end."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from carbontrack.records import Status

NOT_EXECUTABLE, NOT_FOUND, KILLED = 126, 127, 128
"""The exit codes of the shell (POSIX, Shell and Utilities, 2.8.2); a signal's number is added."""

_RELAYED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT", "SIGQUIT", "SIGBREAK")
_KEYS = ("SIGINT", "SIGQUIT")
"""What a terminal sends to the command by itself, when a key is pressed."""


class End(NamedTuple):
    """How a command ended: the code to pass on, and what its record says of it."""

    code: int
    status: Status = "ok"
    error: str | None = None

    @classmethod
    def of(cls, returncode: int) -> End:
        """From what the system says: 0 or more is an exit code, -n is the end by signal n."""
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

    A key such as Ctrl-C reaches the command from the terminal itself; a signal that was sent to
    us alone is handed on.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def start(self, command: Sequence[str], *, environ: Mapping[str, str]) -> None:
        """Start the command.

        Raises:
            OSError: the system refuses, for want of memory or processes, say.
        """
        try:
            self._process = _spawn(command, environ)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # a script without "#!" is the shell's, as with execvp(3)
            path = shutil.which(command[0]) or command[0]
            self._process = _spawn(["/bin/sh", path, *command[1:]], environ)
        for number in self._early:
            self._process.send_signal(number)

    def wait(self) -> End:
        """Wait until the command has ended."""
        assert self._process is not None
        return End.of(self._process.wait())

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Hand signals on while the block runs; those that we were told to ignore stay ignored."""
        before = {}
        for name in _RELAYED:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, self._relay)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _relay(self, number: int, _frame: FrameType | None) -> None:
        if signal.Signals(number).name in _KEYS and in_foreground():
            return
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)


def _spawn(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # our own descriptors are closed on exec by themselves; the user's pass through
    return subprocess.Popen(command, env=environ, close_fds=False)  # noqa: S603 - it is the job


def in_foreground() -> bool:
    """Whether a key pressed on the terminal reaches our process group."""
    if not hasattr(os, "tcgetpgrp"):
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def obstacle(command: Sequence[str]) -> tuple[int, str] | None:
    """Why the command cannot be started, with the shell's exit code for it; None if it can."""
    program = command[0]
    path = shutil.which(program)
    if path is None:
        for candidate in _candidates(program):
            if candidate.is_dir() and "/" in program:
                return NOT_EXECUTABLE, f"{program} is a directory"
            if candidate.is_file():
                return NOT_EXECUTABLE, f"{candidate} is not executable; try: chmod +x {candidate}"
        return NOT_FOUND, f"there is no command {program!r}"
    interpreter = _interpreter(Path(path))
    if interpreter and not Path(interpreter).is_file():
        return NOT_EXECUTABLE, f"{path} needs {interpreter}, which is not there"
    return None


def _candidates(program: str) -> list[Path]:
    if "/" in program:
        return [Path(program)]
    return [Path(folder, program) for folder in os.get_exec_path()]


def _interpreter(path: Path) -> str:
    """What a script names after "#!"; "" for other files and for those we may not read."""
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
    """What the record calls a command: the script of an interpreter, else the program."""
    program = os.path.basename(command[0])  # noqa: PTH119 - text in, text out
    rest = list(command[1:])
    if program.startswith(("python", "pypy", "bash", "sh", "node", "Rscript", "julia")) and rest:
        if rest[0] == "-m" and len(rest) > 1:
            return rest[1]
        if not rest[0].startswith("-"):
            return os.path.basename(rest[0]) or program  # noqa: PTH119 - as above
    return program or command[0]
