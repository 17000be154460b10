"""The real nvidia-ml-py over a compiled stand-in for the driver: two GPUs and their faults."""

import pytest

from tests.support.nvml import UUIDS, FakeGpu, State, run_script

pytestmark = pytest.mark.xdist_group("nvml")  # one library, one sweep of errors

OPEN = """
from carbontrack.errors import MeterError, MeterGone, MeterReadError
from carbontrack.meters.nvml import nvml_meters
gpus = [FakeGpu(uuid=UUIDS[0]), FakeGpu(uuid=UUIDS[1], name="NVIDIA A100", energy_mj=1000)]
def show(**more): state.show(*gpus, **more)
def read(meter, at_s):
    try: return meter.read_joules(at_s)
    except MeterError as error: return type(error).__name__
"""


@pytest.fixture
def run(library, tmp_path):
    state = State(tmp_path / "gpus.txt")
    state.show(FakeGpu(uuid=UUIDS[0]), FakeGpu(uuid=UUIDS[1]))
    return lambda script: run_script(library, OPEN + script, state)


def test_two_gpus_of_known_power_are_right_within_a_percent(run):
    """Energy counters that grow by 300 W and 120 W for ten seconds give 3,000 J and 1,200 J."""
    ids, joules, names = run("""
show()
meters, names, _ = nvml_meters(None, None)
for second in range(11):
    joules = [meter.read_joules(float(second)) for meter in meters]
    gpus[0].energy_mj += 300_000; gpus[1].energy_mj += 120_000; show()
print(json.dumps([[meter.id for meter in meters], joules, names]))
""")
    assert ids == [f"nvml:{uuid}" for uuid in UUIDS[:2]]
    assert joules == pytest.approx([3000.0, 1200.0], rel=0.01)
    assert names == ["NVIDIA H100 80GB HBM3", "NVIDIA A100"]


def test_power_is_integrated_where_there_is_no_energy_counter(run):
    """A board without a counter is measured by its power, never by zeros."""
    facts = run("""
gpus[0].energy_mj = -1; gpus[1].energy_mj = -1
gpus[1].instant_mw = 100_000; show()
meters, _, _ = nvml_meters(None, None)
for tenth in range(101):
    joules = [meter.read_joules(tenth / 10) for meter in meters]
widths = [m.relative_uncertainty for m in meters]
print(json.dumps([joules, widths, [m.max_period_s for m in meters]]))
""")
    assert facts[0] == pytest.approx([3000.0, 1000.0], rel=0.01)
    assert facts[1] == [0.10, 0.10]
    assert max(facts[2]) <= 0.2


def test_a_board_without_any_sensor_is_refused_and_the_other_is_read(run):
    """Nothing is better than a zero that looks like a measurement."""
    facts = run("""
gpus[0].energy_mj = gpus[0].power_mw = -1; show()
meters, _, refused = nvml_meters(None, None)
print(json.dumps([[m.id for m in meters], [[r.id, r.reason] for r in refused]]))
""")
    assert facts[0] == [f"nvml:{UUIDS[1]}"]
    assert facts[1] == [[f"nvml:{UUIDS[0]}", "it has neither an energy counter nor a power sensor"]]


def test_a_lost_gpu_is_gone_and_the_other_goes_on(run):
    """GPU_IS_LOST ends one meter only."""
    facts = run("""
show()
meters, _, _ = nvml_meters(None, None)
first = [read(meter, 0.0) for meter in meters]
gpus[0].error = 15; gpus[1].energy_mj += 50_000; show()
print(json.dumps([read(meter, 1.0) for meter in meters]))
""")
    assert facts == ["MeterGone", 50.0]


def test_a_transient_error_loses_nothing(run):
    """The read after a failed one carries its energy."""
    facts = run("""
show()
meter = nvml_meters(None, None)[0][0]
seen = [read(meter, 0.0)]
for second, error in ((1.0, 999), (2.0, 10), (3.0, 0)):
    gpus[0].energy_mj += 300_000; gpus[0].error = error; show()
    seen.append(read(meter, second))
print(json.dumps(seen))
""")
    assert facts == [0.0, "MeterReadError", "MeterReadError", 900.0]


