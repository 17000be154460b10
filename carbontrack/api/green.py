"""`wait_for_green`: wait until the carbon intensity of the grid is low."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from carbontrack.api.assembly import current_environment, find_region, make_grid
from carbontrack.config.environment import is_switched_off
from carbontrack.config.load import load_settings
from carbontrack.errors import ConfigError
from carbontrack.grid import advice
from carbontrack.grid.intensity import GridIntensity, IntensitySource
from carbontrack.system.clock import Clock


def wait_for_green(
    source: IntensitySource | None = None,
    *,
    max_wait_s: float,
    below: float,
    clock: Clock | None = None,
    tell: Callable[[GridIntensity, float], None] | None = None,
    **given: object,
) -> bool:
    """Wait until the intensity is below `below` g CO2e/kWh, for at most `max_wait_s` seconds.

    Without `source`, the live source of the settings is used (`region`, `intensity_source` and
    others may be given here, too). It is queried on this thread, once a minute at most. `tell` is
    called after each query with the intensity and the remaining seconds. Ctrl-C ends the wait like
    any other call. Returns True if the intensity fell below the limit. Under CARBONTRACK_DISABLE it
    returns False at once.

    Raises:
        ConfigError: neither a source nor a live service is given; a yearly table never changes.
    """
    if is_switched_off(given):
        return False
    if source is None:
        source = _source_from_settings(given)
    return advice.wait_for_green(
        source, max_wait_s=max_wait_s, below=below, poll_s=60.0, clock=clock, tell=tell
    )


def _source_from_settings(given: Mapping[str, object]) -> IntensitySource:
    environment = current_environment()
    settings = load_settings(given, environment, writes=False)
    if not settings.intensity_source or settings.intensity_g_per_kwh is not None:
        raise ConfigError(
            "only a live carbon intensity can become low: set intensity_source to a live service, "
            "or pass a source of your own; a yearly average never changes"
        )
    region = find_region(settings, environment)
    return make_grid(settings, environment, region, run=lambda job: job())
