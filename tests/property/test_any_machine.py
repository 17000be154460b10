"""Whatever the files of a machine hold: meters are found or refused, and the program runs."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbontrack.api.assembly import assemble
from carbontrack.attribution.usage import UsageReader
from carbontrack.config.environment import Environment
from carbontrack.config.settings import Settings
from carbontrack.meters.detect import Host, detect
from carbontrack.testing import Zone, build_powercap
from tests.support.edac import add_dimm, add_rank

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC 7763 64-Core Processor
stepping\t: 1
siblings\t: 4
cpu cores\t: 2
flags\t\t: fpu vme
"""
STAT = "cpu  10 0 10 1000 0 0 0 0 0 0\n" + "".join(
    f"cpu{number} 2 0 2 250 0 0 0 0 0 0\n" for number in range(4)
)
FILES = {
    "proc/cpuinfo": CPUINFO,
    "proc/stat": STAT + "btime 1700000000\n",
    "proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 100 kB\nMemAvailable: 8000000 kB\n",
    "proc/uptime": "1000.0 4000.0\n",
    "proc/self/cgroup": "0::/user.slice\n",
    "proc/self/stat": "1 (python) S 0 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 100 1 1\n",
    "proc/self/statm": "100 50 10 1 0 40 0\n",
    "proc/sys/kernel/random/boot_id": "7f3cc9b1-0000-4000-8000-000000000000\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
    "sys/fs/cgroup/user.slice/memory.max": "1073741824\n",
    "sys/fs/cgroup/user.slice/memory.current": "1048576\n",
    "sys/fs/cgroup/user.slice/cpu.stat": "usage_usec 100\n",
    "sys/devices/system/cpu/online": "0-3\n",
    "sys/devices/system/cpu/possible": "0-3\n",
    "sys/devices/system/cpu/cpu0/topology/physical_package_id": "0\n",
    "sys/devices/system/cpu/cpu0/topology/package_cpus_list": "0-3\n",
    "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 16000000 kB\n",
    "sys/devices/system/memory/block_size_bytes": "8000000\n",
    "sys/class/dmi/id/sys_vendor": "Dell Inc.\n",
    "sys/class/dmi/id/product_name": "PowerEdge\n",
    "sys/class/dmi/id/chassis_asset_tag": "none\n",
    "sys/class/hwmon/hwmon0/name": "amd_energy\n",
    "sys/class/hwmon/hwmon0/energy1_label": "Esocket0\n",
    "sys/class/hwmon/hwmon0/energy1_input": "123456\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1000\n",
    "sys/class/hwmon/hwmon2/name": "amdgpu\n",
    "sys/class/hwmon/hwmon2/power1_average": "35000000\n",
    "sys/class/hwmon/hwmon3/name": "acpi_power_meter\n",
    "sys/class/hwmon/hwmon3/power1_oem_info": "Module Power Socket 0\n",
    "sys/class/hwmon/hwmon3/power1_average": "35000000\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/power_now": "12000000\n",
    "sys/bus/event_source/devices/power/type": "23\n",
    "sys/bus/event_source/devices/power/cpumask": "0\n",
    "sys/bus/event_source/devices/power/events/energy-pkg": "event=0x02\n",
    "sys/bus/event_source/devices/power/events/energy-pkg.scale": "2.3283064365386962890625e-10\n",
    "sys/bus/event_source/devices/power/events/energy-pkg.unit": "Joules\n",
    "sys/module/amdgpu/version": "6\n",
}


def build(top: Path) -> list[Path]:
    """A machine that has everything at once; returns its files and folders."""
    for name, text in FILES.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    zones = [Zone("package-0", "intel-rapl:0"), Zone("dram", "intel-rapl:0:0"),
             Zone("package-1", "intel-rapl:1"), Zone("psys", "intel-rapl:2")]  # fmt: skip
    build_powercap(top / "sys", zones)
    add_dimm(top / "sys", 0, 0, 16384)
    add_rank(top / "sys", 1, 0, 0, 8192)
    return sorted(path for path in top.rglob("*") if not path.is_symlink())