def test_a_reloaded_driver_is_a_reset_and_never_negative(run):
    """The counter starts again: one step is dropped and counted."""
    seen, faults = run("""
show()
meter = nvml_meters(None, None)[0][0]
seen = [read(meter, 0.0)]
gpus[0].energy_mj = 10_000
for second in (1.0, 2.0, 3.0):
    gpus[0].energy_mj += 300_000; show()
    seen.append(read(meter, second))
print(json.dumps([seen, dict(meter.fault_counts)]))
""")
    assert seen == [0.0, "MeterReadError", 0.0, 600.0]
    assert faults == {"reset": 1}


def test_a_driver_that_is_away_is_looked_for_with_growing_pauses(run):
    """After DRIVER_NOT_LOADED the library is initialised again, and the handle renewed."""
    seen, loads = run("""
show()
meter = nvml_meters(None, None)[0][0]
seen = [read(meter, 0.0)]
gpus[0].error = 9; show(init=9)
for second in (1.0, 2.0, 2.5, 4.0): seen.append(read(meter, second))
gpus[0].error = 0; gpus[0].energy_mj += 600_000; show()
for second in (5.0, 6.5): seen.append(read(meter, second))
print(json.dumps([seen, meter._device._driver.loads]))
""")
    assert seen[1:5] == ["MeterReadError"] * 4
    assert seen[-1] == 600.0
    assert loads == 2


def test_the_counter_is_not_read_more_often_than_it_changes(run):
    """Reads within 20 ms answer from the last one; reading faster distorts some boards."""
    facts = run("""
show()
meter = nvml_meters(None, None)[0][0]
calls = []
call = meter._device.call
meter._device.call = lambda *a: (calls.append(a), call(*a))[1]
for step in range(1000): meter.read_joules(step / 1000)
print(json.dumps(sum(call[0].endswith('EnergyConsumption') for call in calls)))
""")
    assert facts == 50


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1]),
        ("0", [0]),
        ("1,0", [0, 1]),
        ("GPU-4e8", [0]),
        (UUIDS[1].upper().replace("GPU", "gpu"), [1]),
        ("", []),
        ("-1", []),
        ("1,-1,0", [1]),
    ],
)
def test_cuda_visible_devices_selects(run, visible, expected):
    """Index, UUID, beginning of a UUID, nothing, and -1 mean what they mean to CUDA."""
    facts = run(f"""
show()
print(json.dumps(sorted(m.id for m in nvml_meters(None, {visible!r})[0])))
""")
    assert facts == sorted(f"nvml:{UUIDS[number]}" for number in expected)


def test_a_mig_slice_stands_for_its_board(run):
    """NVML has no energy of a slice; the whole board is read, by the board's UUID."""
    facts = run("""
gpus[1].mig = "MIG-5c1a-99"; show()
print(json.dumps([m.id for m in nvml_meters(None, "MIG-5c1a-99")[0]]))
""")
    assert facts == [f"nvml:{UUIDS[1]}"]


def test_detect_reads_gpus_beside_the_models(run):
    """With a driver in LD_LIBRARY_PATH the whole machine is covered, and names are told."""
    facts = run("""
show()
from carbontrack.meters.detect import Host, detect
found = detect(Host(busy_s=lambda: 0.0))
told = found.hardware
print(json.dumps([[m.component for m in found], told.gpu_count, told.gpu_models]))
""")
    assert facts[0].count("gpu") == 2
    assert facts[1:] == [2, ["NVIDIA H100 80GB HBM3", "NVIDIA A100"]]


