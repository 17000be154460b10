"""What an hour of this machine's making comes to: as given, or from the table of parts."""

from __future__ import annotations

from collections.abc import Mapping

from carbontrack.making import WHOLE
from carbontrack.meters.meter import Hardware
from carbontrack.settings import Settings


def making_g_per_h(settings: Settings, hardware: Hardware) -> Mapping[str, float] | None:
    """Grams of CO2e for each hour, by component or for the whole machine; None: unknown."""
    if settings.embodied_g_per_h is not None:
        return {WHOLE: settings.embodied_g_per_h}
    if hardware.cpu_sockets is None or hardware.ram_gib is None:
        return None  # before the table is read
    from carbontrack.calculator.embodied import rates_g_per_h

    return rates_g_per_h(
        hardware,
        lifetime_years=settings.embodied_lifetime_years,
        utilisation=settings.embodied_utilisation,
    )
