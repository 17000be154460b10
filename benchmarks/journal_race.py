"""Runs that end while their checkpoints are written: does one come back, does a journal stay?

    python benchmarks/journal_race.py --roots 10000 --repeats 20 --threads 4

Opens and closes roots, and calls a decorated function, in several threads, with a checkpoint of
what is open every twentieth of a second. Afterwards no record may be there twice, none recovered,
and no journal left.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from carbontrack import track
from carbontrack.attribution.policy import Attribution
from carbontrack.errors import ConfigError
from carbontrack.report.read import iter_records
from carbontrack.sampling.ledger import Ledger
from carbontrack.sampling.sampler import Sampler
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.journal.recovery import recover
from carbontrack.testing import FakeMeter
from carbontrack.tracking.checkpoints import Checkpoints
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker

PERIOD_S = 0.05


def main() -> int:
    """Print what was found as JSON; exit code 1 if it is not what it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--roots", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=4)
    given = parser.parse_args()
    # a call that comes after the close is warned of, and counted here
    logging.getLogger("carbontrack").addHandler(logging.NullHandler())
    sys.setswitchinterval(1e-5)  # so that threads meet more often
    found: Counter[str] = Counter()
    for repeat in range(given.repeats):
        with tempfile.TemporaryDirectory() as folder:
            is_cut = repeat % 2 == 1
            found.update(race(Path(folder), given.roots, threads=given.threads, is_cut=is_cut))
    print(json.dumps(found))
    names = ("twice", "recovered", "journals_left", "roots_missing", "calls_missing")
    return int(any(found[name] for name in names))


def race(folder: Path, roots: int, *, threads: int, is_cut: bool) -> dict[str, int]:
    """Open and close so many roots, with a call after each; return what is there afterwards.

    Where it is cut, the tracker is closed while the threads are at work.
    """
    tracker = make_tracker(folder)

    @track("call", tracker=tracker, window_s=PERIOD_S)
    def call() -> None:
        """Do nothing."""

    done: list[str] = []

    def work(count: int) -> None:
        for number in range(count):
            try:
                span = tracker.span("root")
            except ConfigError:  # it has been closed
                return
            with span:
                done.append("root")
                if number % 100 == 0:
                    time.sleep(PERIOD_S / 10)  # so that a tick finds some of them
            call()
            done.append("call")

    counts = [roots // threads + (index < roots % threads) for index in range(threads)]
    workers = [threading.Thread(target=work, args=(count,)) for count in counts]
    for worker in workers:
        worker.start()
    if is_cut:
        while done.count("root") < roots // 2:
            time.sleep(PERIOD_S)
        tracker.close()
    for worker in workers:
        worker.join()
    tracker.close()
    left = len(list((folder / "state" / "journal").iterdir()))
    recovered = recover(folder / "state")
    rows = list(iter_records(folder / "rows.csv"))
    return {
        "rows": len(rows),
        "roots_missing": done.count("root") - sum(row.name == "root" for row in rows),
        "calls_missing": done.count("call")
        - tracker.session.uncounted_calls
        - sum(row.calls or 0 for row in rows if row.name == "call"),
        "twice": sum(times > 1 for times in Counter(row.record_id for row in rows).values()),
        "recovered": len(recovered),
        "journals_left": left,
    }


def make_tracker(folder: Path) -> Tracker:
    """A tracker with a file and a journal in the folder."""
    sampler = Sampler([FakeMeter()], interval_s=PERIOD_S)
    output = folder / "rows.csv"
    session = Session(
        RecordBuilder(Resource(), Ledger(Attribution("machine"), None), sampler),
        sinks=[CsvSink(output)],
        checkpoints=Checkpoints(Journal(folder / "state"), (str(output),), PERIOD_S),
    )
    return Tracker.of(session, owns_sampler=True)


if __name__ == "__main__":
    sys.exit(main())
