"""Which processor this is, and the row of the shipped table that describes it.

The processor is read from procfs, and asked of py-cpuinfo only where procfs has neither name nor
model. Its name is brought to one spelling and then compared as a whole. There is no similarity
score: "unknown" is better than a Xeon E5-2620 taken for an E5-2620 v4.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from carbontrack.meters.meter import read_text
from carbontrack.system.files import package_bytes, replace_privately
from carbontrack.system.host import boot_id
from carbontrack.system.interrupts import suppressed

_LINE = re.compile(r"^([^\t:]+?)\s*:[ \t]*(.*)$", re.MULTILINE)
_BLANK_NAMES = frozenset({"", "unknown", "not specified"})


class CpuFacts(NamedTuple):
    """A processor as the system describes it; empty text and None are unknown.

    Attributes:
        name: its "model name".
        vendor, family, model, stepping: from CPUID; on ARM "ARM", the implementer's and
            the part's hexadecimal code, and the revision.
        threads: hardware threads online, of all packages that this system sees.
        siblings: hardware threads of one package.
        is_guest: this is a virtual machine, so the part may have more threads than are visible.
    """

    name: str = ""
    vendor: str = ""
    family: str = ""
    model: str = ""
    stepping: str = ""
    threads: int = 1
    siblings: int | None = None
    is_guest: bool = False


def read_cpu_facts(
    procfs: Path = Path("/proc"), sysfs: Path = Path("/sys"), cache: Path | None = None
) -> CpuFacts:
    """The processor of this machine; `cache` is a folder for a name that took long to find out."""
    # the first processor's block is enough, and on a large machine a hundredth of the file
    block = (read_text(procfs / "cpuinfo", 8192) or "").split("\n\n")[0]
    fields = dict(_LINE.findall(block))
    siblings = fields.get("siblings", "")
    is_arm = "CPU implementer" in fields
    facts = CpuFacts(
        name=_name(fields),
        vendor="ARM" if is_arm else fields.get("vendor_id", ""),
        family=fields.get("CPU implementer" if is_arm else "cpu family", ""),
        model=fields.get("CPU part" if is_arm else "model", ""),
        stepping=fields.get("CPU revision" if is_arm else "stepping", ""),
        threads=_threads(procfs, sysfs),
        siblings=int(siblings) if siblings.isdigit() else None,
        is_guest="hypervisor" in fields.get("flags", "").split(),
    )
    if facts.name or facts.model:
        return facts
    return CpuFacts(name=_slow_name(procfs, cache), threads=facts.threads)


def _name(fields: dict[str, str]) -> str:
    name = fields.get("model name", "").strip()
    # old ARM kernels write the architecture here: "ARMv7 Processor rev 4 (v7l)"
    return "" if name.lower() in _BLANK_NAMES or name.startswith("ARMv") else name


def _threads(procfs: Path, sysfs: Path) -> int:
    online = read_text(sysfs / "devices" / "system" / "cpu" / "online", 512)
    with suppress(ValueError):
        if online:
            return sum(_count(piece) for piece in online.split(","))
    lines = (read_text(procfs / "stat", 65536) or "").splitlines()
    in_stat = sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines)
    return in_stat or os.cpu_count() or 1


def _count(piece: str) -> int:
    first, _, last = piece.partition("-")
    return int(last or first) - int(first) + 1


def _slow_name(procfs: Path, cache: Path | None) -> str:
    """From py-cpuinfo, which starts other programs and takes about a second: cached per boot."""
    return cached_name(cache, boot_id(procfs) or "", _ask_cpuinfo)


def cached_name(cache: Path | None, boot: str, ask: Callable[[], str]) -> str:
    """The result of `ask`, kept in `cache` until the next boot; a broken cache is no error."""
    path = cache / "cpu-name.json" if cache is not None else None
    if path is not None:
        with suppress(ValueError, TypeError, AttributeError):
            kept = json.loads(read_text(path) or "null")
            if kept["boot_id"] == boot:
                return str(kept["name"])
    name = ask()
    if path is not None and name:
        with suppress(OSError):
            replace_privately(path, json.dumps({"boot_id": boot, "name": name}))
    return name


def _ask_cpuinfo() -> str:
    with suppressed(Exception):
        import cpuinfo

        return str(cpuinfo.get_cpu_info().get("brand_raw") or "")
    return ""


# -- the table of processors -------------------------------------------------------------------

TABLE = "data/cpu_tdp.csv"

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
    """The spellings under which lists may have exactly this part, the likeliest first."""
    name = plain_name(model_name)
    if not any(digit in name for digit in "0123456789"):
        return ()  # a family, not a part: "epyc", "xeon platinum"
    if name.startswith("ryzen threadripper"):
        return name, name.removeprefix("ryzen ")
    return (name,)


def _table() -> bytes:
    return package_bytes(TABLE)


@lru_cache(maxsize=8)
def find_part(model_name: str, table: Callable[[], bytes] = _table) -> CpuPart | None:
    """The part with exactly this name; None where the table, once read, has none.

    The text is searched for the name and not parsed: half a millisecond instead of ten.
    """
    keys = spellings(model_name)
    if not keys:
        return None
    text = table()
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
