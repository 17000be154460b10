"""Where a framework is missing, the error says what to install."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import carbontrack

ROOT = Path(__file__).parents[3]
PROGRAM = """
import importlib, json, sys
from importlib.machinery import PathFinder

there = {"carbontrack", "psutil", "cpuinfo", "pynvml", "requests", "platformdirs", "tomli"}

class Installed:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*sys.stdlib_module_names, *there}:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [one for one in sys.meta_path if "frozen" in str(one) and one is not PathFinder]
sys.meta_path.append(Installed())
said = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(f"carbontrack.integrations.{name}")
    except ImportError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def test_the_error_names_the_extra() -> None:
    """Each file needs no framework, or names an extra of ours; IPython itself imports its own."""
    folder = Path(carbontrack.__file__).parent / "integrations"
    names = [path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "ipython")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said = json.loads(done.stdout)
    assert {"mlflow", "wandb", "tensorboard"} <= said.keys()
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for name, text in said.items():
        (extra,) = re.findall(r'pip install "carbontrack\[(\w+)\]"', text)
        assert extra in extras, name
