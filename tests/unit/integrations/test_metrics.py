"""A record's numbers and words by flat names."""

from __future__ import annotations

import pytest

from carbontrack.integrations.metrics import facts_of, metrics_of
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker
from carbontrack.values import replace


def test_numbers_are_those_of_the_record() -> None:
    """360 kJ of a processor in an hour, at 50 g/kWh, by name; memory and GPU are unknown."""
    clock = FakeClock()
    tracker = Tracker(meters=[FakeMeter(watts=100.0)], grid=50.0, clock=clock)
    with tracker.span("train") as run:
        clock.advance(3600.0)
    assert run.record is not None
    found = metrics_of(run.record)
    assert found == pytest.approx(
        {
            "carbontrack/energy_kwh": 0.1,
            "carbontrack/energy_low_kwh": 0.1,
            "carbontrack/energy_high_kwh": 0.1,
            "carbontrack/emissions_g": 5.0,
            "carbontrack/emissions_low_g": found["carbontrack/emissions_low_g"],
            "carbontrack/emissions_high_g": found["carbontrack/emissions_high_g"],
            "carbontrack/cpu_kwh": 0.1,
            "carbontrack/duration_s": 3600.0,
            "carbontrack/power_w": 100.0,
        }
    )
    assert found["carbontrack/emissions_low_g"] <= 5.0 <= found["carbontrack/emissions_high_g"]
    assert metrics_of(run.record, "eval_")["eval_duration_s"] == 3600.0
    assert facts_of(run.record)["basis"] == "measured"
    assert facts_of(run.record)["meters"] == "fake:cpu"
    assert facts_of(run.record)["record_id"] == run.record.record_id
    assert facts_of(run.record)["region"] == "custom"


def test_unknown_is_left_out_and_never_zero() -> None:
    """Without meters and grid only the duration is known; what is no number is unknown."""
    clock = FakeClock()
    with Tracker(meters=[], clock=clock).span("train") as run:
        clock.advance(1.0)
    assert run.record is not None
    assert metrics_of(run.record) == {"carbontrack/duration_s": 1.0}
    assert {"basis", "region"} & facts_of(run.record).keys() == set()
    odd = replace(run.record, energy_kwh=float("nan"), emissions_g=float("inf"), duration_s=0.0)
    assert metrics_of(odd) == {"carbontrack/duration_s": 0.0}
