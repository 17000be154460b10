"""Signals to `carbontrack run`: each reaches the command once, from any sender."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.host import depth_below

WINDOW_S = 0.2
"""How long after a signal to us its sender may still send it to others; then it is relayed."""
_IDLE_S = 1.0
_TIDY_S = 10.0
"""How long a command may take to stop after a signal to stop; it may have a screen to restore."""
_SI_KERNEL = 0x80
_PROCFS = Path("/proc")


def _named(*names: str) -> frozenset[int]:
    """The numbers of the signals that this system has."""
    return frozenset(int(getattr(signal, name)) for name in names if hasattr(signal, name))


_NOT_RELAYED = _named("SIGKILL", "SIGSTOP", "SIGCHLD")
_STOPS = _named("SIGTSTP", "SIGTTIN", "SIGTTOU")
_KEYS = _named("SIGINT", "SIGQUIT", "SIGTSTP", "SIGWINCH", "SIGCONT")
"""Signals that a job in the foreground gets from the terminal, or from its shell, as a whole."""
_FAULTS = _named("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")
"""A Python handler would return to the fault forever; of blocked ones, only a sent one waits."""
_LIMITS = _named("SIGXCPU", "SIGXFSZ")
"""From the kernel they are about our own limits; the command has its own."""
_ELSEWHERE = _named(
    *("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM"),
    *("SIGPROF", "SIGXCPU", "SIGIO", "SIGWINCH", "SIGCONT", "SIGINFO", "SIGBREAK"),
)

Process = subprocess.Popen[bytes]
Handlers = dict[int, Any]
WhileStopped = Callable[[], AbstractContextManager[None]]


class GroupProbe:
    """A process in which every signal stays pending, so that we see which ones came to all of us.

    It is a child of ours as the command is, of the same group, session, control group and terminal,
    and its arguments hold the command's. What is sent to any of these sets, or to whatever a
    pattern finds that finds the command, is sent to it too.
    """

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    def start(cls, command: Sequence[str]) -> GroupProbe | None:
        """Start one; None where there is no shell, no room for a process, or no procfs."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # opened first: where `Popen` fails to open it, Python up to 3.11.3 keeps a pipe
            with Path(os.devnull).open("r+b", buffering=0) as nowhere:
                # it reads until our end of the pipe is closed, by us or by our death
                process = subprocess.Popen(  # noqa: S603 - the shell ignores the command's words
                    ["/bin/sh", "-c", "read _", *command],
                    stdin=subprocess.PIPE,
                    stdout=nowhere,
                    stderr=nowhere,
                    cwd="/",
                    env={},
                )
        except OSError:
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        probe = cls(process)
        if probe.pending() is None:
            probe.end()
            return None
        return probe

    def pending(self) -> frozenset[int] | None:
        """The signals it was sent; None if it has ended or the system does not say."""
        if self._process.poll() is not None or depth_below(_PROCFS) != 0:
            return None
        try:
            status = (_PROCFS / str(self._process.pid) / "status").read_text()
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith("ShdPnd:"):  # proc_pid_status(5): bit n-1 stands for signal n
                bits = int(line.split()[1], 16)
                return frozenset(number for number in range(1, 65) if bits >> (number - 1) & 1)
        return None

    def end(self) -> None:
        """End it and wait for that."""
        self._process.kill()
        with self._process:  # closes the pipe and waits
            pass


