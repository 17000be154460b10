"""Real signals at random moments: time limits, Ctrl-C, and handlers that measure themselves.

Each program runs for CARBONTRACK_SIGNAL_SECONDS, two by default; 60 is a thorough run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover
from tests.support.interpreters import VERSIONS, run

SECONDS = float(os.environ.get("CARBONTRACK_SIGNAL_SECONDS", "2"))

DOORS = """
import carbontrack, collections, json, random, signal, sys, threading, time
seconds, kind, seed = float(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
track = carbontrack.track

class Once:
    def __await__(self): yield
def drive(coroutine):
    try:
        while True: coroutine.send(None)
    except StopIteration: pass

@track("small")
def small(): return 1
@track("each", window_s=0.0)
def each(): return 1
@track("steps")
def steps():
    yield 1
    yield 2
@track("work")
async def work(): await Once()

def block():
    with track("step"): pass
def nested():
    with track("step"):
        with track("inside"): small()
        small()
def asked():
    with track("step", budget="1 kWh") as span:
        span.check()
        span.snapshot()
def calls():
    for _ in range(20): small()
def generator():
    for _ in steps(): pass
def coroutine(): drive(work())
async def async_block():
    async with track("step"): await Once()
def async_with(): drive(async_block())
doors = [block, nested, asked, calls, each, generator, coroutine, async_with]
"""

STOPPED = (
    DOORS
    + """
class Timeout(Exception): pass
fired = 0
errors = {"Timeout": Timeout, "TimeoutError": TimeoutError, "KeyboardInterrupt": KeyboardInterrupt}
def handle(signum, frame):
    global fired
    fired = 1
    raise errors[kind]("the time is over")
def until_fired(door, late):
    # in a function: in the loop of a `try` itself, 3.13.0 applies no handler to the jump back
    while not fired and time.monotonic() < late: door()
c_handler = kind == "default_int_handler"
signal.signal(signal.SIGALRM, signal.default_int_handler if c_handler else handle)
stop = KeyboardInterrupt if c_handler else errors[kind]
for door in doors: door()
found, limits, swallowed = collections.Counter(), 0, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    door, fired = rng.choice(doors), 0
    limits += 1
    late = time.monotonic() + 20.0
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.choice([rng.uniform(2e-5, 1e-3), 1e-4]))
        until_fired(door, late)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        swallowed += 1
        found["swallowed in " + door.__name__] += 1
    except stop: pass
    except BaseException as other: found[repr(other) + " in " + door.__name__] += 1
    try:
        here = carbontrack.current_span()
        if here is not None: found[f"{here!r} is current after {door.__name__}"] += 1
        with track("later") as later: pass
        if later.parent is not None: found["a child after " + door.__name__] += 1
        if later.is_open: found["left open"] += 1
        if small() != 1: found["no result"] += 1
        later_call()
    except NameError:
        later_call = track("later call")(lambda: None)
        later_call()
    except BaseException as other: found[repr(other) + " after " + door.__name__] += 1
free = []
def other():
    with track("thread"): small()
    free.append(True)
thread = threading.Thread(target=other, daemon=True)
thread.start()
thread.join(60.0)
if not free: found["a lock is held"] += 1
print(json.dumps([limits, swallowed, found]), flush=True)
"""
)


def rows_of(folder: Path) -> list[Record]:
    """The rows of a program that has ended, none of them twice, and none to be recovered too."""
    records = list(iter_records(folder / "runs.csv"))
    twice = [one for one, n in Counter(r.record_id for r in records).items() if n > 1]
    assert not twice
    again = {found.record.record_id for found in recover(folder / "state")}
    assert not again & {record.record_id for record in records}
    return records


@pytest.mark.parametrize("kind", ["Timeout", "TimeoutError", "default_int_handler"])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_stop_is_seen(kind: str, version: str, tmp_path: Path) -> None:
    """No limit is swallowed, nothing is current after one, and what comes later has its row."""
    done = run(version, STOPPED, tmp_path, SECONDS, kind, 15, limit_s=SECONDS * 4 + 120.0)
    assert done.returncode == 0, done.stderr[-4000:]
    limits, swallowed, found = json.loads(done.stdout.splitlines()[-1])
    assert (swallowed, found) == (0, {}), f"of {limits} limits"
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    rows = rows_of(tmp_path)
    later = [row for row in rows if row.name == "later"]
    assert len(later) == limits
    assert {row.status for row in later} == {"ok"}
    assert {row.parent_id for row in rows} == {None}
    assert sum(row.calls or 1 for row in rows if row.name == "later call") == limits


REENTRANT = (
    DOORS
    + """
