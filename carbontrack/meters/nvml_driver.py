"""NVIDIA's management library (NVML): its devices, its errors by what they mean, its time limits.

A call into a driver may hang and never return. All calls are therefore made in a `DriverThread`,
for whose answer a reader waits a bounded time; AMD SMI is called through one as well.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from carbontrack.errors import MeterError, MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.gpu_selection import Gpu, slices_of
from carbontrack.meters.nvml_binding import FUNCTION_NOT_FOUND, Binding, BindingError, as_number
from carbontrack.system.forking import OwnThread

T = TypeVar("T")


# nvml.h, enum nvmlReturn_enum
_UNINITIALIZED, _NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND = 1, 3, 4, 6
_DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND, _GPU_IS_LOST, _RM_MISMATCH = 9, 12, 15, 18
_NO_DRIVER = frozenset({_DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND})
_DRIVER_IS_UNLOADED = frozenset({_UNINITIALIZED, _DRIVER_NOT_LOADED, _RM_MISMATCH})
_NOTHING = frozenset({0, _NOT_FOUND})
"""nvidia-ml-py raises a success, too, when a list is empty."""
_NEVER = frozenset({_NOT_SUPPORTED, FUNCTION_NOT_FOUND, _NO_PERMISSION})

START_TIMEOUT_S = 5.0
"""Starting NVML initialises every board, a second or more each without persistence mode."""
READ_TIMEOUT_S = 0.25
"""A read takes up to some milliseconds; a driver that needs longer is busy, or hangs."""

DEFAULT_CAP_W = 1800.0
"""1.5 times the highest rated power of a module sold in 2025 (1,200 W, GB200 per GPU)."""
_LIMIT_MARGIN = 1.5
_MOST_BOARDS = 1024
"""More than any machine has; a higher count is no count."""
_UNSIGNED_KINDS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal"}
"""nvml.h, enum nvmlValueType_enum: which member of the union holds a field's value."""


class NoDriver(MeterUnavailable):
    """The library is there, but not the kernel's driver: this machine has no board to measure."""


class NotSupported(MeterGone):
    """The board or its driver will never answer this call."""


class Nothing(MeterReadError):  # noqa: N818 - states a condition
    """The driver has no data at the moment."""