def test_a_hung_driver_costs_a_bounded_wait_and_then_nothing(run):
    """A call that never returns is a missed read; while it hangs, further reads fail at once."""
    seen, begun, ended, threads = run("""
import threading
from carbontrack.system.clock import SystemClock
show()
meters = nvml_meters(None, None)[0]
seen = [[read(meter, 0.0) for meter in meters]]
now = SystemClock.monotonic_s
show(hang=3)
begun = now()
for second in range(1, 50): seen.append([read(meter, float(second)) for meter in meters])
ended = now()
threads = [thread.name for thread in threading.enumerate()]
print(json.dumps([seen, begun, ended, threads]))
""")
    assert all(pair == ["MeterReadError"] * 2 for pair in seen[1:])
    assert ended - begun < 3.0, "one bounded wait, not one for each of 98 reads"
    assert threads.count("carbontrack-nvml") == 1


def test_a_forked_child_reads_through_a_thread_of_its_own(run):
    """The parent's thread does not exist in the child."""
    facts = run("""
show()
meter = nvml_meters(None, None)[0][0]
meter.read_joules(0.0)
reader, writer = os.pipe()
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
if os.fork() == 0:
    gpus[0].energy_mj += 7_000; show()
    os.write(writer, json.dumps(read(meter, 1.0)).encode()); os._exit(0)
os.wait()
print(os.read(reader, 99).decode())
""")
    assert facts == 7.0


def test_closing_the_last_gpu_ends_the_thread(run):
    """Nothing of ours stays behind."""
    facts = run("""
import threading
show()
meters = nvml_meters(None, None)[0]
names = [sorted(thread.name for thread in threading.enumerate())]
for meter in meters: meter.read_joules(0.0); meter.close()
for thread in threading.enumerate():
    if thread.name == "carbontrack-nvml": thread.join(60.0)
names.append(sorted(thread.name for thread in threading.enumerate()))
print(json.dumps(names))
""")
    assert facts == [["MainThread", "carbontrack-nvml"], ["MainThread"]]


def test_a_driver_that_hangs_from_the_start_is_refused(run):
    """Detection waits a bounded time, says so, and the machine is measured without it."""
    reason, seconds = run("""
from carbontrack.system.clock import SystemClock
from carbontrack.meters.detect import Host, detect
show(hang=7)
begun = SystemClock.monotonic_s()
found = detect(Host(busy_s=lambda: 0.0))
reasons = [refusal.reason for refusal in found.refused if refusal.fault == "gpu_unmeasured"]
print(json.dumps([reasons, SystemClock.monotonic_s() - begun]), flush=True)
os._exit(0)
""")
    assert len(reason) == 1
    assert "did not answer" in reason[0]
    assert seconds < 7.0, "the driver would have taken seven for each of its calls"


def test_a_slice_is_a_part_of_its_board(run):
    """The board is read; three of its seven compute slices are ours at most."""
    facts = run("""
gpus[1].mig = "MIG-5c1a-99"; gpus[1].pid = 4711; show()
def tell(ids, visible):
    meters = nvml_meters(ids, visible)[0]
    return [[m.id, m.part, [list(u.holders) for u in m.look()]] for m in meters]
print(json.dumps([tell(None, "MIG-5c1a-99"), tell(["MIG-5c1a"], None), tell(None, "1")]))
""")
    assert facts == [[[f"nvml:{UUIDS[1]}", pytest.approx(3 / 7), [[4711]]]]] * 3


def test_a_board_that_is_divided_anew_while_we_run_is_read_on(run):
    """Its slices have other names then: all of what was ours may be, and no joule is lost."""
    facts = run("""
gpus[1].mig = "MIG-5c1a-99"; gpus[1].pid = 4711; show()
meter = nvml_meters(None, "MIG-5c1a-99")[0][0]
seen = [[read(meter, 0.0), meter.look()[0].holders is None]]
gpus[1].mig = "MIG-77aa-00"; gpus[1].energy_mj += 300_000
show(fail={"nvmlDeviceGetComputeRunningProcesses": 2})  # a handle that is no more
try: meter.look()
except MeterReadError: show()
seen.append([read(meter, 1.0), meter.look()[0].holders is None])
gpus[1].mig = "-"; gpus[1].energy_mj += 300_000; show()
seen.append([read(meter, 2.0), meter.look()[0].holders is None])
print(json.dumps(seen))
""")
    assert facts == [[0.0, False], [300.0, True], [600.0, True]]


