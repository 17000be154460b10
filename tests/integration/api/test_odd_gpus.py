"""GPUs as people have them: odd names, mixed boards, counters that fail, and what a record says."""

import importlib.util
import shutil

import pytest

from tests.support.nvml import UUIDS, State, compile_fake_nvml, run_script
from tests.support.plain_user import (
    as_stranger,
    can_be_stranger,
    interpreter,
    package,
    public_folder,
)

pytestmark = pytest.mark.xdist_group("nvml")

# -- a program as it is started, with the variables of its environment --------------------------

PROGRAM = """
import threading, time
me, begun = os.getpid(), time.monotonic()
def mj(watts): return 5_000_000 + int(1000 * watts * (time.monotonic() - begun))
def display(watts=30, **more):
    more = {"pid": 1} | more
    return FakeGpu(UUIDS[0], "NVIDIA GeForce GT 1030", mj(watts), watts * 1000, **more)
def board(watts=300, uuid=UUIDS[1], name="NVIDIA GeForce RTX 3090", **more):
    more = {"pid": me, "utilisation": 95} | more
    return FakeGpu(uuid, name, mj(watts), watts * 1000, **more)
def measured(seconds=2.5, **settings):
    show()
    def keep():
        while True: show(); time.sleep(0.02)
    threading.Thread(target=keep, daemon=True).start()
    import carbontrack
    with carbontrack.track("t", output=None, region="FR", **settings) as run:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends: time.sleep(0.05)
    r = run.record
    joules = None if r.gpu_kwh is None else r.gpu_kwh * 3.6e6
    return {"watts": joules and joules / r.duration_s, "faults": r.faults, "basis": r.gpu_basis,
            "models": r.gpu_models, "coverage": r.coverage, "meters": r.meters,
            "width": r.energy_high_kwh / r.energy_kwh - 1.0}
"""


@pytest.fixture
def program(library, tmp_path):
    """Runs a program's text with variables of the environment; returns its JSON."""
    state = State(tmp_path / "gpus.txt")
    state.show()

    def run(script, lib=library, **variables):
        hushed = {"HOME": str(tmp_path), "CARBONTRACK_STATE_DIR": str(tmp_path)}
        return run_script(lib, PROGRAM + script, state, hushed | variables)

    return run


def test_a_name_that_is_no_utf8_stops_nothing(program):
    """WSL2 with driver 555 gives such names: the board is measured all the same."""
    facts = program(r"""
def show(): state.show(board(name="\udcf8\udc95\udce5"))
print(json.dumps(measured()))
""")
    assert facts["watts"] == pytest.approx(300.0, rel=0.1)
    assert (facts["basis"], facts["faults"]) == ("measured", None)
    assert facts["models"] == "\N{REPLACEMENT CHARACTER}" * 3


