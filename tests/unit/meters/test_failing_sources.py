"""A source of meters that raises is refused by name, and the next best one counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from carbontrack.errors import ConfigError
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.meter import MeterSet
from carbontrack.testing import Zone, build_powercap
from tests.support.nvml import State, compile_fake_nvml, run_script

ROOT = Path(__file__).parents[3]
ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("no number"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: AttributeError("no such function"),
    lambda: TypeError("another type"),
    lambda: RecursionError("too deep"),
    lambda: OSError(5, "Input/output error"),
    lambda: KeyError("x"),
    MemoryError,
    ZeroDivisionError,
    lambda: TextlessError(),  # noqa: PLW0108 - it is defined below
]


class TextlessError(Exception):
    """An error of somebody else's that has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Amd:
    """A library whose functions all raise."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error()


def failed(found: MeterSet) -> list[str]:
    """The sources that raised."""
    return [one.id for one in found.refused if one.fault == "source_failed"]


def host(top: Path, **more: Any) -> Host:
    """A machine of one package and no GPU."""
    build_powercap(top / "sys", [Zone("package-0", "intel-rapl:0")])
    (top / "proc").mkdir(exist_ok=True)
    known = {"sysfs": top / "sys", "procfs": top / "proc", "nvml_library": "libnone.so.0"}
    return Host(lambda: 1.0, **{**known, **more})


@pytest.mark.parametrize("error", ERRORS)
def test_a_library_that_raises_anything(tmp_path: Path, error: Callable[[], Exception]) -> None:
    """AMD SMI's binding answers otherwise than it should: the processor is measured as ever."""
    (tmp_path / "sys" / "module" / "amdgpu").mkdir(parents=True)

    def load() -> object:
        raise error()

    found = detect(host(tmp_path, load_amdsmi=load))

    assert failed(found) == ["amdsmi"]
    assert type(error()).__name__ in next(r.reason for r in found.refused if r.fault)
    assert found.standing_faults() == {"source_failed": 1}
    assert "rapl:package-0" in [meter.id for meter in found]


def test_a_library_with_other_functions(tmp_path: Path) -> None:
    """The same where each of its functions is missing."""
    (tmp_path / "sys" / "module" / "amdgpu").mkdir(parents=True)
    found = detect(host(tmp_path, load_amdsmi=lambda: Amd(lambda: UnicodeError("name"))))

    assert [r.id for r in found.refused if r.id == "amdsmi"]
    assert "rapl:package-0" in [meter.id for meter in found]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_passes(tmp_path: Path, error: type[BaseException]) -> None:
    """No `BaseException` is taken for a fault of a source."""
    (tmp_path / "sys" / "module" / "amdgpu").mkdir(parents=True)

    def load() -> object:
        raise error

    with pytest.raises(error):
        detect(host(tmp_path, load_amdsmi=load))


def test_what_a_signals_handler_raises_passes(tmp_path: Path) -> None:
    """A time limit of the program's, for instance."""
    (tmp_path / "sys" / "module" / "amdgpu").mkdir(parents=True)

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the program's own")

    before = signal.signal(signal.SIGUSR1, late)
    try:
        with pytest.raises(TimeoutError, match="the program's own"):
            detect(host(tmp_path, load_amdsmi=lambda: os.kill(os.getpid(), signal.SIGUSR1)))
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_what_the_user_said_is_an_error(tmp_path: Path) -> None:
    """A `ConfigError` of a source is about a setting."""
    (tmp_path / "sys" / "module" / "amdgpu").mkdir(parents=True)

    def load() -> object:
        raise ConfigError("gpu_ids: no GPU '7' on this machine")

    with pytest.raises(ConfigError, match="gpu_ids"):
        detect(host(tmp_path, load_amdsmi=load))


