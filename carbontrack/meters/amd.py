"""AMD GPUs through AMD SMI (the package amdsmi, extra `amd`); not tried on hardware.

The energy counter has been wrong on some boards (github.com/ROCm/amdsmi/issues/38), so it must
first agree with the board's power: until then, and as long as it does not, the power is
integrated. Of a board with two dies (MI250) the first shows the power of both, the second none.

Which boards are visible: ROCR_VISIBLE_DEVICES filters, and HIP_VISIBLE_DEVICES counts in what is
left (ROCm's documentation, "GPU isolation techniques"); CUDA_VISIBLE_DEVICES is used instead of the
latter if that is unset or empty (ROCclr, rocdevice.cpp). Their numbers are the runtime's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from carbontrack.errors import MeterError, MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter_or_power import Answer, CounterOrPower
from carbontrack.meters.gpu_candidates import CandidateGpu, Candidates, unmeasured
from carbontrack.meters.gpu_selection import Choice, Gpu, amd_gpus
from carbontrack.meters.meter import GpuUse, Meter, Refusal, read_text
from carbontrack.meters.nvml_driver import DriverThread
from carbontrack.record import Basis, Component

T = TypeVar("T")

RELATIVE_UNCERTAINTY = 0.10
"""Half-width, a guess: twice the +-5 % found for NVIDIA's boards (Yang, Adamek and Armour, SC'24),
because no published comparison of these sensors with another meter is known."""
PERIOD_S = 0.1
"""Power is read this often while it is integrated; the same as for other boards."""
CAP_W = 2100.0
"""1.5 times the highest rated power of a module sold in 2025 (1,400 W, MI355X)."""
START_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 0.25

_NO_VARIABLES: Mapping[str, Any] = {}
_POWERS = ("socket_power", "current_socket_power", "average_socket_power")
"""Names of the board's power in amdsmi_get_power_info, newest first; "N/A" where it has none."""


class Smi:
    """The library, called by one thread only: calls may hang, and may not run concurrently."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._thread = DriverThread("amdsmi")
        self._open = 0

    def start(self) -> list[Any]:
        """Initialise the library; the handles of its GPUs.

        Raises:
            MeterUnavailable: it cannot be started, or finds no driver.
        """

        def begin() -> list[Any]:
            flags = getattr(self._library, "AmdSmiInitFlags", None)
            self._library.amdsmi_init(*([flags.INIT_AMD_GPUS] if flags is not None else []))
            return list(self._library.amdsmi_get_processor_handles())

        try:
            found: list[Any] = self._do(begin, "amdsmi_init", START_TIMEOUT_S)
        except MeterReadError as error:
            self._thread.close()
            raise MeterUnavailable(f"AMD SMI cannot be started: {error}", "amd-smi list") from error
        return found

    def ask(self, function: str, handle: Any) -> Any:
        """What a function of the library returns for a GPU.

        Raises:
            MeterReadError: it fails, or does not answer in time.
        """
        return self._do(lambda: getattr(self._library, function)(handle), function, READ_TIMEOUT_S)

    def _do(self, work: Callable[[], Any], function: str, timeout_s: float) -> Any:
        try:
            return self._thread.ask(work, timeout_s)
        except MeterError:
            raise
        except Exception as error:  # the library's errors have no common base
            raise MeterReadError(f"{function}: {error}") from error

    def opened(self) -> None:
        """A meter was opened."""
        self._open += 1

    def closed(self) -> None:
        """A meter was closed; with the last one the thread ends."""
        self._open -= 1
        if self._open <= 0:
            self._thread.close()


class NoPower(MeterReadError):  # noqa: N818 - states a condition
    """The board responds, but shows no power."""


class AmdGpu:
    """One GPU: its power, integrated, until its energy counter is known to agree with it."""

    component: Component = "gpu"
    basis: Basis = "measured"
    resolution_s = PERIOD_S
    relative_uncertainty = RELATIVE_UNCERTAINTY
    part = 1.0

    def __init__(self, smi: Smi, handle: Any, uuid: str) -> None:
        self.id = f"amdsmi:{uuid}"
        self._smi, self._handle = smi, handle
        self.nominal_w: float | None = self._power_w()
        self._source = CounterOrPower(CAP_W, 2 * PERIOD_S, counter_first=False, retry_s=0.0)
        self._closed = False
        smi.opened()

    @property
    def max_period_s(self) -> float | None:
        """The sensor's period while the power is integrated; no limit once the counter is used."""
        return PERIOD_S if self._source.by_power else None

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Gaps of the power, resets and jumps of the counter, counters that stood still."""
        return self._source.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        counted = _answer(self._energy_j) if self._source.asks_counter else None
        power = None
        if self._source.asks_power or isinstance(counted, MeterError):
            power = _answer(self._power_w)
        return self._source.advance(counted, power, now_s)

    def _power_w(self) -> float:
        shown = self._shown("amdsmi_get_power_info")
        for name in _POWERS:
            watts = shown.get(name)
            if isinstance(watts, (int, float)) and 0 < watts <= CAP_W:
                return float(watts)
        raise NoPower(f"{self.id} shows no power")

    def _energy_j(self) -> float:
        shown = self._shown("amdsmi_get_energy_count")
        count = shown.get("energy_accumulator", shown.get("power"))  # "power" before ROCm 6.2.1
        resolution_uj = shown.get("counter_resolution")
        if not isinstance(count, (int, float)) or not isinstance(resolution_uj, (int, float)):
            raise MeterReadError(f"{self.id} has no energy counter")
        return float(count) * float(resolution_uj) * 1e-6

    def _shown(self, function: str) -> Mapping[str, Any]:
        shown = self._smi.ask(function, self._handle)
        if not isinstance(shown, dict):
            raise MeterReadError(f"{function} answered with a {type(shown).__name__}")
        return shown

    def look(self) -> Sequence[GpuUse]:
        """The processes with memory on the board; HIP opens every board, used or not."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        entries = self._smi.ask("amdsmi_get_gpu_process_list", self._handle)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return (GpuUse(1.0, None),)  # before ROCm 6.1 these were handles
        pids = frozenset(
            entry["pid"]
            for entry in entries
            if isinstance(entry.get("pid"), int) and _has_memory(entry)
        )
        return (GpuUse(1.0, pids, computing=pids),)

    def close(self) -> None:
        """Stop reading. The library stays initialised: other parts of the program may use it."""
        if not self._closed:
            self._closed = True
            self._smi.closed()


