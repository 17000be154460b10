"""State directories of other users, for a relay that runs as root.

Root never reads files that another user may have put into a directory. A process with only the
rights of the directory's owner gathers the records there and sends them to the relay's own
endpoint.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from carbontrack.sinks.journal.journal import FOLDER
from carbontrack.sinks.journal.names import SUFFIX
from carbontrack.system.clock import Clock
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import RateLimitedLog

AGAIN_S = 30.0
"""Seconds between two checks of another user's directory."""
_AT_ONCE = 4
_LONGEST_S = 120.0
"""The time after which a process is terminated; its records are still in its journals."""
_MOST_BYTES = 1 << 16


def is_of_another(folder: Path) -> bool:
    """Whether a state directory has journals of another user, where this process is root."""
    return os.name == "posix" and os.geteuid() == 0 and _owner(folder) not in (None, 0)


def _owner(folder: Path) -> int | None:
    """The owner of the journals in a state directory; None if there are none."""
    try:
        status = (folder / FOLDER).lstat()
    except OSError as error:
        pass_on(error)
        return None
    return status.st_uid if stat.S_ISDIR(status.st_mode) else None


def _has_journals(folder: Path) -> bool:
    try:
        return any(name.endswith(SUFFIX) for name in os.listdir(folder / FOLDER))  # noqa: PTH208
    except OSError as error:
        pass_on(error)
        return False


class OtherUsers:
    """Processes that gather for the relay, each with the rights of one user.

    Args:
        endpoint: where they post what they find.
        token: lets them in there.
        addresses: whose records are meant.
        clock: the time source.
    """

    def __init__(
        self, endpoint: str, token: str, addresses: Sequence[str], *, clock: Clock
    ) -> None:
        self._unfinished: set[Path] = set()
        self._endpoint, self._token, self._addresses = endpoint, token, addresses
        self._clock = clock
        self._warnings = RateLimitedLog(clock)
        self._running: dict[Path, tuple[subprocess.Popen[bytes], float]] = {}
        self._looked_at_s: dict[Path, float] = {}

    def look(self, folders: Iterable[Path]) -> bool:
        """Start processes that are due, and collect those that exited.

        False if none runs. Does not wait.
        """
        now_s = self._clock.monotonic_s()
        for folder, (process, began_s) in list(self._running.items()):
            if process.poll() is None and now_s - began_s > _LONGEST_S:
                process.kill()
            elif process.poll() is not None:
                del self._running[folder]
                self._note(folder, process)
        for folder in folders:
            if len(self._running) >= _AT_ONCE:
                break
            is_due = now_s - self._looked_at_s.get(folder, float("-inf")) >= AGAIN_S
            if is_due and folder not in self._running and _has_journals(folder):
                self._looked_at_s[folder] = now_s
                self._start(folder, now_s)
        return bool(self._running)

    def end(self) -> None:
        """Terminate running processes."""
        for process, _ in self._running.values():
            process.terminate()
            process.wait()
            _said(process)

    def _start(self, folder: Path, now_s: float) -> None:
        owner = _owner(folder)
        if not owner:
            return
        named = [argument for one in self._addresses for argument in ("--for", one)]
        command = [sys.executable, "-I", "-m", "carbontrack", "relay", "--once", "--json"]
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/",
            "CARBONTRACK_STATE_DIR": str(folder),
            "CARBONTRACK_HTTP_TOKEN": self._token,
        }
        try:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [*command, "--to", self._endpoint, *named],
                user=owner,
                group=_group_of(owner),
                extra_groups=[],
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError) as error:
            pass_on(error)
            self._warnings.warn(
                "start", f"{folder}: no process can run with its owner's rights: {error}"
            )
            self._unfinished.add(folder)
            return
        self._running[folder] = process, now_s

    @property
    def unfinished(self) -> int:
        """In how many folders something was left when a process last ended there."""
        return len(self._unfinished)

    def _note(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._unfinished.discard(folder)
        code, has_ended = process.returncode, b'"ended"' in _said(process)
        if code == 0:
            return
        self._unfinished.add(folder)
        why = "records are still waiting there"
        if not has_ended:  # one that could not be loaded ends with 1 as well
            why = (
                f"the process that gathers there exited with {code}; can its owner import "
                "carbontrack?"
            )
        self._warnings.warn("code", f"{folder}: {why}")


def _said(process: subprocess.Popen[bytes]) -> bytes:
    """The output of an exited process: some lines of JSON."""
    assert process.stdout is not None
    with process.stdout as output:
        return output.read(_MOST_BYTES)


def _group_of(uid: int) -> int:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:  # a user whom this machine does not know by name
        return uid
