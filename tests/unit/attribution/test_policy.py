"""Whose energy it is: shares from two snapshots of usage."""

import pytest

from carbontrack.attribution.policy import WHOLE, Attribution, Shares, Usage
from carbontrack.errors import ConfigError

PROCESS = Attribution("process")


def usage(ours_s, all_s, ours_bytes=None, all_bytes=None, at_s=0.0):
    return Usage(at_s, ours_s, all_s, ours_bytes, all_bytes)


def test_the_whole_machine_is_the_whole_machine():
    """In scope machine nothing is asked."""
    assert Attribution("machine").shares(usage(0.0, None), usage(9.0, None)) == WHOLE


def test_the_processors_go_by_cpu_seconds():
    """Our CPU seconds over the machine's; what no count speaks for goes the same way."""
    shares = PROCESS.shares(usage(10.0, 100.0), usage(11.0, 104.0))
    assert shares.cpu == 0.25
    assert shares.other == 0.25


def test_memory_goes_by_bytes_and_gpus_in_full():
    """Bytes in use, now; the GPUs in the set are those that this process may use."""
    shares = PROCESS.shares(usage(0, 0), usage(0, 0, 1 << 30, 4 << 30))
    assert shares.ram == 0.25
    assert shares.gpu == 1.0


def test_a_lagging_machine_count_gives_no_more_than_all():
    """The machine's ticks may lag behind ours; the share is never above 1."""
    assert PROCESS.shares(usage(0.0, 0.0), usage(0.5, 0.49)).cpu == 1.0
    assert PROCESS.shares(usage(0.0, 0.0, 5, 4), usage(0.5, 0.0, 5, 4)).ram == 1.0


@pytest.mark.parametrize("all_s", [None, 0.0])
def test_where_nothing_says_nothing_is_said(all_s):
    """An unknown or empty count gives no share, which is not a share of zero."""
    assert PROCESS.shares(usage(0.0, all_s), usage(0.0, all_s)).cpu is None


@pytest.mark.parametrize("ram", [(None, None), (0, 4), (4, 0), (None, 4), (4, None)])
def test_unknown_memory_gives_no_share(ram):
    """Where bytes are not known there is no share."""
    assert PROCESS.shares(usage(0, 0), usage(0, 0, *ram)).ram is None


def test_what_is_unknown_is_taken_from_before():
    """New shares hold over older ones where they say something."""
    new, old = Shares(None, 1.0, 0.5, None), Shares(0.25, 0.5, 0.25, 0.75)
    assert new.over(old) == Shares(0.25, 1.0, 0.5, 0.75)
    assert Shares(0.0, 0.0, 0.0, 0.0).over(old) == Shares(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"scope": "mine"}, "scope"),
        ({"idle": "free"}, "idle"),
        ({"pue": 0.9}, "pue"),
        ({"pue": float("nan")}, "pue"),
        ({"pue": 11.0}, "pue"),
        ({"wue_l_per_kwh": -1.0}, "wue"),
        ({"wue_l_per_kwh": float("inf")}, "wue"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong, named):
    """The error names what is wrong with it."""
    with pytest.raises(ConfigError, match=named):
        Attribution(**wrong)