def _answer(reading: Callable[[], float]) -> Answer:
    try:
        return reading()
    except MeterReadError as error:
        return error


def _has_memory(entry: Mapping[str, Any]) -> bool:
    memory = entry.get("memory_usage")
    return not isinstance(memory, dict) or memory.get("vram_mem") != 0


def load_library() -> Any:
    """The library.

    Raises:
        MeterUnavailable: it is not installed, or does not fit the driver.
    """
    try:
        import amdsmi
    except ImportError as error:
        cure = 'pip install "carbontrack[amd]"'
        raise MeterUnavailable("amdsmi is not installed", cure) from error
    except Exception as error:  # importing it loads ROCm's library, which can fail in many ways
        raise MeterUnavailable(f"amdsmi cannot be imported: {error!r}") from error
    return amdsmi


def amd_meters(
    gpu_ids: Sequence[str] | None,
    load: Callable[[], Any] = load_library,
    variables: Mapping[str, str] = _NO_VARIABLES,
    sysfs: Path = Path("/sys"),
) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    """A meter for each GPU that is ours, their names, and what was refused.

    Args:
        gpu_ids: GPUs to count, by the library's index or UUID; None: those of `variables`.
        load: gives the library.
        variables: those of the environment that hide GPUs, by name.
        sysfs: where the kernel shows which of them are boards.
    """
    try:
        smi = Smi(load())
        handles = smi.start()
    except MeterUnavailable as error:
        return (), (), (Refusal("amdsmi", str(error), error.cure),)
    try:
        found = _found(smi, handles, gpu_ids, variables, sysfs)
    except BaseException:
        smi.closed()
        raise
    if not found[0]:
        smi.closed()
    return found


def _found(
    smi: Smi,
    handles: Sequence[Any],
    gpu_ids: Sequence[str] | None,
    variables: Mapping[str, str],
    sysfs: Path,
) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    gpus, exact = _listed(smi, handles)
    if gpu_ids is None:
        choice, why = amd_gpus(variables, gpus, exact=exact), "it is not visible"
    else:
        named = (gpu for n, gpu in enumerate(gpus) if _is_named(n, gpu.uuid, gpu_ids))
        choice, why = Choice(tuple(named)), "gpu_ids does not name it"
    opened = {gpu: _opened(smi, handles[gpus.index(gpu)], gpu, sysfs) for gpu in choice.gpus}
    meters = {gpu: one for gpu, one in opened.items() if isinstance(one, AmdGpu)}
    refused = [Refusal("amdsmi", choice.problem)] if choice.problem else []
    refused += _refused(choice, opened)
    refused += [Refusal(f"amdsmi:{gpu.uuid}", why) for gpu in gpus if gpu not in choice.gpus]
    candidates = Candidates(choice.wanted)
    found = tuple(
        CandidateGpu(meter, candidates) if gpu in choice.unsure else meter
        for gpu, meter in meters.items()
    )
    return found, tuple(gpu.name for gpu in meters), tuple(refused)


