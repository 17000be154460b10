"""Finalizers that measure, at any moment of the program's life and at its end.

The garbage collector runs them at any line, also of ours, and the interpreter runs some when no
thread can be started any more and modules are being emptied. CARBONTRACK_ENDINGS and
CARBONTRACK_CYCLES say how many are tried; 1000 and 300000 are a thorough run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover
from tests.support.interpreters import VERSIONS, run

ENDINGS = int(os.environ.get("CARBONTRACK_ENDINGS", "20"))
CYCLES = int(os.environ.get("CARBONTRACK_CYCLES", "30000"))

SAY = """
import os
def say(text, write=os.write):
    write(1, text.encode() + b"\\n")
"""
AT_THE_END = {
    "call in a cycle": """
import carbontrack
class Session:
    def __init__(self): self.me = self
    @carbontrack.track
    def close(self, say=say): say("ran")
    def __del__(self): self.close()
Session()
""",
    "call in a cycle, after others": """
import carbontrack
class Session:
    def __init__(self): self.me = self
    @carbontrack.track
    def close(self, say=say): say("ran")
    def __del__(self): self.close()
once = Session()
once.close()
""",
    "block in a cycle": """
import carbontrack
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say, track=carbontrack.track):
        with track("late"):
            say("ran")
Session()
""",
    "block in a cycle inside an open block": """
import carbontrack
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say, track=carbontrack.track):
        with track("late"):
            say("ran")
open_block = carbontrack.track("never closed")
open_block.__enter__()
Session()
""",
    "generator in a cycle": """
import carbontrack
@carbontrack.track
def steps(say=say):
    try:
        yield 1
        yield 2
    finally:
        say("ran")
class Session:
    def __init__(self):
        self.me, self.steps = self, steps()
        next(self.steps)
Session()
""",
    "generator begun in a finalizer": """
import carbontrack
@carbontrack.track
def steps():
    yield 1
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say, steps=steps):
        for _ in steps():
            say("ran")
Session()
""",
    "coroutine that nobody ends": """
import carbontrack
class Once:
    def __await__(self): yield
async def work(say=say):
    async with carbontrack.track("late"):
        try:
            await Once()
        finally:
            say("ran")
going = work()
going.send(None)
cycle = [going]
cycle.append(cycle)
""",
    "tracker made in a finalizer": """
import carbontrack
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say, auto=carbontrack.auto):
        tracker = auto()
        with tracker.span("late"):
            say("ran")
        self.tracker = tracker
Session()
""",
    "tracker made and closed in a finalizer": """
import carbontrack
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say, auto=carbontrack.auto):
        with auto() as tracker, tracker.span("late"):
            say("ran")
Session()
""",
    "tracker by hand made in a finalizer": """
import carbontrack
from carbontrack.testing import FakeMeter, MemorySink
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say, Tracker=carbontrack.Tracker, Meter=FakeMeter, Sink=MemorySink):
        tracker = Tracker(meters=[Meter()], sinks=[Sink()])
        with tracker.span("late"):
            say("ran")
Session()
""",
    "first import in a finalizer": """
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say):
        try:
            import carbontrack
        except ImportError:  # the interpreter's own, when it has no import system any more
            say("ran")
            return
        with carbontrack.track("late"):
            say("ran")
Session()
""",
    "first use in the finalizer of a global": """
import carbontrack
class Session:
    def __del__(self, say=say, track=carbontrack.track):
        with track("late"):
            say("ran")
session = Session()
""",
    "call in the finalizer of a global": """
import carbontrack
class Session:
    @carbontrack.track
    def close(self, say=say): say("ran")
    def __del__(self): self.close()
session = Session()
session.close()
""",
    "other doors in a finalizer": """
import carbontrack
@carbontrack.track(window_s=0.0)
def each(): pass
@carbontrack.track(budget="1 kWh", on_exceed="raise")
def stoppable(): pass
class Session:
    def __init__(self): self.me = self
    def __del__(self, say=say, ct=carbontrack, each=each, stoppable=stoppable):
        each()
        stoppable()
        with ct.track("late", budget="1 kWh") as span:
            each()
            span.check()
            span.snapshot()
            ct.current_span()
            say("ran")