def test_a_processor_that_cannot_be_read(tmp_path: Path) -> None:
    """The number of siblings is a digit, and no number: threads are counted otherwise."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: x\nsiblings\t: \u00b2\n")
    found = detect(host(tmp_path, sysfs=tmp_path / "empty"))

    assert failed(found) == ["cpuinfo"]
    assert [meter.id for meter in found if meter.component == "cpu"] == ["model:cpu"]
    assert found.hardware.cpu_threads == os.cpu_count()


def test_every_tree_of_the_kernel_raises(tmp_path: Path) -> None:
    """A path that the kernel refuses: each source that looks there is named, and a model counts."""
    found = detect(host(tmp_path, sysfs=tmp_path / ("x" * 300)))

    assert {"perf", "amdsmi", "sensors"} <= set(failed(found))
    assert [meter.id for meter in found if meter.component == "cpu"] == ["model:cpu"]


def test_a_calibration_that_is_none(tmp_path: Path) -> None:
    """The meters are those without it."""
    found = detect(host(tmp_path, wall=object()))

    assert failed(found) == ["wall"]
    assert "rapl:package-0" in [meter.id for meter in found]


BINDINGS = {
    "without functions": "",
    "that cannot be imported": "raise RuntimeError('built for another Python')",
    "with other types": "class NVMLError(Exception): pass\ndef __getattr__(name): return 7",
    "that calls itself": "def __getattr__(name): return __getattr__(name)",
    "with names that are no UTF-8": (
        "class NVMLError(Exception): pass\n"
        "def __getattr__(name): return lambda *_: b'\\xff'.decode()"
    ),
}
PROGRAM = """
import carbontrack
with carbontrack.track("x", region="FR", output=None) as run:
    print("ran")
print(run.record.faults, run.record.cpu_basis is not None)
"""


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_binding_that_answers_otherwise(tmp_path: Path, binding: str) -> None:
    """NVIDIA's driver is there, and what speaks with it is broken: the program runs, and its record
    and `doctor` say it.
    """
    library = compile_fake_nvml(tmp_path)
    if library is None:
        pytest.skip("no C compiler is here")
    (tmp_path / "pynvml.py").write_text(BINDINGS[binding])
    environ = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(library),
               "HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"}  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *words], env=environ, cwd=tmp_path, check=False,
                              capture_output=True, text=True)  # fmt: skip

    done = run("-c", PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ran\ngpu_unmeasured:1 True\n"

    told = run("-m", "carbontrack", "doctor", "--json")
    assert told.returncode in (0, 1), told.stderr
    refused = json.loads(told.stdout)["refused"]
    assert [refusal["fault"] for refusal in refused if refusal["id"] == "nvml"] == [
        "gpu_unmeasured"
    ]


@pytest.mark.parametrize("asked", ["7", "GPU-4e81,7"])
def test_a_gpu_that_is_not_there_leaves_nothing_open(tmp_path: Path, asked: str) -> None:
    """The program may try again as often as it likes: no descriptor, no thread is left."""
    library = compile_fake_nvml(tmp_path)
    if library is None:
        pytest.skip("no C compiler")
    script = f"""
import threading
from pathlib import Path
from carbontrack.errors import ConfigError
from carbontrack.meters.detect import Host, detect
state.show(FakeGpu())
def left():
    for thread in threading.enumerate():
        if thread.name == "carbontrack-nvml": thread.join(5)
    return len(os.listdir("/proc/self/fd")), threading.active_count()
found = []
sysfs, asked = Path({str(tmp_path / "sys")!r}), {asked!r}.split(",")
for _ in range(3):
    try:
        detect(Host(lambda: 1.0, sysfs=sysfs, gpu_ids=asked))
    except ConfigError as error:
        found.append([*left(), "gpu_ids" in str(error)])
print(json.dumps(found))
"""
    build_powercap(tmp_path / "sys", [Zone("package-0", "intel-rapl:0")])
    found = run_script(library, script, State(tmp_path / "state"))
    assert len(found) == 3
    assert all(one == [found[0][0], 1, True] for one in found)


def test_gpus_that_are_asked_for_where_none_is(tmp_path: Path) -> None:
    """What the user names is not ignored: doctor and the record say that it is not measured."""
    found = detect(host(tmp_path, gpu_ids=("0", "GPU-4e81")))
    assert found.standing_faults() == {"gpu_unmeasured": 2}
    assert [one.id for one in found.refused if one.fault] == ["gpu_ids:0", "gpu_ids:GPU-4e81"]


@pytest.mark.parametrize("gpu_ids", [None, ()])
def test_a_machine_without_a_gpu_lacks_nothing(
    tmp_path: Path, gpu_ids: tuple[str, ...] | None
) -> None:
    """Nobody has asked for one."""
    assert detect(host(tmp_path, gpu_ids=gpu_ids)).standing_faults() == {}
