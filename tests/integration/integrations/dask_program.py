"""Run by tests: a local cluster of Dask whose workers are measured, killed and begun anew.

Prints as JSON what the worker that lives to the end has used of the CPU while it was measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

from distributed import Client, LocalCluster

import carbontrack
from carbontrack.integrations.dask import CarbontrackPlugin

CALLS = 40


@carbontrack.track("short")
def short() -> int:
    return sum(range(100))


@carbontrack.track("own row", window_s=0)
def own_row() -> int:
    return sum(range(100))


def calls(worker: int) -> int:
    """Short calls, a tick, and one more, so that what the tick has kept is known."""
    for _ in range(CALLS):
        short()
    time.sleep(1.5)
    short()
    return os.getpid()


def burn(cpu_s: float) -> int:
    own_row()
    end_s = time.process_time() + cpu_s
    while time.process_time() < end_s:
        sum(range(1000))
    return os.getpid()


def once_too_often(path: str) -> int:
    """Fails at its first attempt."""
    if Path(path).exists():
        return burn(0.1)
    Path(path).touch()
    burn(0.1)
    raise ValueError("the first attempt")


def killed_once(path: str) -> int:
    """Kills its worker at its first attempt, after some ticks."""
    if Path(path).exists():
        return burn(0.1)
    Path(path).touch()
    burn(0.2)
    time.sleep(2.2)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


async def coroutine() -> int:
    own_row()
    await asyncio.sleep(0.0)
    return os.getpid()


def without_plugin(client: Client) -> None:
    """Short calls in a worker that is killed."""
    worker, *_ = client.scheduler_info()["workers"]
    pid = client.submit(calls, 0, workers=[worker], pure=False).result()
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    client.wait_for_workers(2)


def with_plugin(client: Client) -> dict[str, object]:
    """Tasks of all kinds; what a worker that lives to the end has used is told."""
    before = client.run(seconds)
    client.register_plugin(
        CarbontrackPlugin(output=str(Path("rows.csv").resolve()), labels={"cluster": "test"})
    )
    begun = client.run(seconds)
    client.gather([client.submit(burn, 0.3, key=("burn", n)) for n in range(4)])
    client.submit(coroutine, key="coroutine-1").result()
    client.submit(once_too_often, "failed", key="once-1", retries=1).result()
    client.submit(killed_once, "killed", key="killed-1").result()
    ended = client.run(seconds)
    (lived,) = before.keys() & ended.keys()
    return {"pid": begun[lived][0], "used_s": ended[lived][1] - begun[lived][1]}


def seconds() -> tuple[int, float]:
    return os.getpid(), time.process_time()


def main() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        without_plugin(client)
        told = with_plugin(client)
    told["job_id"] = os.environ["CARBONTRACK_JOB_ID"]
    with carbontrack.track("driver", output="rows.csv"):
        pass
    print(json.dumps(told))


if __name__ == "__main__":
    main()
