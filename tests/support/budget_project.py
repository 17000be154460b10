"""A project with budgets on its tests, made on the fly and run by a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
_ENTRY_POINTS = "[pytest11]\ncarbontrack = carbontrack.integrations.pytest_plugin\n"
_CONFTEST = """
from tests.support.fake_energy import FakeMetric
def pytest_carbon_metric(config):
    return FakeMetric(width={width}, resolution_joules={resolution})
"""


class Project:
    """Test files and runs of them; energy is what `burn` in them says it is."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        # the plugin is found as an installed distribution's entry point is
        info = self.path / "site" / "carbontrack_entry-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: carbontrack-entry\nVersion: 0\n"
        )
        (info / "entry_points.txt").write_text(_ENTRY_POINTS)
        pytester.syspathinsert(str(info.parent))
        self.metric()

    def metric(self, *, width: float = 0.0, resolution: float = 0.0) -> None:
        """How well the metric knows."""
        (self.path / "conftest.py").write_text(_CONFTEST.format(width=width, resolution=resolution))

    def real_metric(self) -> None:
        """Measure in earnest."""
        (self.path / "conftest.py").unlink()

    def file(self, text: str, name: str = "test_it.py") -> None:
        """A test file that knows `burn` and `pytest`."""
        head = "import pytest\nfrom tests.support.fake_energy import burn\n"
        (self.path / name).write_text(head + text)

    def ini(self, **lines: str) -> None:
        """The project's pytest.ini."""
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        (self.path / "pytest.ini").write_text(f"[pytest]\n{text}")

    def run(self, *args: str, asyncio: bool = False) -> pytest.RunResult:
        """Run in this process: fast."""
        # in a project that has not chosen a loop scope it warns, and warnings are errors here
        without = () if asyncio else ("-p", "no:asyncio")
        return self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *without, *args)

    def run_apart(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run in a process of its own, with variables of its own."""
        path = os.pathsep.join([str(self.path / "site"), str(ROOT), *filter(None, sys.path)])
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:asyncio", *args],
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100", **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    def properties(self, xml: str = "junit.xml") -> dict[str, dict[str, str]]:
        """junit's properties by the test's name."""
        cases = ElementTree.parse(self.path / xml).iter("testcase")
        return {
            case.attrib["name"]: {
                found.attrib["name"]: found.attrib["value"] for found in case.iter("property")
            }
            for case in cases
        }
