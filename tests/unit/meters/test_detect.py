"""Detection: the best disjoint meters, what stands in for them, and why others are not used."""

import subprocess
import sys

import pytest

from carbontrack.errors import ConfigError
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.gpu_selection import Gpu, Slice, asked_gpus, visible_gpus
from carbontrack.testing import Zone, build_powercap

NO_LIBRARY = "libnvidia-ml-that-is-not-there.so"


def find(sysfs, procfs, **options):
    return detect(
        Host(busy_s=lambda: 0.0, sysfs=sysfs, procfs=procfs, nvml_library=NO_LIBRARY, **options)
    )


def test_measured_domains_are_used_and_models_stand_by(tmp_path, procfs):
    """With package and dram nothing is modelled, and a lost meter has a substitute."""
    found = find(build_powercap(tmp_path / "sys").sysfs, procfs)
    assert [meter.id for meter in found] == ["rapl:package-0", "rapl:dram-0"]
    assert {component: make().id for component, make in found.substitutes.items()} == {
        "cpu": "model:cpu",
        "ram": "model:ram",
    }


def test_memory_is_modelled_only_where_no_dram_is_measured(tmp_path, procfs):
    """A client part without a dram domain has modelled memory beside its measured package."""
    tree = build_powercap(tmp_path / "sys", [Zone("package-0", "intel-rapl:0")])
    assert [meter.id for meter in find(tree.sysfs, procfs)] == ["rapl:package-0", "model:ram"]


def test_a_machine_without_counters_is_modelled_and_says_so(tmp_path, procfs):
    """A virtual machine: both models, no substitutes, and reasons with cures."""
    found = find(tmp_path / "sys", procfs, ram_w_per_gib=0.5)
    assert [(meter.id, meter.basis) for meter in found] == [
        ("model:cpu", "modelled"),
        ("model:ram", "modelled"),
    ]
    assert found.substitutes == {}
    assert {refusal.id for refusal in found.refused} == {"rapl", "nvml"}
    assert all(refusal.reason and refusal.cure for refusal in found.refused)
    assert [meter.nominal_w for meter in found][1] == pytest.approx(4.0)
    cpu, ram = (meter.about for meter in found)
    assert "epyc 7543: 225 W x 1" in cpu
    assert ram == "8.0 GiB x 0.5 W (0.22 to 1.1); watts per GiB as given"


def test_hardware_facts_are_told(tmp_path, procfs):
    """What the record says of the machine comes from here."""
    hardware = find(tmp_path / "sys", procfs).hardware
    assert hardware.cpu_model == "AMD EPYC 7543 32-Core Processor"
    assert (hardware.cpu_threads, hardware.cpu_tdp_w) == (2, 225.0)
    assert (hardware.ram_gib, hardware.gpu_count, hardware.gpu_models) == (8.0, 0, ())


def test_asking_for_no_gpu_loads_no_driver(tmp_path, procfs):
    """gpu_ids=() is an answer, not a question."""
    found = find(tmp_path / "sys", procfs, gpu_ids=())
    assert any("asks for no GPU" in refusal.reason for refusal in found.refused)


def test_detection_without_a_gpu_imports_no_heavy_library():
    """psutil, pynvml, py-cpuinfo and ctypes stay out of a process that does not need them."""
    script = (
        "import sys\n"
        "from carbontrack.meters.detect import Host, detect\n"
        f"detect(Host(busy_s=lambda: 0.0, nvml_library={NO_LIBRARY!r}))\n"
        "heavy = {'psutil', 'pynvml', 'cpuinfo', 'ctypes', 'csv', 'requests'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""


GPUS = (
    Gpu(0, "GPU-4e817856-1fb8-192a-7ab7-0e0e4476d301"),
    Gpu(
        1,
        "GPU-9b2c1d04-77aa-4c1e-8a52-5f3e6d0c9b11",
        slices=(Slice("MIG-aa11-00", 3 / 7), Slice("MIG-bb22-00", 2 / 7)),
    ),
    Gpu(2, "GPU-9b2f0001-77aa-4c1e-8a52-5f3e6d0c9b12"),
)


@pytest.mark.parametrize(
    ("visible", "indices", "is_problem"),
    [
        (None, [0, 1, 2], False),
        ("", [], False),
        ("-1", [], False),
        ("NoDevFiles", [], False),
        ("0", [0], False),
        ("2,0", [2, 0], False),
        (" 1 , 2 ", [1, 2], False),
        ("0,0,0", [0], False),
        (GPUS[1].uuid, [1], False),
        ("GPU-9b2c", [1], False),
        ("GPU-9b2", [0, 1, 2], True),
        ("MIG-bb22-00", [1], False),
        ("MIG-GPU-9b2c1d04-77aa-4c1e-8a52-5f3e6d0c9b11/1/0", [1], False),
        ("0,-1,1", [0], False),
        ("1,junk,2", [1], True),
        ("7", [0, 1, 2], True),
        ("junk", [0, 1, 2], True),
        ("GPU-", [0, 1, 2], True),
    ],
)
def test_every_grammar_of_cuda_visible_devices(visible, indices, is_problem):
    """Index, UUID, unique beginning, MIG slice, nothing, -1 and junk."""
    choice = visible_gpus(visible, GPUS)
    assert [gpu.index for gpu in choice.gpus] == indices
    assert (choice.problem is not None) == is_problem


MIXED = (
    Gpu(0, "GPU-11111111", "NVIDIA GeForce GT 1030"),
    Gpu(1, "GPU-22222222", "NVIDIA GeForce RTX 3090"),
    Gpu(2, "GPU-33333333", "NVIDIA GeForce RTX 3090"),
)


@pytest.mark.parametrize(
    ("visible", "indices", "unsure", "wanted"),
    [
        (None, [0, 1, 2], [], 0),
        ("0", [0, 1, 2], [0, 1, 2], 1),
        ("2,0", [0, 1, 2], [0, 1, 2], 2),
        ("2,1,0", [2, 1, 0], [], 0),
        ("GPU-22222222", [1], [], 0),
        ("GPU-22222222,0", [0, 1, 2], [0, 2], 1),
        ("", [], [], 0),
        ("7", [0, 1, 2], [], 0),
    ],
)
def test_cudas_numbers_say_how_many_boards_of_several_models(visible, indices, unsure, wanted):
    """And not which, unless they are the bus's; a UUID is exact in any order."""
    choice = visible_gpus(visible, MIXED, by_bus=False)
    assert [gpu.index for gpu in choice.gpus] == indices
    assert [gpu.index for gpu in choice.unsure] == unsure
    assert choice.wanted == wanted
    assert visible_gpus(visible, MIXED).unsure == ()


def test_gpu_ids_that_do_not_exist_are_an_error_that_names_what_there_is():
    """Before anything starts, with the nearest right name."""
    assert [gpu.index for gpu in asked_gpus(("GPU-9b2f", "0"), GPUS)] == [2, 0]
    with pytest.raises(ConfigError, match=r"did you mean GPU-4e817856"):
        asked_gpus(("GPU-4e817856-1fb8-192a-7ab7-0e0e4476d302",), GPUS)
    with pytest.raises(ConfigError, match=r"none at all"):
        asked_gpus(("0",), ())
