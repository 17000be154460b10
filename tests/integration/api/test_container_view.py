"""Containers that are shown a part of the machine, whose counters count all of it."""

import json
import os
import shutil
import subprocess

import pytest

from carbontrack.testing import Zone, build_powercap
from tests.support.guests import Machine
from tests.support.plain_user import (
    as_stranger,
    can_be_stranger,
    interpreter,
    package,
    public_folder,
)

EPYC = Machine(
    "container", name="AMD EPYC 7513 32-Core Processor", vendor="AuthenticAMD", family="25",
    model="1", stepping="1", threads=4, siblings="64", cores="32", hypervisor=False,
)  # fmt: skip
PACKAGE = [Zone("package-0", "intel-rapl:0", raw_uj=100_000_000_000)]
USERS = [
    "ourselves",
    pytest.param(
        "stranger",
        marks=[
            pytest.mark.skipif(os.geteuid() != 0, reason="we are a plain user already"),
            pytest.mark.skipif(not can_be_stranger(), reason="no Python that others may start"),
        ],
    ),
]


@pytest.fixture
def tmp_path():
    """A folder that the stranger may enter too."""
    with public_folder() as folder:
        yield folder


def without(root, *names):
    """The tree without some of the lists of processors."""
    for name in names:
        (root / "sys/devices/system/cpu" / name).unlink()


def container(root, machine=EPYC, *, zones=PACKAGE):
    """A container's procfs, and its host's sysfs, in which it may read the counter."""
    proc, sysfs = machine.write(root)
    (proc / "stat").unlink()
    (proc / "self").symlink_to("/proc/self")
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemFree: 8000000 kB\n")
    if zones:
        build_powercap(sysfs, zones)
    for folder in (root, *root.rglob("*")):
        if not folder.is_symlink():
            folder.chmod(folder.stat().st_mode | 0o006 | (0o001 if folder.is_dir() else 0))


