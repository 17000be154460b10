"""Memory that processes share: what is known of each, when it is asked for, and the low end."""

import json
import os
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.attribution.memory import (
    FREE_S,
    NEWCOMER_COST,
    SURVEY_COST,
    SURVEY_PERIOD_S,
    LowEnd,
    MemorySurvey,
    Proportion,
    in_a_thread,
    proportion,
)
from carbontrack.testing import FakeClock

ROOT = Path(__file__).parents[3]
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 2**20


class Slow(FakeClock):
    """A clock that moves on at each look, while something is read that takes its time."""

    step_s = 0.0

    def monotonic_s(self):
        """Now, and a step later."""
        if self.step_s:
            self.advance(self.step_s)
        return super().monotonic_s()


class Tree:
    """Processes in a folder, as procfs shows them, and a survey of them that a test runs."""

    def __init__(self, procfs, **options):
        self.procfs, self.clock, self.jobs, self.pids = procfs, Slow(), [], []
        self.cost_s = 0.001
        self.survey = MemorySurvey(procfs, lambda: self.pids, self.jobs.append, **options)

    def put(self, pid, rss_mib, pss_mib=None, *, private_mib=0, shared_mib=0, start=7):
        """A process with this memory; without a proportional size nobody may read it."""
        folder = self.procfs / str(pid)
        folder.mkdir(exist_ok=True)
        rest = ["S", 1, *[0] * 17, start, 0, rss_mib * MIB // PAGE, *[0] * 28]
        (folder / "stat").write_text(f"{pid} (a) b) {' '.join(map(str, rest))}\n")
        pages = [mib * MIB // PAGE for mib in (2 * rss_mib, rss_mib, shared_mib)]
        (folder / "statm").write_text(" ".join(map(str, [*pages, 0, 0, 0, 0])) + "\n")
        if pss_mib is not None:
            head = "00-ff ---p 0 00:00 0 [rollup]\n"
            (folder / "smaps_rollup").write_text(head + smaps(rss_mib, pss_mib, private_mib))
        if pid != "self" and pid not in self.pids:
            self.pids = [*self.pids, pid]

    def end(self, pid):
        """The process ends."""
        self.pids = [one for one in self.pids if one != pid]
        for file in (self.procfs / str(pid)).iterdir():
            file.unlink()
        (self.procfs / str(pid)).rmdir()

    def look(self, *, answers=True):
        """A look of the sampler's thread; whether it has begun to read, and it was answered."""
        self.survey.look(self.clock)
        has_begun = bool(self.jobs)
        while answers and self.jobs:
            self.clock.step_s = self.cost_s
            self.jobs.pop(0)()
            self.clock.step_s = 0.0
        return has_begun

    def mib(self):
        """The low end of our memory, and our memory, as taken now."""
        sizes = [self.size_of(pid) for pid in ("self", *self.pids)]
        now_s = self.clock.monotonic_s()
        best = self.survey.take(now_s, sum(sizes), max(sizes)) / MIB
        return round(best * (1.0 - self.survey.low_end.mean(now_s, now_s + 1.0)), 6), best

    def size_of(self, pid):
        """Resident bytes."""
        text = (self.procfs / str(pid) / "stat").read_text()
        return int(text.rpartition(")")[2].split()[21]) * PAGE


def smaps(rss_mib, pss_mib, private_mib=0):
    """The fields of one mapping, or of all of them."""
    sizes = {"Rss": rss_mib, "Pss": pss_mib, "Pss_Dirty": 1, "Private_Clean": 0}
    sizes |= {"Private_Dirty": private_mib, "SwapPss": 777}
    return "".join(f"{name}:   {mib * 1024} kB\n" for name, mib in sizes.items())


@pytest.fixture
def tree(tmp_path):
    """A tree of one process."""
    made = Tree(tmp_path)
    made.put("self", 1000, 990, private_mib=980)
    return made


@pytest.fixture
def family(tmp_path):
    """A process of 1000 MiB with three forks that have all of it in common."""
    made = Tree(tmp_path)
    for pid in ("self", 11, 12, 13):
        made.put(pid, 1000, 250)
    return made


# -- the first answer --------------------------------------------------------------------------


def test_before_the_first_answer_forks_hold_the_largest_at_least_and_the_sum_at_most(family):
    """Three forks may share all of it, or none."""
    assert family.mib() == (1000, 4000)
    assert family.look(answers=False)
    assert family.mib() == (1000, 4000), "the sizes are known now, and no more than that"


def test_from_the_first_answer_on_a_shared_page_counts_once(family):
    """The sum of the proportional sizes, and nothing in doubt."""
    family.look()
    assert family.mib() == (1000, 1000)


def test_the_first_reading_begins_at_once_whatever_it_costs(family):
    """Also where it takes as long as a terabyte does."""
    family.cost_s = 20.0
    assert family.look()
    assert family.mib() == (1000, 1000)


def test_one_process_alone_is_not_in_doubt(tree):
    """What is resident is what it holds, less what it shares with the rest of the machine."""
    assert tree.mib() == (1000, 1000)
    tree.look()
    assert tree.mib() == (990, 990)


def test_a_fork_may_share_everything_with_others_than_its_own(tmp_path):
    """A worker that counts itself only has nothing for certain until the kernel has told."""
    worker = Tree(tmp_path, is_forked=True)
    worker.put("self", 1000, 250)
    assert worker.mib() == (0, 1000)
    worker.look(answers=False)
    assert worker.mib() == (0, 1000)
    worker.survey.look(worker.clock)
    worker.jobs.pop()()
    assert worker.mib() == (250, 250)


def test_a_tick_waits_for_an_answer_that_may_change_much_and_not_for_long(family, tmp_path):
    """For a second at most; not for one process alone."""
    assert family.survey.is_awaited(family.clock)
    family.clock.advance(0.9)
    assert family.survey.is_awaited(family.clock)
    family.clock.advance(0.2)
    assert not family.survey.is_awaited(family.clock)
    family.jobs.pop()()
    assert not family.survey.is_awaited(family.clock)


def test_nobody_waits_for_one_process_alone(tree):
    """Its answer changes little."""
    assert not tree.survey.is_awaited(tree.clock)
    assert len(tree.jobs) == 1


def test_a_thread_that_cannot_start_is_tried_again_later(tree):
    """As at the end of a program, or where there may be no more threads."""
    assert tree.look(answers=False)
    tree.jobs.clear()
    tree.clock.advance(SURVEY_PERIOD_S - 1.0)
    assert not tree.look()
    tree.clock.advance(2.0)
    assert tree.look()


# -- those that come and go --------------------------------------------------------------------


def test_newcomers_are_looked_at_soon_and_counted_in_full_until_then(tree):
    """Known processes stay known; a newcomer may share all of its memory with them, or none."""
    tree.look()
    tree.put(11, 800, 30)
    tree.put("self", 1000, 960)
    assert tree.mib() == (990, 1790)
    assert tree.survey.is_behind
    assert tree.look(answers=False)
    assert tree.mib() == (990, 1790)
    tree.jobs.pop()()
    assert tree.mib() == (990, 990)


def test_a_newcomer_larger_than_all_others_is_the_low_end(tree):
    """It holds at least what is resident in it."""
    tree.look()
    tree.put(11, 3000, 2900)
    tree.look(answers=False)
    assert tree.mib() == (3000, 3990)


def test_what_a_process_shared_belongs_to_the_others_when_it_has_ended(family):
    """The pages are still there, with fewer who have them mapped."""
    family.look()
    for pid in (11, 12, 13):
        family.end(pid)
    family.look(answers=False)
    assert family.mib() == (250, 1000)
    family.put("self", 1000, 1000)
    family.jobs.pop()()
    assert family.mib() == (1000, 1000)


def test_what_only_a_process_had_is_gone_with_it(tmp_path):
    """A worker with memory of its own takes that with it."""
    tree = Tree(tmp_path)
    tree.put("self", 1000, 550, private_mib=100)
    tree.put(11, 1000, 550, private_mib=100)
    tree.look()
    tree.end(11)
    tree.look(answers=False)
    assert tree.mib() == (550, 1000)
    tree = Tree(tmp_path)
    tree.put("self", 1000, 1000, private_mib=1000)
    tree.put(11, 500, 500, private_mib=500)
    tree.look()
    tree.end(11)
    assert not tree.look()
    assert tree.mib() == (1000, 1000)


def test_a_number_that_is_used_again_is_another_process(tree):
    """A process is its number and its start."""
    tree.put(11, 1000, 10)
    tree.look()
    assert tree.mib()[1] == 1000
    tree.put(11, 1000, 900, start=8)
    tree.clock.advance(6.0)
    tree.look(answers=False)
    assert tree.mib() == (1000, 2000)


def test_small_newcomers_are_not_worth_a_look(tree):
    """A command of a moment in a large program."""
    tree.look()
    tree.put(11, 5, 5)
    assert not tree.look()
    assert tree.mib() == (990, 995), "its memory counts all the same"


# -- the budget --------------------------------------------------------------------------------


def looks(tree, seconds, *, each_tick=lambda: None):
    """The instants at which a reading has begun, with a look each second, and what they took."""
    begun = []
    for _ in range(seconds):
        each_tick()
        if tree.look():
            begun.append(tree.clock.monotonic_s())
        tree.clock.advance(1.0)
    return begun


def test_readings_take_a_two_thousandth_of_the_time(tree):
    """Where nothing comes or goes; and they are a minute apart at least."""
    assert len(looks(tree, 600)) == 10
    tree.cost_s = 0.1
    looks(tree, 600)
    begun = looks(tree, 1000)
    assert all(later - sooner >= SURVEY_COST * 0.1 for sooner, later in pairwise(begun))
    assert len(begun) >= 4


def test_readings_of_newcomers_take_a_hundredth_of_the_time(tree):
    """Workers that are replaced each second, and cost a fifth of a second each time."""
    tree.cost_s = 0.2
    pids, seconds = iter(range(1000, 9000)), 1000

    def replace():
        for pid in tree.pids:
            tree.end(pid)
        tree.put(next(pids), 500, 100)

    begun = looks(tree, seconds, each_tick=replace)
    allowed_s = FREE_S + seconds / NEWCOMER_COST
    assert allowed_s / 2 <= len(begun) * 0.2 <= allowed_s + 0.4


def test_nothing_is_read_while_a_reading_is_under_way(tree):
    """A process whose memory is locked for long gets one reader."""
    tree.look(answers=False)
    for _ in range(30):
        tree.clock.advance(1.0)
        tree.put(len(tree.pids) + 20, 500, 100)
        tree.look(answers=False)
    assert len(tree.jobs) == 1


# -- what cannot be read -----------------------------------------------------------------------


def test_without_rollup_the_mappings_are_added_up(tmp_path):
    """Kernels before 4.14, and gVisor, have smaps alone."""
    tree = Tree(tmp_path)
    tree.put("self", 30)
    (tmp_path / "self" / "smaps").write_text(
        "00-ff rw-p 0 00:00 0 \nSize: 1 kB\n" + smaps(10, 4, 1)
        + "ff-1ff r--p 0 00:00 0 /lib/x\nSize: 1 kB\n" + smaps(20, 5, 2)
    )  # fmt: skip
    assert proportion(tmp_path, "self") == Proportion(0.3, 0.1)


def test_another_users_process_counts_without_what_statm_calls_shared(tree):
    """Its maps may not be read, and what it shares is counted with those that may."""
    tree.put(11, 500, shared_mib=400)
    (tree.procfs / "11" / "smaps_rollup").mkdir()  # a read fails, as without permission
    tree.look()
    assert tree.mib() == (990, 1090)


def test_where_no_process_may_be_asked_what_statm_calls_shared_counts_once(tmp_path):
    """Memory of a segment is counted once; forks may share more, which only the kernel knows."""
    tree = Tree(tmp_path)
    for pid in ("self", 11, 12):
        tree.put(pid, 500, shared_mib=400)
    tree.look()
    assert tree.mib() == (500, 700)


def test_a_process_that_has_just_ended_is_not_there(tmp_path):
    """None, and no error."""
    assert proportion(tmp_path, "11") is None
    tree = Tree(tmp_path)
    tree.look()
    assert tree.survey.take(0.0, 0, 0) == 0


# -- the low end over time ---------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), max_size=20),
    st.floats(0, 100),
    st.floats(0.01, 50),
)
def test_the_mean_over_a_time_is_that_of_its_parts(changes, since_s, length_s):
    """As a sum over small pieces has it."""
    low_end = LowEnd()
    changes.sort()
    for at_s, below in changes:
        low_end.set(at_s, below)
    until_s = since_s + length_s
    edges = sorted({since_s, until_s, *(s for s, _ in changes if since_s < s < until_s)})

    def at(instant_s):
        return next((b for s, b in reversed(changes) if s <= instant_s), 0.0)

    parts = [at(begin_s) * (end_s - begin_s) for begin_s, end_s in pairwise(edges)]
    assert low_end.mean(since_s, until_s) == pytest.approx(sum(parts) / length_s, abs=1e-9)


def test_what_is_known_later_replaces_what_was_taken_since(tmp_path):
    """A step of energy that ends with an answer has none of the doubt before it."""
    low_end = LowEnd()
    low_end.set(10.0, 0.75)
    low_end.set(12.0, 0.5)
    low_end.set(11.0, 0.0)
    assert low_end.mean(10.0, 14.0) == pytest.approx(0.75 / 4)


# -- real processes ----------------------------------------------------------------------------


def measured(*arguments):
    """What a program of four processes gets of a machine's memory, and what the kernel says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.sharing", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return json.loads(done.stdout)


needs_pss = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this kernel tells no proportional sizes"
)


@needs_pss
@pytest.mark.parametrize("kind", ["private", "shared", "file", "own"])
def test_the_first_record_of_forks_is_within_5_percent_of_what_the_kernel_says(kind):
    """Memory that was there at the fork, a segment, a mapped file, and what each has alone."""
    found = measured(kind, 300, 0.3)
    assert found["best"] == pytest.approx(sum(found["pss"]), rel=0.05)
    assert found["low"] <= sum(found["pss"]) * 1.05
    assert sum(found["rss"]) > 1.5 * found["best"], "shared pages are resident in each"


@needs_pss
def test_a_fork_that_counts_itself_has_its_own_part():
    """A worker with a tracker of its own, whose parent and siblings share with it."""
    found = measured("private", 100, 0.3, "fork")
    assert found["best"] == pytest.approx(sum(found["pss"]), rel=0.05)
    assert sum(found["rss"]) > 2.0 * found["best"]


@pytest.mark.parametrize(("who", "part"), [("parent", 1.0), ("fork", 0.0)])
def test_a_record_before_the_answer_says_how_little_it_may_be(who, part):
    """A block that has ended at once: the sum, down to the largest; of a fork, down to nothing."""
    found = measured("private", 100, 0, who)
    assert found["best"] == pytest.approx(sum(found["rss"]), rel=0.05)
    assert found["low"] == pytest.approx(part * max(found["rss"]), rel=0.05)
    assert found["low"] <= sum(found["pss"]) * 1.05


@needs_pss
def test_the_kernels_own_files_are_read():
    """Our process, by each of the files."""
    rollup = proportion(Path("/proc"), "self")
    assert rollup is not None
    assert rollup.is_exact
    assert 0.0 < rollup.private <= rollup.part <= 1.0


def test_a_reading_is_done_in_a_thread_of_its_own():
    """It keeps nobody waiting."""
    done = threading.Event()
    in_a_thread(done.set)
    assert done.wait(30.0)
