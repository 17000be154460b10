"""Record how a test's figure differs among processes in which nothing has changed.

    python benchmarks/record_processes.py OUT.json [PROCESSES]

Six tests are measured by the pytest plugin, by its reference metric with five rounds, in a pytest
of its own each time: first as the machine is, then beside twice as many spinning processes as
there are cores. All of it is done twice: the first recording is for choosing, the second for
judging what was chosen.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

ROUNDS = 5
TESTS = '''
"""Work of several kinds, from 3 to 40 ms."""

import json, random, re, zlib

BYTES = bytes(random.Random(3).choices(range(64), k=200_000))


def test_arithmetic():
    total = 0
    for number in range(90_000):
        total += number * number % 7


def test_parsing():
    rows = [{"name": f"row {n}", "value": n / 3, "tags": ["a", "b"]} for n in range(2500)]
    text = json.dumps(rows)
    re.findall(r'"value": ([0-9.]+)', text)
    sorted(json.loads(text), key=lambda row: str(row["value"]))


def test_memory():
    numbers = list(range(200_000))
    numbers.sort(key=lambda n: n * 7919 % 1_000_003)
    sum(numbers[::17])


class Node:
    def __init__(self, number):
        self.number, self.next = number, None


def test_objects():
    nodes = [Node(number) for number in range(20_000)]
    for one, two in zip(nodes, nodes[1:]):
        one.next = two
    by_number = {node.number: node for node in nodes}
    node, total = nodes[0], 0
    while node.next is not None:
        node, total = node.next, total + by_number[node.number].number


def test_compression():
    zlib.compress(BYTES, 3)


def test_text():
    lines = [f"user{n}@example.com {n:x}" for n in range(6000)]
    " ".join(sorted(line.upper() for line in lines))
    for line in lines[:1500]:
        re.sub(r"(\\w+)@(\\w+)", r"\\2", line)
'''
_SPIN = "while True: pass"


def measured(folder: Path) -> dict[str, list[float]]:
    """The rounds of each test, in joules, from a process of their own."""
    out = folder / "out.json"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    options += ["--carbon-metric=reference", f"--carbon-repeat={ROUNDS}", f"--carbon-save={out}"]
    out.unlink(missing_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            *options,
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    tests = json.loads(out.read_text())["tests"]
    return {
        test["nodeid"].split("::test_")[-1]: [float(f"{j:.5g}") for j in test["rounds_joules"][-1]]
        for test in tests
    }


def recorded(folder: Path, processes: int) -> dict[str, list[list[float]]]:
    """The same in many processes, one after the other."""
    found: dict[str, list[list[float]]] = {}
    for _ in range(processes):
        for name, joules in measured(folder).items():
            found.setdefault(name, []).append(joules)
    return found


@contextmanager
def load() -> Iterator[None]:
    """Spinning processes that are not our descendants, or we would be billed for them."""
    script = f'timeout 1200 "{sys.executable}" -S -c "{_SPIN}" >/dev/null 2>&1 & echo $!'
    spinning = []
    for _ in range(2 * (os.cpu_count() or 1)):
        done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
        spinning.append(int(done.stdout))
    try:
        yield
    finally:
        for one in spinning:
            os.kill(one, signal.SIGTERM)  # timeout hands it on


def main(out: Path, processes: int) -> None:
    """Measure, twice, with and without load."""
    cores = os.cpu_count() or 1
    content: dict[str, object] = {
        "how": {
            "recorded_with": "benchmarks/record_processes.py",
            "on": date.today().isoformat(),
            "machine": f"{platform.machine()}, {cores} virtual cores, shared with other programs",
            "python": platform.python_version(),
            "load": f"{2 * cores} spinning processes",
            "lists": "for each test a list for each process: joules of its rounds",
        }
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_work.py").write_text(TESTS)
        for part in ("first", "second"):
            quiet = recorded(folder, processes)
            with load():
                loaded = recorded(folder, processes)
            content[part] = {"quiet": quiet, "loaded": loaded}
            out.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60)
