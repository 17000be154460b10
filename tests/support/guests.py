"""Processors of guests, containers and hosts as their system files show them.

`tests/data/guests.tsv` has a machine per row. Each is written out as the files that a kernel has,
so that the package reads it as it reads a real one.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parents[1] / "data" / "guests.tsv"

X86_BLOCK = """\
processor\t: {number}
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
stepping\t: {stepping}
physical id\t: 0
siblings\t: {siblings}
cpu cores\t: {cores}
flags\t\t: fpu vme {hypervisor} sse2
"""
ARM_BLOCK = """\
processor\t: {number}
BogoMIPS\t: 243.75
Features\t: fp asimd
CPU implementer\t: {family}
CPU architecture: 8
CPU part\t: {model}
CPU revision\t: {stepping}
"""


class Machine(NamedTuple):
    """A row of the table; empty cells are left out of the files.

    Attributes:
        threads: processors in cpuinfo and stat.
        online, present, offline: the kernel's lists of processors; `online` is made up if empty.
        packages: of how many packages `present` or `online` are.
        before_w: design power of its threads as the release before this table had it.
    """

    guest: str
    name: str = ""
    vendor: str = "GenuineIntel"
    family: str = "6"
    model: str = "85"
    stepping: str = "7"
    threads: int = 2
    siblings: str = "2"
    cores: str = "1"
    hypervisor: bool = True
    sys_vendor: str = ""
    product_name: str = ""
    online: str = ""
    present: str = ""
    offline: str = ""
    packages: int = 1
    before_w: str = ""

    def write(self, root: Path) -> tuple[Path, Path]:
        """Its procfs and sysfs under `root`."""
        proc, cpus = root / "proc", root / "sys" / "devices" / "system" / "cpu"
        proc.mkdir(parents=True)
        cpus.mkdir(parents=True)
        values = self._asdict() | {"hypervisor": "hypervisor" if self.hypervisor else "ht"}
        block = ARM_BLOCK if self.vendor == "ARM" else X86_BLOCK
        blocks = (block.format(number=number, **values) for number in range(self.threads))
        (proc / "cpuinfo").write_text("\n".join(blocks))
        counts = "".join(f"cpu{number} 1 2 3\n" for number in range(self.threads))
        (proc / "stat").write_text(f"cpu  1 2 3\n{counts}intr 5\nctxt 7\n")
        online = self.online or f"0-{self.threads - 1}"
        present = self.present or online
        for name, text in (("online", online), ("present", present), ("offline", self.offline)):
            (cpus / name).write_text(text + "\n")
        self._write_topology(cpus, present)
        if self.sys_vendor:
            dmi = root / "sys" / "class" / "dmi" / "id"
            dmi.mkdir(parents=True)
            (dmi / "sys_vendor").write_text(self.sys_vendor + "\n")
            (dmi / "product_name").write_text(self.product_name + "\n")
        return proc, root / "sys"

    def _write_topology(self, cpus: Path, present: str) -> None:
        last = int(present.rpartition("-")[2])
        size = (last + 1) // self.packages
        for number in range(last + 1):
            topology = cpus / f"cpu{number}" / "topology"
            topology.mkdir(parents=True)
            package = number // size
            (topology / "physical_package_id").write_text(f"{package}\n")
            first = package * size
            (topology / "core_siblings_list").write_text(f"{first}-{first + size - 1}\n")


def machines() -> list[Machine]:
    """The machines of the table."""
    with TABLE.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(
            (line for line in lines if not line.startswith("#")), delimiter="\t", strict=True
        )
        return [
            Machine(
                **row
                | {"threads": int(row["threads"]), "packages": int(row["packages"] or 1)}
                | {"hypervisor": row["hypervisor"] == "yes"}
            )
            for row in rows
        ]
