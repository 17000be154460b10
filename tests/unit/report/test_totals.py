"""Sums with intervals: against the rule written out record by record, in plain Python."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from carbontrack import interval
from carbontrack.errors import ConfigError
from carbontrack.interval import Interval, product
from carbontrack.record import Record
from carbontrack.report.frame import load
from carbontrack.report.totals import (
    COMMON,
    USUAL_UNCERTAINTY,
    RecordSums,
    Total,
    key_column,
    totals,
)
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

GRIDS = {"FR": (40.0, 25.0, 70.0), "DE": (330.0, 280.0, 390.0), "PL": (650.0, 560.0, 760.0)}


def around(best: float, below: float, above: float) -> Interval:
    """An interval by its half-widths relative to the best estimate."""
    return Interval(best, best * max(0.0, 1.0 - below), best * (1.0 + above))


def a_run(number: int, rng: random.Random) -> Record:
    """A record of a plausible machine, its intervals made by the rule for a single record."""
    measured = number % 3 != 0
    zone = sorted(GRIDS)[number % 3]
    best, low, high = GRIDS[zone]
    kwh = {"cpu": rng.uniform(0, 0.1), "ram": rng.uniform(0, 0.02)}
    if number % 2:
        kwh["gpu"] = rng.uniform(0, 0.5)
    basis = {
        "cpu": "measured" if measured else ("modelled", "assumed")[number % 2],
        "gpu": "measured" if number % 5 else "assumed",
        "ram": "modelled",
    }
    parts = [around(kwh[c], *USUAL_UNCERTAINTY[c][basis[c]]) for c in kwh]
    pue = 1.2
    energy = Interval(*(pue * end for end in interval.total(parts)))
    grams = product(energy, Interval(*GRIDS[zone]))
    return a_record(
        number,
        name=f"job {number % 4}",
        host_id=(None, "left", "right")[number % 7 % 3],
        cpu_model=(None, "EPYC 7742", "Xeon 8259CL", "Core i7-8650U")[number % 5 % 4],
        started_at=f"2026-09-{1 + number % 9:02d}T12:00:00Z",
        duration_s=rng.uniform(1, 100),
        **{f"{c}_kwh": kwh.get(c) for c in ("cpu", "gpu", "ram")},
        **{f"{c}_basis": basis[c] if c in kwh else None for c in basis},
        basis=max((basis[c] for c in kwh), key=("measured", "modelled", "assumed").index),
        pue=pue,
        energy_kwh=energy.best,
        energy_low_kwh=energy.low,
        energy_high_kwh=energy.high,
        emissions_g=grams.best,
        emissions_low_g=grams.low,
        emissions_high_g=grams.high,
        region=zone,
        intensity_g_per_kwh=best,
        intensity_low_g_per_kwh=low,
        intensity_high_g_per_kwh=high,
    )


def written(path: Path, records: Iterable[Record]) -> Path:
    path.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    return path


def summed(tmp_path: Path, records: Sequence[Record], by: str | None = None) -> list[Total]:
    return totals(load([written(tmp_path / "runs.csv", records)]).frame, by)


def by_the_rule(records: Sequence[Record], unit: str) -> tuple[float, float, float]:
    """The rule of docs/explanation/adding-up-intervals.md, as it is written there."""
    widths: dict[tuple[str, str, str], dict[str | None, float]] = {}
    for record in records:
        scale = record.intensity_g_per_kwh if unit == "g" else 1.0
        halves = {
            "below": (record.energy_kwh - record.energy_low_kwh) * scale,
            "above": (record.energy_high_kwh - record.energy_kwh) * scale,
        }
        for side, half in halves.items():
            weights = {
                c: getattr(record, f"{c}_kwh")
                * getattr(USUAL_UNCERTAINTY[c][getattr(record, f"{c}_basis")], side)
                for c in ("cpu", "gpu", "ram")
                if getattr(record, f"{c}_kwh") is not None
            }
            for c, weight in weights.items():
                way, unit_of = kind_of(record, c)
                parts = widths.setdefault((side, c, way), {})
                parts[unit_of] = parts.get(unit_of, 0.0) + half * weight / math.hypot(
                    *weights.values()
                )
    below, above = (
        math.sqrt(sum(squared(kind, parts) for kind, parts in widths.items() if kind[0] == side))
        for side in ("below", "above")
    )
    if unit == "kwh":
        best = math.fsum(record.energy_kwh for record in records)
        return max(0.0, best - below), best, best + above
    best = math.fsum(record.emissions_g for record in records)
    low, high = (
        math.fsum(r.energy_kwh * getattr(r, f"intensity_{end}_g_per_kwh") for r in records) / best
        for end in ("low", "high")
    )
    ratio_low = math.hypot(math.log(best / max(0.0, best - below)), math.log(1 / low))
    ratio_high = math.hypot(math.log((best + above) / best), math.log(high))
    return best * math.exp(-ratio_low), best, best * math.exp(ratio_high)


def kind_of(record: Record, component: str) -> tuple[str, str | None]:
    """How a component is known, and what errs alike: a processor by model, a host's boards."""
    basis = getattr(record, f"{component}_basis")
    if component == "gpu":
        return basis, record.host_id if basis == "measured" else ""
    return ("measured", "") if basis == "measured" else ("model", record.cpu_model)


