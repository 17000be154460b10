"""The ticker: what was done while it slept is followed by another sleep, which closes files."""

import threading

import pytest

from carbontrack.sampling.ticker import Ticker, TickEvents
from carbontrack.system.clock import SystemClock
from carbontrack.testing import FakeClock

PATIENCE_S = 60.0


class Sleeps:
    """A ticker that nobody wants ticks of, and how often it has fallen asleep."""

    def __init__(self):
        self.count = 0
        self._change = threading.Condition()
        events = TickEvents(lambda: None, self._slept)
        self.ticker = Ticker(
            events, SystemClock(), period_s=lambda: 3600.0, is_wanted=lambda: False
        )

    def _slept(self):
        with self._change:
            self.count += 1
            self._change.notify_all()

    def reach(self, count):
        """Whether it has fallen asleep so often, now or soon."""
        with self._change:
            return self._change.wait_for(lambda: self.count >= count, PATIENCE_S)


@pytest.mark.parametrize("where", ["main", "other"])
def test_what_is_done_during_its_sleep_is_followed_by_another(where):
    """A row that is written when it sleeps already may open a database, which must be closed."""
    sleeps = Sleeps()
    sleeps.ticker.wake()
    assert sleeps.reach(1)
    at = []
    if where == "main":
        sleeps.ticker.do(lambda: at.append(sleeps.count))
    else:
        thread = threading.Thread(target=sleeps.ticker.do, args=(lambda: at.append(sleeps.count),))
        thread.start()
        thread.join()
    assert sleeps.reach(at[0] + 1)
    sleeps.ticker.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_an_error_has_ended():
    """What is to be done is done by the caller at once, not after it has waited for the thread."""
    ended, others = threading.Event(), set(threading.enumerate())

    def fails() -> float:
        ended.set()
        raise ValueError("a clock")

    events = TickEvents(lambda: None, lambda: None)
    ticker = Ticker(events, SystemClock(), period_s=fails, is_wanted=lambda: True)
    ticker.wake()
    assert ended.wait(PATIENCE_S)
    for thread in set(threading.enumerate()) - others:
        thread.join(PATIENCE_S)
    who: list[threading.Thread] = []
    ticker.do(lambda: who.append(threading.current_thread()))
    assert who == [threading.current_thread()]
    assert not ticker._jobs  # it was not handed over to the thread
    ticker.close()


@pytest.mark.parametrize("period_s", [0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("start_s", [0.0, 1000.0, 1e7 + 0.1])
def test_each_multiple_is_a_deadline_once(period_s, start_s):
    """Also where it is no binary number, so that the rest of a division is that of rounding."""
    clock, at_s = FakeClock(start_s), []
    events = TickEvents(lambda: at_s.append(clock.monotonic_s()), lambda: None)
    ticker = Ticker(events, clock, period_s=lambda: period_s, is_wanted=lambda: True)
    ticker.wake()
    clock.until_waiting()
    clock.advance(30.5 * period_s)
    ticker.close()
    assert len(at_s) in (30, 31)
    assert all(abs(one / period_s - round(one / period_s)) < 1e-6 for one in at_s)
