"""A forked child: what was begun before is its parent's."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

import carbontrack
from carbontrack.api.track import current_span, track
from carbontrack.system.reentrance import here
from tests.support.bench import Bench, joules

PACKAGE = str(Path(carbontrack.__file__).parent)
PID = os.getpid()
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_the_id_kept_for_the_next_window_is_the_parents():
    """A window without calls leaves its id to the next one, of this process and no other."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker, window_s=10.0)
        def work():
            yield

        suspended = work()
        next(suspended)
        bench.run(20.0)  # a window in which no call has ended
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                list(work())
                bench.run(20.0)
                os.write(writing, " ".join(row.record_id for row in bench.records).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            childs = told.read().split()
        os.waitpid(child, 0)
        suspended.close()
    assert len(childs) == 1
    assert not {row.record_id for row in bench.records} & {*childs}


def test_a_child_does_not_wait_for_its_parents_blocks_when_it_ends():
    """They are open for as long as the parent likes."""
    with Bench() as bench, bench.tracker.span("of the parent"):
        child = os.fork()
        if not child:
            waits = []
            try:
                sys.setprofile(
                    lambda frame, event, _arg: (
                        waits.append(event)
                        if event == "call" and frame.f_code is threading.Event.wait.__code__
                        else None
                    )
                )
                bench.tracker.close()
            finally:
                os._exit(len(waits))
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


class ForksAt:
    """A tracer that forks before one line of the package, and lets both processes go on."""

    def __init__(self, number):
        self.left = number
        self.child = None

    def __call__(self, frame, _event, _arg):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, _frame, event, _arg):
        self.left -= event == "line"
        if not self.left and self.child is None:
            sys.settrace(None)
            self.child = os.fork()
        return self._line


def faults_after(number):
    """What is wrong after a fork in the middle of two spans; None where they have fewer lines."""
    bench, faults = Bench(), []
    forks = ForksAt(number)
    sys.settrace(forks)
    try:
        with bench.tracker.span("outer"):
            bench.clock.advance(1.0)
            with bench.tracker.span("inner"):
                bench.clock.advance(1.0)
    finally:
        sys.settrace(None)
    with bench.tracker.span("later") as later:
        bench.clock.advance(2.0)
    if joules(later.record) != pytest.approx(200.0):
        faults.append(f"{joules(later.record)} J")
    if bench.sampler.leaves or current_span() is not None or here.thread.busy:
        faults.append("something is still open")
    if forks.child is None:
        return None
    if forks.child:
        faults += [f"the child: {code}" for _, code in [os.waitpid(forks.child, 0)] if code]
        return faults
    os._exit(len(faults))


@pytest.mark.slow
def test_a_fork_in_the_middle_of_an_edge():
    """A handler or a finalizer may fork there; in both processes the next span is whole."""
    tried, number = 0, 1
    while True:
        try:
            faults = faults_after(number)
        except BaseException:
            if os.getpid() != PID:
                os._exit(99)
            raise
        if faults is None:
            break
        assert faults == [], number
        tried, number = tried + 1, number + 19
    assert tried > 30