class GroupProbes:
    """The probe that is asked what was sent to all of us, and its change for a new one.

    Args:
        command: what the probes are to be found by, as the command is.
        clock: the time.
        window_s: how long after a signal a probe is replaced, and kept for senders who found it.
    """

    def __init__(self, command: Sequence[str], clock: Clock, window_s: float) -> None:
        self._command = command
        self._clock = clock
        self._window_s = window_s
        self._probe = GroupProbe.start(command)
        self._used: tuple[GroupProbe, frozenset[int]] | None = None
        self._stale: frozenset[int] = frozenset()
        self.look_at_s: float | None = None
        """When the next change is due, where one is."""

    def seen(self) -> frozenset[int]:
        """What has been sent to all of us; without a probe, what keys of the terminal send."""
        if self._probe is None:
            return _KEYS if in_foreground() else frozenset()
        seen = self._probe.pending() or frozenset()
        if self._used is not None:
            used, before = self._used
            seen |= (used.pending() or frozenset()) - before
        return seen

    def is_worn(self, watched: frozenset[int]) -> bool:
        """Whether one that a signal came to, or that was killed, has been so for a window.

        Until then, signals of the same number to us alone are not told from those to all of us; and
        what the probe has got may still be on its way to us.
        """
        if self._probe is None:
            return False
        now_s, pending = self._clock.monotonic_s(), self._probe.pending()
        is_fresh = pending is not None and not pending & watched
        if self.look_at_s is None:
            if not is_fresh:
                self.look_at_s, self._stale = now_s + self._window_s, pending or frozenset()
            return False
        if now_s < self.look_at_s:
            return False
        self.look_at_s = None
        self._drop_used()
        return not is_fresh

    def renew(self) -> GroupProbe:
        """Put a new probe in the place of this one, and return this one, which is kept a window."""
        probe = self._probe
        assert probe is not None
        self._probe = GroupProbe.start(self._command)
        self._used = (probe, self._stale)
        self.look_at_s, self._stale = self._clock.monotonic_s() + self._window_s, frozenset()
        return probe

    def end(self) -> None:
        """End all of them."""
        self._drop_used()
        if self._probe is not None:
            self._probe.end()

    def _drop_used(self) -> None:
        if self._used is not None:
            self._used[0].end()
            self._used = None


