"""A program of several processes that share memory: `python -m tests.support.sharing KIND MIB`.

It measures a block of 0.3 s of which the forks are a part, and prints what the record says of its
memory beside what the kernel does.
"""

import json
import mmap
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from carbontrack.attribution.usage import UsageReader
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeMeter
from carbontrack.tracking.tracker import Tracker

FORKS = 3
ALL_KIB = 16 << 20
PAGE = mmap.PAGESIZE


def procfs_of(folder, pids):
    """The kernel's own files of these processes, beside a machine that uses a fixed 16 GiB."""
    procfs = Path(folder)
    (procfs / "meminfo").write_text(f"MemTotal: {2 * ALL_KIB} kB\nMemAvailable: {ALL_KIB} kB\n")
    for name in ("self", "stat", *map(str, pids)):
        (procfs / name).symlink_to(f"/proc/{name}")
    return procfs


def fields_kib(pid, *names):
    """Fields of a process's smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines[1:])
    return [int(found[name].split()[0]) for name in names]


def touch(memory, size):
    """Have every page of it resident."""
    for at in range(0, size, PAGE):
        memory[at] = 1


def mapped(kind, size):
    """Memory of a kind: the program's own, of shared memory, or of a file."""
    if kind == "file":
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    flags = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
    return mmap.mmap(-1, size, flags=flags | mmap.MAP_ANONYMOUS)


def forked(memory, kind, size):
    """A fork that has the memory resident and waits, and its pid."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        if kind == "own":
            memory = mapped(kind, size)
        if kind != "private":  # what is private is resident in the fork at once
            touch(memory, size)
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    return pid


def measured(procfs, length_s):
    """What a block gets of the machine's memory, in KiB, with its interval.

    A block of no length ends before anything is known; any other one not before the answer, which
    takes some 20 ms for each GiB and process, and longer on a machine with much else to do.
    """
    meter, usage = FakeMeter("fake:ram", "ram", watts=10.0), UsageReader(procfs)
    with Tracker(meters=Sampler([meter], usage=usage), attribution="process") as tracker:
        with tracker.span("block") as span:
            wait(length_s)
            while length_s and (usage.needs_survey or surveys()):
                wait(0.01)
        kwh = span.record.energy_low_kwh, span.record.ram_kwh, span.record.energy_high_kwh
        return [joules / span.record.machine_kwh * ALL_KIB for joules in kwh]


def wait(length_s):
    """Let time pass."""
    threading.Event().wait(length_s)


def surveys():
    """Whether memory is just being looked at."""
    return any(thread.name == "carbontrack-memory" for thread in threading.enumerate())


def result(procfs, length_s, pids):
    """What a block gets, and what the kernel says of these processes."""
    low, best, high = measured(procfs, length_s)
    rss, pss = zip(*(fields_kib(pid, "Rss", "Pss") for pid in pids), strict=True)
    return {"low": low, "best": best, "high": high, "rss": rss, "pss": pss}


def main(kind, mib, length_s, who="parent"):
    """Measure, and print it; `who` is the parent, or the last fork, which counts itself only."""
    size = int(mib) << 20
    memory = mapped(kind, size)
    touch(memory, size)
    pids = [forked(memory, kind, size) for _ in range(FORKS)]
    with tempfile.TemporaryDirectory() as folder:
        procfs = procfs_of(folder, pids)
        if who == "parent":
            print(json.dumps(result(procfs, float(length_s), ("self", *pids))))
        elif (pid := os.fork()) == 0:
            print(json.dumps(result(procfs, float(length_s), ("self",))), flush=True)
            os._exit(0)
        else:
            os.waitpid(pid, 0)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
