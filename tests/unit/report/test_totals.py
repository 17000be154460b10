"""Sums with intervals: against the rule written out record by record, in plain Python."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.report.frame import load
from carbontrack.report.totals import USUAL_UNCERTAINTY, Total, totals
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

GRIDS = {"FR": (40.0, 25.0, 70.0), "DE": (330.0, 280.0, 390.0), "PL": (650.0, 560.0, 760.0)}


def a_run(number: int, rng: random.Random) -> Record:
    """A record of a plausible machine, its intervals made by the rule for a single record."""
    measured = number % 3 != 0
    zone = sorted(GRIDS)[number % 3]
    best, low, high = GRIDS[zone]
    kwh = {"cpu": rng.uniform(0, 0.1), "ram": rng.uniform(0, 0.02)}
    if number % 2:
        kwh["gpu"] = rng.uniform(0, 0.5)
    basis = {
        "cpu": "measured" if measured else "modelled",
        "gpu": "measured" if number % 5 else "assumed",
        "ram": "modelled",
    }
    half = math.hypot(*(kwh[c] * USUAL_UNCERTAINTY[c][basis[c]] for c in kwh))
    pue, energy = 1.2, sum(kwh.values())
    return a_record(
        number,
        name=f"job {number % 4}",
        host_id=(None, "left", "right")[number % 7 % 3],
        started_at=f"2026-09-{1 + number % 9:02d}T12:00:00Z",
        duration_s=rng.uniform(1, 100),
        **{f"{c}_kwh": kwh.get(c) for c in ("cpu", "gpu", "ram")},
        **{f"{c}_basis": basis[c] if c in kwh else None for c in basis},
        basis=max((basis[c] for c in kwh), key=("measured", "modelled", "assumed").index),
        pue=pue,
        energy_kwh=energy * pue,
        energy_low_kwh=max(0.0, energy - half) * pue,
        energy_high_kwh=(energy + half) * pue,
        emissions_g=energy * pue * best,
        emissions_low_g=max(0.0, energy - half) * pue * low,
        emissions_high_g=(energy + half) * pue * high,
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
    widths: dict[tuple[str, str, str | None, str | None], float] = {}
    for record in records:
        weights = {
            c: getattr(record, f"{c}_kwh") * USUAL_UNCERTAINTY[c][getattr(record, f"{c}_basis")]
            for c in ("cpu", "gpu", "ram")
            if getattr(record, f"{c}_kwh") is not None
        }
        scale = record.intensity_g_per_kwh if unit == "g" else 1.0
        below = (record.energy_kwh - record.energy_low_kwh) * scale
        above = (record.energy_high_kwh - record.energy_kwh) * scale
        for c, weight in weights.items():
            share = weight / math.hypot(*weights.values())
            for side, width in (("below", below), ("above", above)):
                basis = getattr(record, f"{c}_basis")
                board = record.host_id if (c, basis) == ("gpu", "measured") else None
                kind = (side, c, basis, board)
                widths[kind] = widths.get(kind, 0.0) + width * share
    below, above = (
        math.hypot(*(w for (s, _, _, _), w in widths.items() if s == side))
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
    return max(0.0, best - below) * low, best, (best + above) * high


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


def test_one_record_keeps_its_own_interval(tmp_path: Path) -> None:
    """The sum of one record is the record."""
    record = a_run(1, random.Random(3))
    (total,) = summed(tmp_path, [record])
    for name in ("energy_low_kwh", "energy_high_kwh", "emissions_low_g", "emissions_high_g"):
        assert getattr(total, name) == pytest.approx(getattr(record, name), rel=1e-12)


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