class SignalRelay:
    """Takes every signal that is sent to us, and hands on those that the command did not get.

    All signals are blocked in this thread and in those it starts, and taken one by one while the
    command runs. One that the probe has too was sent to the whole group. For any other one we wait
    `window_s`, as its sender may address process after process, and then hand it on.

    Args:
        clock: the time.
        window_s: how long the sender of a signal may take for all of its addressees.
    """

    def __init__(self, clock: Clock | None = None, *, window_s: float = WINDOW_S) -> None:
        self._clock = clock or SystemClock()
        self._window_s = window_s
        self._watched: frozenset[int] = frozenset()
        self._mask: set[int] = set()
        self._handlers: Handlers = {}
        self._noted: deque[int] = deque()
        self._early: list[int] = []
        self._process: Process | None = None
        self._probes: GroupProbes | None = None
        self._undecided: list[tuple[int, float]] = []
        self._stop_asked_s: float | None = None
        self.ignores_children = False
        """Whether SIGCHLD was ignored at our start, as it then should be for the command."""

    def __enter__(self) -> SignalRelay:
        # those with a C handler, such as faulthandler's, are left to it
        numbers = set(map(int, signal.valid_signals())) - _NOT_RELAYED
        known = {number: signal.getsignal(number) for number in numbers}
        self._watched = frozenset(number for number in numbers if known[number] is not None)
        self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._awaited))
        # Blocked is enough for this thread. The handlers are for threads that others have started,
        # and for the moment of the command's start. What is ignored, by Python or from our start,
        # stays so for the command to inherit; blocked, it comes to us all the same.
        self._handlers = {
            number: signal.signal(number, self._note)
            for number in self._watched - _FAULTS
            if known[number] is not signal.SIG_IGN
        }
        self.ignores_children = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        if self.ignores_children:  # then the kernel keeps no exit code for us
            self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._probes is not None:
            self._probes.end()
        # what is sent once the command has ended must not change our exit code, which is its own
        self._taken(0.0)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def _awaited(self) -> frozenset[int]:
        return self._watched | {signal.SIGCHLD}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(number)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """For the start of the command, which inherits the mask: that of before our own."""
        self._early += (number for number, _ in self._taken(0.0))
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._awaited)

    def serve(self, process: Process, command: Sequence[str]) -> None:
        """Begin with a command that has just started; what came before it is sent to it now."""
        self._process = process
        for number in (*self._early, *(number for number, _ in self._taken(0.0))):
            self._send(number)
        # After the command: what the probe has seen, the command was there to see.
        self._probes = GroupProbes(command, self._clock, self._window_s)

    def wait(self, while_stopped: WhileStopped) -> None:
        """Relay until the command has ended."""
        assert self._process is not None
        while self._process.poll() is None:
            self._queue(self._taken(self._patience_s()))
            self._decide()
            self._renew_worn()
            self._follow_stop(while_stopped)

    def _patience_s(self) -> float:
        dues_s = [due_s for _, due_s in self._undecided]
        if self._probes is not None and self._probes.look_at_s is not None:
            dues_s.append(self._probes.look_at_s)
        left_s = min(dues_s, default=float("inf")) - self._clock.monotonic_s()
        return min(_IDLE_S, max(0.0, left_s))

    def _taken(self, timeout_s: float) -> list[tuple[int, bool]]:
        """The signals that are there, and whether the kernel sent them; waits for the first one.

        What is not meant for the command is left out.
        """
        found = []
        info = signal.sigtimedwait(self._awaited, timeout_s)
        while info is not None:
            if info.si_signo != signal.SIGCHLD and not self._is_between_us(info):
                found.append((info.si_signo, info.si_code == _SI_KERNEL))
            info = signal.sigtimedwait(self._awaited, 0)
        while self._noted:
            found.append((self._noted.popleft(), False))
        return found

    def _is_between_us(self, info: signal.struct_siginfo) -> bool:
        """A limit of ours, a signal by ourselves, or the command's to the one who started it."""
        if info.si_code == _SI_KERNEL:
            return info.si_signo in _LIMITS
        process = self._process
        return info.si_pid == os.getpid() or (process is not None and info.si_pid == process.pid)

    def _queue(self, taken: Sequence[tuple[int, bool]]) -> None:
        now_s = self._clock.monotonic_s()
        for number, is_kernels in taken:
            # as the kernel does: SIGCONT discards pending stops, and a stop a pending SIGCONT
            if number in _STOPS or number == signal.SIGCONT:
                self._stop_asked_s = now_s if number in _STOPS else None
                undone = _STOPS if number == signal.SIGCONT else {signal.SIGCONT}
                self._undecided = [each for each in self._undecided if each[0] not in undone]
            # the kernel sends to a whole group at once
            self._undecided.append((number, now_s + (0.0 if is_kernels else self._window_s)))

    def _decide(self) -> None:
        """Drop the signals that the command has got as well, and relay those whose time is up."""
        if not self._undecided:
            return
        seen, now_s = self._seen(), self._clock.monotonic_s()
        waiting = [each for each in self._undecided if each[0] not in seen]
        self._undecided = [each for each in waiting if each[1] > now_s]
        for number, due_s in waiting:
            if due_s <= now_s:
                self._send(number)

    def _seen(self) -> frozenset[int]:
        """What has been sent to all of us, if the command is one of us."""
        if self._probes is None or not self._is_with_us():
            return frozenset()
        return self._probes.seen()

    def _is_with_us(self) -> bool:
        """Whether the command is in our group, so that it gets what the group gets."""
        assert self._process is not None
        try:
            return os.getpgid(self._process.pid) == os.getpgrp()
        except ProcessLookupError:
            return True

    def _renew_worn(self) -> None:
        """Renew a probe that signals are pending in.

        A signal to the group reaches either all who are in it or, before the new probe was, none of
        it: the kernel sends and forks under one lock. What we have got by now is shown by the old
        probe, and what is still to come by the new one.
        """
        if self._probes is None or not self._probes.is_worn(self._watched):
            return
        used = self._probes.renew()
        self._queue(self._taken(0.0))
        if self._is_with_us():
            pending = used.pending() or frozenset()
            self._undecided = [each for each in self._undecided if each[0] not in pending]

    def _send(self, number: int) -> None:
        assert self._process is not None
        with suppress(OSError):  # it has ended, or has become another user's
            self._process.send_signal(number)

    def _follow_stop(self, while_stopped: WhileStopped) -> None:
        """Stop when the command has been stopped: the shell waits for us, not for the command.

        But not where somebody stopped the command alone, by SIGSTOP, as they will continue it
        alone; unless it has the terminal for a group of its own: nobody else could use it.
        """
        assert self._process is not None
        try:
            event = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG)
            group = os.getpgid(self._process.pid)
        except (ChildProcessError, ProcessLookupError):
            return
        if event is None:
            return
        has_terminal = foreground_group() == group != os.getpgrp()
        if not (has_terminal or self._was_stop_asked() or event.si_status in _STOPS):
            return
        self._stop_asked_s = None
        with while_stopped():
            number = event.si_status if event.si_status in _STOPS else signal.SIGTSTP
            stop_with(self._process.pid, number)
        if has_terminal and in_foreground():  # the shell gave it to our group
            give_terminal(group)

    def _was_stop_asked(self) -> bool:
        asked_s = self._stop_asked_s
        return asked_s is not None and self._clock.monotonic_s() - asked_s < _TIDY_S


