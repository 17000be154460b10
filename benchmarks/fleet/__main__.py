"""What a receiver of records takes: `python benchmarks/fleet COMMAND [options]`.

    rates       records a second, in batches and single, with the CPU time of client and server
    storm       processes with one record each, which end together; replayed by connections
    faults      the server is killed again and again under load: each record once in the end
    simulate    the same as `storm` for what two cores cannot do; a simulation, and labelled so

`--server serve` (default) is `carbontrack serve`, on SQLite or on `--store postgresql://…`;
`--server receiver` is the receiver of the tests. All print JSON, with the load of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from client import Address, Posted, as_json, bodies, post_all, records_of  # noqa: E402
from servers import Server, enough_files, load, started, stored  # noqa: E402
from simulate import PATIENCE_S, arrived, table  # noqa: E402
from storm import Storm  # noqa: E402

CPU = time.process_time


def rates(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Batches and single records, in turns, so that both meet the same hour."""
    found: dict[str, list[dict[str, Any]]] = {"batches": [], "single": []}
    sizes = {"batches": (args.records, args.batch), "single": (args.single, 1)}
    with started(args.server, folder, args.store) as server:
        address, first = Address.of(server.url, server.token), 0
        for _ in range(args.rounds):
            for kind, (count, batch) in sizes.items():
                found[kind].append(_round(server, address, args, (first, count, batch)))
                first += count
        rss = server.rss_bytes()
    return {
        kind: {name: _middle(rounds, name) for name in rounds[0]} for kind, rounds in found.items()
    } | {"server_rss_mib": rss >> 20, "stored": stored(folder, args.store), "sent": first}


def _round(
    server: Server, address: Address, args: argparse.Namespace, what: tuple[int, int, int]
) -> dict[str, Any]:
    first, count, batch = what
    batches = list(bodies(count, batch, first=first))
    server_s, client_s, begun_s = server.cpu_s(), CPU(), time.monotonic()
    posted = asyncio.run(
        post_all(address, batches, connections=args.connections, limit_s=args.limit_s)
    )
    took_s = time.monotonic() - begun_s
    server_s, client_s = server.cpu_s() - server_s, CPU() - client_s
    done = max(posted.delivered, 1)
    return as_json(posted) | {
        "records_per_s": posted.delivered / took_s,
        "server_us_per_record": server_s / done * 1e6,
        "client_us_per_record": client_s / done * 1e6,
        "server_ms_per_request": server_s / max(sum(posted.answers.values()), 1) * 1e3,
        "server_share_of_a_core": server_s / took_s,
    }


def _middle(rounds: list[dict[str, Any]], name: str) -> Any:
    values = [one[name] for one in rounds]
    if isinstance(values[0], dict):
        return {
            key: sum(one.get(key, 0) for one in values) for key in {k for v in values for k in v}
        }
    return statistics.median(values)


def run_storm(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Processes that end together; then what they left behind, as a relay or `sync` sends it."""
    count = enough_files(args.processes)
    batches = list(bodies(count, 1))
    if args.url:
        address = Address.of(args.url, args.token)
        return {"processes": count} | asyncio.run(_storm(args, address, batches))
    with started(args.server, folder, args.store) as server:
        address, before_s = Address.of(server.url, server.token), server.cpu_s()
        found = asyncio.run(_storm(args, address, batches, lambda: stored(folder, args.store)))
        found |= {"server_cpu_s": server.cpu_s() - before_s}
    return {"processes": count} | found | {"stored": stored(folder, args.store)}


async def _storm(
    args: argparse.Namespace,
    address: Address,
    batches: list[bytes],
    look: Callable[[], tuple[int, int] | None] = lambda: None,
) -> dict[str, Any]:
    client_s, begun_s = CPU(), time.monotonic()
    going = Storm(address, batches, within_s=args.within_s, patience_s=args.patience_s)
    going.run()
    client_s, posted, left = CPU() - client_s, going.found, going.left
    there = look()  # what arrived, and of which its process may not know
    rest = [b"[" + b",".join(body[1:-1] for body in some) + b"]" for some in _some(left, 200)]
    later = await post_all(address, rest, connections=1, limit_s=args.limit_s)
    return {
        "within_s": args.within_s,
        "patience_s": args.patience_s,
        "client_cpu_s": client_s,
        "begun_within_s": going.begun_within_s,
        "share_before_their_end": posted.delivered / len(batches),
        "at_their_end": as_json(posted),
        "stored_at_their_end": there and there[1],
        "sent_later_by_one_connection": as_json(later),
        "all_there_after_s": time.monotonic() - begun_s,
    }


def _some(items: list[bytes], size: int) -> list[list[bytes]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def faults(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The server is killed and started again while a client posts; what is lost, what is twice."""
    batches = list(bodies(args.records, args.batch))
    with started(args.server, folder, args.store) as server:
        address = Address.of(server.url, server.token)
        posted, kills = asyncio.run(_under_fire(server, address, batches, args))
    rows, ids = stored(folder, args.store) or (None, None)
    sent = sum(map(records_of, batches))
    return as_json(posted) | {"kills": kills, "sent": sent, "rows": rows, "distinct_ids": ids}


async def _under_fire(
    server: Server, address: Address, batches: list[bytes], args: argparse.Namespace
) -> tuple[Posted, int]:
    """Kill it after each part of the records, wherever it is just then."""
    found, kills = Posted(), 0
    posting = asyncio.create_task(
        post_all(address, batches, connections=args.connections, limit_s=args.limit_s, found=found)
    )
    while not posting.done() and kills < args.kills:
        await asyncio.sleep(0.001)
        if found.delivered >= args.records * (kills + 1) / (args.kills + 1):
            server.end(signal.SIGKILL)
            kills += 1
            await asyncio.to_thread(server.start)
    return await posting, kills


def simulation(args: argparse.Namespace, _: Path) -> dict[str, Any]:
    """The table of shares."""
    if args.rate:
        share = arrived(args.processes, args.within_s, args.rate)
        return {"simulated": True, "share": share}
    print("\n".join(table()), file=sys.stderr)
    return {"simulated": True, "table": table()}


COMMANDS = {"rates": rates, "storm": run_storm, "faults": faults, "simulate": simulation}


def main() -> int:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks/fleet", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    add = parser.add_argument
    add("--server", choices=("serve", "receiver"), default="serve")
    add("--store", help="a database for `serve`, instead of a new file of SQLite")
    add("--url", help="of `storm`: a server or relay that runs already")
    add("--token", help="the token for --url")
    add("--records", type=int, default=20_000)
    add("--single", type=int, default=1_000, help="of `rates`: requests with one record")
    add("--batch", type=int, default=200)
    add("--connections", type=int, default=8)
    add("--rounds", type=int, default=3)
    add("--processes", type=int, default=10_000)
    add("--within-s", type=float, default=1.0)
    add("--patience-s", type=float, default=PATIENCE_S)
    add("--rate", type=float, help="of `simulate`: requests a second, as measured")
    add("--kills", type=int, default=5)
    add("--limit-s", type=float, default=240.0)
    args = parser.parse_args()
    before = load()
    with tempfile.TemporaryDirectory() as folder:
        found = COMMANDS[args.command](args, Path(folder))
    print(json.dumps({"command": args.command, "load": [before, load()]} | found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
