"""Boards that several processes use: what a look finds, what is billed by it, and what it costs."""

from itertools import zip_longest

import pytest

from carbontrack.errors import MeterReadError
from carbontrack.meters.gpu_candidates import CandidateGpu, Candidates, unmeasured
from carbontrack.meters.gpu_selection import Choice, Gpu
from carbontrack.meters.meter import GpuUse, Refusal
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import ScriptedUsage

US, CHILD, OTHER = 100, 101, 200


class SharedMeter(FakeMeter):
    """A GPU of 200 W, of which a test says who uses it."""

    def __init__(self, id_="nvml:GPU-0", part=1.0):
        super().__init__(id_, "gpu", watts=200.0, relative_uncertainty=0.05)
        self.part = part
        self.uses = (GpuUse(1.0, frozenset({US})),)
        self.looks = 0

    def hold(self, *pids, busy=None):
        self.uses = (GpuUse(1.0, frozenset(pids), busy),)

    def look(self):
        self.looks += 1
        if self.uses is None:
            raise MeterReadError("busy just now")
        return self.uses


class Usage(ScriptedUsage):
    """Half of the processor, and the pids of a tree; None as in a container."""

    pids = frozenset({US, CHILD})

    def pids_as_the_driver_counts(self):
        return self.pids


class Host:
    """A tracker of scope `process` on a host with the given boards."""

    def __init__(self, *boards, scope="process", pids=Usage.pids):
        self.clock, usage = FakeClock(), Usage()
        usage.pids = pids
        self.sampler = Sampler(boards, interval_s=3600.0, clock=self.clock, usage=usage)
        self.tracker = Tracker(
            meters=self.sampler, attribution=scope, clock=self.clock, interval_s=3600.0
        )

    def run(self, seconds, *, ticks=True):
        with self.tracker.span("a") as span:
            for _ in range(seconds):
                self.clock.advance(1.0)
                if ticks:
                    self.sampler.tick()
        return span.record


def gpu_j(record):
    return record.gpu_kwh * JOULES_PER_KWH


def test_a_board_that_we_alone_hold_is_ours_whole():
    """No assumption, no wider interval."""
    record = Host(SharedMeter()).run(4)
    assert gpu_j(record) == pytest.approx(800.0)
    assert record.faults is None
    assert record.energy_high_kwh == pytest.approx(1.05 * record.energy_kwh)


def test_a_board_that_only_others_hold_is_not_ours():
    """It is visible to us, and the machine's energy has it."""
    board = SharedMeter()
    board.hold(OTHER)
    record = Host(board).run(4)
    assert gpu_j(record) == 0.0
    assert record.machine_kwh * JOULES_PER_KWH == pytest.approx(800.0)


def test_a_child_that_holds_a_context_is_ours():
    """The tree counts, not the process alone."""
    board = SharedMeter()
    board.hold(CHILD)
    assert gpu_j(Host(board).run(2)) == pytest.approx(400.0)


def test_a_shared_board_is_split_by_time_where_the_driver_tells():
    """30 of 40 percent of the multiprocessors' time is three quarters."""
    board = SharedMeter()
    board.hold(US, OTHER, busy={US: 30.0, OTHER: 10.0})
    record = Host(board).run(4)
    assert gpu_j(record) == pytest.approx(600.0)
    assert record.machine_kwh * JOULES_PER_KWH == pytest.approx(800.0)


def test_an_even_split_says_so_and_widens_the_interval():
    """Of three that hold a context one is ours; up to twice as much may be, and is said."""
    board = SharedMeter()
    board.hold(US, OTHER, 201)
    record = Host(board).run(3)
    assert gpu_j(record) == pytest.approx(200.0)
    assert record.faults == "gpu_share_even:4"
    assert record.energy_high_kwh == pytest.approx(2.0 * record.energy_kwh)
    assert record.energy_low_kwh == 0.0


def test_numbers_of_a_container_are_not_compared_with_those_of_the_host():
    """All that is visible is ours, even where a number happens to be the same, and is assumed."""
    board = SharedMeter()
    board.hold(OTHER)
    record = Host(board, pids=None).run(2)
    assert gpu_j(record) == pytest.approx(400.0)
    assert record.faults == "gpu_share_assumed:3"


def test_ranks_in_a_container_are_not_each_all_of_a_board():
    """Nothing tells which of eight ranks uses it: an eighth, and up to twice as much is said."""
    board = SharedMeter()
    board.hold(OTHER)
    host = Host(board, pids=None)
    host.sampler.usage.unsaid_gpu_part = 1 / 8
    record = host.run(8)
    assert gpu_j(record) == pytest.approx(200.0, rel=0.15)  # all of it until the first look
    assert record.faults.startswith("gpu_share_ranks:")
    assert record.energy_high_kwh > 1.9 * record.energy_kwh


def test_slices_are_a_part_of_their_board():
    """Three of seven slices, ours alone: 3/7 of the energy, and it may be all of it."""
    board = SharedMeter(part=3 / 7)
    board.uses = (GpuUse(3 / 7, frozenset({US})),)
    record = Host(board).run(7)
    assert gpu_j(record) == pytest.approx(600.0)
    assert record.faults.startswith("gpu_share_slices:")
    assert record.energy_high_kwh == pytest.approx(2.0 * record.energy_kwh)