def stop_with(pid: int, number: int) -> None:
    """Take the default action of a signal that stops, unless the process runs again meanwhile.

    SIGCONT discards a pending stop, so the signal is first made pending, then the process is looked
    at, and only then the signal is let through.
    """
    if signal.SIGCONT in signal.sigpending():
        return
    handler = signal.signal(number, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.pthread_kill(threading.get_ident(), number)
    if _is_stopped(pid):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    else:
        signal.signal(number, signal.SIG_IGN)  # discards it
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    signal.signal(number, handler)


def _is_stopped(pid: int) -> bool:
    if depth_below(_PROCFS) != 0:
        return False  # the number is another process's there, or nobody's
    try:
        status = (_PROCFS / str(pid) / "stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "T"


class PlainRelay:
    """Where signals cannot be waited for, as on macOS and Windows: all are relayed but keys."""

    ignores_children = False

    def __init__(self) -> None:
        self._process: Process | None = None
        self._early: list[int] = []
        self._handlers: Handlers = {}

    def __enter__(self) -> PlainRelay:
        for number in _ELSEWHERE:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._handlers[number] = signal.signal(number, self._relay)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Nothing is blocked, and handlers are not inherited by a command."""
        yield

    def serve(self, process: Process, _command: Sequence[str]) -> None:
        """Begin with a command that has just started; what came before it is sent to it now."""
        self._process = process
        for number in self._early:
            process.send_signal(number)

    def wait(self, _while_stopped: WhileStopped) -> None:
        """Wait until the command has ended."""
        assert self._process is not None
        self._process.wait()

    def _relay(self, number: int, _frame: FrameType | None) -> None:
        if number in _KEYS and in_foreground():
            return
        if self._process is None:
            self._early.append(number)
        else:
            with suppress(OSError):
                self._process.send_signal(number)


def in_foreground() -> bool:
    """Whether a key pressed on the terminal reaches our process group."""
    return not hasattr(os, "tcgetpgrp") or foreground_group() == os.getpgrp()


def foreground_group() -> int | None:
    """The process group that has the terminal; None without a terminal."""
    with _terminal() as terminal:
        return None if terminal is None else os.tcgetpgrp(terminal)
    return None


def give_terminal(group: int) -> None:
    """Make it the group that has the terminal; SIGTTOU must be blocked."""
    with _terminal() as terminal:
        if terminal is not None:
            os.tcsetpgrp(terminal, group)


@contextmanager
def _terminal() -> Iterator[int | None]:
    """The terminal's descriptor, None without one; what fails on it in the block is let go."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        yield None
        return
    try:
        with suppress(OSError):
            yield terminal
    finally:
        os.close(terminal)