class Driver:
    """NVML; after the driver was unloaded it is initialised again, with pauses up to a minute."""

    def __init__(self, nvml: Any, thread: DriverThread | None = None) -> None:
        self.binding = nvml if isinstance(nvml, Binding) else Binding(nvml)
        self.loads = 0
        """How often the library was initialised; handles live as long as one of these."""
        self._retry_at_s = 0.0
        self._pause_s = 1.0
        self._is_up = False
        self._thread = thread or DriverThread("nvml")
        self._devices: list[Device] = []
        self._answers: dict[Device, Any] = {}
        self._answered_at_s = float("-inf")
        self._closed = False
        self._init()

    @classmethod
    def load(cls, thread: DriverThread | None = None) -> Driver:
        """The real library.

        Raises:
            MeterUnavailable: it is not installed, or does not start.
            NoDriver: it finds no driver.
        """
        binding = Binding.load()
        try:
            return cls(binding, thread)
        except BindingError as error:
            kind = NoDriver if error.code in _NO_DRIVER else MeterUnavailable
            raise kind(f"NVML cannot be started: {error}", "nvidia-smi") from error

    def gpus(self) -> list[Gpu]:
        """Every board that the driver lists; one that does not answer is `silent`.

        Raises:
            MeterUnavailable: the driver cannot count its boards.
        """
        try:
            count = int(self.binding.number("nvmlDeviceGetCount"))
        except BindingError as error:
            raise MeterUnavailable(f"NVML cannot count the GPUs: {error}") from error
        if count > _MOST_BOARDS:
            raise MeterUnavailable(f"NVML cannot count the GPUs: it reports {count}")
        found: dict[str, Gpu] = {}
        buses: dict[str, str | None] = {}
        for index in range(count):
            try:
                handle = self.binding.ask("nvmlDeviceGetHandleByIndex", index)
                uuid = self.binding.text("nvmlDeviceGetUUID", handle)
                gpu = Gpu(index, uuid, self._name(handle), slices_of(self.binding, handle))
            except BindingError as error:
                found[f"{index}"] = Gpu(index, silent=str(error))
                continue
            bus = self._bus(handle)
            if uuid not in found:
                found[uuid], buses[uuid] = gpu, bus
            elif bus is None or bus != buses[uuid]:  # else it is listed twice, and counted once
                reason = (
                    f"it has the UUID of another board, {uuid}, and cannot be distinguished from it"
                )
                found[f"{index}"] = Gpu(index, silent=reason)
        return list(found.values())

    def read(self, device: Device, now_s: float) -> Any:
        """The device's reading at this instant; all devices are read in one call to the thread.

        Raises:
            MeterReadError, MeterGone: this device failed, or the driver as a whole.
        """
        if now_s != self._answered_at_s or device not in self._answers:
            self._answers = self._thread.ask(lambda: self._read_all(now_s), READ_TIMEOUT_S)
            self._answered_at_s = now_s
        answer = self._answers[device]
        if isinstance(answer, MeterError):
            raise answer
        return answer

    def ask(self, work: Callable[[], T]) -> T:
        """Call the driver for something other than a reading, within a bounded time.

        Raises:
            MeterReadError: it did not answer in time, or an earlier call still hangs.
            MeterGone: no device is open any more.
        """
        if self._closed:
            raise MeterGone("the driver is no longer used")
        return self._thread.ask(work, READ_TIMEOUT_S)

    def add(self, device: Device) -> None:
        """Read this device together with the others from now on."""
        self._devices.append(device)
        self._closed = False

    def remove(self, device: Device) -> None:
        """Stop reading this device; without devices the thread ends."""
        if device in self._devices:
            self._devices.remove(device)
            if not self._devices:
                self._closed = True
                self._thread.close()

    def _read_all(self, now_s: float) -> dict[Device, Any]:
        self._tick(now_s)
        return {device: device.show() for device in self._devices}

    def _tick(self, now_s: float) -> None:
        """Initialise again where the driver is unloaded and the next attempt is due."""
        if self._is_up or now_s < self._retry_at_s:
            return
        try:
            self._init()
        except BindingError:
            self._retry_at_s = now_s + self._pause_s
            self._pause_s = min(60.0, 2.0 * self._pause_s)

    def note_unloaded(self) -> None:
        """Note that the driver was unloaded, which makes all handles invalid."""
        self._is_up = False

    def raise_if_unloaded(self) -> None:
        """Raise MeterReadError while the driver is unloaded."""
        if not self._is_up:
            raise MeterReadError("the NVIDIA driver is not loaded")

    def _init(self) -> None:
        self.binding.ask("nvmlInit")
        self._is_up = True
        self._pause_s = 1.0
        self.loads += 1

    def _name(self, handle: Any) -> str:
        try:
            return self.binding.text("nvmlDeviceGetName", handle)
        except BindingError:
            return "NVIDIA GPU"

    def _bus(self, handle: Any) -> str | None:
        """The board's place on the bus, as text; None where it does not tell."""
        try:
            facts = self.binding.ask("nvmlDeviceGetPciInfo", handle)
        except BindingError:
            return None
        place = getattr(facts, "busId", None)
        return str(place) if isinstance(place, (str, bytes)) else None


