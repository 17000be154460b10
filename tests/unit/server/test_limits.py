"""Quotas, waits and memory: how much a server takes on, on a clock that the test turns."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.server.limits import (
    LONGEST_RETRY_AFTER_S,
    HeldBytes,
    Quotas,
    Refused,
    RetryAfter,
)
from carbontrack.testing import FakeClock


def test_a_bucket_fills_evenly():
    """A minute's records at once; then as many as the time that has passed."""
    clock = FakeClock()
    quotas = Quotas(clock)
    quotas.check("vision", 60)
    quotas.take("vision", 90, 60)  # a batch larger than what is left goes through whole
    with pytest.raises(Refused) as refused:
        quotas.check("vision", 60)
    assert refused.value.status == 429
    assert refused.value.wait_s == pytest.approx(30.0)
    clock.advance(29.0)
    with pytest.raises(Refused):
        quotas.check("vision", 60)
    clock.advance(1.5)
    quotas.check("vision", 60)
    quotas.check("audio", 60)  # another project has a bucket of its own
    quotas.check("vision", None)


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0.0, 300.0), st.integers(1, 1000)), min_size=1, max_size=40),
)
def test_no_more_than_the_quota_and_one_batch(quota: int, sent: list[tuple[float, int]]):
    """In any time a project sends at most a bucket, what has flowed in, and one batch."""
    clock = FakeClock()
    quotas = Quotas(clock)
    taken, passed_s, largest, waits_s = 0, 0.0, 0, []
    for wait_s, records in sent:
        clock.advance(wait_s)
        passed_s += wait_s
        try:
            quotas.check("vision", quota)
        except Refused as refused:
            waits_s.append(refused.wait_s)
            continue
        quotas.take("vision", records, quota)
        taken, largest = taken + records, max(largest, records)
        assert taken <= quota * (1.0 + passed_s / 60.0) + largest + 1e-6
    assert all(wait_s is not None and wait_s >= 0.0 for wait_s in waits_s)


def test_what_was_not_stored_costs_nothing():
    """Records that a sender has to send again are put back, and never more than a bucket holds."""
    quotas = Quotas(FakeClock())
    quotas.take("vision", 60, 60)
    quotas.take("vision", -60, 60)
    quotas.check("vision", 60)
    quotas.take("vision", -500, 60)
    quotas.take("vision", 60, 60)
    with pytest.raises(Refused):
        quotas.check("vision", 60)


@given(st.floats(0.0, 10_000.0), st.integers(0, 1 << 32))
def test_waits_are_spread(at_least_s: float, seed: int):
    """Never sooner than there is room, never sooner than the least, never longer than senders."""
    seconds = RetryAfter((5.0, 60.0), random.Random(seed)).seconds(at_least_s)
    assert isinstance(seconds, int)
    assert min(max(5.0, at_least_s), LONGEST_RETRY_AFTER_S) <= seconds <= LONGEST_RETRY_AFTER_S
    assert at_least_s > 5.0 or seconds <= 60


def test_held_bytes_are_given_back():
    """Whatever ends the block, and no byte more than there is room for."""
    held = HeldBytes(100)
    with held.taken("vision", 60):
        with pytest.raises(Refused) as refused, held.taken("audio", 41):
            raise AssertionError
        assert refused.value.status == 429
        with held.taken("audio", 40):
            assert held.now == 100
    with pytest.raises(ZeroDivisionError), held.taken("vision", 100):
        raise ZeroDivisionError
    assert held.now == 0


def test_one_project_leaves_room_for_others():
    """It has three quarters, or one body, however long; whoever else comes has the rest."""
    held = HeldBytes(100)
    with held.taken("vision", 50), held.taken("vision", 25):
        with pytest.raises(Refused), held.taken("vision", 1):
            raise AssertionError
        with held.taken("audio", 25):
            assert held.now == 100
    with held.taken("vision", 90):
        assert held.now == 90
    with held.taken("vision", 75):
        assert held.now == 75