def _listed(smi: Smi, handles: Sequence[Any]) -> tuple[list[Gpu], bool]:
    """The library's boards, and whether their indices are HIP's, as newer versions tell them."""
    gpus, hip_ids = list[Gpu](), list[Any]()
    for index, handle in enumerate(handles):
        uuid = _asked(smi, "amdsmi_get_gpu_device_uuid", handle)
        if not isinstance(uuid, str) or not uuid or uuid in [gpu.uuid for gpu in gpus]:
            uuid = str(index)
        facts = _as_dict(_asked(smi, "amdsmi_get_gpu_asic_info", handle))
        place = _as_dict(_asked(smi, "amdsmi_get_gpu_enumeration_info", handle))
        serial = str(facts.get("asic_serial") or "").lower().removeprefix("0x")
        also = (f"GPU-{serial}", str(place.get("hip_uuid") or ""))
        name = str(facts.get("market_name") or "AMD GPU")
        gpus.append(Gpu(index, uuid, name, also=tuple(one for one in also if len(one) > 4)))
        hip_ids.append(place.get("hip_id"))
    exact = all(isinstance(one, int) for one in hip_ids) and sorted(hip_ids) == list(
        range(len(gpus))
    )
    if exact:
        gpus = [replace(gpu, index=n) for gpu, n in zip(gpus, hip_ids, strict=True)]
    return gpus, exact


def _opened(smi: Smi, handle: Any, gpu: Gpu, sysfs: Path) -> AmdGpu | Refusal:
    if _is_integrated(smi, handle, sysfs):
        return Refusal(f"amdsmi:{gpu.uuid}", _INTEGRATED)
    try:
        return AmdGpu(smi, handle, gpu.uuid)
    except NoPower as error:
        return Refusal(f"amdsmi:{gpu.uuid}", f"{error}{_SECOND_DIE}")
    except MeterError as error:
        return Refusal(f"amdsmi:{gpu.uuid}", str(error))


_INTEGRATED = (
    "not a discrete board (its board_info): an integrated GPU is already counted in package"
)
_SECOND_DIE = "; the second die of a board is included in the reading of its first one"


def _refused(choice: Choice, opened: Mapping[Gpu, AmdGpu | Refusal]) -> Iterator[Refusal]:
    """With the fault, but for what is counted elsewhere: a second die, or an integrated GPU."""
    models = {gpu.name for gpu, one in opened.items() if isinstance(one, AmdGpu)}
    dies = {
        one.id
        for gpu, one in opened.items()
        if isinstance(one, Refusal) and _SECOND_DIE in one.reason and gpu.name in models
    }
    for refusal in unmeasured(choice, opened):
        is_elsewhere = refusal.id in dies or refusal.reason == _INTEGRATED
        yield refusal._replace(fault=None) if is_elsewhere else refusal


def _is_integrated(smi: Smi, handle: Any, sysfs: Path) -> bool:
    """Whether the kernel says that it is no board; False where it says nothing."""
    address = _asked(smi, "amdsmi_get_gpu_device_bdf", handle)
    if not isinstance(address, str) or "/" in address or not address:
        return False
    info = read_text(sysfs / "bus" / "pci" / "devices" / address.lower() / "board_info")
    return bool(info) and not any(kind in str(info).lower() for kind in ("cem", "oam"))


def _as_dict(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else _NO_VARIABLES


def _asked(smi: Smi, function: str, handle: Any) -> Any:
    try:
        return smi.ask(function, handle)
    except MeterReadError:
        return None


def _is_named(index: int, uuid: str, gpu_ids: Sequence[str]) -> bool:
    wanted = [entry.strip().lower() for entry in gpu_ids]
    return str(index) in wanted or any(
        e and uuid.lower().startswith(e) for e in wanted if len(e) > 3
    )