def test_cudas_fastest_board_is_counted_and_not_the_first_on_the_bus(program):
    """CUDA's 0 is its fastest; the board on which this program has a context is counted."""
    script = """
def show(): state.show(display(), board())
print(json.dumps(measured()))
"""
    facts = program(script, CUDA_VISIBLE_DEVICES="0")
    # until the first look, a second at most, both may be ours
    assert 270.0 <= facts["watts"] <= 330.0
    assert UUIDS[1] in facts["meters"]
    by_bus = program(script, CUDA_VISIBLE_DEVICES="0", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert UUIDS[1] not in by_bus["meters"]
    by_uuid = program(script, CUDA_VISIBLE_DEVICES=UUIDS[1])
    assert by_uuid["watts"] == pytest.approx(300.0, rel=0.1)
    assert UUIDS[0] not in by_uuid["meters"]


CASES = {
    "a name that is no UTF-8": (r'state.show(board(name="\udcf8\udc95\udce5"))', None),
    "CUDA's order": ("state.show(display(), board())", "0"),
    "the energy call fails": (
        'state.show(board(), fail={"nvmlDeviceGetTotalEnergyConsumption": 28})', None,
    ),
}  # fmt: skip


@pytest.mark.skipif(not can_be_stranger(), reason="no Python that others may start")
@pytest.mark.parametrize("case", CASES)
def test_a_plain_user_has_the_same(case):
    """Nothing of it depends on rights: 300 W, measured."""
    show, visible = CASES[case]
    with public_folder() as folder:
        library = compile_fake_nvml(folder) or pytest.skip("there is no C compiler here")
        state = State(folder / "gpus.txt")
        state.show()
        variables = {"HOME": str(folder), "CARBONTRACK_STATE_DIR": str(folder / "state")}
        shutil.copy(importlib.util.find_spec("pynvml").origin, folder)  # ours may be out of reach
        variables |= {"PYTHONPATH": f"{package()}:{folder}"}
        if visible is not None:
            variables["CUDA_VISIBLE_DEVICES"] = visible
        for path in folder.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
        python = (*as_stranger(), "sh", "-c", 'exec "$@"', "sh", interpreter())
        script = f"{PROGRAM}\ndef show(): {show}\nprint(json.dumps(measured()))"
        facts = run_script(library, script, state, variables, python=python, root=package())
    assert 270.0 <= facts["watts"] <= 330.0
    assert facts["basis"] == "measured"


@pytest.mark.parametrize("code", [28, 999, 2])
def test_where_the_energy_call_fails_the_power_counts(program, code):
    """Not ready, unknown, invalid: the power is integrated, and the interval is the power's."""
    facts = program(f"""
def show(): state.show(board(), fail={{"nvmlDeviceGetTotalEnergyConsumption": {code}}})
print(json.dumps(measured()))
""")
    assert facts["watts"] == pytest.approx(300.0, rel=0.1)
    assert (facts["basis"], facts["faults"]) == ("measured", None)
    assert facts["coverage"] == pytest.approx(1.0, abs=0.05)


def test_a_counter_that_stands_still_is_set_aside_for_the_power(program):
    """It never moves while the board draws 300 W: the record has these, and says so."""
    facts = program("""
def show():
    still = board(); still.energy_mj = 5_000_000
    state.show(still)
print(json.dumps(measured(4.0)))
""")
    assert facts["watts"] == pytest.approx(300.0, rel=0.1)
    assert facts["faults"] == "stands_still:1"
    assert facts["basis"] == "measured"


SENSORS = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")


@pytest.mark.parametrize(
    ("show", "faults"),
    [
        ("board(error=15), board(uuid=UUIDS[0])", "gpu_unmeasured:1"),  # lost
        ("board(error=16), board(uuid=UUIDS[0])", "gpu_unmeasured:1"),  # reset required
        ("board(error=4), board(uuid=UUIDS[0])", "gpu_unmeasured:1"),  # no permission
        ("board(), init=18", "gpu_unmeasured:1"),  # the driver was updated and not loaded anew
        ("board(), init=4", "gpu_unmeasured:1"),  # no right to ask
        ("board(), init=999", "gpu_unmeasured:1"),  # a container that has lost its devices
        ("board(), fail={'nvmlDeviceGetCount': 999}", "gpu_unmeasured:1"),
        (f"board(), fail={dict.fromkeys(SENSORS, 3)}", "gpu_unmeasured:1"),  # no sensor
        ("board(), virtual=2", "gpu_unmeasured:1"),
        ("board(), init=9", None),  # a machine without the driver
        ("display(), board(uuid=UUIDS[0])", "gpu_unmeasured:1"),  # two boards of one UUID
    ],
)
def test_a_board_of_ours_that_is_not_measured_is_in_every_record(program, show, faults):
    """And never one that nobody has, nor does it stop the program or the other boards."""
    facts = program(f"""
def show(): state.show({show})
print(json.dumps(measured(0.3)))
""")
    assert facts["faults"] == faults


def test_a_broken_board_that_is_hidden_is_nobodys_fault(program):
    """Only boards that are ours are missed."""
    script = """
def show(): state.show(board(), display(error=15))
print(json.dumps(measured(0.3)))
"""
    assert program(script, CUDA_VISIBLE_DEVICES=UUIDS[1])["faults"] is None
    assert program(script, CUDA_VISIBLE_DEVICES="")["faults"] is None
    assert program(script, CUDA_VISIBLE_DEVICES="0,1")["faults"] == "gpu_unmeasured:1"


@pytest.mark.parametrize("asked", ["0,1", f"{UUIDS[1]},{UUIDS[0]}"])
def test_gpu_ids_may_name_a_board_that_does_not_answer(program, asked):
    """It is there, and whoever named it made no mistake: the other one is measured."""
    facts = program(f"""
def show(): state.show(board(), display(error=15))
print(json.dumps(measured(0.5, gpu_ids={asked!r})))
""")
    assert facts["faults"] == "gpu_unmeasured:1"
    assert UUIDS[1] in facts["meters"]


def test_errors_whose_text_is_no_utf8_are_refusals_as_well(program):
    """The library is asked for the text of a code that the package does not know."""
    facts = program(r"""
def show(): state.show(board(error=77), says="\udcff\udcfe")
print(json.dumps(measured(0.3)))
""")
    assert facts["faults"] == "gpu_unmeasured:1"


OLD = (
    *("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues", "nvmlDeviceGetMigMode"),
    *("nvmlDeviceGetVirtualizationMode", "nvmlDeviceGetPowerManagementLimitConstraints"),
    *("nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v3"),
)


def test_a_driver_that_lacks_functions_is_read_by_those_that_it_has(program, tmp_path):
    """An old libnvidia-ml under a new nvidia-ml-py: its power is integrated."""
    (tmp_path / "old").mkdir()
    lib = compile_fake_nvml(tmp_path / "old", without=OLD)
    facts = program(
        """
def show(): state.show(board())
print(json.dumps(measured()))
""",
        lib=lib,
    )
    assert facts["watts"] == pytest.approx(300.0, rel=0.1)
    assert facts["faults"].startswith("gpu_share_assumed:")  # it does not tell its processes


@pytest.mark.parametrize(
    "module",
    [
        "",  # a package of the user's own
        "raise RuntimeError('boom')",
        "raise SystemExit(3)",
        "import nothing_of_that_name",
        "from unittest.mock import MagicMock\nimport sys\nsys.modules[__name__] = MagicMock()",
        "def __getattr__(name): return None",
        "def __getattr__(name): return lambda *a: None",
        "def __getattr__(name): return lambda *a: -1",
        "def __getattr__(name): return lambda *a: b'\\xff'",
    ],
)
def test_another_module_of_that_name_stops_nothing(program, tmp_path, module):
    """A folder or a mock called pynvml: the board is refused, and the record says so."""
    (tmp_path / "other" / "pynvml").mkdir(parents=True)
    (tmp_path / "other" / "pynvml" / "__init__.py").write_text(module)
    facts = program(f"""
sys.path.insert(0, {str(tmp_path / "other")!r})
def show(): state.show(board())
print(json.dumps(measured(0.3)))
""")
    assert facts["watts"] is None
    assert facts["faults"] == "gpu_unmeasured:1"


def test_the_old_pynvml_that_speaks_bytes_is_understood(program, tmp_path):
    """Its texts are bytes, and it takes nothing else."""
    (tmp_path / "pynvml.py").write_text(OLD_PYNVML)
    facts = program(f"""
sys.path.insert(0, {str(tmp_path)!r})
def show(): state.show(board())
print(json.dumps(measured()))
""")
    assert facts["watts"] == pytest.approx(300.0, rel=0.1)
    assert facts["models"] == "Tesla K80"


OLD_PYNVML = """
import time
begun = time.monotonic()
class NVMLError(Exception):
    def __init__(self, value): self.value = value
def nvmlInit(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetHandleByUUID(uuid):
    if not isinstance(uuid, bytes): raise TypeError("bytes or integer address expected")
    return 0
def nvmlDeviceGetUUID(handle): return b"GPU-1234"
def nvmlDeviceGetName(handle): return b"Tesla K80"
def nvmlDeviceGetPowerUsage(handle): return 300_000
"""


# -- the same with a clock of the test's own ----------------------------------------------------

SCRIPT = """
from carbontrack.attribution.usage import UsageReader
from carbontrack.meters.nvml import nvml_meters
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock
from carbontrack.tracking.tracker import Tracker
US, boards, fail, more = os.getpid(), [], {}, {}
class Usage(UsageReader):
    knows = True
    def pids_as_the_driver_counts(self): return frozenset({US, US + 1}) if self.knows else None
def add(watts, uuid, name, pid=0):
    boards.append(FakeGpu(uuid, name, 5_000_000, watts * 1000, pid=pid))
def show(): state.show(*boards, fail=fail, **more)
class Host:
    def __init__(self, visible=None, scope="process", by_bus=False):
        show()
        self.clock, self.usage = FakeClock(), Usage()
        self.meters, _, self.refused = nvml_meters(None, visible, by_bus=by_bus)
        self.sampler = Sampler(self.meters, interval_s=3600, clock=self.clock, usage=self.usage)
        self.tracker = Tracker(
            meters=self.sampler, attribution=scope, clock=self.clock, interval_s=3600.0
        )
    def wait(self, seconds, moves=True):
        for _ in range(round(seconds * 10)):
            for one in boards: one.energy_mj += one.power_mw // 10 if moves else 0
            show(); self.clock.advance(0.1); self.sampler.tick()
    def run(self, seconds, between=lambda: None):
        with self.tracker.span("a") as span:
            self.wait(seconds / 2); between(); self.wait(seconds / 2)
        self.tracker.close()
        r = span.record
        return {"joules": r.gpu_kwh * 3.6e6, "faults": r.faults, "machine": r.machine_kwh * 3.6e6,
                "low": r.energy_low_kwh * 3.6e6, "high": r.energy_high_kwh * 3.6e6}
"""


@pytest.fixture
def script(library, tmp_path):
    state = State(tmp_path / "gpus.txt")
    state.show()
    return lambda text: run_script(library, SCRIPT + text, state)


MIXED = """
add(30, UUIDS[0], "NVIDIA GeForce GT 1030"); add(300, UUIDS[1], "NVIDIA GeForce RTX 3090")
"""


@pytest.mark.parametrize("scope", ["process", "machine"])
def test_a_context_that_appears_after_the_start_decides(script, scope):
    """From then on the other board is not counted, whoever counts."""
    facts = script(f"""{MIXED}
def compute(): boards[1].pid = US
print(json.dumps(Host("0", {scope!r}).run(40, compute)))
""")
    before_j = 0.0 if scope == "process" else 330.0 * 20
    assert facts["joules"] == pytest.approx(before_j + 300.0 * 20, rel=0.1)
    faults = facts["faults"] or ""
    assert ("gpu_order_unknown" in faults) == (scope == "machine")


def test_what_only_draws_does_not_decide(script):
    """A window on the display card is no computation; the other board is still counted."""
    facts = script(f"""{MIXED}
more["graphics"] = [(0, US)]
def compute(): boards[1].pid = US + 1
print(json.dumps(Host("0", "machine").run(40, compute)))
""")
    assert facts["joules"] == pytest.approx(330.0 * 20 + 300.0 * 20, rel=0.05)


def test_where_nothing_decides_all_boards_count_and_the_least_is_the_low_end(script):
    """In a container numbers of processes tell nothing: both count, and the record says why."""
    facts = script(f"""{MIXED}
host = Host("0"); host.usage.knows = False
print(json.dumps([host.run(20), [[r.reason, r.cure] for r in host.refused]]))
""")
    record, refused = facts
    assert record["joules"] == pytest.approx(330.0 * 20, rel=0.01)
    assert "gpu_order_unknown:" in record["faults"]
    # the least board's energy, less its own 5 %, and less than a second before the first look
    assert record["low"] == pytest.approx(30.0 * 20, rel=0.15)
    assert record["high"] == pytest.approx(1.05 * 330.0 * 20, rel=0.02)
    assert [r for r in refused if "CUDA's numbers" in r[0] and "PCI_BUS_ID" in r[1]]


def test_boards_of_one_model_keep_their_order(script):
    """Nothing is unsure then, nor where every board is named."""
    facts = script("""
add(300, UUIDS[0], "NVIDIA A100"); add(300, UUIDS[1], "NVIDIA A100")
one = [m.id for m in Host("1").meters]
boards[1].name = "NVIDIA T4"
show()
print(json.dumps([one, [hasattr(m, "candidates") for m in Host("1,0").meters],
                  [hasattr(m, "candidates") for m in Host(UUIDS[1]).meters],
                  [hasattr(m, "candidates") for m in Host("1").meters],
                  [m.id for m in Host("1", by_bus=True).meters]]))
""")
    one = [f"nvml:{UUIDS[1]}"]
    assert facts == [one, [False, False], [False], [True, True], one]


def test_a_second_board_of_ours_is_taken_in_again(script):
    """A child of this program that computes elsewhere corrects what was decided."""
    facts = script(f"""{MIXED}
boards[1].pid = US
def compute(): boards[0].pid = US + 1
print(json.dumps(Host("0").run(40, compute)))
""")
    assert facts["joules"] == pytest.approx(300.0 * 40 + 30.0 * 20, rel=0.03)


@pytest.mark.parametrize("code", [28, 999, 2, 3, 4, 13])
def test_the_energy_call_is_tried_again_and_nothing_counts_twice(script, code):
    """It fails from the start for 90 s, then it works: each second is counted once."""
    facts = script(f"""
add(300, UUIDS[0], "NVIDIA A100", US); fail["nvmlDeviceGetTotalEnergyConsumption"] = {code}
show()
(meter,), _, _ = nvml_meters(None, None)
periods = [meter.max_period_s]
for tenth in range(1501):
    if tenth == 900: fail.clear()
    joules = meter.read_joules(tenth / 10)
    boards[0].energy_mj += 30_000; show()
periods.append(meter.max_period_s)
print(json.dumps([joules, periods, meter.relative_uncertainty, dict(meter.fault_counts)]))
""")
    joules, periods, width, faults = facts
    assert joules == pytest.approx(300.0 * 150, rel=1e-3)
    assert faults == {}
    assert width == 0.10
    assert periods == [0.1, None]


def test_a_counter_that_fails_on_the_way_is_replaced_and_comes_back(script):
    """For some seconds it is waited for; then the power stands in, and gives way again."""
    facts = script("""
add(300, UUIDS[0], "NVIDIA A100", US)
host = Host(); kinds = []
def trouble():
    for seconds in (1, 30, 70):
        fail["nvmlDeviceGetTotalEnergyConsumption"] = 999; host.wait(seconds)
        kinds.append(host.meters[0].max_period_s); fail.clear(); host.wait(1)
print(json.dumps([host.run(20, trouble), kinds]))
""")
    assert facts[0]["joules"] == pytest.approx(300.0 * (20 + 104), rel=0.01)
    assert facts[1] == [None, 0.1, 0.1]


def test_a_counter_that_moves_again_is_used_again_and_not_for_the_time_between(script):
    """What stood still is believed after it has agreed with the power, and only from there on."""
    facts = script("""
add(300, UUIDS[0], "NVIDIA A100", US)
host = Host()
def trouble():
    host.wait(30, moves=False); boards[0].energy_mj += 9_000_000; host.wait(60)
record = host.run(20, trouble)
print(json.dumps([record, host.meters[0].max_period_s]))
""")
    assert facts[0]["joules"] == pytest.approx(300.0 * (20 + 90), rel=0.01)
    assert facts[0]["faults"] == "stands_still:1"
    assert facts[1] is None


def test_a_board_that_is_switched_off_has_no_counter_that_stands_still(script):
    """It draws nothing, and counts nothing."""
    facts = script("""
add(0, UUIDS[0], "NVIDIA A100", US)
print(json.dumps(Host().run(20)))
""")
    assert (facts["joules"], facts["faults"]) == (0.0, None)


@pytest.mark.parametrize("code", [3, 4, 28, 999])
def test_where_the_power_call_fails_the_counter_goes_on(script, code):
    """The reverse: a board that shows no power has its counter."""
    facts = script(f"""
add(300, UUIDS[0], "NVIDIA A100", US); fail["nvmlDeviceGetPowerUsage"] = {code}
print(json.dumps(Host().run(20)))
""")
    assert facts["joules"] == pytest.approx(300.0 * 20)
    assert facts["faults"] is None


def test_samples_of_utilisation_that_are_no_percents_decide_nothing(script):
    """Two processes, one with 700 %: they share evenly."""
    facts = script("""
add(300, UUIDS[0], "NVIDIA A100", US); boards[0].utilisation = 700
more["processes"] = [(0, 99, 800)]
print(json.dumps(Host().run(20)))
""")
    assert facts["joules"] == pytest.approx(150.0 * 20, rel=0.05)
    assert facts["faults"].startswith("gpu_share_even:")