class Device:
    """One board, by UUID; its handle is renewed when the driver was reloaded."""

    def __init__(self, driver: Driver, uuid: str, reading: Callable[[Device], Any]) -> None:
        self.uuid = uuid
        self._reading = reading
        self._driver = driver
        self._handle: Any = None
        self._handle_load = 0
        self._refused: set[str] = set()
        self._closed = False

    def read(self, now_s: float) -> Any:
        """The device's reading at this instant."""
        if self._closed:
            raise MeterGone(f"nvml:{self.uuid} is closed")
        return self._driver.read(self, now_s)

    def show(self) -> Any:
        """The reading, or the error in its place; called in the driver's thread."""
        try:
            return self._reading(self)
        except MeterError as error:
            return error

    def ask(self, work: Callable[[Device], T]) -> T:
        """Call the driver for something else about this device, within a bounded time."""
        return self._driver.ask(lambda: work(self))

    def cap_w(self) -> float:
        """A power that the board cannot exceed: 1.5 times its highest settable limit."""
        try:
            _, highest_mw = self.call("nvmlDeviceGetPowerManagementLimitConstraints")
            return as_number(highest_mw, "the limit") * 1e-3 * _LIMIT_MARGIN or DEFAULT_CAP_W
        except (MeterError, BindingError, TypeError, ValueError):
            return DEFAULT_CAP_W

    def number(self, function: str, name: str | None = None) -> float:
        """A number, 0 or more: a function's answer, or the field of this name in it.

        Raises:
            NotSupported, MeterGone, MeterReadError: as for `call`; the last if it is none.
        """
        found = self.call(function)
        try:
            return as_number(found if name is None else getattr(found, name, None), function)
        except BindingError as error:
            raise MeterReadError(f"nvml:{self.uuid}: {error}") from error

    def field(self, field_id: int, scope: int) -> float:
        """A numbered field in its own unit; `scope` is the GPU or, on a superchip, the module."""
        answer = self.call("nvmlDeviceGetFieldValues", [(field_id, scope)])
        try:
            value = answer[0]
            if value.nvmlReturn != 0:
                self._refused.add(f"nvmlDeviceGetFieldValues{[(field_id, scope)]}")
                raise NotSupported(f"field {field_id} is not supported")
            shown = getattr(value.value, _UNSIGNED_KINDS.get(value.valueType, "uiVal"))
            return as_number(shown, f"field {field_id}")
        except (AttributeError, BindingError, LookupError, TypeError) as error:
            raise MeterReadError(f"nvml:{self.uuid}: field {field_id}: {error}") from error

    def ask_anew(self, function: str) -> None:
        """Make the next call of a function even if it was refused for good."""
        self._refused.discard(function)

    def call(self, function: str, *arguments: Any) -> Any:
        """Ask the driver about this board.

        Raises:
            NotSupported: the call never works here; it is not made again.
            MeterGone: the board has fallen off the bus, or this was closed.
            MeterReadError: the call failed this time.
        """
        key = f"{function}{arguments[0]}" if arguments else function
        if self._closed:
            raise MeterGone(f"nvml:{self.uuid} is closed")
        if key in self._refused:
            raise NotSupported(f"{function} is not supported")
        driver = self._driver
        driver.raise_if_unloaded()
        try:
            if self._handle is None or self._handle_load != driver.loads:
                self._handle = driver.binding.by_uuid(self.uuid)
                self._handle_load = driver.loads
            return driver.binding.ask(function, self._handle, *arguments)
        except BindingError as error:
            raise self._error_from(error, key) from error

    def _error_from(self, error: BindingError, key: str) -> MeterError:
        code = error.code
        if code == _GPU_IS_LOST:
            return MeterGone(f"nvml:{self.uuid}: {error}")
        if code in _NEVER:
            self._refused.add(key)
            return NotSupported(f"{key}: {error}")
        if code in _NOTHING:
            return Nothing(f"nvml:{self.uuid}: {error}")
        if code in _DRIVER_IS_UNLOADED:
            self._driver.note_unloaded()
        self._handle = None  # it may be stale: the board was divided anew, or came back
        return MeterReadError(f"nvml:{self.uuid}: {error}")

    def close(self) -> None:
        """Let go of the handle. NVML itself stays: other parts of the program may use it."""
        self._closed = True
        self._handle = None
        self._driver.remove(self)


# -- the thread that calls a driver's library --------------------------------------------------


class _Request:
    __slots__ = ("_over", "error", "is_over", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.is_over = False
        # Not an Event: a handler of a signal that raises in its `wait` may leave it locked.
        self._over = threading.Lock()
        self._over.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except BaseException as error:  # raised again in the thread that asked
            self.error = error
        self.is_over = True
        self._over.release()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is over, after so many seconds at most."""
        return self.is_over or self._over.acquire(timeout=timeout_s)


class DriverThread:
    """Makes one call after the other in a thread of its own, and waits a bounded time for each.

    While a call hangs, further ones are refused at once; when it returns, its late answer is
    dropped and calls are made again. The thread starts with the first call, again in a child
    process after a fork, and never keeps the interpreter alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._owner = 0
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        self._late: _Request | None = None

    def ask(self, work: Callable[[], T], timeout_s: float) -> T:
        """What `work` returns; what it raises is raised here.

        Raises:
            MeterReadError: it takes longer than `timeout_s`, or an earlier call still hangs.
        """
        if self._owner != os.getpid():
            self._start()
        if self._late is not None and not self._late.is_over:
            raise MeterReadError(f"{self._name} still has not answered an earlier call")
        request = _Request(work)
        self._requests.put(request)
        if not request.wait(timeout_s):
            self._late = request
            raise MeterReadError(f"{self._name} did not answer within {timeout_s:g} s")
        if request.error is not None:
            raise request.error
        result: T = request.result
        return result

    def close(self) -> None:
        """Let the thread end when its present call does."""
        if self._owner == os.getpid():
            self._owner = 0
            self._requests.put(None)

    def _start(self) -> None:
        requests: SimpleQueue[_Request | None] = SimpleQueue()
        OwnThread(_serve, f"carbontrack-{self._name}", (requests,)).start()
        self._requests, self._late, self._owner = requests, None, os.getpid()


def _serve(requests: SimpleQueue[_Request | None]) -> None:
    while (request := requests.get()) is not None:
        request.run()
