"""Runs the pages of the documentation as a reader would, in an empty directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path

from tests.support.doc_blocks import Step

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DRIVER = Path(__file__).with_name("doc_driver.py")


def name_of(page: Path) -> str:
    """The page as people call it."""
    return page.relative_to(ROOT).as_posix()


def readers_environment(scratch: Path) -> dict[str, str]:
    """A home without settings, and a shell that finds this very Python and this very package."""
    (scratch / "bin").mkdir()
    (scratch / "home").mkdir()
    # where carbontrack is run from its folder, uninstalled, pytest has to be told of the plugin
    ours = "carbontrack.integrations.pytest_plugin"
    known = any(point.value == ours for point in entry_points(group="pytest11"))
    plugin = "" if known else f"-p {ours}"
    modules = {"python": "", "carbontrack": "-m carbontrack", "pytest": f"-m pytest {plugin}"}
    for name, module in modules.items():
        program = scratch / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        program.chmod(0o755)
    return {
        "PATH": f"{scratch}/bin{os.pathsep}{os.environ['PATH']}",
        "HOME": f"{scratch}/home",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
    }


def run_steps(steps: list[Step], scratch: Path) -> list[dict[str, str | None]]:
    """Do the steps of a page in a directory of their own, up to the first that fails.

    Returns what each has `printed`, and its `failure`, which is None where it has succeeded.
    """
    folder = scratch / "work"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(DRIVER)],
        input=json.dumps([asdict(step) for step in steps]),
        cwd=folder,
        env=readers_environment(scratch),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, str | None]] = json.loads(done.stdout)
    return results
