"""The programs of benchmarks/fleet run, at a small size, and count what there is to count."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HAS_SERVE = find_spec("carbontrack.server") is not None
needs_serve = pytest.mark.skipif(not HAS_SERVE, reason="there is no carbontrack serve")
SERVERS = ["receiver", pytest.param("serve", marks=needs_serve)]


def fleet(*arguments: str) -> dict[str, Any]:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "fleet"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("server", SERVERS)
def test_rates_are_of_records_that_arrived(server):
    """Batches and single records, each delivered once, with the CPU time of both sides."""
    small = ("--records", "400", "--batch", "40", "--single", "10", "--rounds", "1")
    found = fleet("rates", "--server", server, *small)
    assert found["sent"] == 410
    assert found["stored"] in (None, [410, 410])
    assert (found["batches"]["delivered"], found["single"]["delivered"]) == (400, 10)
    assert found["batches"]["answers"] == {"204": 10}
    assert found["batches"]["client_us_per_record"] > 0


@pytest.mark.parametrize("server", SERVERS)
def test_a_storm_leaves_nothing_behind(server):
    """What no process has delivered before its end comes with the batches that follow."""
    found = fleet("storm", "--server", server, "--processes", "60", "--within-s", "0.2")
    at_end, later = found["at_their_end"], found["sent_later_by_one_connection"]
    assert at_end["delivered"] + later["delivered"] == 60
    assert found["stored"] in (None, [60, 60])


@needs_serve
def test_a_server_that_is_killed_under_load_loses_nothing():
    """Killed twice: as many rows as ids as were sent."""
    found = fleet("faults", "--records", "600", "--batch", "20", "--kills", "2")
    assert (found["kills"], found["sent"]) == (2, 600)
    assert (found["rows"], found["distinct_ids"]) == (600, 600)


def test_the_simulation_says_that_it_is_one():
    """And agrees with what can be reckoned: a server works while somebody waits."""
    found = fleet("simulate", "--processes", "10000", "--within-s", "1", "--rate", "500")
    assert found["simulated"] is True
    assert found["share"] == pytest.approx((1.0 + 1.8) * 500 / 10_000, rel=0.02)