def ask(root, user="ourselves", *, threads=4, scope="process", under=()):
    """What a busy program's record says."""
    command = [interpreter(), f"{package()}/tests/integration/api/busy_host.py"]
    become = as_stranger() if user == "stranger" else []
    command = [*become, *under, *command]
    asked = json.dumps({"root": str(root), "threads": threads, "scope": scope})
    environ = {"PATH": os.defpath, "PYTHONPATH": package(), "HOME": str(root), "TMPDIR": "/tmp"}
    done = subprocess.run(
        [*command, asked], cwd=root, env=environ, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def is_modelled_as_four_threads(told):
    """The container's share of the part, at whatever load; not its host's 150 W."""
    assert (told["cpu_tdp_w"], told["cpu_threads"]) == (12.5, 4)
    assert told["cpu_basis"] == "modelled"
    assert "model:cpu" in told["meters"]
    assert 0.0 < told["cpu_w"] < 12.5
    assert told["energy_high_kwh"] - told["energy_low_kwh"] > 0.5 * told["energy_kwh"]


@pytest.mark.parametrize("user", USERS)
def test_a_hosts_counter_is_no_measure_of_a_container(tmp_path, user):
    """Sixty other threads draw 150 W. Our /proc/stat shows us alone, and the host is not ours."""
    container(tmp_path)
    without(tmp_path, "present", "offline")
    (tmp_path / "sys/devices/system/cpu/possible").write_text("0-63\n")
    told = ask(tmp_path, user)
    is_modelled_as_four_threads(told)
    assert told["faults"] == "machine_hidden:1"


@pytest.mark.parametrize("user", USERS)
def test_a_container_without_a_counter_has_its_threads_of_the_part(tmp_path, user):
    """4 of 64 threads; nothing was set aside, so that there is no fault."""
    container(tmp_path, zones=())
    without(tmp_path, "present", "offline")
    told = ask(tmp_path, user)
    is_modelled_as_four_threads(told)
    assert told["faults"] is None


def test_a_container_is_the_machine_for_the_scope_machine(tmp_path):
    """What it may bill is what it is shown."""
    container(tmp_path)
    told = ask(tmp_path, scope="machine")
    is_modelled_as_four_threads(told)
    assert told["faults"] == "machine_hidden:1"


def test_dram_of_the_host_is_set_aside_with_its_processor(tmp_path):
    """Our bytes in the container's memory are no share of the host's."""
    dram = Zone("dram", "intel-rapl:0:0", raw_uj=100_000_000_000)
    container(tmp_path, zones=[*PACKAGE, dram])
    told = ask(tmp_path)
    assert told["ram_basis"] == "modelled"
    assert told["faults"] == "machine_hidden:1"


def test_a_machine_with_processors_offline_keeps_its_counter(tmp_path):
    """Half of them switched off, and slots for more: nothing is hidden, so the counter counts."""
    machine = EPYC._replace(
        threads=32, siblings="32", online="0-31", present="0-63", offline="32-127"
    )
    container(tmp_path, machine)
    (tmp_path / "sys/devices/system/cpu/possible").write_text("0-127\n")
    told = ask(tmp_path, threads=32)
    assert (told["cpu_tdp_w"], told["cpu_basis"], told["faults"]) == (200.0, "measured", None)
    assert told["cpu_w"] > 75.0


COVERED = 'mount --bind "$0" /proc/stat && exec "$@"'


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare here")
@pytest.mark.parametrize("user", USERS)
def test_a_file_that_is_mounted_over_stat_is_not_the_machines(tmp_path, user):
    """A real mount over the real /proc/stat, as lxcfs makes it: all threads, others' counts."""
    build_powercap(tmp_path / "sys", PACKAGE)
    container_stat = tmp_path / "stat"
    container_stat.write_text("cpu  1 0 0 9 0 0 0 0 0 0\ncpu0 1 0 0 9 0 0 0 0 0 0\n")
    (tmp_path / "sys/devices/system/cpu").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-1\n")
    for path in (tmp_path, *tmp_path.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o006 | (0o001 if path.is_dir() else 0))
    rights = ["-r"] if user == "stranger" or os.geteuid() != 0 else []
    under = ["unshare", *rights, "-m", "sh", "-c", COVERED, str(container_stat)]
    if subprocess.run([*under, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount may be made here")
    told = ask(tmp_path, user, threads=0, under=under)
    assert told["cpu_basis"] in ("modelled", "assumed")
    assert told["cpu_threads"] == 1
    # and what it counts stands still, while we work
    assert "machine_hidden:1" in told["faults"].split(";")


FACTS = """
import json
from carbontrack.meters.cpu_info import read_cpu_facts
print(json.dumps(read_cpu_facts()._replace(name="", stepping="")))
"""
PIDS_ONLY = 'mount -t proc -o subset=pid proc /proc && exec "$@"'


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare here")
@pytest.mark.parametrize("user", USERS)
def test_the_processor_is_the_same_where_proc_shows_processes_only(user):
    """systemd's ProcSubset=pid, as a real mount: but for its name, sysfs says what cpuinfo does."""
    become = as_stranger() if user == "stranger" else []
    rights = ["-r"] if user == "stranger" or os.geteuid() != 0 else []
    under = [*become, "unshare", *rights, "-m", "-p", "-f", "sh", "-c", PIDS_ONLY, "sh"]
    if subprocess.run([*under, "true"], capture_output=True, check=False, cwd="/").returncode:
        pytest.skip("no /proc may be mounted here")
    environ = {"PATH": os.defpath, "PYTHONPATH": package()}
    seen, hidden = (
        subprocess.run(
            [*around, interpreter(), "-c", FACTS], env=environ, cwd="/", capture_output=True,
            text=True, check=True, timeout=60,
        ).stdout
        for around in (become, under)
    )  # fmt: skip
    assert json.loads(hidden) == json.loads(seen)
