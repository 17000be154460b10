"""A tracker's ledger: the share of the moment, the grid of the moment."""

from datetime import datetime, timezone

import pytest

from carbontrack.attribution.policy import WHOLE, Attribution, IdlePower
from carbontrack.grid.intensity import Fixed, GridIntensity
from carbontrack.sampling.counts import Counts
from carbontrack.sampling.ledger import (
    SHARE_WINDOW_S,
    STALE_S,
    USAGE_PERIOD_S,
    Ledger,
    ShareWindow,
    Sharing,
    Step,
    add_joules,
)
from carbontrack.testing import FakeClock
from tests.support.bench import ScriptedUsage

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
PROCESS = Attribution("process")


def step(at_s, joules=100.0, components=("cpu",), leaves=1):
    return Step(at_s, (joules,) * len(components), components, leaves, 0, 1.0, 0.0)


class Steps:
    """The steps that a ledger takes, and the counts that they add up to."""

    def __init__(self, ledger):
        self.ledger, self.counts = ledger, Counts(0.0)

    def take(self, step):
        """The ledger's sums after one more step."""
        before, ledger = self.counts, self.ledger
        joules = add_joules(before.energy_j, step.joules)
        self.counts = Counts.of(step.at_s, counts_j=joules, energy_j=joules)
        ledger.account = ledger.after(
            before, self.counts, Sharing(step.components, step.leaves), FakeClock()
        )
        return ledger.account.at(self.counts)


def test_the_share_follows_the_counts():
    """After a window has passed the share is what the counts of the window say."""
    reader = ScriptedUsage(ours=0.25)
    window = ShareWindow(PROCESS, reader, 0.0)
    assert window.shares(SHARE_WINDOW_S).cpu == pytest.approx(0.25)
    reader.ours = 1.0
    for at_s in (0.4, 0.6, 0.8):
        shares = window.shares(at_s)
    assert shares.cpu == pytest.approx(1.0)


def test_until_the_counts_have_said_anything_all_is_ours():
    """The upper end, never nothing."""
    reader = ScriptedUsage(busy=0.0)
    window = ShareWindow(PROCESS, reader, 0.0)
    assert window.shares(1.0).cpu == WHOLE.cpu


def test_usage_is_not_read_at_every_edge():
    """Edges that follow each other closely share one look at the counts."""
    reader = ScriptedUsage()
    window = ShareWindow(PROCESS, reader, 0.0)
    window.shares(1.0)
    reads = reader.reads
    for n in range(10):
        window.shares(1.0 + n * USAGE_PERIOD_S / 20)
    assert reader.reads == reads
    window.shares(1.0 + USAGE_PERIOD_S)
    assert reader.reads == reads + 1


def test_a_long_look_is_taken_over_the_last_stretch_only():
    """What the process did long ago does not move the share of now."""
    reader = ScriptedUsage(ours=1.0)
    window = ShareWindow(PROCESS, reader, 0.0)
    for n in range(1, 11):
        window.shares(float(n))
    reader.ours = 0.0
    assert window.shares(11.0).cpu == pytest.approx(0.0)


def test_a_ledger_takes_its_share():
    """The account gets our part of the step, and its grams."""
    grid = Fixed.of(50.0)
    ledger = Ledger(PROCESS, grid)
    reader = ScriptedUsage(ours=0.5)
    ledger.begin(reader, 0.0, NOW)
    steps = Steps(ledger)
    account = steps.take(step(1.0))
    assert account.leaf_j == pytest.approx((50.0,))
    assert account.leaf_g[0] == pytest.approx(50.0 / 3.6e6 * 50.0)


@pytest.mark.parametrize(
    ("idle", "ours_j"), [("proportional", 50.0), ("reserved", 0.1 * 40 + 0.5 * 60), ("none", 30.0)]
)
def test_idle_energy_goes_as_the_policy_says(idle, ours_j):
    """100 J in a second, 40 of them idle; half of the work is ours, and a tenth is booked."""
    ledger = Ledger(Attribution("process", idle, idle_power=IdlePower(cpu=40.0)), None)
    ledger.begin(ScriptedUsage(ours=0.5), 0.0, NOW)
    steps = Steps(ledger)
    account = steps.take(step(1.0))
    assert account.leaf_j == pytest.approx((ours_j,))


def test_a_ledger_that_slept_looks_afresh():
    """A window that ended long ago says nothing about now."""
    ledger = Ledger(PROCESS, None)
    reader = ScriptedUsage(ours=1.0)
    ledger.begin(reader, 0.0, NOW)
    steps = Steps(ledger)
    account = steps.take(step(1.0))
    reader.ours = 0.1
    ledger.begin(reader, 1.0 + STALE_S * 2, NOW)
    before = account.leaf_j[0]
    account = steps.take(step(2.0 + STALE_S * 2))
    assert account.leaf_j[0] - before == pytest.approx(10.0)


def test_a_reader_of_another_process_is_not_believed():
    """After a fork the child looks with its own reader, however recent the parent's look is."""
    ledger = Ledger(PROCESS, None)
    parents = ScriptedUsage(ours=1.0)
    ledger.begin(parents, 0.0, NOW)
    childs = parents.for_child()
    ledger.begin(childs, 0.1, NOW)
    parents_reads = parents.reads
    steps = Steps(ledger)
    steps.take(step(1.0))
    assert childs.reads > 0
    assert parents.reads == parents_reads


def test_in_scope_machine_nobody_is_asked():
    """Without a reader all of it is ours."""
    ledger = Ledger(Attribution("machine"), None)
    ledger.begin(None, 0.0, NOW)
    steps = Steps(ledger)
    account = steps.take(step(1.0, components=("cpu", "ram")))
    assert account.leaf_j == (100.0, 100.0)


class Moving:
    """A grid whose answer moves."""

    prompt = True

    def __init__(self):
        self.g = 100.0
        self.asked = 0

    def at(self, when):
        self.asked += 1
        return GridIntensity("X", self.g, self.g, self.g, f"at {self.g:g}", 2026, "m")


def test_a_moving_grid_is_asked_at_every_step_and_a_constant_one_once():
    """A table is looked up once; a live source weighs each step with its own moment."""
    grid = Moving()
    ledger = Ledger(Attribution(), grid)
    assert ledger.follows_grid
    ledger.begin(None, 0.0, NOW)
    steps = Steps(ledger)
    account = steps.take(step(1.0, joules=3.6e6))
    grid.g = 300.0
    account = steps.take(step(2.0, joules=3.6e6))
    assert account.leaf_g[0] == pytest.approx(400.0)
    assert grid.asked == 3
    assert not Ledger(Attribution(), Fixed.of(5.0)).follows_grid


def test_a_new_meter_has_its_components_share():
    """A substitute that joins later is weighed as its component is."""
    ledger = Ledger(PROCESS, None)
    ledger.begin(ScriptedUsage(ours=0.5), 0.0, NOW)
    steps = Steps(ledger)
    account = steps.take(step(1.0))
    account = steps.take(step(2.0, components=("cpu", "gpu")))
    assert account.leaf_j == pytest.approx((100.0, 100.0))
