"""What CodeCarbon's parameters become, as settings of carbontrack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from carbontrack.compat.codecarbon.config import Conf
from carbontrack.compat.codecarbon.settings import settings_of
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError

GIB = psutil.virtual_memory().total / 2**30


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without files of settings of others."""
    monkeypatch.chdir(tmp_path)


def made(region: str | None = None, **given: Any) -> Settings:
    """The settings of these arguments."""
    return settings_of(Conf(given, {}), region)


BECOMES: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "scope", "machine"),
    ({"tracking_mode": "process"}, "scope", "process"),
    ({}, "pue", 1.0),
    ({"pue": 1.4}, "pue", 1.4),
    ({}, "wue", None),
    ({"wue": 0.3}, "wue", 0.3),
    ({}, "output", ()),
    ({"force_cpu_power": 120}, "cpu_tdp_w", 120.0),
    ({"force_ram_power": GIB / 2}, "ram_w_per_gib", pytest.approx(0.5)),
    ({"gpu_ids": [0, 1]}, "gpu_ids", ("0", "1")),
    ({"gpu_ids": "0, 1"}, "gpu_ids", ("0", "1")),
    ({"gpu_ids": "[0,1]"}, "gpu_ids", ("0", "1")),
    ({"gpu_ids": ["GPU-5a"]}, "gpu_ids", ("GPU-5a",)),
    ({"gpu_ids": 3}, "gpu_ids", ("3",)),
    ({"gpu_ids": []}, "gpu_ids", None),
    ({"force_carbon_intensity_g_co2e_kwh": 42}, "intensity_g_per_kwh", 42.0),
    ({"force_carbon_intensity_g_co2e_kwh": "42"}, "intensity_g_per_kwh", 42.0),
    ({"force_carbon_intensity_g_co2e_kwh": 0}, "intensity_g_per_kwh", 0.0),
    ({"region": "FR"}, "region", "FR"),
]


@pytest.mark.parametrize(("given", "name", "value"), BECOMES)
def test_each_parameter_becomes_a_setting(given: dict[str, Any], name: str, value: Any) -> None:
    """With CodeCarbon's default where nobody says anything."""
    assert getattr(made(**given), name) == value


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"force_carbon_intensity_g_co2e_kwh": -1}, "intensity_g_per_kwh"),
    ({"force_carbon_intensity_g_co2e_kwh": "many"}, "intensity_g_per_kwh"),
    ({"force_carbon_intensity_g_co2e_kwh": 1e9}, "intensity_g_per_kwh"),
    ({"pue": 0.5}, "pue"),
    ({"pue": 99.0}, "pue"),
    ({"wue": -1.0}, "wue"),
    ({"force_cpu_power": 0}, "cpu_tdp_w"),
    ({"force_cpu_power": float("nan")}, "cpu_tdp_w"),
    ({"force_ram_power": 1e9}, "ram_w_per_gib"),
]


@pytest.mark.parametrize(("given", "name"), REFUSED)
def test_a_value_that_cannot_be_is_said_and_ignored(
    given: dict[str, Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A tracker does not end a program, and the other parameters hold."""
    settings = made(gpu_ids="7", **given)
    assert getattr(settings, name) == getattr(made(), name)
    assert settings.gpu_ids == ("7",)
    assert len(caplog.records) == 1


def test_a_token_asks_electricity_maps() -> None:
    """The old name of the parameter does as well, and is warned of."""
    for name in ("electricitymaps_api_token", "co2_signal_api_token"):
        settings = made("FR", **{name: "t0ken"})
        assert settings.intensity_source == ("electricity_maps",)
        assert settings.live_token == "t0ken"


def test_what_is_said_to_carbontrack_holds_where_codecarbon_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its environment goes before CodeCarbon's defaults, and CodeCarbon's parameters before it."""
    for name, value in {"SCOPE": "process", "PUE": "1.3", "WUE": "0.2", "OUTPUT": "a.csv"}.items():
        monkeypatch.setenv(f"CARBONTRACK_{name}", value)
    settings = made()
    assert (settings.scope, settings.pue, settings.wue) == ("process", 1.3, 0.2)
    assert settings.output == ("a.csv",)
    said = made(tracking_mode="machine", pue=1.0, wue=0.0)
    assert (said.scope, said.pue, said.wue) == ("machine", 1.0, 0.0)


def test_a_mistake_in_carbontracks_own_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As everywhere: it is the user's own word for carbontrack, and nothing has started."""
    monkeypatch.setenv("CARBONTRACK_INTERVAL_S", "soon")
    with pytest.raises(ConfigError, match="CARBONTRACK_INTERVAL_S"):
        made()
