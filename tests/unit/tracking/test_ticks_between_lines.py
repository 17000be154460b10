"""A tick in another thread as a decorated call ends or pauses: any line of one meets any other.

As the call begins to do so, a tick runs as far as some line. Then the call goes on as far as a line
of its own, the tick to its end, and the call to its end.
"""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path

import pytest

import carbontrack.tracking
from carbontrack.api.track import track
from tests.support.bench import Bench, joules

ROOM = Path(carbontrack.tracking.__file__).parent
FILES = {str(ROOM / name) for name in ("apportion.py", "call.py", "counted_call.py")}
OF_CALL = {"end", "_end_otherwise", "_is_summed", "_put_back", "pause"}
OF_TICK = {
    *("tick", "_separate_running", "become_single", "promote", "_promote", "_take"),
    *("_settle_last", "_stop", "_become_span", "_be_done"),
}
BLOCKED_S = 0.005
"""How long one thread may need before it is taken to wait for the other one."""


class StopsAt:
    """A tracer that calls `then` before one line of these functions, once."""

    def __init__(self, functions, number, then):
        self.functions, self.number, self.then = functions, number, then
        self.has_stopped = False
        self._lines = itertools.count()

    def __call__(self, frame, _event, _arg):
        code = frame.f_code
        is_one = code.co_filename in FILES and code.co_name in self.functions
        return self._line if is_one else None

    def _line(self, _frame, event, _arg):
        if event == "line" and not self.has_stopped and next(self._lines) == self.number:
            self.has_stopped = True
            self.then()
        return self._line


class Tick:
    """A tick in a thread of its own, which stops before a line until it may go on."""

    def __init__(self, sampler, number):
        self._sampler = sampler
        self._stops = StopsAt(OF_TICK, number, self._stop)
        self._is_there, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        sys.settrace(self._stops)
        try:
            self._sampler.tick()
        finally:
            sys.settrace(None)
            self._is_there.set()

    def _stop(self):
        self._is_there.set()
        self._go.wait(4 * BLOCKED_S)  # the call may want the lock

    def begin(self):
        """Run as far as the line, or to the end."""
        self._thread.start()
        self._is_there.wait()

    def go_on(self):
        """Run to the end, or until the call has what is needed."""
        self._go.set()
        self._thread.join(BLOCKED_S)

    def end(self):
        """Run to the end; whether it has stopped in between."""
        self._go.set()
        self._thread.join()
        return self._stops.has_stopped


def whole(bench, seconds):
    """That both calls are in rows, once, and that nothing is left of them.

    The energy since the last tick is nobody's if this one comes between the two statements by which
    a call is taken out and its length is left.
    """
    assert not bench.sampler.under_way
    assert not bench.sampler.apportioner.single
    bench.tracker.close()
    assert sum(record.calls for record in bench.records) == 2
    assert sum(map(joules, bench.records)) <= 100.0 * seconds * (1.0 + 1e-9)
    assert sum(record.duration_s for record in bench.records) == pytest.approx(seconds)
    assert not bench.sampler.awake
    assert bench.sampler.leaves == 0


class Meeting:
    """A call in a tracker of its own that meets a tick, each at a line."""

    def __init__(self, seconds, call_line, tick_line):
        self.bench, self.seconds = Bench(), seconds
        self._tick = Tick(self.bench.sampler, tick_line)
        self._stops = StopsAt(OF_CALL, call_line, self._tick.go_on)

    def begin(self):
        """In the call: time has passed, and the tick begins."""
        self.bench.clock.advance(self.seconds)
        self._tick.begin()
        sys.settrace(self._stops)

    def of(self, step):
        """Do the step of the call that meets the tick; whether both have stopped at their lines."""
        try:
            step()
        finally:
            sys.settrace(None)
        return self._stops.has_stopped, self._tick.end()


def ended(seconds, call_line, tick_line):
    """A call that ends while a tick is done; whether both have stopped at their lines."""
    meeting = Meeting(seconds, call_line, tick_line)

    @track("work", tracker=meeting.bench.tracker)
    def work(*, is_met):
        if is_met:
            meeting.begin()

    work(is_met=False)  # which opens the window
    found = meeting.of(lambda: work(is_met=True))
    whole(meeting.bench, seconds)
    return found


def every_pair(meet):
    """Have each line of the call meet each line of the tick; how many pairs there were."""
    pairs = 0
    for call_line in itertools.count():
        for tick_line in itertools.count():
            call_stopped, tick_stopped = meet(call_line, tick_line)
            if not call_stopped:
                return pairs
            pairs += 1
            if not tick_stopped:
                break
    raise AssertionError


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_a_call_ends_during_a_tick(seconds):
    """It is counted once, wherever the tick is."""
    assert every_pair(lambda *lines: ended(seconds, *lines)) > 100


def paused(seconds, call_line, tick_line):
    """A generator that is suspended while a tick is done; whether both have stopped there."""
    meeting = Meeting(seconds, call_line, tick_line)

    @track("work", tracker=meeting.bench.tracker)
    def work(*, is_met):
        if is_met:
            meeting.begin()
        yield

    list(work(is_met=False))  # which opens the window
    steps = work(is_met=True)
    found = meeting.of(lambda: next(steps))
    meeting.bench.run(1.0)  # the consumer's
    list(steps)
    whole(meeting.bench, seconds)
    return found


@pytest.mark.parametrize("seconds", [0.5, pytest.param(1.5, marks=pytest.mark.slow)])
def test_a_generator_is_suspended_during_a_tick(seconds):
    """What its consumer does meanwhile is not counted, wherever the tick is."""
    assert every_pair(lambda *lines: paused(seconds, *lines)) > 50
