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
_STAT_SIZE = 65536
_LAST_CPU = 65535
"""Linux has at most 8,192 processors; larger numbers are garbage, and would take memory."""
CPUS = "devices/system/cpu"
AWS = "Amazon EC2"
"""The vendor that the firmware of AWS's machines names (Nitro)."""


class CpuFacts(NamedTuple):
    """A processor as the system describes it; empty text and None are unknown.

    Attributes:
        name: its "model name".
        vendor, family, model, stepping: from CPUID; on ARM "ARM", the implementer's and
            the part's hexadecimal code, and the revision.
        threads: hardware threads that this system may use, of all packages.
        siblings: hardware threads of one package that are online.
        is_guest: this is a virtual machine, so the part may have more threads than are visible.
        cores: cores of one package.
        packages: of real hardware, how many packages `threads` are: 2.0, or 0.0625 in a container
            that is shown 4 threads of 64. None in a guest, and where it is unknown.
        maker: of a guest or an ARM machine, the vendor by its firmware (DMI): "Amazon EC2".
        machine_type: of a machine of AWS, its type: "c5n.xlarge".
    """

    name: str = ""
    vendor: str = ""
    family: str = ""
    model: str = ""
    stepping: str = ""
    threads: int = 1
    siblings: int | None = None
    is_guest: bool = False
    cores: int | None = None
    packages: float | None = None
    maker: str = ""
    machine_type: str = ""


def read_cpu_facts(
    procfs: Path = Path("/proc"), sysfs: Path = Path("/sys"), cache: Path | None = None
) -> CpuFacts:
    """The processor of this machine; `cache` is a folder for a name that took long to find out."""
    # the first processor's block is enough, and on a large machine a hundredth of the file
    block = (read_text(procfs / "cpuinfo", 8192) or "").split("\n\n")[0]
    fields = dict(_LINE.findall(block))
    is_arm = "CPU implementer" in fields
    is_guest = "hypervisor" in fields.get("flags", "").split()
    threads, siblings, packages = _threads(procfs, sysfs), _whole(fields.get("siblings")), None
    if siblings is not None and not is_guest:
        threads, packages = _of_hardware(procfs, sysfs, threads, siblings)
    maker, machine_type = _machine(sysfs) if is_guest or is_arm else ("", "")
    facts = CpuFacts(
        name=_name(fields),
        vendor="ARM" if is_arm else fields.get("vendor_id", ""),
        family=fields.get("CPU implementer" if is_arm else "cpu family", ""),
        model=fields.get("CPU part" if is_arm else "model", ""),
        stepping=fields.get("CPU revision" if is_arm else "stepping", ""),
        threads=threads,
        siblings=siblings,
        is_guest=is_guest,
        cores=_whole(fields.get("cpu cores")),
        packages=packages,
        maker=maker,
        machine_type=machine_type,
    )
    if facts.name or facts.model:
        return facts
    return CpuFacts(name=_slow_name(procfs, cache), threads=threads)


def _name(fields: dict[str, str]) -> str:
    name = fields.get("model name", "").strip()
    # old ARM kernels write the architecture here: "ARMv7 Processor rev 4 (v7l)"
    return "" if name.lower() in _BLANK_NAMES or name.startswith("ARMv") else name


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and int(text) else None


def _machine(sysfs: Path) -> tuple[str, str]:
    """Who made this machine, by its firmware, and which type of AWS it is (systemd#20628)."""
    dmi = sysfs / "class" / "dmi" / "id"
    maker = read_text(dmi / "sys_vendor", 64) or ""
    return maker, (read_text(dmi / "product_name", 64) or "") if maker == AWS else ""


def _threads(procfs: Path, sysfs: Path) -> int:
    online = read_text(sysfs / CPUS / "online")
    found = 0
    with suppress(ValueError):
        found = sum(_count(piece) for piece in online.split(",")) if online else 0
    return found if found > 0 else _in_stat(procfs) or os.cpu_count() or 1


def _in_stat(procfs: Path) -> int | None:
    """The processors online as /proc/stat has them; None where it has none, or is too long."""
    text = read_text(procfs / "stat", _STAT_SIZE) or ""
    found = text.count("\ncpu")  # the first line is the sum over all: "cpu  1 2 3"
    return found if found and len(text) < _STAT_SIZE - 1 else None


def _count(piece: str) -> int:
    first, _, last = piece.partition("-")
    return int(last or first) - int(first) + 1


def _numbers(text: str | None) -> set[int]:
    """The numbers of a list as the kernel writes it: "0-3,8"; empty where it cannot be read."""
    found: set[int] = set()
    with suppress(ValueError):
        for piece in (text or "").split(","):
            first, _, last = piece.partition("-")
            found.update(range(int(first), min(int(last or first), _LAST_CPU) + 1))
    return found


def _of_hardware(procfs: Path, sysfs: Path, threads: int, siblings: int) -> tuple[int, float]:
    """The threads that may be used of real hardware, and how many packages these are.

    A system container (LXC) is shown fewer by lxcfs: in /proc/stat, and with newer ones in the list
    of processors online too. What is present, neither online nor offline, is then hidden.
    """
    cpus = sysfs / CPUS
    online, present = read_text(cpus / "online"), read_text(cpus / "present")
    hidden: set[int] = set()
    shown, host_threads = _in_stat(procfs), threads
    if shown is not None and shown < threads:
        threads = shown
    elif online and online == present:
        # siblings are online, so there are at least as many, even if no list shows them
        host_threads = max(threads, siblings)
    elif online and present:
        hidden = _hidden(cpus, online, present)
        host_threads += len(hidden)
    packages = 1
    if host_threads > siblings:
        packages = _packages(cpus, _numbers(online) | hidden) or round(host_threads / siblings)
    return threads, max(1, packages) * threads / host_threads


def _hidden(cpus: Path, online: str, present: str) -> set[int]:
    """The processors that are present, but neither online nor offline."""
    offline = read_text(cpus / "offline")
    return set() if offline is None else _numbers(present) - _numbers(online) - _numbers(offline)


def _packages(cpus: Path, left: set[int]) -> int | None:
    """How many packages these processors are in; None where one's package is not told.

    One processor of each package is asked for the others in it, where the kernel tells them: a
    large machine has 512 of them.
    """
    ids: set[str] = set()
    while left:
        cpu = min(left)
        topology = cpus / f"cpu{cpu}" / "topology"
        package = read_text(topology / "physical_package_id", 32)
        if not package or package.startswith("-"):  # -1 is unknown
            return None
        ids.add(package)
        left -= {cpu} | _numbers(read_text(topology / "core_siblings_list"))
    return len(ids) or None


def _slow_name(procfs: Path, cache: Path | None) -> str:
    """From py-cpuinfo, which starts other programs and takes about a second: cached per boot."""
    from carbontrack.system.host import host_id  # few need it

    # without a boot id, as in a procfs of processes only, a name is kept for this machine
    return cached_name(cache, boot_id(procfs) or host_id(), _ask_cpuinfo)


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
    if name.startswith("ryzen ") and " pro " in name:
        return name, name.replace(" pro ", " ")  # the same design, managed
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
