"""CARBONTRACK_DISABLE=1 turns everything off, also the checks: the program's body always runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

BROKEN = {
    "CARBONTRACK_DISABLE": "1",
    "CARBONTRACK_TYPO": "x",
    "CARBONTRACK_INTERVAL_S": "often",
    "CARBONTRACK_OUTPUT": "out.weird",
}

BLOCKS = """
import json, sys
import carbontrack

class Bad:
    def __repr__(self): raise RuntimeError("no text")
    def __bool__(self): raise RuntimeError("no truth")

track, auto = carbontrack.track, carbontrack.auto
makers = [
    lambda: track("x", output="out.weird"),
    lambda: track("x", output="nowhere/runs.csv"),
    lambda: track("x", interval_s=-1),
    lambda: track("x", outptu="a.csv"),
    lambda: track("x", region="Atlantis"),
    lambda: track("x", region=Bad()),
    lambda: track("x", labels=[1]),
    lambda: track("x", labels=Bad()),
    lambda: track("x", labels={"a": "x" * 10_000_000}),
    lambda: track("n" * 1_000_000),
    lambda: track(""),
    lambda: track(5),
    lambda: track("x", window_s=-1),
    lambda: track("x", budget="5 bananas"),
    lambda: track("x", on_exceed="shout"),
    lambda: track("x", budget="1 J", on_exceed="raise"),
    lambda: track("x", tracker=5, region="FR"),
    lambda: auto(output="out.weird", nonsense=1).span("x"),
    lambda: auto().span(5, labels=[1]),
    lambda: auto().span("x").span(None),
    lambda: carbontrack.Tracker(meters=5, grid="x", sinks=[3], interval_s=-1).span("x"),
]
statuses, bodies = [], 0
for make in makers:
    with make() as span:
        bodies += 1
    statuses.append(span.record.status)
print(json.dumps([statuses, bodies == len(makers)]))
"""

CALLS = """
import carbontrack

decorators = [
    carbontrack.track, carbontrack.track("x", output="out.weird"), carbontrack.track(window_s=-1),
    carbontrack.track(tracker=3), carbontrack.track(5), carbontrack.track(labels=[1]),
]
for decorate in decorators:
    @decorate
    def one(): return 1
    @decorate
    class Two: two = 2
    assert (one(), Two.two) == (1, 2)

class Methods:
    @carbontrack.track
    @classmethod
    def three(cls): return 3

    @carbontrack.track
    @property
    def four(self): return 4

assert (Methods.three(), Methods().four) == (3, 4)

@carbontrack.track("g", budget="1 J", on_exceed="raise")
def numbers(): yield 1

assert list(numbers()) == [1]
wrong = {"total": -1, "name": 7, "budget": "x", "forecast": True, "typo": 1}
import sys
sys.modules["tqdm.auto"] = None  # not installed: the loop runs without a bar
loop = carbontrack.progress((n for n in range(3)), **wrong)
assert list(loop) == [0, 1, 2]
assert loop.span.record.status == "disabled"
assert not carbontrack.wait_for_green(max_wait_s=3600.0, below=-1.0)
print("ran")
"""


def run(*command: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | BROKEN | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_no_argument_of_a_block_is_checked(tmp_path: Path) -> None:
    """Whatever is wrong, the body runs and the record says that nothing was measured."""
    done = run("-c", BLOCKS, folder=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    statuses, all_ran = json.loads(done.stdout)
    assert set(statuses) == {"disabled"}
    assert all_ran
    assert list(tmp_path.iterdir()) == []


def test_no_argument_of_a_decorator_is_checked(tmp_path: Path) -> None:
    """Nor of `progress` and `wait_for_green`; functions, classes and loops are as without us."""
    done = run("-c", CALLS, folder=tmp_path)

    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ["--output", "out.weird", "--"],
        ["--bduget", "5 g", "--"],
        ["--budget", "bananas", "--on-exceed", "shout", "--grace", "x", "--label", "y"],
        ["--grace", "5", "--"],
        ["--output", "", "--interval", "-1", "--scope", "all"],
        ["--label", "a=" + "x" * 100_000, "--"],
    ],
    ids=["output", "unknown option", "bad values", "no budget", "settings", "long label"],
)
def test_the_command_runs_whatever_the_options(tmp_path: Path, options: list[str]) -> None:
    """Its exit code and its output are its own, and we print nothing."""
    done = run(
        "-m", "carbontrack", "run", *options, "sh", "-c", "echo ran; exit 5", folder=tmp_path
    )

    assert (done.returncode, done.stdout, done.stderr) == (5, "ran\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_not_there_is_still_127(tmp_path: Path) -> None:
    """The switch turns off measuring, not the shell's exit codes; `--json` has its line."""
    done = run("-m", "carbontrack", "run", "--", "no-such-command", folder=tmp_path)
    shown = run("-m", "carbontrack", "run", "--json", "--", "true", folder=tmp_path)

    assert done.returncode == 127
    assert json.loads(shown.stderr)["status"] == "disabled"


def test_an_argument_that_says_no_measures(tmp_path: Path) -> None:
    """`disable=False` is the stronger word, and what stands beside it is checked as ever."""
    code = "import carbontrack\ncarbontrack.track('x', disable=False, output='out.weird')"
    done = run("-c", code, folder=tmp_path)

    assert done.returncode == 1
    assert "ConfigError" in done.stderr


def test_disable_in_the_program_leaves_the_checks_on(tmp_path: Path) -> None:
    """A mistake beside `disable=True` shows before the day on which it is switched on."""
    code = "import carbontrack\ncarbontrack.track('x', disable=True, outptu='runs.csv')"
    done = run(
        "-c",
        code,
        folder=tmp_path,
        CARBONTRACK_DISABLE="",
        CARBONTRACK_TYPO="",
        CARBONTRACK_INTERVAL_S="",
        CARBONTRACK_OUTPUT="",
    )

    assert done.returncode == 1
    assert "there is no such setting" in done.stderr
