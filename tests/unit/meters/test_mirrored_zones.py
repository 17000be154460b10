"""Zones of equal value and equal steps are one meter; zones that differ are added."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.errors import MeterReadError
from carbontrack.meters.rapl import powercap_meters
from carbontrack.testing import Zone, build_powercap

DIES = [Zone(f"package-0-die-{n}", f"intel-rapl:{n}", 7_000_000_000) for n in range(4)]
SOCKETS = [Zone(f"package-{n}", f"intel-rapl:{n}", 7_000_000_000) for n in range(2)]


def open_one(tree):
    (meter,) = powercap_meters(tree.sysfs)[0]
    meter.read_joules(0.0)
    return meter


def add(tree, *joules):
    for key, amount in zip(tree.zones, joules, strict=True):
        tree.add_joules(key, amount)


def test_dies_that_mirror_one_counter_count_once(tmp_path):
    """A multi-die package that shows its counter four times uses 10 J, not 40 J."""
    tree = build_powercap(tmp_path, DIES)
    meter = open_one(tree)
    add(tree, 10, 10, 10, 10)
    assert meter.read_joules(1.0) == pytest.approx(10.0)
    assert meter.mirrored


def test_mirrored_dies_wrap_as_one(tmp_path):
    """A wrap of the shared counter is exact."""
    made = [Zone(die.name, die.key, 262_143_300_000) for die in DIES]
    tree = build_powercap(tmp_path, made)
    meter = open_one(tree)
    add(tree, 10, 10, 10, 10)
    assert meter.read_joules(1.0) == pytest.approx(10.0)


def test_two_fresh_sockets_are_added_from_the_beginning(tmp_path):
    """Two sockets that start at the same value are told apart by their first different step."""
    tree = build_powercap(tmp_path, SOCKETS)
    meter = open_one(tree)
    add(tree, 10, 20)
    assert meter.read_joules(1.0) == pytest.approx(30.0)
    add(tree, 5, 5)
    assert meter.read_joules(2.0) == pytest.approx(40.0)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0, 250), st.floats(0, 250)), min_size=1, max_size=12))
def test_two_sockets_with_different_curves_are_exact(tmp_path_factory, steps):
    """The count never goes down, and is the sum as soon as the two have differed at all."""
    tree = build_powercap(tmp_path_factory.mktemp("sysfs"), SOCKETS)
    meter = open_one(tree)
    last_j = 0.0
    for second, (one_j, other_j) in enumerate(steps, start=1):
        add(tree, one_j, other_j)
        joules = meter.read_joules(float(second))
        assert joules >= last_j
        last_j = joules
    if tree.raw_uj("package-0") != tree.raw_uj("package-1"):
        assert last_j == pytest.approx(sum(map(sum, steps)), abs=1e-4)
    meter.close()


def test_garbage_in_one_mirror_is_no_difference(tmp_path):
    """A transient in one die does not double the energy of the package."""
    tree = build_powercap(tmp_path, DIES)
    meter = open_one(tree)
    add(tree, 10, 10, 10, 10)
    for text in ("", "0", "-1"):
        tree.break_zone("package-0-die-2", text)
        assert meter.read_joules(1.0) == pytest.approx(10.0)
    tree.restore("package-0-die-2")
    add(tree, 10, 10, 10, 10)
    assert meter.read_joules(2.0) == pytest.approx(20.0)
    assert meter.mirrored


def test_after_a_difference_every_zone_must_answer(tmp_path):
    """A sum with a zone missing would go down, so it is a missed read."""
    tree = build_powercap(tmp_path, SOCKETS)
    meter = open_one(tree)
    add(tree, 10, 20)
    meter.read_joules(1.0)
    tree.break_zone("package-1")
    with pytest.raises(MeterReadError):
        meter.read_joules(2.0)
    tree.restore("package-1")
    add(tree, 1, 1)
    assert meter.read_joules(3.0) == pytest.approx(32.0)


def test_sockets_that_differ_from_the_start_are_two_meters(tmp_path):
    """Different values are different counters."""
    made = [Zone(f"package-{n}", f"intel-rapl:{n}", 7_000_000 * (n + 1)) for n in range(2)]
    meters, _ = powercap_meters(build_powercap(tmp_path, made).sysfs)
    assert [meter.id for meter in meters] == ["rapl:package-0", "rapl:package-1"]