def squared(kind: tuple[str, str, str], parts: Mapping[str | None, float]) -> float:
    """The square of the half-width of a kind: of what is common, and of what is not."""
    _, component, way = kind
    common = COMMON if way == "model" else 0.0 if (component, way) == ("gpu", "measured") else 1.0
    alike, apart = sum(parts.values()) ** 2, sum(part**2 for part in parts.values())
    return common * alike + (1.0 - common) * apart


def test_every_sum_is_the_one_computed_record_by_record(tmp_path: Path) -> None:
    """Energies, grams and both intervals, for everything and for each name."""
    rng = random.Random(7)
    records = [a_run(n, rng) for n in range(200)]
    for total in [*summed(tmp_path, records), *summed(tmp_path, records, "name")]:
        own = [r for r in records if total.key in (None, r.name)]
        ends = (total.energy_low_kwh, total.energy_kwh, total.energy_high_kwh)
        assert ends == pytest.approx(by_the_rule(own, "kwh"), rel=1e-9)
        ends = (total.emissions_low_g, total.emissions_g, total.emissions_high_g)
        assert ends == pytest.approx(by_the_rule(own, "g"), rel=1e-9)
        assert total.runs == len(own)
        assert total.duration_s == pytest.approx(math.fsum(r.duration_s for r in own))
        whole = sum((r.cpu_kwh or 0) + (r.gpu_kwh or 0) + (r.ram_kwh or 0) for r in own)
        measured = sum(
            (getattr(r, f"{c}_kwh") or 0)
            for r in own
            for c in ("cpu", "gpu", "ram")
            if getattr(r, f"{c}_basis") == "measured"
        )
        assert total.measured_share == pytest.approx(measured / whole)
        shares = (total.measured_share, total.modelled_share, total.assumed_share)
        assert sum(shares) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("by", "near"),
    [("regoin", "did you mean 'region'?"), ("model", "did you mean 'label:model'?"), ("label", "")],
)
def test_a_grouping_that_is_none_names_the_nearest(by: str, near: str) -> None:
    """A word that is no way of grouping is often the key of a label."""
    with pytest.raises(ConfigError, match="cannot group by") as caught:
        key_column(by)
    assert str(caught.value).endswith(near or "label:KEY")


def test_one_record_keeps_its_own_interval(tmp_path: Path) -> None:
    """The sum of one record is the record."""
    record = a_run(1, random.Random(3))
    (total,) = summed(tmp_path, [record])
    for name in ("energy_low_kwh", "energy_high_kwh", "emissions_low_g", "emissions_high_g"):
        assert getattr(total, name) == pytest.approx(getattr(record, name), rel=1e-12)


def test_a_low_end_of_zero_of_the_grid_is_kept(tmp_path: Path) -> None:
    """Zero is a value, not unknown: the sum of one record is that record also then."""
    run = a_run(1, random.Random(3))
    energy = Interval(run.energy_kwh, run.energy_low_kwh, run.energy_high_kwh)
    grid = Interval(10.0, 0.0, 50.0)
    grams = product(energy, grid)
    ends = {"intensity_low_g_per_kwh": grid.low, "intensity_high_g_per_kwh": grid.high}
    known = {"emissions_g": grams.best, "intensity_g_per_kwh": grid.best}
    (total,) = summed(
        tmp_path,
        [replace(run, **known, **ends, emissions_low_g=grams.low, emissions_high_g=grams.high)],
    )
    assert total.emissions_low_g == grams.low == 0.0
    assert total.emissions_high_g == pytest.approx(grams.high, rel=1e-12)


def test_the_same_machine_errs_alike_in_every_run(tmp_path: Path) -> None:
    """A hundred equal runs are a hundred times as unsure as one, not ten times."""
    one = a_run(1, random.Random(3))
    runs = [replace(one, record_id=f"run-7f3a:{n}") for n in range(100)]
    (total,) = summed(tmp_path, runs)
    assert total.energy_high_kwh == pytest.approx(100 * one.energy_high_kwh)
    assert total.emissions_low_g == pytest.approx(100 * one.emissions_low_g)


