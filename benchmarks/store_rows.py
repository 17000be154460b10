"""What a row costs in the store of a team: to check, to add, to read, and on the disk.

For each engine the rows of `scale/rows.py` are sent in batches, as a receiver gets them: decoded
JSON objects. The CPU time of this process and of PostgreSQL's are told apart, as wall time says
how busy the machine is. PostgreSQL is one of the tests' own, with `fsync`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "scale")]

import rows  # type: ignore[import-not-found]  # noqa: E402

from carbontrack.sinks.jsonl import record_object  # noqa: E402
from carbontrack.store.base import Store  # noqa: E402
from carbontrack.store.factory import open_store  # noqa: E402
from carbontrack.store.rows import stored_row  # noqa: E402
from tests.support.postgres import PostgresServer, trouble  # noqa: E402

MARK = "#" * 8


def sent(count: int, batch: int) -> Iterator[list[dict[str, Any]]]:
    """Batches of objects; ids are random at their beginning, as those of runs are."""
    drawn = [json.dumps(record_object(one)) for one in rows.drawn(min(count, rows.DRAWN))]
    text: list[dict[str, Any]] = []
    for number in range(count):
        block, place = divmod(number, len(drawn))
        mark = f"{(block * 2_654_435_761 + 97) % (1 << 32):08x}"
        text.append(json.loads(drawn[place].replace(MARK, mark).replace(".######Z", ".000001Z")))
        if len(text) == batch or number == count - 1:
            yield text
            text = []


class Cpu:
    """CPU seconds of this process, and of another with its children, since it was made."""

    def __init__(self, server: psutil.Process | None) -> None:
        self._server = server
        self._begun = self._now()

    def s(self) -> tuple[float, float]:
        return tuple(b - a for a, b in zip(self._begun, self._now(), strict=True))  # type: ignore[return-value]

    def _now(self) -> tuple[float, float]:
        found = 0.0
        if self._server is not None:
            for one in (self._server, *self._server.children(recursive=True)):
                times = one.cpu_times()
                found += times.user + times.system
            ended = self._server.cpu_times()
            found += ended.children_user + ended.children_system
        return time.process_time(), found


def measure(store: Store, count: int, batch: int, server: psutil.Process | None) -> dict[str, Any]:
    """Microseconds a row."""
    project = f"batch-{batch}"
    check_s = add_s = add_wall_s = server_s = 0.0
    for objects in sent(count, batch):
        began_s = time.process_time()
        checked = [stored_row(one) for one in objects]
        check_s += time.process_time() - began_s
        cpu, began_s = Cpu(server), time.perf_counter()
        store.add(project, checked)
        add_wall_s += time.perf_counter() - began_s
        own_s, other_s = cpu.s()
        add_s, server_s = add_s + own_s, server_s + other_s
    return {
        "rows": count,
        "batch": batch,
        "check_cpu_us": 1e6 * check_s / count,
        "add_cpu_us": 1e6 * add_s / count,
        "server_cpu_us": 1e6 * server_s / count,
        "add_wall_us": 1e6 * add_wall_s / count,
    }


def read(store: Store, project: str, server: psutil.Process | None) -> dict[str, Any]:
    """Microseconds a row of a whole project."""
    cpu, began_s = Cpu(server), time.perf_counter()
    count = sum(1 for _ in store.rows(project))
    own_s, other_s = cpu.s()
    return {
        "read": count,
        "read_cpu_us": 1e6 * own_s / count,
        "server_cpu_us": 1e6 * other_s / count,
        "read_wall_us": 1e6 * (time.perf_counter() - began_s) / count,
    }


def tell(engine: str, figures: dict[str, Any]) -> None:
    rounded = {k: round(v, 1) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"engine": engine, "load": os.getloadavg()[0], **rounded}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=5_000)
    args = parser.parse_args()
    sizes = ((args.rows, args.batch), (args.rows // 10, 200), (args.rows // 500, 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "team.db")
        with open_store(str(path)) as store:
            tell("sqlite", measure(store, *sizes[0], None))
            size = path.stat().st_size
            tell("sqlite", {"bytes_a_row": size / store.count(), "peak_rss_mib": _peak_mib()})
            for count, batch in sizes[1:]:
                tell("sqlite", measure(store, count, batch, None))
            tell("sqlite", read(store, f"batch-{args.batch}", None))
    if trouble():
        print(trouble())
        return
    server = PostgresServer(fsync="on", full_page_writes="on")
    try:
        url, process = server.url(), psutil.Process(server.pid)
        with open_store(url) as store:
            tell("postgresql", measure(store, *sizes[0], process))
            (names,) = store._read(
                "SELECT pg_total_relation_size('records'), pg_relation_size('records_pkey'), "
                "pg_relation_size('records_by_start'), pg_relation_size('records_by_arrival')",
                [],
            )
            count = store.count()
            parts = ("all", "key", "by_start", "by_arrival")
            found = zip(parts, names, strict=True)
            tell("postgresql", {f"{part}_bytes_a_row": size / count for part, size in found})
            for rows_sent, batch in sizes[1:]:
                tell("postgresql", measure(store, rows_sent, batch, process))
            tell("postgresql", read(store, f"batch-{args.batch}", process))
    finally:
        server.remove()


def _peak_mib() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