def test_a_virtual_gpu_is_refused_with_its_reason(run):
    """What a guest is shown of a divided board is nobody's measurement."""
    facts = run("""
show(virtual=2)
meters, _, refused = nvml_meters(None, None)
show(virtual=1)  # passed through whole
print(json.dumps([len(meters), [r.reason for r in refused], len(nvml_meters(None, None)[0])]))
""")
    assert facts[0] == 0
    assert all("vGPU" in reason for reason in facts[1])
    assert facts[2] == 2


def test_the_power_of_a_gpu_is_read_and_not_that_of_its_module(run):
    """On a superchip the module's field holds processor and memory as well: here three times."""
    facts = run("""
gpus[0].energy_mj = -1; gpus[0].instant_mw = 200_000; show()
meter = nvml_meters(None, "0")[0][0]
for tenth in range(11): joules = meter.read_joules(tenth / 10)
print(json.dumps(joules))
""")
    assert facts == pytest.approx(200.0, rel=0.01)


def test_who_holds_a_context_is_told_and_how_busy_each_was(run):
    """Nobody, one, two with percents; and two where the driver knows of no percents."""
    facts = run("""
gpus[0].pid = 11; gpus[0].utilisation = 60; show()
meters = nvml_meters(None, None)[0]
def uses(): return [[sorted(u.holders), u.busy] for m in meters for u in m.look()]
seen = [uses()]
show(processes=[(0, 22, 20)]); seen.append(uses())
show(processes=[(0, 22, -1)]); seen.append(uses())
print(json.dumps(seen))
""")
    assert facts[0] == [[[11], None], [[], None]]
    assert facts[1][0] == [[11, 22], {"11": 60.0, "22": 20.0}]
    assert facts[2][0] == [[11, 22], None]


def test_a_driver_that_does_not_tell_its_processes_says_so(run):
    """No permission is no empty list: unknown, and the energy goes on."""
    facts = run("""
show(fail={"nvmlDeviceGetComputeRunningProcesses": 4})
meter = nvml_meters(None, "0")[0][0]
print(json.dumps([meter.look()[0].holders, read(meter, 0.0)]))
""")
    assert facts == [None, 0.0]


START = "nvmlDeviceGet"


@pytest.mark.parametrize("code", [1, 2, 3, 4, 6, 9, 10, 13, 15, 17, 18, 21, 23, 27, 999])
@pytest.mark.parametrize(
    "function",
    [
        "TotalEnergyConsumption",
        "PowerUsage",
        "PowerManagementLimitConstraints",
        "FieldValues",
        "MigMode",
        "Name",
        "UUID",
        "VirtualizationMode",
        "ComputeRunningProcesses",
        "ProcessUtilization",
    ],
)
def test_any_error_of_any_call_reaches_nobody(still_library, function, code):
    """At the start a reason, later a missed read at most; after it the count is right."""
    kinds, last_j = still_library(function, code)
    is_counter = function == "TotalEnergyConsumption"
    assert kinds[1] == (BY_CODE.get(code, "MeterReadError") if is_counter else "number")
    # by its power a second counts 300 J; what nobody reads for 40 s is left out, and noted
    by_power = is_counter and BY_CODE.get(code) == "number"
    assert last_j == pytest.approx(300.0 if by_power else 900.0)


BY_CODE = {3: "number", 4: "number", 6: "Nothing", 13: "number", 15: "MeterGone"}
"""What an error of the counter means: one for good lets the power count, every other is missed."""


@pytest.fixture(scope="module")
def still_library(library, tmp_path_factory):
    """What one error of one call does: all of them in one process, since starting one is slow."""
    state = State(tmp_path_factory.mktemp("errors") / "gpus.txt")
    state.show(FakeGpu(uuid=UUIDS[0]))
    facts = run_script(library, OPEN + EVERY_ERROR, state)
    return lambda function, code: facts[f"{START}{function} {code}"]