def with_bytes(content: bytes) -> Callable[[Path], None]:
    """Fill the file with something else."""

    def spoil(path: Path) -> None:
        _remove(path)
        path.write_bytes(content)

    return spoil


def as_folder(path: Path) -> None:
    """Put a folder in its place."""
    _remove(path)
    path.mkdir()


def as_pipe(path: Path) -> None:
    """Put a pipe in its place, which nobody writes to; in procfs there is none."""
    _remove(path)
    if {"proc", "cgroup"} & set(path.parts):
        path.touch()
    else:
        os.mkfifo(path)


def as_link_to_itself(path: Path) -> None:
    """Put a link in its place that leads back to it."""
    _remove(path)
    path.symlink_to(path)


def closed(path: Path) -> None:
    """Take all rights away; root may look all the same."""
    path.chmod(0)


def with_odd_neighbour(path: Path) -> None:
    """Put something beside it whose name is no UTF-8."""
    Path(os.fsdecode(os.fsencode(path) + b"\xff")).write_bytes(b"\xff")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


NUMBERS = [b"", b"0", b"-1", b"-99999999999999999999", b"9" * 30, b"9" * 5000, b"nan", b"inf",
           b"1e400", b"0x1f", b"\xc2\xb2", b"0-", b"0-99999999999", b"5-0", b",", b"\0" * 64,
           b"\xff\xfe", b"max", b"event=", b"siblings\t: \xc2\xb2\n", b"MemTotal: -5 kB\n",
           b"cpu  a b\n", b"cpu0 -1 -1 -1\n", b"0::/../../..\n", b":::::\n"]  # fmt: skip
SPOILS = st.one_of(
    st.sampled_from(NUMBERS).map(with_bytes),
    st.binary(max_size=200).map(with_bytes),
    st.text(alphabet="0123456789-,.:kB \n\tcpuMemTotal", max_size=80)
    .map(str.encode)
    .map(with_bytes),
    st.sampled_from([_remove, as_folder, as_pipe, as_link_to_itself, closed, with_odd_neighbour]),
)


@contextmanager
def not_for_ever() -> Iterator[None]:
    """Nothing may wait for a pipe."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it waits for something")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def machine(spoils: list[tuple[int, Callable[[Path], None]]]) -> Iterator[Path]:
    """A machine some of whose files are spoilt."""
    top = Path(tempfile.mkdtemp(prefix="machine-"))
    try:
        paths = build(top)
        for number, spoil in spoils:
            path = paths[number % len(paths)]
            if os.path.lexists(path):
                spoil(path)
        yield top
    finally:
        for folder in [top, *top.rglob("*")]:
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o700)
        shutil.rmtree(top)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 10_000), SPOILS), min_size=1, max_size=12))
def test_meters_are_found_or_refused(spoils: list[tuple[int, Callable[[Path], None]]]) -> None:
    """Whatever any source makes of it: the processor is counted, and nothing is raised."""
    with not_for_ever(), machine(spoils) as top:
        usage = UsageReader(top / "proc", top / "sys")
        found = detect(Host(usage.machine_busy_s, top / "sys", top / "proc"))
        try:
            assert any(meter.component == "cpu" for meter in found)
            ids = [meter.id for meter in found]
            assert len(set(ids)) == len(ids)
        finally:
            for meter in found:
                meter.close()


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 10_000), SPOILS), min_size=1, max_size=12))
def test_a_block_runs_to_its_record(spoils: list[tuple[int, Callable[[Path], None]]]) -> None:
    """A tracker is made on such a machine, and its span ends in a record."""
    with not_for_ever(), machine(spoils) as top:
        given = Settings(
            output=(),
            state_dir=str(top / "state"),
            sysfs_path=str(top / "sys"),
            procfs_path=str(top / "proc"),
        )
        with assemble(given, Environment(working_folder=str(top))) as tracker:
            with tracker.span("block") as span:
                tracker.session.sampler.tick()
            assert span.record is not None