def test_before_the_first_look_all_that_we_may_use_is_ours():
    """A run shorter than a tick: a board whole, a slice by its size."""
    board, cut = SharedMeter(), SharedMeter("nvml:GPU-1", part=2 / 7)
    board.hold(OTHER)
    cut.hold(OTHER)
    record = Host(board, cut).run(1, ticks=False)
    assert gpu_j(record) == pytest.approx(200.0 + 200.0 * 2 / 7)


def test_a_look_that_fails_leaves_what_was_known():
    """A busy driver changes nobody's part."""
    board = SharedMeter()
    board.hold(US, OTHER)
    host = Host(board)
    host.run(1)
    board.uses = None
    assert gpu_j(host.run(2)) == pytest.approx(200.0)


def test_nobody_is_asked_at_the_edges_nor_in_scope_machine():
    """One look a tick at most, by the sampler's thread; none where nobody shares."""
    board, whole = SharedMeter(), SharedMeter()
    host = Host(board)
    for _ in range(50):
        host.tracker.span("a").open().close()
    assert board.looks == 0
    with host.tracker.span("a"):
        for _ in range(40):
            host.clock.advance(0.1)
            host.sampler.tick()
    assert board.looks <= 5
    record = Host(whole, scope="machine").run(3)
    assert whole.looks == 0
    assert gpu_j(record) == pytest.approx(600.0)
    assert record.faults is None


def test_trees_on_one_board_get_no_more_than_the_board():
    """Two processes, each with a tracker of its own: their sum is the machine's energy."""
    sums = []
    for pid in (US, OTHER):
        board = SharedMeter()
        board.hold(US, OTHER, busy={US: 55.0, OTHER: 45.0})
        sums.append(gpu_j(Host(board, pids=frozenset({pid})).run(5)))
    assert sum(sums) == pytest.approx(1000.0)


def test_a_fork_knows_nothing_of_its_parents_boards():
    """What the parent found is not the child's."""
    board = SharedMeter()
    board.hold(OTHER)
    host = Host(board)
    host.run(2)
    host.sampler.gpu_shares.forget_parent()
    assert host.sampler.gpu_shares.parts == (1.0,)
    assert host.sampler.gpu_shares.relative_uncertainty(0) == 0.0


# -- boards of which only some are ours, nobody knows which --------------------------------------


class Pair:
    """Two boards of 200 W, one of which is ours."""

    def __init__(self, **more):
        self.boards = SharedMeter("nvml:GPU-0"), SharedMeter("nvml:GPU-1")
        candidates = Candidates(1)
        self.members = [CandidateGpu(board, candidates) for board in self.boards]
        self.host = Host(*self.members, **more)
        self.compute()

    def compute(self, *pids_by_board):
        for board, pids in zip_longest(self.boards, pids_by_board, fillvalue=()):
            board.uses = (GpuUse(1.0, frozenset(pids), None, frozenset(pids)),)


def test_the_board_with_our_context_decides_in_every_scope():
    """The other one stands still from then on, and is asked for no more power."""
    for scope in ("process", "machine"):
        pair = Pair(scope=scope)
        pair.compute({OTHER}, {US})
        pair.host.sampler.tick()
        record = pair.host.run(4)
        assert gpu_j(record) == pytest.approx(800.0)
        # what it counted up to the first look of a run is not known to be ours
        assert [member.is_aside for member in pair.members] == [True, False]
        assert pair.members[0].max_period_s is None


def test_boards_on_which_we_hold_nothing_are_neither_billed_nor_unknown():
    """As long as the driver tells its processes, a board without one of ours is not ours."""
    pair = Pair()
    pair.compute({OTHER}, {OTHER})
    pair.host.run(1)
    record = pair.host.run(4)
    assert gpu_j(record) == 0.0
    assert record.faults is None


def test_where_no_process_is_known_both_count_and_the_interval_has_one():
    """The low end is the least board's, the high end all of them."""
    pair = Pair(pids=None)
    pair.boards[0].watts = 50.0
    pair.host.run(1)
    record = pair.host.run(100)
    assert gpu_j(record) == pytest.approx(250.0 * 100)
    assert "gpu_order_unknown:" in record.faults
    low_j = record.energy_low_kwh * JOULES_PER_KWH
    assert low_j == pytest.approx(50.0 * 0.95 * 100, rel=0.03)
    assert record.energy_high_kwh == pytest.approx(1.05 * record.energy_kwh, rel=0.01)


def test_a_child_process_starts_anew():
    """Its contexts are its own: what the parent found is forgotten."""
    pair = Pair()
    pair.compute({US}, {OTHER})
    pair.host.run(2)
    assert pair.members[0].is_ours
    pair.host.sampler.forget_parent()
    assert not any(member.is_ours or member.is_aside for member in pair.members)
    assert pair.host.sampler.gpu_shares.codes == ("gpu_order_unknown",)


@pytest.mark.parametrize(
    ("wanted", "measured", "faults"), [(1, 1, 0), (1, 0, 1), (2, 1, 1), (2, 0, 2)]
)
def test_a_board_that_may_be_ours_is_missed_where_one_of_ours_surely_is(wanted, measured, faults):
    """A display card without a sensor is no fault as long as there are others to be ours."""
    boards = tuple(Gpu(n, f"GPU-{n}", f"model {n}") for n in range(3))
    opened = {
        board: SharedMeter() if board.index < measured else Refusal(f"nvml:{board.uuid}", "no")
        for board in boards
    }
    told = list(unmeasured(Choice(boards, None, boards, wanted), opened))
    assert len(told) == 3 - measured
    assert [refusal.fault for refusal in told].count("gpu_unmeasured") == faults