EVERY_ERROR = """
def tell(work):
    try: work()
    except MeterError as error: return type(error).__name__
    return "number"
FUNCTIONS = ["TotalEnergyConsumption", "PowerUsage", "PowerManagementLimitConstraints",
             "FieldValues", "MigMode", "Name", "UUID", "VirtualizationMode",
             "ComputeRunningProcesses", "ProcessUtilization"]
CODES = [1, 2, 3, 4, 6, 9, 10, 13, 15, 17, 18, 21, 23, 27, 999]
def one(function, code):
    gpus[:] = [FakeGpu(uuid=UUIDS[0], pid=11)]
    show(fail={function: code})
    at_start, _, refused = nvml_meters(None, None)
    assert at_start or refused, "neither a meter nor a reason"
    for meter in at_start: meter.close()
    show()
    meter = nvml_meters(None, None)[0][0]
    kinds = [tell(lambda: meter.read_joules(0.0))]
    gpus[0].energy_mj += 300_000; show(fail={function: code}, processes=[(0, 22, 5)])
    kinds += [tell(lambda: meter.read_joules(1.0)), tell(meter.look), tell(lambda: meter.nominal_w)]
    gpus[0].energy_mj += 600_000; show()
    kinds += [tell(lambda: meter.read_joules(40.0)), tell(meter.look)]
    last_j = meter.read_joules(80.0) if kinds[-2] == "number" else None
    meter.close()
    return [kinds, last_j]
names = [f"nvmlDeviceGet{function}" for function in FUNCTIONS]
print(json.dumps({f"{name} {code}": one(name, code) for name in names for code in CODES}))
"""


def test_a_record_bills_the_part_that_this_process_holds(run, tmp_path):
    """From the driver to the record: one board alone, one shared, one that is only others'."""
    (tmp_path / "proc" / "2").mkdir(parents=True)  # in a container as well, it is the host's
    kernel = f"2 (kthreadd) S 0 0 0 0 -1 {0x00200000}" + " 0" * 44
    (tmp_path / "proc" / "2" / "stat").write_text(kernel)
    (tmp_path / "proc" / "self").symlink_to("/proc/self")
    facts = run(f"""
from pathlib import Path
from carbontrack.attribution.usage import UsageReader
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock
from carbontrack.tracking.tracker import Tracker
gpus.append(FakeGpu(uuid=UUIDS[2]))
gpus[0].pid = gpus[1].pid = os.getpid(); gpus[1].utilisation = 75; gpus[2].pid = 22
def pass_a_second():
    for gpu in gpus: gpu.energy_mj += 100_000
    show(processes=[(1, 22, 25)]); clock.advance(1.0); sampler.tick()
show(processes=[(1, 22, 25)])
clock, usage = FakeClock(), UsageReader(Path({str(tmp_path / "proc")!r}))
sampler = Sampler(nvml_meters(None, None)[0], interval_s=3600.0, clock=clock, usage=usage)
tracker = Tracker(meters=sampler, attribution="process", clock=clock, interval_s=3600.0)
with tracker.span("a") as span:
    for _ in range(4): pass_a_second()
record = span.record
tracker.close(); sampler.close()
print(json.dumps([record.gpu_kwh * 3.6e6, record.machine_kwh * 3.6e6, record.faults]))
""")
    assert facts == [pytest.approx(400.0 + 300.0), pytest.approx(1200.0), None]


def test_a_look_at_a_hung_driver_is_bounded(run):
    """Who uses a board is asked with the same bounded wait as its energy."""
    seen, seconds = run("""
from carbontrack.system.clock import SystemClock
show()
meter = nvml_meters(None, "0")[0][0]
show(hang=3)
begun = SystemClock.monotonic_s()
def look():
    try: meter.look()
    except MeterError as error: return type(error).__name__
seen = [look() for _ in range(20)]
print(json.dumps([seen, SystemClock.monotonic_s() - begun]), flush=True)
os._exit(0)
""")
    assert seen == ["MeterReadError"] * 20
    assert seconds < 3.0, "one bounded wait, not twenty"
