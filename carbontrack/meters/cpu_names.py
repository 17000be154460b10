"""From what a processor calls itself to the row of a table that describes it, or to none.

Names are brought to one spelling and then compared whole. There is no similarity score: a person
would rather read "unknown" than find a Xeon E5-2620 billed as an E5-2620 v4.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parent.parent / "data" / "cpu_tdp.csv"

_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™©]")
_TAILS = (
    re.compile(r"@.*$"),  # "@ 2.30GHz"
    re.compile(r"\b(?:with|w/) radeon.*$"),  # "Ryzen 7 5800H with Radeon Graphics"
    re.compile(r"\bapu\b.*$"),
    re.compile(r",? radeon r\d.*$"),  # "A10-7850K Radeon R7, 12 Compute Cores 4C+8G"
    re.compile(r"\b\d+-cores?\b.*$"),  # "EPYC 7763 64-Core Processor"
)
_CORES = r"(?:single|dual|triple|quad|quad|six|eight|twelve|sixteen)"
_NOISE = (
    re.compile(r"\b\d+(?:th|st|nd|rd) gen\b"),  # "11th Gen Intel Core i7-1165G7"
    re.compile(rf"\b{_CORES}[- ]core\b"),
    re.compile(r"\b(?:intel|amd|genuine|cpu|processor|processors)\b"),
    re.compile(r"(?<=\d) 0$"),  # "Xeon CPU E5-2620 0": the first version, v1 unwritten
)
_SPLIT_NUMBER = re.compile(r"^(core i[3579]) (?=[\dn])")  # "Core i7 CPU 920"


class CpuPart(NamedTuple):
    """A processor as sold.

    Attributes:
        name: its spelling in the table.
        tdp_w: thermal design power of one package, with the lowest and highest that lists give.
        threads: hardware threads of one package, where known.
    """

    name: str
    tdp_w: float
    tdp_low_w: float
    tdp_high_w: float
    threads: int | None
    year: int | None
    confidence: str
    source: str


def plain_name(model_name: str) -> str:
    """One spelling: "Intel(R) Xeon(R) CPU E5-2620 0 @ 2.00GHz" becomes "xeon e5-2620"."""
    name = _MARKS.sub(" ", model_name.lower())
    for tail in _TAILS:
        name = tail.sub(" ", name)
    for noise in _NOISE:
        name = " ".join(noise.sub(" ", name).split())
    name = name.replace(" -", "-") if name.startswith("fx -") else name  # "FX(tm)-8350"
    return _SPLIT_NUMBER.sub(r"\1-", name)


def spellings(model_name: str) -> tuple[str, ...]:
    """The ways in which lists may write this very part, the likeliest first."""
    name = plain_name(model_name)
    if not any(digit in name for digit in "0123456789"):
        return ()  # a family, not a part: "epyc", "xeon platinum"
    if name.startswith("ryzen threadripper"):
        return name, name.removeprefix("ryzen ")
    return (name,)


@lru_cache(maxsize=8)
def find_part(model_name: str, table: Path = TABLE) -> CpuPart | None:
    """The part of exactly this name; None where the table has none.

    The text is searched for the name instead of being parsed: half a millisecond instead of ten.
    """
    keys = spellings(model_name)
    if not keys:
        return None
    text = table.read_bytes()
    for key in keys:
        begin = text.find(f"\n{key},".encode())
        if begin >= 0:
            end = text.find(b"\n", begin + 1)
            return _part(text[begin + 1 : end if end >= 0 else None].decode().split(","))
    return None


def _part(cells: list[str]) -> CpuPart:
    name, tdp_w, low_w, high_w, threads, year, confidence, source = cells
    return CpuPart(
        name=name,
        tdp_w=float(tdp_w),
        tdp_low_w=float(low_w or tdp_w),
        tdp_high_w=float(high_w or tdp_w),
        threads=int(threads) if threads else None,
        year=int(year) if year else None,
        confidence=confidence,
        source=source,
    )
