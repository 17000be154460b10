"""AMD GPUs through AMD SMI (the package amdsmi, extra `amd`); not tried on hardware.

The energy counter has been wrong on some boards (github.com/ROCm/amdsmi/issues/38), so it must
first agree with the board's power: until then, and always where it does not, the power is
integrated. Of a board with two dies (MI250) the first shows the power of both, the second none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from carbontrack.errors import MeterError, MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Counter, Gauge
from carbontrack.meters.meter import GpuUse, Meter, Refusal
from carbontrack.meters.nvml_driver import DriverThread
from carbontrack.record import Basis, Component

T = TypeVar("T")

RELATIVE_UNCERTAINTY = 0.10
"""Half-width, a guess: twice the +-5 % found for NVIDIA's boards (Yang, Adamek and Armour, SC'24),
because no published comparison of these sensors with another meter is known."""
PERIOD_S = 0.1
"""Power is read this often while it is integrated; the same as for other boards."""
TRIAL_S = 0.5
"""For this long at least, counter and power are compared, as Zeus does when it starts."""
AGREES = 2.0
"""The counter is trusted when it is within this factor of the power; a wrong one is far off."""
CAP_W = 2100.0
"""1.5 times the highest rated power of a module sold in 2025 (1,400 W, MI355X)."""
START_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 0.25

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
            MeterUnavailable: it does not start, or finds no driver.
        """

        def begin() -> list[Any]:
            flags = getattr(self._library, "AmdSmiInitFlags", None)
            self._library.amdsmi_init(*([flags.INIT_AMD_GPUS] if flags is not None else []))
            return list(self._library.amdsmi_get_processor_handles())

        try:
            return self._thread.ask(begin, START_TIMEOUT_S)
        except Exception as error:  # the library's errors have no common base
            self._thread.close()
            raise MeterUnavailable(f"AMD SMI does not start: {error}", "amd-smi list") from error

    def ask(self, function: str, handle: Any) -> Any:
        """What a function of the library returns for a GPU.

        Raises:
            MeterReadError: it fails, or does not answer in time.
        """
        call: Callable[[Any], Any] = getattr(self._library, function)
        try:
            return self._thread.ask(lambda: call(handle), READ_TIMEOUT_S)
        except MeterError:
            raise
        except Exception as error:
            raise MeterReadError(f"{function}: {error}") from error

    def opened(self) -> None:
        """A meter was opened."""
        self._open += 1

    def closed(self) -> None:
        """A meter was closed; with the last one the thread ends."""
        self._open -= 1
        if self._open <= 0:
            self._thread.close()


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
        self._gauge = Gauge(CAP_W)
        self._counter = Counter(None, CAP_W, refresh_s=2 * PERIOD_S)
        self._begun_s: float | None = None
        self._trial_j: float | None = 0.0
        self._base_j: float | None = None
        self._closed = False
        smi.opened()

    @property
    def max_period_s(self) -> float | None:
        """The sensor's period while the power is integrated; no limit once the counter is used."""
        return PERIOD_S if self._base_j is None else None

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Gaps of the power, or resets and jumps of the counter, that were dropped."""
        return self._gauge.fault_counts if self._base_j is None else self._counter.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        if self._base_j is not None:
            return self._base_j + self._counter.advance(self._energy_j(), now_s)
        total_j = self._gauge.advance(self._power_w(), now_s)
        if self._trial_j is not None:
            self._try_counter(now_s)
        return total_j

    def _try_counter(self, now_s: float) -> None:
        """Compare counter and power; use the counter from now on where they agree."""
        try:
            self._trial_j = self._counter.advance(self._energy_j(), now_s)
        except MeterReadError:
            self._trial_j = None  # it has none, or an implausible one: not read again
            return
        if self._begun_s is None:
            self._begun_s = now_s
        power_j = self._gauge.total_j
        if now_s - self._begun_s < TRIAL_S or power_j <= 0.0:
            return
        if power_j / AGREES <= self._trial_j <= power_j * AGREES:
            self._base_j = power_j - self._trial_j
        self._trial_j = None

    def _power_w(self) -> float:
        shown = self._smi.ask("amdsmi_get_power_info", self._handle)
        for name in _POWERS:
            watts = shown.get(name)
            if isinstance(watts, (int, float)) and 0 < watts <= CAP_W:
                return float(watts)
        raise MeterReadError(f"{self.id} shows no power")

    def _energy_j(self) -> float:
        shown = self._smi.ask("amdsmi_get_energy_count", self._handle)
        count = shown.get("energy_accumulator", shown.get("power"))  # "power" before ROCm 6.2.1
        resolution_uj = shown.get("counter_resolution")
        if not isinstance(count, (int, float)) or not isinstance(resolution_uj, (int, float)):
            raise MeterReadError(f"{self.id} has no energy counter")
        return float(count) * float(resolution_uj) * 1e-6

    def look(self) -> Sequence[GpuUse]:
        """The processes with memory on the board; HIP opens every board, used or not."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        entries = self._smi.ask("amdsmi_get_gpu_process_list", self._handle)
        if not all(isinstance(entry, dict) for entry in entries):
            return (GpuUse(1.0, None),)  # before ROCm 6.1 these were handles
        pids = (entry["pid"] for entry in entries if _has_memory(entry))
        return (GpuUse(1.0, frozenset(pids)),)

    def close(self) -> None:
        """Stop reading. The library stays initialised: other parts of the program may use it."""
        if not self._closed:
            self._closed = True
            self._smi.closed()


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
    gpu_ids: Sequence[str] | None, load: Callable[[], Any] = load_library
) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    """A meter for each GPU that is asked for, their names, and what was refused."""
    try:
        smi = Smi(load())
        handles = smi.start()
    except MeterUnavailable as error:
        return (), (), (Refusal("amdsmi", str(error), error.cure),)
    meters: list[Meter] = []
    names: list[str] = []
    refused: list[Refusal] = []
    for index, handle in enumerate(handles):
        uuid = _asked(smi, "amdsmi_get_gpu_device_uuid", handle) or str(index)
        if gpu_ids is not None and not _is_named(index, uuid, gpu_ids):
            refused.append(Refusal(f"amdsmi:{uuid}", "gpu_ids does not name it"))
            continue
        try:
            meters.append(AmdGpu(smi, handle, uuid))
        except MeterReadError as error:
            reason = f"{error}; the second die of a board is in what its first one shows"
            refused.append(Refusal(f"amdsmi:{uuid}", reason))
            continue
        facts = _asked(smi, "amdsmi_get_gpu_asic_info", handle) or {}
        names.append(str(facts.get("market_name") or "AMD GPU"))
    if not meters:
        smi.closed()
    return tuple(meters), tuple(names), tuple(refused)


def _asked(smi: Smi, function: str, handle: Any) -> Any:
    try:
        return smi.ask(function, handle)
    except (MeterReadError, AttributeError):
        return None


def _is_named(index: int, uuid: str, gpu_ids: Sequence[str]) -> bool:
    wanted = [entry.strip().lower() for entry in gpu_ids]
    return str(index) in wanted or any(
        e and uuid.lower().startswith(e) for e in wanted if len(e) > 3
    )
