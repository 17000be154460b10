"""Processes that fork each other and open blocks, on a machine whose clock and meter are simulated.

Run as a script with a seed. The clock is in memory that all of them share, and moves only when the
program says so; the machine uses 100 W. So what a report must add up is known to the last bit: the
time in which any block was open. After each event there is a tick in every process, at which it
looks at its parents and writes its checkpoint; so what a killed process loses is nothing.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import socket
import struct
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

from carbontrack.api.assembly import assemble, current_environment
from carbontrack.config.load import load_settings
from carbontrack.meters.meter import MeterSet
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.host import process_stat
from carbontrack.testing import FakeMeter

PROCESSES = 5
WATTS = 100.0
STEP_S = 1.0


class SharedClock:
    """A clock in shared memory; nothing in it waits for time to pass."""

    is_stepped = True

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)
        self.set(1000.0)

    def set(self, at_s: float) -> None:
        self._memory[:8] = struct.pack("d", at_s)

    def monotonic_s(self) -> float:
        return float(struct.unpack("d", self._memory[:8])[0])

    def suspended_s(self) -> float:
        return 0.0

    def now_utc(self) -> datetime:
        begin = datetime(2026, 1, 1, tzinfo=timezone.utc)
        return begin + timedelta(seconds=round(self.monotonic_s(), 6))

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        return event.wait()


CLOCK = SharedClock()
PAIRS = [socket.socketpair() for _ in range(PROCESSES)]


def serve(number: int, tracker: object) -> None:
    """Do what the program says, until it says that this process ends."""
    span, answer = None, "done"
    here = PAIRS[number][1]
    while True:
        command = here.recv(16).decode()
        if command == "open":
            span = tracker.span(f"process {number}").open()
        elif command == "close":
            span.close()
        elif command == "tick":
            tracker.session.sampler.tick()
        elif command == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == "exit":
            os._exit(0)
        else:
            pid = os.fork()
            if not pid:
                serve(int(command), tracker)
            answer = str(pid)
        here.send(answer.encode())


def say(number: int, command: str) -> str:
    """Have a process do something, and wait until it has."""
    PAIRS[number][0].send(command.encode())
    return "" if command in ("exit", "kill") else PAIRS[number][0].recv(16).decode()


def kill(number: int, pid: int) -> None:
    """Have a process killed, and wait until it lives no more."""
    say(number, "tick")  # what it has used since its last checkpoint would be lost
    say(number, "kill")
    while process_stat(Path("/proc"), str(pid)) is not None:
        os.sched_yield()


def run(seed: int, pid: int) -> float:
    """The seconds in which a block was open in any process; `pid` is the first one."""
    choose = random.Random(seed)
    alive, is_open, now_s, open_s = [0], {0: False}, 1000.0, 0.0
    pids = {0: pid}
    for _ in range(40):
        step_s = STEP_S * choose.randint(1, 9)
        open_s += step_s if any(is_open.values()) else 0.0
        now_s = now_s + step_s
        CLOCK.set(now_s)
        one = choose.choice(alive)
        if len(is_open) < PROCESSES and choose.random() < 0.3:
            new = len(is_open)
            pids[new] = int(say(one, str(new)))
            alive.append(new)
            is_open[new] = False
        elif len(alive) > 1 and choose.random() < 0.08:
            kill(one, pids[one])
            alive.remove(one)
            is_open[one] = False
        else:
            say(one, "close" if is_open[one] else "open")
            is_open[one] = not is_open[one]
        for each in alive:
            say(each, "tick")
    for one in choose.sample(alive, len(alive)):
        step_s = STEP_S * choose.randint(1, 9)
        open_s += step_s if any(is_open.values()) else 0.0
        now_s = now_s + step_s
        CLOCK.set(now_s)
        if is_open[one]:
            say(one, "close")
        is_open[one] = False
        for each in alive:
            say(each, "tick")
    for one in reversed(alive):
        say(one, "exit")
    return open_s


def main() -> None:
    """Run one program in this folder, and print the seconds."""
    settings = load_settings(
        {"output": "rows.csv", "region": "FR", "scope": "machine", "checkpoint_s": 1}
    )
    meter = FakeMeter(joules=lambda now_s: WATTS * now_s)
    sampler = Sampler(MeterSet((meter,)), interval_s=3600.0, clock=CLOCK)
    tracker = assemble(settings, current_environment(), sampler=sampler)
    pid = os.fork()
    if not pid:
        serve(0, tracker)
    open_s = run(int(sys.argv[1]), pid)
    os.waitpid(pid, 0)
    print(json.dumps({"open_s": open_s}))


if __name__ == "__main__":
    main()
