"""The policies for idle energy from a setting to a record, on a machine with counters."""

from __future__ import annotations

from pathlib import Path

import pytest

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.testing import build_powercap


def _measured(tmp_path: Path, **settings: object) -> Record:
    """A block that works while package and memory use 2 J, which their limits allow."""
    tree = build_powercap(tmp_path / "sys")
    with (
        carbontrack.auto(
            region="FR",
            output=None,
            sysfs_path=str(tree.sysfs),
            state_dir=str(tmp_path / "state"),
            gpu_ids="none",
            **settings,
        ) as tracker,
        tracker.span("work") as span,
    ):
        for _ in range(50):
            sum(n * n for n in range(40_000))
            tree.add_joules("package-0", 0.038)
            tree.add_joules("dram", 0.002)
    record = span.record
    assert record is not None
    return record


@pytest.mark.parametrize("idle", ["reserved", "none"])
def test_a_machine_that_only_idles_has_no_dynamic_energy(tmp_path: Path, idle: str) -> None:
    """With an idle power above what was used, all of it is idle: nobody's under `none`."""
    record = _measured(tmp_path, idle=idle, idle_w=5000.0)
    assert record.idle == idle
    assert record.cpu_basis == "modelled"
    assert record.machine_kwh is not None
    assert record.machine_kwh * 3.6e6 == pytest.approx(2.0, rel=1e-6)
    assert record.cpu_kwh is not None
    assert (record.cpu_kwh == 0.0) is (idle == "none")


def test_without_idle_energy_all_policies_agree(tmp_path: Path) -> None:
    """A machine that idles at 0 W has dynamic energy only, which goes by CPU seconds."""
    record = _measured(tmp_path, idle="none", idle_w=0.0)
    assert record.cpu_kwh is not None
    assert record.machine_kwh is not None
    assert 0.0 < record.cpu_kwh <= record.machine_kwh


def test_the_design_power_stands_in_for_a_measurement(tmp_path: Path) -> None:
    """Nothing has to be given: 12 % of the design power is taken, and the basis says so."""
    record = _measured(tmp_path, idle="none")
    assert record.cpu_basis == "modelled"
    assert record.cpu_kwh is not None
    assert _measured(tmp_path / "another", idle="proportional").cpu_basis == "measured"


def test_a_policy_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """Before anything starts, with the right names."""
    with pytest.raises(ConfigError, match="proportional, reserved, none"):
        _measured(tmp_path, idle="marginal")
