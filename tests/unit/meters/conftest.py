"""What tests of several meters share."""

from __future__ import annotations

import pytest


@pytest.fixture
def procfs(tmp_path):
    """A server's /proc: two threads of a part of 225 W with 64, and 8 GiB."""
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cpuinfo").write_text(
        "model name\t: AMD EPYC 7543 32-Core Processor\nmodel\t: 1\nsiblings\t: 2\n"
    )
    (folder / "meminfo").write_text("MemTotal: 8388608 kB\n")
    (folder / "stat").write_text("cpu 1\ncpu0 1\ncpu1 1\n")
    return folder
