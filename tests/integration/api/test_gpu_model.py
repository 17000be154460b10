"""GPUs without a sensor, modelled if asked for: the real nvidia-ml-py over a stand-in driver."""

import re

import pytest

from tests.support.nvml import UUIDS, FakeGpu, State, run_script

pytestmark = pytest.mark.xdist_group("nvml")

OPEN = """
from carbontrack.errors import MeterError
from carbontrack.meters.nvml import nvml_meters
gpus = [FakeGpu(name="NVIDIA A100-SXM4-40GB", energy_mj=-1, power_mw=-1, utilisation=100)]
def show(**more): state.show(*gpus, **more)
def opened(**more): return nvml_meters(None, None, may_model=True, **more)
def counts(meter, at_s):
    try: return [meter.read_joules(at_s), meter.low_j, meter.high_j]
    except MeterError as error: return type(error).__name__
"""


@pytest.fixture
def run(library, tmp_path):
    state = State(tmp_path / "gpus.txt")
    state.show(FakeGpu())
    return lambda script: run_script(library, OPEN + script, state)


@pytest.mark.parametrize(
    ("percent", "shares"),
    [
        (0, (0.12, 0.03, 0.40)),
        (50, (0.42, 0.165, 0.75)),
        (100, (0.72, 0.30, 1.10)),
        (-1, (0.42, 0.03, 1.10)),
    ],
)
def test_power_follows_the_drivers_utilisation_with_both_ends(run, percent, shares):
    """400 W for ten seconds, at the best share and at the ends; -1: the driver does not say."""
    facts, joules, refused = run(f"""
gpus[0].utilisation = {percent}; show()
[meter], _, refused = opened()
for second in range(11): joules = counts(meter, float(second))
print(json.dumps([[meter.id, meter.component, meter.basis, meter.about], joules, len(refused)]))
""")
    assert facts[:3] == [f"model:{UUIDS[0]}", "gpu", "assumed"]
    assert "NVIDIA A100 SXM4 40GB, no sensor: 400 W x" in facts[3]
    assert joules == pytest.approx([share * 400.0 * 10.0 for share in shares])
    assert refused == 0


def test_utilisation_is_integrated_between_reads(run):
    """Half of the time busy, half idle, and a failed read that loses nothing."""
    seen = run("""
show()
[meter], _, _ = opened()
seen = [counts(meter, 0.0), counts(meter, 2.0)]
gpus[0].utilisation = 0; show(fail={"nvmlDeviceGetUtilizationRates": 999})
seen.append(counts(meter, 3.0))
show()
seen += [counts(meter, 4.0), counts(meter, 6.0), counts(meter, 6.0)]
print(json.dumps(seen))
""")
    assert seen[1] == pytest.approx([576.0, 240.0, 880.0])
    assert seen[2] == "MeterReadError"
    # 2 s between 288 W and 48 W, and 2 s at 48 W
    assert seen[4][0] == seen[5][0] == pytest.approx(576.0 + 336.0 + 96.0)


def test_a_silence_too_long_to_bridge_is_a_fault_and_a_lost_board_is_gone(run):
    """Like every gauge."""
    seen, faults, nominal_w, period_s = run("""
show()
[meter], _, _ = opened()
seen = [counts(meter, 0.0), counts(meter, 60.0), counts(meter, 61.0)]
gpus[0].error = 15; show()
seen.append(counts(meter, 62.0))
print(json.dumps([seen, dict(meter.fault_counts), meter.nominal_w, meter.max_period_s]))
""")
    assert seen[1][0] == 0.0
    assert seen[2][0] == pytest.approx(288.0)
    assert seen[3] == "MeterGone"
    assert faults == {"gap": 1}
    assert nominal_w == pytest.approx(288.0)
    assert period_s == 1.0


