"""Boards whose power cannot be read, by the chips in their device tree, and the alternative."""

from __future__ import annotations

from carbontrack.meters.meter import Refusal

_MODELLED = "processor and memory are modelled"
_UNREAD = {
    "bcm2711": ("pmic", f"a Raspberry Pi 4 has no power or energy sensor; {_MODELLED}"),
    "bcm2712": (
        "pmic",
        "a Raspberry Pi 5 reports the currents of its power chip only through its firmware "
        "(vcgencmd pmic_read_adc), without the current of its 5 V input, which also feeds USB; "
        f"{_MODELLED}",
    ),
}
"""Raspberry Pi documentation, "vcgencmd": pmic_read_adc. BCM2711 is also that of Pi 400 and Compute
Module 4, BCM2712 that of Pi 500 and Compute Module 5. Not tried on hardware."""


def board_refusals(board: str) -> tuple[Refusal, ...]:
    """Sensors of a board that are not read, from the chips that it is compatible with."""
    chips = {chip.partition(",")[2] for chip in board.split()}
    return tuple(Refusal(*told) for chip, told in _UNREAD.items() if chip in chips)