def test_different_kinds_err_apart(tmp_path: Path) -> None:
    """A run known from the CPU alone and one from the GPU alone combine in quadrature."""

    def run(number: int, component: str, basis: str, half_kwh: float) -> Record:
        only = {"cpu_kwh": None, "ram_kwh": None} | {f"{component}_kwh": 1.0}
        return a_record(
            number,
            **only,
            **{f"{component}_basis": basis},
            energy_kwh=1.0,
            energy_low_kwh=1.0 - half_kwh,
            energy_high_kwh=1.0 + half_kwh,
        )

    runs = [run(1, "cpu", "modelled", 0.2), run(2, "gpu", "measured", 0.1)]
    (total,) = summed(tmp_path, runs)
    assert total.energy_high_kwh - total.energy_kwh == pytest.approx(math.hypot(0.1, 0.2))


def test_unknown_is_not_zero(tmp_path: Path) -> None:
    """Runs of unknown energy are counted apart; nothing known at all gives no sum."""
    unknown = {
        f"{name}_kwh": None for name in ("cpu", "ram", "energy", "energy_low", "energy_high")
    } | {"emissions_g": None}
    both = [a_record(1), a_record(2, **unknown)]
    (total,) = summed(tmp_path, both)
    assert (total.runs, total.unknown_runs, total.energy_kwh) == (2, 1, 1.5e-05)
    (nothing,) = summed(tmp_path, both[1:])
    assert (nothing.energy_kwh, nothing.emissions_g, nothing.measured_share) == (None, None, None)


def test_no_interval_without_those_of_the_terms(tmp_path: Path) -> None:
    """One record in a hundred may lack its interval; with more of them the sum has none."""
    known = [a_run(n, random.Random(n)) for n in range(1, 400)]
    bare = a_record(1000, energy_kwh=0.001, energy_low_kwh=None, energy_high_kwh=None)
    (total,) = summed(tmp_path, [*known, bare])
    assert total.energy_low_kwh is not None
    (total,) = summed(tmp_path, [known[0], a_record(1000, energy_low_kwh=None, energy_kwh=1.0)])
    assert (total.energy_low_kwh, total.energy_high_kwh) == (None, None)


def test_groups_are_ordered_and_complete(tmp_path: Path) -> None:
    """Days in their order, others by emissions; the groups' sums are the whole's."""
    records = [a_run(n, random.Random(n)) for n in range(50)]
    (whole,) = summed(tmp_path, records)
    for by in ("name", "region", "day", "host"):
        groups = summed(tmp_path, records, by)
        assert math.fsum(g.energy_kwh for g in groups) == pytest.approx(whole.energy_kwh)
        assert sum(g.runs for g in groups) == 50
        if by == "day":
            assert [g.key for g in groups] == sorted({r.started_at[:10] for r in records})
        else:
            grams = [g.emissions_g for g in groups]
            assert grams == sorted(grams, reverse=True)
    assert {g.key for g in summed(tmp_path, records, "host")} == {None, "left", "right"}


@pytest.mark.parametrize("by", ["nmae", "label:", "week"])
def test_a_wrong_way_to_group_is_told(tmp_path: Path, by: str) -> None:
    """The error names the ways there are."""
    with pytest.raises(ConfigError, match="cannot group"):
        summed(tmp_path, [a_record(1)], by)


def on(number: int, host: str | None, processor: str | None) -> Record:
    """A run whose processor is modelled, on a host."""
    return a_record(
        number,
        host_id=host,
        cpu_model=processor,
        cpu_kwh=1.0,
        cpu_basis="modelled",
        ram_kwh=None,
        gpu_kwh=None,
        energy_kwh=1.0,
        energy_low_kwh=0.5,
        energy_high_kwh=2.0,
    )


def half_widths(tmp_path: Path, records: Sequence[Record]) -> tuple[float, float]:
    (total,) = summed(tmp_path, records)
    return total.energy_kwh - total.energy_low_kwh, total.energy_high_kwh - total.energy_kwh


def test_one_processor_errs_alike_on_every_host(tmp_path: Path) -> None:
    """A hundred hosts with one processor are a hundred times as unsure as one of them."""
    runs = [on(n, f"host {n}", "EPYC 7742") for n in range(100)]
    assert half_widths(tmp_path, runs) == pytest.approx((50.0, 100.0))
    without_names = [on(n, None, None) for n in range(100)]
    assert half_widths(tmp_path, without_names) == pytest.approx((50.0, 100.0))


