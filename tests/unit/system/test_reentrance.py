"""What is begun in the middle of an edge of the same thread passes through, counted and told."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

import carbontrack
from carbontrack.system.reentrance import busily, here, take_passed
from carbontrack.system.stand_in import stand_in
from tests.support.bench import Bench


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

    take_passed()
    busily(begin)
    assert ran == ["block", "inside", "call"]
    assert take_passed() == ["block", "call"]
    assert not here.busy


def test_what_has_passed_through_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """With how many there were, by the next tick."""
    take_passed()
    with Bench() as bench, bench.tracker.span("open"):
        for _ in range(3):
            busily(lambda: carbontrack.track("late").open().close())
        bench.session.after_tick(0.0)
        bench.session.after_tick(0.0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("3 blocks or calls were not measured, 'late' first")


def test_what_stands_for_track_changes_nothing() -> None:
    """Functions stay as they are, and bodies run."""
    track = stand_in("track")

    def work() -> int:
        return 7

    assert track(work) is work
    assert track("name", region="FR")(work) is work
    with track("name") as block, block.span("inside"):
        assert block.check() is None
    assert stand_in("current_span")() is None
    with pytest.raises(ImportError, match="auto is just being imported"):
        stand_in("auto")
    assert len(take_passed()) == 4


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
