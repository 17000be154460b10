"""What rows add to the tasks of Dask: `python benchmarks/dask_tasks.py [--times N]`.

A local cluster of two processes computes a thousand tasks that do nothing, in turns without a
plugin, with rows of tasks, and with rows of workers only, so that the machine's drift meets all
alike. CPU time of the workers for each task; medians of the turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from distributed import Client, LocalCluster  # noqa: E402 - path set

from carbontrack.integrations.dask import CarbontrackPlugin  # noqa: E402

TASKS = 1000
KINDS = {"no plugin": None, "rows of tasks": "all", "rows of workers": "roots"}


def nothing(number: int) -> int:
    return number


def cpu_s(client: Client) -> float:
    """What the workers have used so far."""
    return sum(client.run(time.process_time).values())


def turn(client: Client, spans: str | None, output: str) -> float:
    """The CPU seconds of one task."""
    if spans is not None:
        client.register_plugin(CarbontrackPlugin(region="FR", output=output, spans=spans))
    before_s = cpu_s(client)
    client.gather(client.map(nothing, range(TASKS), pure=False))
    used_s = cpu_s(client) - before_s
    if spans is not None:
        client.unregister_worker_plugin(CarbontrackPlugin.name)
    return used_s / TASKS


def main() -> None:
    """Print the medians, and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=8, help="how many turns")
    times = parser.parse_args().times
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        output, found = str(Path(folder) / "rows.csv"), {kind: [] for kind in KINDS}
        turn(client, None, output)
        for _ in range(times):
            for kind, spans in KINDS.items():
                found[kind].append(turn(client, spans, output))
        bare_s = median(found["no plugin"])
    for kind, each in found.items():
        print(f"{kind:16} {median(each) * 1e6:6.0f} us a task, {median(each) / bare_s:.2f} x")


if __name__ == "__main__":
    main()
