"""Which part of a GPU is ours: the rule, and that its parts add up to no more than the board."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.attribution.policy import gpu_share


@pytest.mark.parametrize(
    ("holders", "busy", "ours", "share", "how"),
    [
        (None, None, {1}, 1.0, "assumed"),
        ({1, 2}, None, None, 1.0, "assumed"),
        (set(), None, {1}, 0.0, "absent"),
        ({2, 3}, {2: 50.0}, {1}, 0.0, "absent"),
        ({1}, None, {1, 7}, 1.0, "alone"),
        ({1, 7}, {1: 0.0, 7: 9.0}, {1, 7}, 1.0, "alone"),
        ({1, 2}, {1: 60.0, 2: 20.0}, {1}, 0.75, "time"),
        ({1, 2, 3}, {2: 20.0, 3: 5.0}, {1, 3}, 0.2, "time"),
        ({1, 2}, {1: 60.0, 9: 60.0}, {1}, 1.0, "time"),
        ({1, 2}, None, {1}, 0.5, "even"),
        ({1, 2, 3, 4}, {}, {1, 4}, 0.5, "even"),
        ({1, 2}, {1: 0.0, 2: 0.0}, {1}, 0.5, "even"),
    ],
)
def test_contexts_decide_then_time_then_heads(holders, busy, ours, share, how):
    """Who holds no context has no part; several share by time where it is told, else evenly."""
    assert gpu_share(holders, busy, ours) == (pytest.approx(share), how)


PIDS = st.integers(1, 40)


@given(
    holders=st.frozensets(PIDS, max_size=12),
    busy=st.none() | st.dictionaries(PIDS, st.floats(-5.0, 1e6), max_size=12),
    trees=st.lists(st.frozensets(PIDS, max_size=6), max_size=8),
)
def test_the_parts_of_disjoint_trees_add_up_to_one_at_most(holders, busy, trees):
    """Any holders, any samples, any trees: every part lies in 0 to 1, and so does their sum."""
    taken, sum_ = set(), 0.0
    for tree in trees:
        part = gpu_share(holders, busy, tree - taken)
        taken |= tree
        assert 0.0 <= part.share <= 1.0
        sum_ += part.share
    assert sum_ <= 1.0 + 1e-9
    whole = gpu_share(holders, busy, holders | taken)
    assert whole.share == (1.0 if holders else 0.0)