Session()
""",
    "closed tracker": """
import gc
import carbontrack
gc.disable()  # it is collected at the end; before, it would be told that the tracker is closed
tracker = carbontrack.auto()
class Session:
    def __init__(self): self.me = self
    @carbontrack.track(tracker=tracker)
    def close(self, say=say): say("ran")
    def __del__(self, track=carbontrack.track, tracker=tracker):
        with track("late", tracker=tracker):
            self.close()
with tracker.span("in time"):
    pass
tracker.close()
Session()
""",
    "weakref.finalize": """
import weakref
import carbontrack
class Session: pass
def late(say=say, track=carbontrack.track):
    with track("late"):
        say("ran")
session = Session()
weakref.finalize(session, late)
""",
    "atexit before the first use": """
import atexit
import carbontrack
@atexit.register
def late(say=say):
    with carbontrack.track("late"):
        say("ran")
with carbontrack.track("in time"):
    pass
""",
    "atexit after the first use": """
import atexit
import carbontrack
with carbontrack.track("in time"):
    pass
@atexit.register
def late(say=say):
    with carbontrack.track("late"):
        say("ran")
""",
    "atexit of threading": """
import threading
import carbontrack
with carbontrack.track("in time"):
    pass
def late(say=say):
    with carbontrack.track("late"):
        say("ran")
threading._register_atexit(late)
""",
    "daemon threads": """
import threading, time
import carbontrack
@carbontrack.track
def call(): pass
def work(say=say):
    said = False
    while True:
        with carbontrack.track("in a thread"):
            call()
        call()
        if not said:
            say("ran")
            started.set()
            said = True
started = threading.Event()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
started.wait(60)
""",
}
"""Programs whose last words are `ran`, said by a body that is measured."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ending", AT_THE_END)
def test_an_ending_is_silent(ending: str, version: str, tmp_path: Path) -> None:
    """The body runs, the program ends with 0, and nothing is said of an exception."""
    for number in range(-(-ENDINGS // len(AT_THE_END))):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = run(version, SAY + AT_THE_END[ending], folder)
        _expect_silence(done)
        assert "ran" in done.stdout.split()
        rows = folder / "runs.csv"
        ids = [one.record_id for one in iter_records(rows)] if rows.exists() else []
        assert len(ids) == len(set(ids))
        again = {found.record.record_id for found in recover(folder / "state")}
        assert not again & set(ids)


def _expect_silence(done: object) -> None:
    code, err = done.returncode, done.stderr  # type: ignore[attr-defined]
    assert code == 0, err
    for words in ("Traceback", "Exception ignored", "Error", "Fatal"):
        assert words not in err, err


IN_CYCLES = """
import gc, sys
import carbontrack
count, threshold = int(sys.argv[1]), int(sys.argv[2])
if threshold:
    gc.set_threshold(threshold, 3, 3)
class Connection:
    def __init__(self): self.peer = self
    @carbontrack.track("close")
    def close(self): pass
    @carbontrack.track("query")
    def query(self): return [[] for _ in range(20)]
    def __del__(self):
        self.close()
        if count % 10 == 0:
            with carbontrack.track("block"): pass
for _ in range(count):
    Connection().query()
gc.collect()
print("ok", flush=True)
"""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("threshold", [0, 23], ids=["usual", "frequent"])
def test_finalizers_in_cycles(threshold: int, version: str, tmp_path: Path) -> None:
    """Collections at any line of ours; each run of the program's own function is counted."""
    done = run(version, IN_CYCLES, tmp_path, CYCLES, threshold, limit_s=600.0)
    _expect_silence(done)
    assert done.stdout.split() == ["ok"]
    calls = {"close": 0, "query": 0}
    for record in iter_records(tmp_path / "runs.csv"):
        if record.name in calls:
            calls[record.name] += record.calls or 1
    assert calls["query"] == CYCLES
    assert calls["close"] <= CYCLES
