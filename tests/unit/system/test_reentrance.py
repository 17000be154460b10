"""What is begun in the middle of an edge of the same thread passes through, counted and told."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

import carbontrack
from carbontrack.system.reentrance import busily, here, pass_through, passed_text
from carbontrack.system.stand_in import stand_in
from carbontrack.tracking.context import set_current
from tests.support.bench import Bench
from tests.support.raising import Raiser


def passed() -> int:
    """How many blocks and calls have passed through so far, this one included."""
    pass_through("asked")
    text = passed_text()
    assert text is not None
    assert passed_text() is None, "it is said once"
    return int(text.split()[0])


def test_what_begins_in_the_middle_of_an_edge_passes_through() -> None:
    """Its code runs, its figures are unknown, and it is counted by name."""
    ran = []

    @carbontrack.track("call")
    def call() -> None:
        ran.append("call")

    def begin() -> None:
        with carbontrack.track("block") as block:
            ran.append("block")
            with block.span("inside"):
                ran.append("inside")
        assert block.record is not None
        assert block.record.energy_kwh is None
        call()

    before = passed()
    busily(begin)
    assert ran == ["block", "inside", "call"]
    assert passed() == before + 3, "the two, and the one that asks"
    assert not here.thread.busy


def test_what_has_passed_through_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """With how many there were, by the next tick."""
    before = passed()
    with Bench() as bench, bench.tracker.span("open"):
        for _ in range(3):
            busily(lambda: carbontrack.track("late").open().close())
        bench.session.after_tick(0.0)
        bench.session.after_tick(0.0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{before + 3} blocks or calls so far were not measured")


def test_what_stands_for_track_changes_nothing() -> None:
    """Functions stay as they are, and bodies run."""
    before, track = passed(), stand_in("track")

    def work() -> int:
        return 7

    assert track(work) is work
    assert track("name", region="FR")(work) is work
    with track("name") as block, block.span("inside"):
        assert block.check() is None
    assert stand_in("current_span")() is None
    with pytest.raises(ImportError, match="auto is being imported"):
        stand_in("auto")
    assert passed() == before + 5, "the four, and the one that asks"


def test_a_handler_behind_the_setting_of_the_variable_leaves_the_thread_free() -> None:
    """Wherever it raises: a thread that stays busy would never be measured again."""
    for nth in range(1, 1000):
        raiser = _interrupted_setting(nth)
        assert not here.thread.busy, raiser.place
        if raiser.place is None:
            break
    assert nth > 3


def _interrupted_setting(nth: int) -> Raiser:
    # 3.14 may tell a trace nothing of the bytecodes of a function's first call
    for _ in range(2):
        raiser = Raiser(nth, KeyboardInterrupt("stop"), model="signal")
        with suppress(KeyboardInterrupt), raiser:
            set_current(None)
        if raiser.seen:
            break
    return raiser


IN_AN_IMPORT = """
import signal, sys
import carbontrack
ran, seen = [], []
def handle(signum, frame):
    with carbontrack.track("tick"):
        ran.append(1)
    carbontrack.current_span()
signal.signal(signal.SIGUSR1, handle)
class Finder:
    # each import of the package is interrupted once
    def find_spec(self, name, path=None, target=None):
        if name.startswith("carbontrack.") and name not in seen:
            seen.append(name)
            signal.raise_signal(signal.SIGUSR1)
sys.meta_path.insert(0, Finder())
with carbontrack.track("first", output=None, region="FR") as block:
    pass
assert block.record.status == "ok"
assert len(ran) == len(seen) > 20, (len(ran), len(seen))
print("ok")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal for programs")
def test_a_handler_in_each_import_of_the_package() -> None:
    """A handler that measures comes before each module is loaded for the first time."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IN_AN_IMPORT)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
