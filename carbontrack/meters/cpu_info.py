"""Which processor this is, and the row of the shipped table that describes it.

The processor is read from procfs, or from sysfs where procfs shows processes only (mounted with
subset=pid), and from py-cpuinfo only if neither has a name or a model. How many threads
there are is the kernel's answer alone: the count that Python is given (PYTHON_CPU_COUNT, -X
cpu_count) and the threads that this process may use are not those of the machine. The name is
normalised and then compared as a whole. There is no similarity score: "unknown" is better than
mistaking a Xeon E5-2620 for an E5-2620 v4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from carbontrack.meters.meter import read_text
from carbontrack.system.files import package_bytes, replace_privately
from carbontrack.system.host import boot_id, online_threads
from carbontrack.system.interrupts import pass_on, suppressed
from carbontrack.values import NamedTuple

_BLANK_NAMES = frozenset({"", "unknown", "not specified"})
_STAT_SIZE = 65536
_LAST_CPU = 65535
"""Linux has at most 8,192 processors; larger numbers are garbage, and would take memory."""
CPUS = "devices/system/cpu"
AWS = "Amazon EC2"
"""The vendor that the firmware of AWS's machines names (Nitro)."""
_MODALIAS = r"cpu:type:x86,ven(.{4})fam(.{4})mod(.{4}):feature:(.*)"
_X86_VENDORS = {"0000": "GenuineIntel", "0002": "AuthenticAMD", "0009": "HygonGenuine"}
_HYPERVISOR = ",009F"
"""X86_FEATURE_HYPERVISOR, bit 31 of word 4, as modalias spells it (asm/cpufeatures.h)."""


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
        machine_threads: hardware threads of the machine, where the system's files show a container
            its own part of it only, so that `threads` and busy times are not the machine's; None
            where they show the machine.
        board: of an ARM machine, what its device tree says that it is compatible with:
            "raspberrypi,5-model-b brcm,bcm2712".
        kinds: of an ARM processor with cores of several kinds, the part's code of each and how many
            there are, as far as cpuinfo was read.
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
    machine_threads: int | None = None
    board: str = ""
    kinds: tuple[tuple[str, int], ...] = ()


def read_cpu_facts(
    procfs: Path = Path("/proc"), sysfs: Path = Path("/sys"), cache: Path | None = None
) -> CpuFacts:
    """The processor of this machine; `cache` is a folder for a name that took long to find out."""
    # the first processor's block is enough, and on a large machine a hundredth of the file
    text = read_text(procfs / "cpuinfo", 8192) or ""
    fields = dict(_facts_of(text.split("\n\n")[0])) or _fields_of_sysfs(sysfs)
    is_arm = "CPU implementer" in fields
    is_guest = "hypervisor" in fields.get("flags", "").split()
    siblings, cores = _whole(fields.get("siblings")), _whole(fields.get("cpu cores"))
    is_covered = _is_covered(procfs)
    trusts_stat = is_covered or (siblings is not None and not is_guest)
    threads, machine_threads, left = _threads(procfs, sysfs, siblings, trusts_stat=trusts_stat)
    packages = None
    if siblings is not None and not is_guest:
        part = partial(find_part, _name(fields))
        whole = _package_count(sysfs / CPUS, left, machine_threads, siblings, cores, part)
        packages = max(1.0, whole) * threads / machine_threads
    is_hidden = threads < machine_threads or is_covered
    maker, machine_type = _machine(sysfs) if is_guest or is_arm else ("", "")
    name, board = _board(sysfs, text) if is_arm else ("", "")
    facts = CpuFacts(
        name=_name(fields) or name,
        vendor="ARM" if is_arm else fields.get("vendor_id", ""),
        family=fields.get("CPU implementer" if is_arm else "cpu family", ""),
        model=fields.get("CPU part" if is_arm else "model", ""),
        stepping=fields.get("CPU revision" if is_arm else "stepping", ""),
        threads=threads,
        siblings=siblings,
        is_guest=is_guest,
        cores=cores,
        packages=packages,
        maker=maker,
        machine_type=machine_type,
        machine_threads=machine_threads if is_hidden else None,
        board=board,
        kinds=_kinds(text) if is_arm else (),
    )
    if facts.name or facts.model:
        return facts
    return facts._replace(name=_slow_name(procfs, cache))


def _facts_of(cpuinfo: str) -> Iterator[tuple[str, str]]:
    """The names and values of cpuinfo's lines."""
    for line in cpuinfo.split("\n"):
        name, colon, value = line.partition(":")
        if colon and name.strip():
            yield name.rstrip(), value.lstrip(" \t")


