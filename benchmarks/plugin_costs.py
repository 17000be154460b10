"""What the pytest plugin costs: a session that does not ask for it, and a suite that does.

    python benchmarks/plugin_costs.py [--pairs 40] [--suite FOLDER [--suite-pairs 10]]

Each pair is two runs of pytest in processes of their own, one without the plugin and one with it,
the first of a pair being now the one and now the other. Told are the median difference of
their CPU seconds and of their wall time, with a 95 % interval by bootstrap. Without an option the
session has one empty test; for the cost of a test it has a thousand. Processes differ among each
other by more than a session costs, so the plugin's own parts are timed in the process as well: to
load it, and each of its hooks that such a session calls. A suite is run with `--carbon` and the
reference metric, and its outcomes are compared test by test.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple
from xml.etree import ElementTree

TESTS = 1000
_NO_CACHE = "PYTHONDONTWRITEBYTECODE"


INSIDE = """
import functools, importlib.metadata, inspect, sys, time
import pytest
spent = 0.0
def timed(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        global spent
        begun = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent += time.process_time() - begun
    return wrapper
def timed_around(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        hook = function(*args, **kwargs)
        timed(next)(hook)
        try:
            step = functools.partial(hook.send, (yield))
        except BaseException as error:
            step = functools.partial(hook.throw, error)
        try:
            timed(step)()
        except StopIteration as ended:
            return ended.value
    return wrapper
load = importlib.metadata.EntryPoint.load
def load_timed(point):
    if point.name != "carbontrack":
        return load(point)
    plugin = timed(load)(point)
    for name in [name for name in vars(plugin) if name.startswith("pytest_")]:
        hook = getattr(plugin, name)
        around = inspect.isgeneratorfunction(hook)
        setattr(plugin, name, timed_around(hook) if around else timed(hook))
    return plugin
importlib.metadata.EntryPoint.load = load_timed
ended = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:asyncio"])
print("SPENT", spent)
sys.exit(ended)
"""
"""Times what a session without a wish spends inside of the plugin."""


class Cost(NamedTuple):
    """Of one run of pytest."""

    cpu_s: float
    wall_s: float


def run(folder: Path, *options: str) -> Cost:
    """Run pytest in a folder; failures of its tests are no failure of ours."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    # compiled files are kept, as they are where people work
    environ = {name: text for name, text in os.environ.items() if name != _NO_CACHE}
    begun_s = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - begun_s)


def paired(
    folder: Path, pairs: int, *, without: Sequence[str], beside: Sequence[str]
) -> list[tuple[Cost, Cost]]:
    """Costs without and with the plugin, in turns."""
    found = []
    for number in range(pairs):
        if number % 2:
            other = run(folder, *beside)
            found.append((run(folder, *without), other))
        else:
            found.append((run(folder, *without), run(folder, *beside)))
    return found


def interval(figures: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, percentile bootstrap."""
    draw = random.Random(1)
    drawn = sorted(median(draw.choices(figures, k=len(figures))) for _ in range(2000))
    return median(figures), drawn[50], drawn[1949]


def told(what: str, costs: Sequence[tuple[Cost, Cost]], *, relative: bool) -> None:
    """One line for CPU seconds and one for wall time."""
    for index, name in enumerate(Cost._fields):
        pairs = [(one[index], two[index]) for one, two in costs]
        if relative:
            figures, unit = [(two / one - 1.0) * 100.0 for one, two in pairs], "%"
        else:
            figures, unit = [(two - one) * 1000.0 for one, two in pairs], "ms"
        middle, low, high = interval(figures)
        print(
            f"{what}, {name}: {middle:+.2f} {unit} ({low:+.2f} to {high:+.2f}), "
            f"{len(pairs)} pairs, median without {median(one for one, _ in pairs):.3f} s"
        )


def spent_inside(folder: Path, times: int) -> list[float]:
    """CPU seconds in the plugin's own functions, of some sessions."""
    found = []
    for _ in range(times):
        environ = {name: text for name, text in os.environ.items() if name != _NO_CACHE}
        done = subprocess.run(
            [sys.executable, "-c", INSIDE],
            cwd=folder,
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found.append(float(done.stdout.rpartition("SPENT")[2]))
    return found


def outcomes(suite: Path, *options: str) -> dict[str, list[str]]:
    """What became of each test."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder, "junit.xml")
        run(suite, f"--junit-xml={xml}", *options)
        found: dict[str, list[str]] = {}
        for case in ElementTree.parse(xml).iter("testcase"):
            became = [child.tag for child in case if child.tag != "properties"]
            name = f"{case.attrib['classname']}::{case.attrib['name']}"
            found.setdefault(name, []).append(",".join(became) or "passed")
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--suite-pairs", type=int, default=10)
    asked = parser.parse_args()
    without = ("-p", "no:carbontrack", "-p", "no:asyncio")
    print(f"load {os.getloadavg()[0]:.2f}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        test = folder / "test_it.py"
        test.write_text("def test_it(): pass\n")
        run(folder)
        unasked = paired(folder, asked.pairs, without=without, beside=without[2:])
        told("a session that does not ask", unasked, relative=False)
        middle, low, high = interval([1000.0 * s for s in spent_inside(folder, asked.pairs)])
        print(f"of it inside of the plugin, cpu_s: {middle:.2f} ms ({low:.2f} to {high:.2f})")
        test.write_text("".join(f"def test_{n}(): pass\n" for n in range(TESTS)))
        many = paired(folder, max(1, asked.pairs // 2), without=without, beside=without[2:])
        told(f"the same with {TESTS} tests", many, relative=False)
    if asked.suite:
        beside = ("-p", "no:asyncio", "--carbon", "--carbon-metric=reference")
        before, after = outcomes(asked.suite, *without), outcomes(asked.suite, *beside)
        same = "the same" if before == after else "NOT the same"
        print(f"outcomes of {len(before)} tests: {same}")
        costs = paired(asked.suite, asked.suite_pairs, without=without, beside=beside)
        told(f"{asked.suite.name} with --carbon", costs, relative=True)
    print(f"load {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