def test_processors_err_apart_in_part(tmp_path: Path) -> None:
    """Of n processors: the common share of the variance in full, the rest by the root of n."""
    for count in (2, 100, 127, 128, 300):  # pandas numbers more than 127 in more bits
        runs = [on(n, f"host {n}", f"processor {n}") for n in range(count)]
        factor = math.sqrt(COMMON * count**2 + (1.0 - COMMON) * count)
        assert half_widths(tmp_path, runs) == pytest.approx((0.5 * factor, factor))


def test_a_processor_is_one_kind_whether_it_is_known_or_assumed(tmp_path: Path) -> None:
    """Both have the same load curve, so they have more in common than different kinds."""
    known = on(1, "left", "EPYC 7742")
    unknown = replace(on(2, "right", "QEMU Virtual CPU"), cpu_basis="assumed", basis="assumed")
    factor = math.sqrt(COMMON * 4 + (1.0 - COMMON) * 2)
    assert half_widths(tmp_path, [known, unknown]) == pytest.approx((0.5 * factor, factor))


def test_measured_processors_err_alike_everywhere(tmp_path: Path) -> None:
    """RAPL's error belongs to the method, whatever the processor."""
    runs = [replace(on(n, f"h{n}", f"p{n}"), cpu_basis="measured") for n in range(9)]
    assert half_widths(tmp_path, runs) == pytest.approx((4.5, 9.0))


def test_nothing_but_an_upper_end(tmp_path: Path) -> None:
    """A sum of 0 J has the ends of its records, in grams too."""
    ends = {"energy_kwh": 0.0, "energy_low_kwh": 0.0, "energy_high_kwh": 2.0, "emissions_g": 0.0}
    grid = {"intensity_g_per_kwh": 50.0, "intensity_low_g_per_kwh": 40.0}
    record = replace(on(1, "left", None), **ends, **grid, intensity_high_g_per_kwh=70.0)
    (total,) = summed(tmp_path, [replace(record, cpu_kwh=0.0)])
    assert (total.energy_low_kwh, total.energy_high_kwh) == (0.0, 2.0)
    assert (total.emissions_low_g, total.emissions_high_g) == (0.0, 140.0)


def test_modelled_hosts_and_processors_are_counted(tmp_path: Path) -> None:
    """Only where a model's figure is among them; processors without a name are one."""
    measured = replace(on(0, "a", "Apple M2"), cpu_basis="measured")
    runs = [measured, on(1, "b", "EPYC"), on(2, "c", "EPYC"), on(3, None, None), on(4, "b", None)]
    sums = RecordSums()
    sums.add(load([written(tmp_path / "r.csv", runs)]).frame)
    assert sums.modelled_on() == (2, 2)


def test_emissions_by_contract_are_summed_where_they_are_known(tmp_path: Path) -> None:
    """A contract of 0 g per kWh is known; the share says for how much of the energy one is."""
    rng = random.Random(11)
    records = [
        replace(a_run(n, rng), market_emissions_g=grams)
        for n, grams in enumerate([0.0, 12.5, None, 7.5, None])
    ]
    (total,) = summed(tmp_path, records)
    known = math.fsum(r.energy_kwh for r in records if r.market_emissions_g is not None)
    assert total.market_emissions_g == pytest.approx(20.0)
    assert total.market_share == pytest.approx(known / math.fsum(r.energy_kwh for r in records))
    assert total.emissions_g == pytest.approx(math.fsum(r.emissions_g for r in records))

    (clean,) = summed(tmp_path, [replace(records[0], market_emissions_g=0.0)])
    (unknown,) = summed(tmp_path, [replace(records[0], market_emissions_g=None)])
    assert (clean.market_emissions_g, clean.market_share) == (0.0, 1.0)
    assert (unknown.market_emissions_g, unknown.market_share) == (None, None)


def test_what_no_meter_counted_adds_up_and_evens_out_nowhere(tmp_path: Path) -> None:
    """Unmeasured boards on several hosts may all have been busy: their room is not combined."""
    kwh = {"cpu_kwh": 1.0, "cpu_basis": "modelled", "basis": "modelled", "energy_kwh": 1.0}
    ends = {"energy_low_kwh": 1.0, "energy_high_kwh": 4.0}
    path = tmp_path / "runs.csv"
    high_kwh = {}
    for faults in ("reset:2;gpu_unmeasured:1", "reset:2"):
        records = [
            a_record(n, host_id=f"h{n}", cpu_model=f"cpu {n}", faults=faults, **kwh, **ends)
            for n in range(2)
        ]
        path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
        (total,) = totals(load([path]).frame)
        high_kwh[faults] = total.energy_high_kwh
    assert high_kwh["reset:2;gpu_unmeasured:1"] == pytest.approx(2.0 + 3.0 + 3.0)
    assert high_kwh["reset:2"] < 8.0
