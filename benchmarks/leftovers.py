"""What the journals that others left cost the start of a program, and its end.

For each number of journals a new process imports carbontrack, runs an empty block and ends, in
turns with one whose state folder is empty. The times are those of the process itself, from before
the import to the end of its first block, and of all of it, as its parent sees it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from carbontrack.record import Record
from carbontrack.sinks.journal.file import entry_line
from carbontrack.sinks.journal.journal import FOLDER, RUN, sparse

PROGRAM = """
import time
began_s = time.perf_counter()
import carbontrack
with carbontrack.track("block", region="FR", output="rows.csv"):
    pass
print(1000.0 * (time.perf_counter() - began_s))
"""
RECORD = Record(
    record_id="",
    run_id="killed",
    name="killed",
    started_at="2026-11-24T03:00:00Z",
    ended_at="2026-11-30T03:00:00Z",
    energy_kwh=84.0,
)


def leave_behind(state_dir: Path, count: int, output: Path) -> None:
    """Journals as of so many killed processes, each with one open run."""
    place = state_dir / FOLDER
    place.mkdir(parents=True, mode=0o700, exist_ok=True)
    for number in range(count):
        record = replace(RECORD, record_id=f"killed-{number}")
        entry = {"record": sparse(record), "outputs": [str(output)]}
        path = place / f"00000000-{number}-{number}.0.journal"
        path.write_bytes(entry_line((RUN, record.record_id), entry))


def timed_start(folder: Path) -> tuple[float, float]:
    """Milliseconds to the end of the first block, and of the whole process."""
    environ = os.environ | {"CARBONTRACK_STATE_DIR": str(folder / "state")}
    began_s = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout), 1000.0 * (time.perf_counter() - began_s)


def main() -> None:
    """Print the medians, and how much more than with an empty state folder they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journals", type=int, nargs="+", default=[1, 100, 20_000])
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    print("| journals | first block, ms | more, ms | process, ms | more, ms | left |")
    print("|---|---|---|---|---|---|")
    for count in args.journals:
        with tempfile.TemporaryDirectory() as name:
            empty, full = Path(name, "empty"), Path(name, "full")
            for folder in (empty, full):
                folder.mkdir()
            leave_behind(full / "state", count, full / "rows.csv")
            pairs = [(timed_start(empty), timed_start(full)) for _ in range(args.rounds)]
            left = sum(1 for _ in (full / "state" / FOLDER).iterdir())
        cells = [str(count)]
        for which in (0, 1):
            without = statistics.median(pair[0][which] for pair in pairs)
            more = statistics.median(pair[1][which] - pair[0][which] for pair in pairs)
            cells += [f"{without + more:.1f}", f"{more:+.1f}"]
        print(f"| {' | '.join([*cells, str(left)])} |")


if __name__ == "__main__":
    main()
