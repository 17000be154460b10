"""Whatever is written into a setting, it is either understood or refused in words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.config.settings import READERS, SECRETS
from carbontrack.errors import ConfigError

NUMBERS = {
    "idle_w": (0.0, 5000.0),
    "interval_s": (0.001, 3600.0),
    "pue": (1.0, 10.0),
    "wue": (0.0, 100.0),
    "embodied_g_per_h": (0.0, 1e6),
    "embodied_lifetime_years": (1e-6, 50.0),
    "embodied_utilisation": (1e-6, 1.0),
    "cpu_tdp_w": (1e-6, 5000.0),
    "ram_w_per_gib": (0.0, 10.0),
    "intensity_g_per_kwh": (0.0, 5000.0),
    "market_g_per_kwh": (0.0, 5000.0),
    "checkpoint_s": (0.1, 3600.0),
}
NAMES = st.sampled_from(list(READERS))
TOML_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def test_every_number_is_tried() -> None:
    """A new setting that is a number has its limits above."""
    numbers = {name for name, read in READERS.items() if "_number" in read.__qualname__}
    assert set(NUMBERS) == numbers


@given(NAMES, TOML_VALUES)
def test_any_value_is_understood_or_refused(name: str, anything: object) -> None:
    """No other exception than the one that says why."""
    reason = "understood"
    try:
        READERS[name](anything)
    except ValueError as refusal:
        reason = str(refusal)

    assert reason


@given(st.sampled_from(sorted(NUMBERS)), st.floats(allow_nan=True))
def test_a_number_within_its_limits_is_itself_and_all_others_are_refused(
    name: str, number: float
) -> None:
    """As a number and as its text alike, without a rounding in between."""
    low, high = NUMBERS[name]
    for written in (number, repr(number)):
        if low <= number <= high:
            assert READERS[name](written) == number
        elif math.isnan(number) or number > high or number < min(low, 0.0):
            with pytest.raises(ValueError, match="is not a"):
                READERS[name](written)


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_characters="\0"), max_size=30)))
def test_any_environment_loads_or_is_refused_without_its_secrets(texts: dict[str, str]) -> None:
    """A token never reaches an error, however it is misspelt."""
    marked = {
        name: f"{text}hush{text}" if name in SECRETS else text for name, text in texts.items()
    }
    environ = {f"CARBONTRACK_{name.upper()}": text for name, text in marked.items()}
    try:
        settings = load_settings(
            {},
            Environment.take(environ=environ, working_folder="/"),
            user_config=Path("/no/file"),
            writes=False,
        )
        said = repr(settings)
    except ConfigError as refusal:
        said = str(refusal)

    assert said
    assert "hush" not in said
