"""`carbontrack.estimate`: from hardware and hours to energy, emissions and water."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

import carbontrack
from carbontrack.errors import ConfigError, UnknownRegion
from carbontrack.impact.embodied import embodied_g
from carbontrack.impact.hardware import find_cpu, find_gpu
from carbontrack.meters.cpu_info import CpuFacts
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.meters.cpu_power import cpu_power
from carbontrack.meters.gpu_power import FULL_SHARE, IDLE_SHARE, gpu_share
from carbontrack.meters.load_curve import SINCE_2010
from carbontrack.meters.ram_model import W_PER_GIB


def test_power_times_hours_times_pue_times_intensity() -> None:
    """A given power is used as it is, without an interval of its own."""
    found = carbontrack.estimate(power_w=500, hours=4, pue=1.5, intensity_g_per_kwh=100)
    assert found.energy_kwh == pytest.approx(3.0)
    assert (found.energy_low_kwh, found.energy_high_kwh) == (found.energy_kwh, found.energy_kwh)
    assert found.emissions_g == pytest.approx(300.0)
    assert found.basis == "assumed"


def test_a_region_brings_its_interval_source_and_year() -> None:
    """The grid's interval multiplies on; source and year are the table's."""
    grid = carbontrack.lookup("FR")
    found = carbontrack.estimate(power_w=1000, hours=1, region="France")
    assert found.region == "FR"
    assert found.pue == 1.0
    assert found.emissions_low_g == pytest.approx(grid.low_g_per_kwh)
    assert found.emissions_g == pytest.approx(grid.g_per_kwh)
    assert found.emissions_high_g == pytest.approx(grid.high_g_per_kwh)
    assert (found.intensity_source, found.intensity_year) == (grid.source, grid.year)


def test_a_cloud_region_brings_its_pue_and_water() -> None:
    """A cloud region's PUE is taken unless one is given."""
    cloud = carbontrack.estimate(gpu="V100", hours=10, region="aws:eu-west-3")
    assert cloud.pue > 1.0
    assert carbontrack.estimate(gpu="V100", hours=10, region="aws:eu-west-3", pue=2).pue == 2.0
    assert cloud.water_l is not None
    assert cloud.water_l > carbontrack.estimate(gpu="V100", hours=10, region="FR").water_l


def test_named_hardware_draws_a_share_of_its_tdp() -> None:
    """Processors by the load curve, cards between idle and full use, memory all the time."""
    found = carbontrack.estimate(
        gpu="V100",
        gpus=4,
        cpu="Xeon Gold 6248",
        cpus=2,
        ram_gib=64,
        hours=10,
        utilisation=0.5,
        intensity_g_per_kwh=400,
    )
    assert found.gpu_kwh == pytest.approx(4 * 300 * gpu_share(0.5).best * 10 / 1e3)
    assert found.cpu_kwh == pytest.approx(2 * 150 * SINCE_2010.at(0.5).best * 10 / 1e3)
    assert found.ram_kwh == pytest.approx(64 * W_PER_GIB.best * 10 / 1e3)
    assert found.energy_kwh == pytest.approx(found.gpu_kwh + found.cpu_kwh + found.ram_kwh)
    assert found.energy_low_kwh < found.energy_kwh < found.energy_high_kwh
    assert found.power_low_w < found.power_w < found.power_high_w
    assert found.basis == "modelled"
    assert len(found.how) == 3