def _fields_of_sysfs(sysfs: Path) -> dict[str, str]:
    """What sysfs says of the first processor, by the names that cpuinfo has for it.

    Of x86 the module alias has vendor, family, model and features; of ARM the register MIDR has
    what identifies it (Documentation/ABI/testing/sysfs-devices-system-cpu).
    """
    cpus = sysfs / CPUS
    found = re.match(_MODALIAS, read_text(cpus / "modalias") or "")
    if found is not None:
        vendor, family, model, features = found.groups()
        fields = {"vendor_id": _X86_VENDORS.get(vendor, ""), "cpu family": str(int(family, 16))}
        fields |= {"model": str(int(model, 16)), "flags": ""}
        if _HYPERVISOR in features:
            fields["flags"] = "hypervisor"
        first = f"cpu{min(_numbers(read_text(cpus / 'online')), default=0)}"
        together = _numbers(read_text(cpus / first / "topology" / "core_siblings_list"))
        threads = _numbers(read_text(cpus / first / "topology" / "thread_siblings_list"))
        if together and threads:
            fields["siblings"] = str(len(together))
            fields["cpu cores"] = str(len(together) // len(threads))
        return fields
    register = read_text(cpus / "cpu0" / "regs" / "identification" / "midr_el1", 32) or ""
    try:
        midr = int(register, 16)
    except ValueError:
        return {}
    return {
        "CPU implementer": f"0x{midr >> 24 & 0xFF:02x}",
        "CPU part": f"0x{midr >> 4 & 0xFFF:03x}",
        "CPU revision": str(midr & 0xF),
    }


def _kinds(cpuinfo: str) -> tuple[tuple[str, int], ...]:
    parts = [text for field, text in _facts_of(cpuinfo) if field == "CPU part"]
    counts = {part: parts.count(part) for part in parts}
    return tuple(counts.items()) if len(counts) > 1 else ()


def _board(sysfs: Path, cpuinfo: str) -> tuple[str, str]:
    """The name of an ARM board, and the chips on it, by its device tree or by cpuinfo.

    A container is often shown no firmware; Raspberry Pis have their name in cpuinfo as well.
    """
    tree = sysfs / "firmware" / "devicetree" / "base"
    chips = (read_text(tree / "compatible") or "").replace("\0", " ").strip()
    name = (read_text(tree / "model", 256) or "").strip("\0 ")
    if not name:
        name = next((text for field, text in _facts_of(cpuinfo) if field == "Model"), "")
    return "" if name.startswith("linux,") else name, chips  # "linux,dummy-virt" is QEMU's


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


def _threads(
    procfs: Path, sysfs: Path, siblings: int | None, *, trusts_stat: bool
) -> tuple[int, int, Callable[[], set[int]]]:
    """Hardware threads that may be used, those of the machine, and which these are, if asked.

    A system container (LXC) is shown fewer by lxcfs: in /proc/stat, and with newer ones in the list
    of processors online too. What is present, neither online nor offline, is then hidden, and so is
    what the first package has online more than the list shows. Slots for processors that may be
    plugged in later are `possible` and not `present`, and processors that were switched off are
    `offline`: both are no threads of the machine now.
    """
    cpus = sysfs / CPUS
    online = read_text(cpus / "online")
    threads = _count(online)
    shown = _in_stat(procfs) if trusts_stat or not threads else None
    threads = threads or shown or online_threads()
    if shown is not None and shown < threads:
        return shown, max(threads, siblings or 0), lambda: _numbers(online)
    present = read_text(cpus / "present")
    hidden, offline = set[int](), set[int]()
    if present != online or (siblings or 0) > threads:
        offline_list = read_text(cpus / "offline")
        offline = _numbers(offline_list)
        if present:
            offline &= _numbers(present)
        if offline_list is not None and online:
            hidden = _numbers(present) - _numbers(online) - offline
    machine_threads = threads + len(hidden)
    # siblings are online, so there are at least as many, even if no list shows them
    if siblings is not None and siblings > machine_threads + len(offline):
        machine_threads = siblings
    return threads, machine_threads, lambda: _numbers(online) | hidden


def _is_covered(procfs: Path) -> bool:
    """Whether another file is mounted over /proc/stat, as lxcfs does: its counts are another's."""
    try:
        return (procfs / "stat").lstat().st_dev != procfs.stat().st_dev
    except OSError as error:
        pass_on(error)
        return False


def _in_stat(procfs: Path) -> int | None:
    """The processors online as /proc/stat has them; None where it has none, or is too long."""
    text = read_text(procfs / "stat", _STAT_SIZE) or ""
    found = text.count("\ncpu")  # the first line is the sum over all: "cpu  1 2 3"
    return found if found and len(text) < _STAT_SIZE - 1 else None


def _count(text: str | None) -> int:
    """How many numbers a list of the kernel has; 0 where it cannot be read."""
    found = 0
    with suppressed(ValueError):
        for piece in (text or "").split(","):
            first, _, last = piece.partition("-")
            found += int(last or first) - int(first) + 1
        return max(0, found)
    return 0


def _numbers(text: str | None) -> set[int]:
    """The numbers of a list as the kernel writes it: "0-3,8"; empty where it cannot be read."""
    found: set[int] = set()
    with suppressed(ValueError):
        for piece in (text or "").split(","):
            first, _, last = piece.partition("-")
            found.update(range(int(first), min(int(last or first), _LAST_CPU) + 1))
    return found


def _package_count(
    cpus: Path,
    left: Callable[[], set[int]],
    threads: int,
    siblings: int,
    cores: int | None,
    part: Callable[[], CpuPart | None],
) -> int:
    """How many packages the threads of a machine are."""
    if threads <= siblings:
        return 1
    told = _packages(cpus, left())
    if told is not None:
        return told
    found = part()
    return packages_by_siblings(threads, siblings, cores, found.threads if found else None)


def packages_by_siblings(
    threads: int, siblings: int, cores: int | None, part_threads: int | None
) -> int:
    """The least packages that have these threads, of which `siblings` are in the first one.

    The others may have more of theirs online than the first: as many as the part has, or half of
    them where each core shows one thread.
    """
    most = max(siblings, part_threads or siblings)
    if part_threads and cores == siblings:
        most = max(siblings, part_threads // 2)
    return 1 + max(0, -((siblings - threads) // most))


def sockets_online(sysfs: Path) -> int | None:
    """How many packages the processors that are online are in; None where that is not told."""
    cpus = sysfs / CPUS
    return _packages(cpus, _numbers(read_text(cpus / "online")))


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
        with suppressed(ValueError, TypeError, AttributeError):
            kept = json.loads(read_text(path) or "null")
            if kept["boot_id"] == boot:
                return str(kept["name"])
    name = ask()
    if path is not None and name:
        with suppressed(OSError):
            replace_privately(path, json.dumps({"boot_id": boot, "name": name}))
    return name


def _ask_cpuinfo() -> str:
    with suppressed(Exception):
        import cpuinfo

        return str(cpuinfo.get_cpu_info().get("brand_raw") or "")
    return ""


# -- the table of processors -------------------------------------------------------------------

TABLE = "data/cpu_tdp.csv"

_MARKS = ("(r)", "(tm)", "(c)", "®", "™", "©")
_TAILS = (
    ("@", r"@.*$"),  # "@ 2.30GHz"
    ("radeon", r"\b(?:with|w/) radeon.*$"),  # "Ryzen 7 5800H with Radeon Graphics"
    ("apu", r"\bapu\b.*$"),
    ("radeon", r",? radeon r\d.*$"),  # "A10-7850K Radeon R7, 12 Compute Cores 4C+8G"
    ("-core", r"\b\d+-cores?\b.*$"),  # "EPYC 7763 64-Core Processor"
)
"""What follows the name, each behind the text without which it need not be looked for: a pattern
takes longer to compile than to match."""
_COUNTS = ("single", "dual", "triple", "quad", "six", "eight", "twelve", "sixteen")
_NO_PART = {"intel", "amd", "genuine", "cpu", "processor", "processors"}


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
    name = model_name.lower()
    for mark in _MARKS:
        name = name.replace(mark, " ")
    for sign, tail in _TAILS:
        if sign in name:
            name = re.sub(tail, " ", name)
    if " gen" in name:  # "11th Gen Intel Core i7-1165G7"
        name = re.sub(r"\b\d+(?:th|st|nd|rd) gen\b", " ", name)
    if any(count in name for count in _COUNTS):
        name = re.sub(rf"\b(?:{'|'.join(_COUNTS)})[- ]core\b", " ", name)
    words = [word for word in name.split() if word not in _NO_PART]
    if len(words) > 1 and words[-1] == "0" and words[-2][-1].isdigit():
        words.pop()  # "Xeon CPU E5-2620 0": the first version, v1 unwritten
    name = " ".join(words)
    name = name.replace(" -", "-") if name.startswith("fx -") else name  # "FX(tm)-8350"
    if name.startswith("core i"):  # "Core i7 CPU 920"
        name = re.sub(r"^(core i[3579]) (?=[\dn])", r"\1-", name)
    return name


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
