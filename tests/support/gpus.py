"""A driver's library in Python, for tests of what a GPU's meters do with its answers."""

from types import SimpleNamespace

from carbontrack.meters.nvml import nvml_meters
from carbontrack.meters.nvml_driver import Driver


class NVMLError(Exception):
    """Shaped as nvidia-ml-py's: the code is its value."""

    def __init__(self, code):
        super().__init__(f"code {code}")
        self.value = code


class StillDriver:
    """The functions of nvidia-ml-py that the meters call, for GPUs made by hand."""

    NVMLError = NVMLError

    def __init__(self, *, has_energy=True, uuids=("GPU-4e817856-1fb8-192a-7ab7-0e0e4476d301",)):
        self.uuids = uuids
        self.has_energy = has_energy
        self.has_power = True
        self.percent = 40
        self.energy_mj = dict.fromkeys(uuids, 5_000_000)
        self.power_mw = 80_000
        self.failures = 0
        self.failure_code = 999
        self.lost = set()
        """Handles of boards that have fallen off the bus."""

    def use(self, joules, _seconds):
        for uuid in self.uuids:
            self.energy_mj[uuid] += int(joules * 1000)

    def fail(self, times=1):
        self.failures = times

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return uuid

    def nvmlDeviceGetUUID(self, handle):
        return handle

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA A100"

    def nvmlDeviceGetMigMode(self, handle):
        raise NVMLError(3)

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle):
        return [100_000, 400_000]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.has_energy:
            raise NVMLError(3)
        self._maybe_fail(handle)
        return self.energy_mj[handle]

    def nvmlDeviceGetUtilizationRates(self, handle):
        self._maybe_fail(handle)
        return SimpleNamespace(gpu=self.percent, memory=0)

    def nvmlDeviceGetPowerUsage(self, handle):
        if not self.has_power:
            raise NVMLError(3)
        self._maybe_fail(handle)
        return self.power_mw

    def nvmlDeviceGetFieldValues(self, handle, field_ids):
        return [SimpleNamespace(nvmlReturn=3)]

    def _maybe_fail(self, handle):
        if handle in self.lost:
            raise NVMLError(15)
        if self.failures:
            self.failures -= 1
            raise NVMLError(self.failure_code)


def gpu_meter(still, *, may_model=False):
    """The meter of the driver's only GPU."""
    meters, _, _ = nvml_meters(None, None, Driver(still), may_model=may_model)
    return meters[0]