@pytest.mark.parametrize("load", [0.0, 0.05, 0.1, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("name", ["Xeon Gold 6248", "EPYC 7763", "Itanium 9110N", "Core m5-6Y54"])
def test_a_processor_uses_what_a_tracker_counts_at_that_load(name: str, load: float) -> None:
    """An hour of a part at a steady load, and what the model's meter counts, at both ends too."""
    threads, seconds = 16, 3600.0
    power = cpu_power(CpuFacts(name=name, threads=threads, siblings=threads))
    assert power.known == "part"
    busy_s = iter([0.0, *(load * threads * second for second in range(60, 3601, 60))])
    meter = CpuModel(power.tdp_w, lambda: next(busy_s), threads, curve=power.curve)
    for minute in range(61):
        best_j = meter.read_joules(minute * 60.0)
    found = carbontrack.estimate(
        cpu=name, hours=seconds / 3600, utilisation=load, intensity_g_per_kwh=1
    )
    kwh = (found.energy_kwh, found.energy_low_kwh, found.energy_high_kwh)
    counted_j = (best_j, meter.low_j, meter.high_j)
    assert kwh == pytest.approx([joules / 3.6e6 for joules in counted_j])


def test_a_card_draws_power_between_idle_and_full_use() -> None:
    """Power rises with utilisation, at both ends as well, from idle to what training draws."""
    shares = [gpu_share(u / 10) for u in range(11)]
    assert (shares[0], shares[10]) == (IDLE_SHARE, pytest.approx(FULL_SHARE))
    for ends in zip(*shares, strict=True):
        assert list(ends) == sorted(ends)
    assert all(share.low < share.best < share.high for share in shares)


def test_energy_and_intensity_combine_as_independent_factors() -> None:
    """Emissions have the logarithmic quadrature of both intervals, narrower than the corners."""
    found = carbontrack.estimate(gpu="A100", hours=1, region="FR")
    grid = carbontrack.lookup("FR")
    above = math.hypot(
        math.log(found.energy_high_kwh / found.energy_kwh),
        math.log(grid.high_g_per_kwh / grid.g_per_kwh),
    )
    assert found.emissions_high_g == pytest.approx(found.emissions_g * math.exp(above))
    assert found.emissions_high_g < found.energy_high_kwh * grid.high_g_per_kwh
    assert found.emissions_low_g > found.energy_low_kwh * grid.low_g_per_kwh


def test_each_part_says_its_power_its_interval_and_its_boundary() -> None:
    """One sentence a part: what is known, watts with both ends, and that it is not wall power."""
    found = carbontrack.estimate(
        gpu="A100", gpus=8, cpu="EPYC 7763", ram_gib=512, hours=1, intensity_g_per_kwh=1
    )
    card, cpu, ram = found.how
    assert card.startswith(
        "modelled, part known: 2,304 W (960 to 3,520), GPUs only, not wall power; 8 x NVIDIA"
    )
    assert cpu.startswith("modelled, part known: 230 W (112 to 392), CPU, not wall power; 1 x")
    assert ram.startswith("modelled: 76.8 W (23 to 307), memory, not wall power; 512 GiB x 0.15 W")


def test_cards_of_one_kind_err_together_and_kinds_apart() -> None:
    """Ten cards have ten times the half-widths of one; kinds combine in quadrature, per side."""

    def widths(**hardware: object) -> tuple[float, float]:
        found = carbontrack.estimate(hours=1, intensity_g_per_kwh=1, **hardware)
        below = found.energy_kwh - found.energy_low_kwh
        return below, found.energy_high_kwh - found.energy_kwh

    cpu, gpu = widths(cpu="EPYC 7763"), widths(gpu="A100")
    assert widths(gpu="A100", gpus=10) == pytest.approx([10 * one for one in gpu])
    both = widths(gpu="A100", cpu="EPYC 7763")
    assert both == pytest.approx([math.hypot(*sides) for sides in zip(cpu, gpu, strict=True)])


def test_hardware_that_does_nothing_draws_power_as_well() -> None:
    """At utilisation 0 a part draws its idle share; an A100 of 400 W idles at 42 to 53 W."""
    found = carbontrack.estimate(
        cpu="EPYC 7763", gpu="A100", hours=1, utilisation=0, intensity_g_per_kwh=1
    )
    assert found.gpu_kwh == pytest.approx(0.4 * IDLE_SHARE.best)
    assert found.cpu_kwh == pytest.approx(0.28 * SINCE_2010.at(0.0).best)
    assert 42 < found.gpu_kwh * 1e3 < 53


def test_embodied_stands_beside_the_emissions() -> None:
    """Embodied emissions are a share of the lifetime's and are not part of the emissions."""
    found = carbontrack.estimate(gpu="H100", gpus=8, hours=8766, intensity_g_per_kwh=0)
    assert found.emissions_g == 0.0
    assert found.embodied_g == pytest.approx(8 * 164e3 / 4)
    assert found.embodied_low_g < found.embodied_g < found.embodied_high_g
    assert carbontrack.estimate(power_w=1, hours=1, intensity_g_per_kwh=1).embodied_g is None
    assert embodied_g("cpu", 1, 8766, lifetime_years=5).best == pytest.approx(20e3)


def test_minerals_and_metals_stand_beside_the_emissions() -> None:
    """Those of the named hardware, over its life; none where a part of it has no figure."""
    found = carbontrack.estimate(
        gpu="H100", gpus=8, cpu="EPYC 7763", cpus=2, ram_gib=64, hours=8766, intensity_g_per_kwh=0
    )
    made = 8 * 0.00895 + 2 * 0.0204 + 64 * 1.073741824 * 8.8e-5
    assert found.abiotic_kg_sb == pytest.approx(made / 4)
    assert found.abiotic_low_kg_sb < made / 4 / 3
    assert found.abiotic_high_kg_sb > made / 4 * 2.5
    for gpu in ("RTX 4090", "TPU v3"):
        none = carbontrack.estimate(gpu=gpu, ram_gib=64, hours=1, intensity_g_per_kwh=1)
        ends = (none.abiotic_kg_sb, none.abiotic_low_kg_sb, none.abiotic_high_kg_sb)
        assert ends == (None, None, None)
    assert carbontrack.estimate(power_w=1, hours=1, intensity_g_per_kwh=1).abiotic_kg_sb is None


def test_it_is_frozen_and_turns_into_json() -> None:
    """An estimate is a fact; its JSON has the attributes' names."""
    found = carbontrack.estimate(gpu="T4", hours=1, region="DE")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.energy_kwh = 1.0
    assert json.loads(json.dumps(found.to_dict()))["emissions_g"] == found.emissions_g


@pytest.mark.parametrize(
    ("name", "tdp_w"),
    [
        ("A100", 400),
        ("NVIDIA A100-SXM4-80GB", 400),
        ("nvidia a100-pcie-40gb", 250),
        ("NVIDIA H100 80GB HBM3", 700),
        ("Tesla V100-SXM2-16GB", 300),
        ("tpuv3", 450),
        ("RTX 4090", 450),
        ("NVIDIA GeForce RTX 3090", 350),
        ("AMD Instinct MI250X", 500),
    ],
)
def test_cards_are_known_by_the_names_that_people_and_drivers_use(name: str, tdp_w: int) -> None:
    """Marketing name, driver name and short name lead to the same card."""
    assert find_gpu(name).tdp_w == tdp_w


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("AMD EPYC 7763 64-Core Processor", "epyc 7763"),
        ("Intel(R) Xeon(R) CPU E5-2620 v4 @ 2.10GHz", "xeon e5-2620 v4"),
        ("E5-2620 v4", "xeon e5-2620 v4"),
        ("i7-8700K", "core i7-8700k"),
    ],
)
def test_processors_are_known_by_the_names_that_people_and_kernels_use(
    name: str, part: str
) -> None:
    """What /proc/cpuinfo says and what people say lead to the same part."""
    assert find_cpu(name).name == part


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gpu": "A10O"}, "did you mean 'NVIDIA A10"),
        ({"cpu": "Xeon Gold 62488"}, "did you mean 'xeon gold 6248"),
        ({"gpu": "A100", "power_w": 3}, "not both"),
        ({"gpu": "A100", "gpus": 0}, "gpus=0"),
        ({"gpu": "A100", "gpus": 1.5}, "gpus=1.5"),
        ({"gpus": 2, "power_w": 3}, "gpus without gpu"),
        ({"gpu": ""}, "gpu=''"),
        ({"power_w": -3}, "power_w=-3"),
        ({"power_w": True}, "power_w=True"),
        ({"power_w": "300"}, "power_w='300'"),
        ({"power_w": float("nan")}, "power_w=nan"),
        ({}, "needs power_w"),
        ({"power_w": 3, "hours": None}, "hours is missing"),
        ({"power_w": 3, "hours": 0}, "hours=0"),
        ({"power_w": 3, "utilisation": 80}, "write 0.8"),
        ({"power_w": 3, "pue": 0.9}, "pue=0.9"),
        ({"power_w": 3, "region": "FR"}, "not both"),
        ({"power_w": 3, "intensity_g_per_kwh": None}, "region or intensity_g_per_kwh"),
        ({"power_w": 3, "intensity_g_per_kwh": -1}, "intensity_g_per_kwh=-1"),
    ],
)
def test_bad_input_is_told_by_name(wrong: dict[str, object], says: str) -> None:
    """The error names the parameter and what would be right."""
    with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
        carbontrack.estimate(**{"hours": 1, "intensity_g_per_kwh": 100, **wrong})


def test_an_unknown_region_names_its_neighbours() -> None:
    """The region's own error comes through."""
    with pytest.raises(UnknownRegion):
        carbontrack.estimate(power_w=1, hours=1, region="Frnce")