def test_without_being_asked_it_is_refused_with_the_line_that_would_change_it(run):
    """Nothing is modelled by default, and nobody has to look for the setting."""
    refused = run("""
gpus.append(FakeGpu(uuid=UUIDS[1], name="NVIDIA GeForce MX150", energy_mj=-1, power_mw=-1)); show()
meters, _, refused = nvml_meters(None, None)
assert not meters
print(json.dumps(refused))
""")
    (known, reason, cure, fault, *_), (unknown, why, no_cure, other_fault, *_) = refused
    assert fault == other_fault == "gpu_unmeasured"
    assert (known, unknown) == (f"nvml:{UUIDS[0]}", f"nvml:{UUIDS[1]}")
    assert reason == "it has neither an energy counter nor a power sensor"
    assert cure.startswith("CARBONTRACK_GPU_MODEL=1 ")
    # a name without a design power would be refused then, too
    assert "the design power of 'NVIDIA GeForce MX150' is not known" in why
    assert no_cure is None


def test_a_board_with_a_sensor_is_measured_all_the_same(run):
    """The model is for what cannot be measured, and for nothing else."""
    facts = run("""
gpus[0].power_mw = 90_000
gpus.append(FakeGpu(uuid=UUIDS[1]))
gpus.append(FakeGpu(uuid=UUIDS[2], name="junk", energy_mj=-1, power_mw=-1))
show()
meters, _, refused = opened()
print(json.dumps([[[m.id, m.basis] for m in meters], [r.id for r in refused]]))
""")
    assert facts == [
        [[f"nvml:{UUIDS[0]}", "measured"], [f"nvml:{UUIDS[1]}", "measured"]],
        [f"nvml:{UUIDS[2]}"],
    ]


def test_a_board_with_several_gpus_is_divided_among_them(run):
    """The driver lists each GPU; the table has the power of the whole board."""
    nominal_w, told = run("""
gpus[0].name = "NVIDIA A16"; show()
[meter], _, _ = opened()
print(json.dumps([meter.nominal_w, meter.about]))
""")
    assert nominal_w == pytest.approx(250.0 / 4 * 0.72)
    assert "250 W x 0.25 (one of 4 GPUs on the board)" in told


def test_a_virtual_gpu_is_its_part_of_the_boards_memory(run):
    """Refused unless it is asked for; an energy that a guest is shown is not read even then."""
    facts = run("""
gpus[0] = FakeGpu(name="GRID T4-4Q", utilisation=0); show(virtual=2)
refusal = nvml_meters(None, None)[2][0]
[meter], _, _ = opened()
for second in range(11): joules = counts(meter, float(second))
print(json.dumps([refusal.cure, meter.id, meter.basis, meter.about, joules]))
""")
    cure, name, basis, told, joules = facts
    assert [line.split()[0] for line in cure.splitlines()] == [
        "carbontrack",
        "CARBONTRACK_GPU_MODEL=1",
    ]
    assert (name, basis) == (f"model:{UUIDS[0]}", "assumed")
    assert "70 W x 0.25 (4 of 16 GB of its memory)" in told
    assert joules == pytest.approx([70.0 * 0.25 * share * 10.0 for share in (0.12, 0.03, 0.40)])


def test_a_record_says_that_a_gpu_was_assumed(run):
    """By the setting, from a tracker to the columns `meters` and `gpu_basis`."""
    record, plain, said = run("""
import carbontrack, time
show()
runs = []
for asked in (True, False):
    with carbontrack.track("x", gpu_model=asked, region="FR", scope="machine", output=None) as run:
        time.sleep(0.05)
    runs.append(run.record)
names = ("meters", "gpu_basis", "gpu_kwh", "basis")
facts = [{name: getattr(record, name) for name in names} for record in runs]
print(json.dumps([*facts, runs[0]._repr_html_()]))
""")
    assert f"model:{UUIDS[0]}" in record["meters"].split(";")
    assert record["gpu_basis"] == record["basis"] == "assumed"
    assert record["gpu_kwh"] > 0.0
    assert re.search(r"GPU [\d.]+ m?J assumed", said)
    assert "GPU" not in plain["meters"]
    assert plain["gpu_kwh"] is None
