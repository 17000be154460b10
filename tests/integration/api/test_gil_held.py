"""C code that keeps all other threads from running costs no energy and hides no gap."""

from __future__ import annotations

import ctypes
import sys
import time

import pytest

from carbontrack.meters.rapl import powercap_meters
from carbontrack.testing import Zone, build_powercap
from carbontrack.tracking.tracker import Tracker
from tests.integration.api.test_measuring import Driven
from tests.support.bench import joules

pytestmark = pytest.mark.xdist_group("serial")  # instants

HELD_S = 3


@pytest.mark.skipif(sys.platform == "win32", reason="sleep(3) is POSIX's")
def test_a_held_lock_costs_no_energy(tmp_path):
    """The interpreter's lock is held for 3 s: the counter's energy is within 0.1 % of the truth."""
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", 0, 262_143_328_850, 400.0)])
    clock = Driven(tree)
    meters, _ = powercap_meters(tmp_path)
    holds_the_lock = ctypes.PyDLL(None).sleep  # unlike CDLL it does not let other threads run
    with Tracker(meters=meters, interval_s=0.1, clock=clock) as tracker:
        started_s = time.monotonic()
        with tracker.span("held") as span:
            inner_start_s = time.monotonic()
            holds_the_lock(HELD_S)
            inner_end_s = time.monotonic()
        ended_s = time.monotonic()
    used_j = joules(span.record)
    assert clock.truth_j(inner_start_s, inner_end_s) * 0.999 <= used_j
    assert used_j <= clock.truth_j(started_s, ended_s) * 1.001
    assert span.record.max_gap_s >= HELD_S - 0.2
    assert span.record.coverage == pytest.approx(1.0)
    assert span.record.faults is None
