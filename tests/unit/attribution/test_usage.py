"""Reading usage from procfs: the tree of a process, the machine, and what cannot be read."""

import os

import pytest

from carbontrack.attribution.memory import machine_ram_bytes
from carbontrack.attribution.process_tree import descendants
from carbontrack.attribution.usage import UsageReader


def put(procfs, pid, ppid, ticks, pages, name="python"):
    """A process as proc_pid_stat(5) writes it."""
    folder = procfs / str(pid)
    folder.mkdir()
    rest = ["S", ppid, *[0] * 9, ticks, 0, 0, 0, *[0] * 6, pages, *[0] * 28]
    (folder / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, rest))}\n")


def test_descendants_are_found_at_any_depth(tmp_path):
    """Children, their children and zombies; nobody else's."""
    put(tmp_path, 10, 1, 5, 1)
    put(tmp_path, 11, 10, 7, 2)
    put(tmp_path, 12, 11, 9, 3)
    put(tmp_path, 20, 1, 100, 50)
    assert sorted(descendants(tmp_path, 10)) == [(11, 7, 2), (12, 9, 3)]


@pytest.mark.parametrize("name", ["a b", "a) S 1 (b", "))((", "x\ny"])
def test_hostile_process_names_do_not_mislead(tmp_path, name):
    """A name may hold spaces, brackets and lines."""
    put(tmp_path, 11, 10, 7, 2, name=name)
    assert descendants(tmp_path, 10) == [(11, 7, 2)]


def test_torn_entries_are_passed_over(tmp_path):
    """A process that ends while we look is not there."""
    (tmp_path / "11").mkdir()
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "stat").write_text("12 (x")
    put(tmp_path, 13, 10, 1, 1)
    assert descendants(tmp_path, 10) == [(13, 1, 1)]


def test_memory_in_use_is_what_is_not_available(tmp_path):
    """MemTotal less MemAvailable, in bytes."""
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    assert machine_ram_bytes(tmp_path) == 600 * 1024


def test_busy_time_leaves_idle_waiting_and_stolen_time_out(tmp_path):
    """user, nice, system, irq and softirq; guests are in user already."""
    (tmp_path / "stat").write_text("cpu  100 20 30 9999 9999 4 6 9999 50 50\ncpu0 1 1 1\n")
    reader = UsageReader(tmp_path)
    for _ in range(2):
        assert reader.machine_busy_s() == pytest.approx(160 / os.sysconf("SC_CLK_TCK"))
        reader.rest()


@pytest.mark.parametrize(
    "line", ["nonsense", "", "cpu", "cpu a b c d e f g h", "cpu 1 2", "cpu0 1 2 3 4 5 6 7 8"]
)
def test_garbage_is_unknown_not_zero(tmp_path, line):
    """A line that is no count is None, and never a count of 0 that the next one rises from."""
    (tmp_path / "stat").write_text(f"{line}\n")
    assert UsageReader(tmp_path).machine_busy_s() is None
    assert UsageReader(tmp_path).read(0.0).machine_cpu_s is None


def _memory(procfs, *, rss_kib):
    (procfs / "meminfo").write_text("MemTotal: 8192 kB\nMemAvailable: 4096 kB\n")
    own = procfs / "self"
    own.mkdir(exist_ok=True)
    (own / "statm").write_text(f"9999 {rss_kib * 1024 // os.sysconf('SC_PAGE_SIZE')} 0 0 0 0 0\n")


def test_memory_of_a_limited_group_is_compared_with_the_group(tmp_path):
    """A meter that counts no more than the limit is shared out among what uses the limit."""
    _memory(tmp_path, rss_kib=1024)
    (tmp_path / "self" / "cgroup").write_text("0::/box\n")
    group = tmp_path / "fs" / "cgroup" / "box"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{4096 * 1024}\n")
    (group / "memory.current").write_text(f"{3072 * 1024}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {1024 * 1024}\n")
    reader = UsageReader(tmp_path, tmp_path)
    assert reader.read(0.0).machine_ram_bytes == 4096 * 1024, "8 MiB of which half is available"
    reader.within_limit = True
    assert reader.read(5.0).machine_ram_bytes == 2048 * 1024, "without file cache"
    (group / "memory.max").write_text("max\n")
    assert reader.read(10.0).machine_ram_bytes == 4096 * 1024


def test_our_cpu_time_never_falls():
    """The count of this process tree only rises, and rises with work."""
    reader = UsageReader()
    before = reader.read(0.0).process_cpu_s
    sum(n * n for n in range(300_000))
    after = reader.read(1.0).process_cpu_s
    assert after > before


def hidden(sysfs):
    """A reader where no procfs has a stat."""
    return UsageReader(sysfs / "proc", sysfs, own_procfs=sysfs / "nowhere")


@pytest.fixture
def groups(tmp_path):
    """The folder of the control groups."""
    folder = tmp_path / "fs" / "cgroup"
    folder.mkdir(parents=True)
    return folder


def test_a_hidden_machine_is_as_busy_as_the_root_of_the_control_groups(tmp_path, groups):
    """Of version 2, or of a hybrid tree, or of version 1; a container's own group is no machine."""
    (groups / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    reader = hidden(tmp_path)
    assert (reader.machine_busy_s(), reader.busy_is_own) == (2.5, False)
    assert reader.hidden is not None
    (groups / "cgroup.events").write_text("populated 1\n")
    assert hidden(tmp_path).machine_busy_s() is None
    (groups / "cpuacct").mkdir()
    (groups / "cpuacct" / "cpuacct.usage").write_text("3500000000\n")
    assert hidden(tmp_path).machine_busy_s() is None
    (groups / "cpuacct" / "release_agent").write_text("\n")
    assert hidden(tmp_path).machine_busy_s() == 3.5
    (groups / "unified").mkdir()
    (groups / "unified" / "cpu.stat").write_text("usage_usec 4500000\n")
    assert hidden(tmp_path).machine_busy_s() == 4.5


def test_where_nothing_shows_the_machine_our_own_time_is_the_least(tmp_path):
    """It is unknown how busy it is, and said so; what is modelled is ours, also after a fork."""
    reader = hidden(tmp_path)
    assert (reader.machine_busy_s(), reader.busy_is_own) == (None, True)
    before_s = reader.least_busy_s()
    sum(n * n for n in range(300_000))
    after_s = reader.least_busy_s()
    assert after_s > before_s
    pid = os.fork()
    if not pid:
        os._exit(0 if reader.least_busy_s() >= after_s else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_memory_of_a_hidden_machine_is_that_of_its_nodes(tmp_path):
    """What is neither free nor a cache of files, in all nodes; without any it is unknown."""
    assert hidden(tmp_path).read(0.0).machine_ram_bytes is None
    for number in range(2):
        node = tmp_path / "devices" / "system" / "node" / f"node{number}"
        node.mkdir(parents=True)
        sizes = {"MemTotal": 1000, "MemFree": 300, "Active(file)": 100, "Inactive(file)": 50,
                 "SReclaimable": 50}  # fmt: skip
        lines = (f"Node {number} {name}: {kib} kB" for name, kib in sizes.items())
        (node / "meminfo").write_text("\n".join(lines))
    assert hidden(tmp_path).read(0.0).machine_ram_bytes == 2 * 500 * 1024
