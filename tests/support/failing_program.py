"""A measured program in which one system call after the other fails; run with the shim preloaded.

Usage: failing_program.py SHIM FOLDER CALL:ERRNO:TIMES:STEP…; prints one line of JSON for
each fault: what the program saw, what it printed to stderr, and what became of its records.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

import carbontrack
from carbontrack.api.track import PROVIDER

NAMES = {
    *("outer", "block 0", "block 1", "block 2"),
    *("short", "steps", "soon", "threaded"),
}
"""The rows that the program must leave behind."""


def settings_for(output: list[str]) -> dict[str, Any]:
    """The settings of all blocks and functions."""
    return {"region": "FR", "output": output}


def program(output: list[str]) -> list[object]:
    """Something of everything; returns all that it could notice."""
    seen: list[object] = []

    def door(name: str) -> Any:
        return carbontrack.track(name, **settings_for(output))

    @door("short")
    def short(number: int) -> int:
        if number == 3:
            raise LookupError(number)
        return number * 2

    @door("steps")
    def steps() -> Any:
        seen.append((yield 1))
        return "done"

    @door("soon")
    async def soon() -> str:
        await asyncio.sleep(0)
        return "soon"

    def in_thread() -> None:
        with door("threaded"):
            seen.append(short(21))

    for number in range(3):
        with door(f"block {number}"):
            seen.append(number)
        for argument in (1, 3):
            try:
                seen.append(short(argument))
            except LookupError as error:
                seen.append(repr(error))
    with door("outer") as outer, outer.span("inner"):
        outer.snapshot()
    seen.extend(steps())
    seen.append(asyncio.run(soon()))
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    return seen


class Shim:
    """The preloaded library."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._arm, self.faults = library.arm, library.faults
        self.watch = lambda root: library.watch(os.fsencode(root))

    def arm(self, call: str, nth: int, times: int, error: int) -> None:
        """Let the nth call and those after it fail."""
        self._arm(call.encode(), nth, times, error)

    def disarm(self) -> None:
        """Nothing fails any more."""
        self.arm("", 0, 0, 0)


def one_fault(shim: Shim, folder: Path, fault: tuple[str, int, int, int]) -> None:
    """In a child: run the program with the fault, print what happened."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is ours till the end
    os.dup2(errors.fileno(), 2)
    here = folder / "-".join(map(str, fault))
    (here / "out").mkdir(parents=True)
    os.environ["CARBONTRACK_STATE_DIR"] = str(here / "state")
    output = [str(here / "out" / "rows.csv"), str(here / "out" / "rows.jsonl")]
    with carbontrack.track("started", **settings_for(output)):  # until then errors may be told
        pass
    for path in [*here.glob("out/*"), *here.glob("state/journal/*")]:
        path.unlink()  # so that they must be made anew
    shim.watch(here)
    shim.watch("/proc/")
    shim.watch(os.environ["CARBONTRACK_SYSFS_PATH"])
    shim.arm(*fault)
    try:
        seen: object = program(output)
        PROVIDER.close()
    except BaseException:
        seen = traceback.format_exc()
    shim.disarm()
    errors.seek(0)
    told = {"fault": fault, "injected": shim.faults(), "seen": seen, "folder": str(here)}
    print(json.dumps({**told, "stderr": errors.read().decode()}), flush=True)


def main() -> None:
    """Inject each kind of fault at each of the program's calls, until there are no more."""
    shim, folder = Shim(sys.argv[1]), Path(sys.argv[2])
    print(json.dumps({"seen": program([])}), flush=True)
    for kind in sys.argv[3:]:
        call, error, times, step = kind.split(":")
        nth = 1
        while nth < 1000:
            pid = os.fork()
            if pid == 0:
                one_fault(shim, folder, (call, nth, int(times), int(error)))
                os._exit(0 if shim.faults() else 99)
            if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
                break
            nth += int(step)


if __name__ == "__main__":
    main()
