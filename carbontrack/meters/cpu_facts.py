"""What processor this is: read from procfs, asked of py-cpuinfo only where that is silent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from carbontrack.meters.text_files import read_text
from carbontrack.private_files import replace_privately

_LINE = re.compile(r"^([^\t:]+?)\s*:[ \t]*(.*)$", re.MULTILINE)
_BLANK_NAMES = frozenset({"", "unknown", "not specified"})


class CpuFacts(NamedTuple):
    """A processor as it presents itself; empty text and None are unknown.

    Attributes:
        name: its "model name".
        vendor, family, model, stepping: as CPUID tells them; on ARM "ARM", the implementer's and
            the part's hexadecimal code, and the revision.
        threads: hardware threads online, of all packages that this system sees.
        siblings: hardware threads of one package.
        is_guest: this is a virtual machine, so the part is larger than what is seen of it.
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
    """py-cpuinfo starts other programs and takes about a second: once per boot where possible."""
    boot_id = read_text(procfs / "sys" / "kernel" / "random" / "boot_id", 64) or ""
    return cached_name(cache, boot_id, _ask_cpuinfo)


def cached_name(cache: Path | None, boot_id: str, ask: Callable[[], str]) -> str:
    """What `ask` answers, remembered in `cache` until the next boot; a broken cache is no error."""
    path = cache / "cpu-name.json" if cache is not None else None
    if path is not None:
        with suppress(ValueError, TypeError, AttributeError):
            kept = json.loads(read_text(path) or "null")
            if kept["boot_id"] == boot_id:
                return str(kept["name"])
    name = ask()
    if path is not None and name:
        with suppress(OSError):
            replace_privately(path, json.dumps({"boot_id": boot_id, "name": name}))
    return name


def _ask_cpuinfo() -> str:
    try:
        import cpuinfo

        return str(cpuinfo.get_cpu_info().get("brand_raw") or "")
    except Exception:
        return ""
