"""The longest gap since any instant, in little memory."""

import random

from carbontrack.sampling.history import ReadingGaps


def test_nothing_is_known_before_the_first():
    """Without a reading there is no gap, which is not a gap of zero."""
    assert ReadingGaps().longest_since(0.0) is None


def test_the_longest_since_an_instant_is_found():
    """Only gaps that ended after the instant count."""
    gaps = ReadingGaps()
    for ended_s, gap_s in ((1.0, 1.0), (4.0, 3.0), (4.5, 0.5), (5.5, 1.0), (5.7, 0.2)):
        gaps.add(ended_s, gap_s)
    assert gaps.longest_since(0.0) == 3.0
    assert gaps.longest_since(4.0) == 1.0
    assert gaps.longest_since(5.5) == 0.2
    assert gaps.longest_since(5.7) is None


def test_it_is_right_for_every_instant_and_forgets_enough():
    """It answers like a list of all gaps would, to a millisecond, and keeps a fraction of them."""
    rng = random.Random(7)
    gaps, everything, now_s = ReadingGaps(), [], 0.0
    for _ in range(5000):
        gap_s = rng.choice([0.0001, 0.01, 0.5, 1.0, rng.random()])
        now_s += gap_s
        gaps.add(now_s, gap_s)
        everything.append((now_s, gap_s))
    for since_s in (0.0, now_s / 3, now_s - 2.0, everything[-2][0]):
        longest_s = max(gap_s for ended_s, gap_s in everything if ended_s > since_s)
        assert longest_s <= gaps.longest_since(since_s) <= longest_s + 0.0011
    assert len(gaps._gaps) <= 1001


def test_it_can_forget():
    """After `clear` nothing is known."""
    gaps = ReadingGaps()
    gaps.add(1.0, 1.0)
    gaps.clear()
    assert gaps.longest_since(0.0) is None
