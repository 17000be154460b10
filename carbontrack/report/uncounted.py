"""What a record's faults say of energy that no meter counted, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

UNMEASURED_GPU = "gpu_unmeasured"
_WORDS: Mapping[str, tuple[str, str]] = {
    UNMEASURED_GPU: ("GPU is not measured", "GPUs are not measured"),
    "zones_closed": (
        "closed counter is assumed to be like the others of its kind",
        "closed counters are assumed to be like the others of their kind",
    ),
    "source_failed": ("source of meters failed", "sources of meters failed"),
}
"""By code, for one and for several."""
CODES = tuple(_WORDS)
"""The codes that there are words for."""


def uncounted_text(faults: str | None) -> str | None:
    """What is not measured although it should be; None where there is nothing to say."""
    said = [
        f"{times} {_WORDS[code][times != 1]}" for code, times in _faults(faults) if code in _WORDS
    ]
    return "; ".join(said) or None


def uncounted_codes(faults: str | None) -> list[str]:
    """The codes among a record's faults that `uncounted_text` has words for."""
    return [code for code, _ in _faults(faults) if code in _WORDS]


def runs_text(code: str, runs: int) -> str:
    """A sentence on the runs that have a code."""
    _, many = _WORDS[code]
    return f"In {runs:,} run{'s' * (runs != 1)} {many}."


def _faults(faults: str | None) -> Iterator[tuple[str, int]]:
    for part in (faults or "").split(";"):
        code, _, times = part.partition(":")
        if times.isdigit():
            yield code, int(times)