spans, handlers, depth = [], 0, 0
def handle(signum, frame):
    global handlers, depth
    handlers += 1
    with track("tick") as span:
        spans.append(span)
        small()
    if handlers % 3 == 0:
        spans.append(span)
        each()
        for _ in steps(): pass
        carbontrack.current_span()
for door in doors: door()
handle(0, None)
found = collections.Counter()
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
end, rounds = time.monotonic() + seconds, 0
while time.monotonic() < end:
    door = rng.choice(doors)
    rounds += 1
    try:
        door()
        with track("between") as span: spans.append(span)
    except BaseException as other: found[repr(other) + " in " + door.__name__] += 1
    here = carbontrack.current_span()
    if here is not None: found[f"{here!r} is current after {door.__name__}"] += 1
signal.setitimer(signal.ITIMER_REAL, 0.0)
left = sum(span.is_open for span in spans)
if left: found["left open"] = left
with track("after") as after: pass
if after.parent is not None: found["a child at the end"] += 1
print(json.dumps([handlers, rounds, found]), flush=True)
"""
)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handler_that_measures(version: str, tmp_path: Path) -> None:
    """All its blocks end, none stays current, and each root has its row."""
    done = run(version, REENTRANT, tmp_path, SECONDS, "", 15, limit_s=SECONDS * 4 + 120.0)
    assert done.returncode == 0, done.stderr[-4000:]
    handlers, rounds, found = json.loads(done.stdout.splitlines()[-1])
    assert found == {}, f"after {handlers} handlers"
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    rows = Counter(record.name for record in rows_of(tmp_path))
    assert rows["between"] == rounds
    assert rows["after"] == 1
    assert rows["tick"] <= handlers


BETWEEN = """
import carbontrack, collections, json, os, random, signal, sys, time
seconds, rng = float(sys.argv[1]), random.Random(15)
parent = os.getpid()
ready, go = os.pipe()
sender = os.fork()
if sender == 0:  # before any thread or tracker: it only sends Ctrl-C, once for each byte
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.read(ready, 1) == b"g":
        time.sleep(rng.uniform(0.0, 0.02))
        os.kill(parent, signal.SIGINT)
    os._exit(0)
@carbontrack.track("small")
def small(): return 1
def blocks():
    while True:
        with carbontrack.track("step"): sum(range(300))
def calls():
    while True: small()
with carbontrack.track("warm"): small()
found, rounds, end = collections.Counter(), 0, time.monotonic() + seconds
while time.monotonic() < end:
    rounds += 1
    try:
        os.write(go, b"g")
        (blocks if rounds % 2 else calls)()
    except KeyboardInterrupt: pass
    try:
        with carbontrack.track("later") as span: pass
        if span.parent is not None: found["a child"] += 1
    except BaseException as other: found[repr(other)] += 1
os.write(go, b"e")
os.waitpid(sender, 0)
print(json.dumps([rounds, found]), flush=True)
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_ctrl_c_between_blocks_and_calls(version: str, tmp_path: Path) -> None:
    """Sent by another process, with Python's own handler."""
    done = run(version, BETWEEN, tmp_path, SECONDS, limit_s=SECONDS * 4 + 120.0)
    assert done.returncode == 0, done.stderr[-4000:]
    rounds, found = json.loads(done.stdout.splitlines()[-1])
    assert found == {}, f"after {rounds} times"
    rows: Any = Counter(record.name for record in rows_of(tmp_path))
    assert rows["later"] == rounds
