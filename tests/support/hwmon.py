"""Trees of hwmon chips laid out as the kernel's drivers lay them out, for boards we do not have.

Each chip is a folder below the device that it belongs to, and a link to it is in `class/hwmon`. The
numbers of chips follow the order in which drivers were loaded, and mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def chip(sysfs: Path, number: int, name: str, device: str, files: Mapping[str, object]) -> Path:
    """A chip of a device, such as "i2c-1/1-0040"; a file's name may begin with "device/"."""
    owner = sysfs / "devices" / "platform" / device
    folder = owner / "hwmon" / f"hwmon{number}"
    folder.mkdir(parents=True)
    links = sysfs / "class" / "hwmon"
    links.mkdir(parents=True, exist_ok=True)
    (folder / "device").symlink_to(os.path.relpath(owner, folder))
    (links / f"hwmon{number}").symlink_to(os.path.relpath(folder, links))
    for file, value in {"name": name, **files}.items():
        (folder / file).write_text(f"{value}\n")
    return folder


def ina3221(
    sysfs: Path, number: int, address: str, rails: Mapping[int, tuple[str, int, int]]
) -> Path:
    """An INA3221: for each channel its label, millivolts and milliamperes.

    With what the driver shows besides: voltages of shunts in microvolts, and their sum.
    """
    files: dict[str, object] = {"in7_label": "sum of shunt voltages", "in7_input": 9_000}
    files["curr4_input"] = sum(milliamperes for _, _, milliamperes in rails.values())
    for channel, (label, millivolts, milliamperes) in rails.items():
        files |= {
            f"in{channel}_label": label,
            f"in{channel}_enable": 1,
            f"in{channel}_input": millivolts,
            f"curr{channel}_input": milliamperes,
            f"in{channel + 3}_input": milliamperes * 2,
            f"shunt{channel}_resistor": 2000,
        }
    return chip(sysfs, number, "ina3221", f"c240000.i2c/i2c-1/{address}", files)


ORIN = (
    ("1-0040", {1: ("VDD_GPU_SOC", 19_000, 500), 2: ("VDD_CPU_CV", 19_000, 300),
                3: ("VIN_SYS_5V0", 5_000, 900)}),
    ("1-0041", {1: ("NC", 0, 0), 2: ("VDDQ_VDD2_1V8AO", 5_000, 200), 3: ("NC", 0, 0)}),
)  # fmt: skip
XAVIER = (
    ("1-0040", {1: ("GPU", 19_000, 100), 2: ("CPU", 19_000, 200), 3: ("SOC", 19_000, 300)}),
    ("1-0041", {1: ("CV", 19_000, 50), 2: ("VDDRQ", 19_000, 60), 3: ("SYS5V", 5_000, 500)}),
)
THOR = (
    ("2-0040", {1: ("VDD_GPU", 12_000, -30), 2: ("VDD_CPU_SOC_MSS", 12_000, 600),
                3: ("VIN_SYS_5V0", 5_000, 1300)}),
)  # fmt: skip
ORIN_NX = (
    ("1-0040", {1: ("VDD_IN", 5_000, 1400), 2: ("VDD_CPU_GPU_CV", 5_000, 500),
                3: ("VDD_SOC", 5_000, 300)}),
)  # fmt: skip


def jetson(sysfs: Path, board: tuple, *, first: int = 3, backwards: bool = False) -> list[Path]:
    """The chips of a Jetson; `backwards` gives the last of them the first number."""
    chips = list(reversed(board)) if backwards else list(board)
    return [ina3221(sysfs, first + n, *chip) for n, chip in enumerate(chips)]
