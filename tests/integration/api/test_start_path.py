"""The way from a new process to the end of a block: what is not loaded, made or compiled on it."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.costs import run

NEVER = {"ast", "dataclasses", "dis", "inspect", "opcode"}
"""`dataclasses` compiles the methods of each class, and imports the others for it."""
NOT_FOR_A_BLOCK = {
    "argparse", "asyncio", "calendar", "csv", "ctypes", "email", "glob", "hashlib", "http",
    "importlib.metadata", "locale", "platform", "queue", "random", "select", "selectors", "shutil",
    "signal", "socket", "ssl", "subprocess", "tempfile", "urllib.request", "uuid", "zipfile",
}  # fmt: skip
"""What rare cases need: each takes from a hundredth of the start to a fifth."""

WAYS = {
    "an empty block": "with carbontrack.track('x'): pass",
    "a block with a child": "with carbontrack.track('x') as run:\n    with run.span('y'): pass",
    "a decorated call": "@carbontrack.track\ndef f(): pass\nf()",
    "a tracker by hand": """class Meter:
    id, component, basis, resolution_s, relative_uncertainty = "m", "other", "assumed", 0.0, 0.0
    def read_joules(self, now_s): return now_s
    def close(self): pass
with carbontrack.Tracker(meters=[Meter()]) as tracker, tracker.span("x"): pass
""",
    "a sink by hand": "carbontrack.CsvSink('runs.csv')",
}
LOADED = """
import json, re, sys
if sys.version_info >= (3, 11):
    import re._compiler as compiler
else:
    import sre_compile as compiler
before, asked, compiled = set(sys.modules), [], compiler.compile
def noting(*args):
    frame = sys._getframe(1)
    while frame.f_globals["__name__"].startswith("re"):
        frame = frame.f_back
    asked.append(frame.f_globals["__name__"])
    return compiled(*args)
compiler.compile = noting
import carbontrack
{way}
print(json.dumps({{"new": sorted(set(sys.modules) - before), "patterns": asked}}))
"""


@pytest.mark.parametrize("way", WAYS)
def test_nothing_generates_methods_on_the_way(tmp_path, way):
    """No dataclass is made, and none of the modules that one needs is loaded."""
    code = LOADED.format(way=WAYS[way])
    found = json.loads(run(code, tmp_path).stdout)
    assert (NEVER | NOT_FOR_A_BLOCK) & set(found["new"]) == set()


def test_nothing_generates_methods_on_the_way_to_a_command(tmp_path):
    """Nor does `carbontrack run` import what generates them."""
    command = [sys.executable, "-X", "importtime", "-m", "carbontrack", "run", "--", "true"]
    code = f"import subprocess; subprocess.run({command}, check=True)"
    lines = run(code, tmp_path).stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "carbontrack.tracking.span_edges" in loaded
    assert NEVER & loaded == set()


def test_no_pattern_of_ours_is_compiled_for_an_empty_block(tmp_path):
    """A pattern takes longer to compile than to match; those of rare cases wait for these."""
    code = LOADED.format(way=WAYS["an empty block"])
    patterns = json.loads(run(code, tmp_path).stdout)["patterns"]
    ours = [name for name in patterns if name.startswith("carbontrack")]
    assert ours == ["carbontrack.sinks.csv_file"]
