"""The table of `carbontrack report` on terminals of several widths, and into a pipe."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

import pty

ROOT = Path(__file__).parents[3]
ALL = ["runs", "energy", "interval", "CO2e", "interval", "measured", "time"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Long names, intervals with three digits at each end, and hours."""
    path = tmp_path / "runs.csv"
    records = [
        a_record(
            number,
            name=f"fine-tune {number}",
            energy_kwh=133.0,
            energy_low_kwh=128.0,
            energy_high_kwh=149.0,
            cpu_kwh=133.0,
            duration_s=214_440.0,
            emissions_g=25_200.0,
            emissions_low_g=20_500.0,
            emissions_high_g=31_800.0,
        )
        for number in range(3)
    ]
    path.write_bytes(HEADER + b"".join(record_line(one.to_row()) for one in records))
    return path


def printed(runs: Path, columns: int | None, *options: str) -> list[str]:
    """The lines that a terminal of so many columns gets, or a pipe."""
    command = [sys.executable, "-m", "carbontrack", "report", str(runs), *options]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    if columns is None:
        piped = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
        return piped.stdout.splitlines()
    controller, terminal = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        subprocess.run(command, env=environ, check=True, stdout=terminal)
        return os.read(controller, 65_536).decode().splitlines()
    finally:
        os.close(terminal)
        os.close(controller)


@pytest.mark.parametrize("columns", [70, 80, 120])
@pytest.mark.parametrize("by", ["name", "job"])
def test_no_line_is_wider_than_the_terminal(runs: Path, columns: int, by: str) -> None:
    """What does not fit is named; energy, emissions and their intervals always stay."""
    lines = printed(runs, columns, "--by", by)
    assert max(map(len, lines)) <= columns
    heads = lines[0].split()
    assert heads.count("interval") == 2
    assert {"energy", "CO2e"} < set(heads)
    note = " ".join(lines).partition("too narrow: ")[2].rstrip(".")
    assert {*heads[1:], *filter(None, note.split(", "))} >= set(ALL)


def test_a_wide_terminal_and_a_pipe_have_all_columns(runs: Path) -> None:
    """Nothing is left out where there is room, and what reads a pipe has no width."""
    for lines in (printed(runs, 120), printed(runs, None)):
        assert lines[0].split() == ["name", *ALL]
        assert not any("too narrow" in line for line in lines)
