"""Run by tests: a local cluster of Ray whose tasks and actors are measured, fail and are killed.

Prints as JSON what each worker had used of the CPU at its last task.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import ray

import carbontrack
from carbontrack.integrations.ray import setup, tracked

Used = tuple[int, float]
"""A process, and the CPU seconds that it has used."""


def burn(cpu_s: float) -> Used:
    end_s = time.process_time() + cpu_s
    while time.process_time() < end_s:
        sum(range(1000))
    return os.getpid(), time.process_time()


@ray.remote
@tracked
def work(cpu_s: float) -> Used:
    with carbontrack.track("inside"):
        return burn(cpu_s)


@ray.remote(max_retries=1, retry_exceptions=True)
@tracked
def fails_once(path: str) -> Used:
    if Path(path).exists():
        return burn(0.1)
    Path(path).touch()
    burn(0.1)
    raise ValueError("the first attempt")


@ray.remote(max_retries=1)
@tracked
def killed_once(path: str) -> Used:
    if Path(path).exists():
        return burn(0.1)
    Path(path).touch()
    burn(0.2)
    time.sleep(2.2)  # some ticks
    os.kill(os.getpid(), signal.SIGKILL)
    return 0, 0.0


@ray.remote
@tracked
def yields() -> Iterator[int]:
    for number in range(3):
        burn(0.05)
        yield number


@ray.remote
class Actor:
    @tracked
    def method(self) -> Used:
        return burn(0.1)


@ray.remote(max_concurrency=2)
class Concurrent:
    @tracked
    async def method(self) -> Used:
        await asyncio.sleep(0.0)
        return burn(0.1)


def main() -> None:
    folder = Path.cwd()
    environment = setup({"env_vars": {"OF_THE_USER": "1"}}, output=str(folder / "rows.csv"),
                        labels={"cluster": "test"})  # fmt: skip
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    actor, concurrent = Actor.remote(), Concurrent.remote()
    used = dict(ray.get([work.remote(0.3) for _ in range(3)]))
    used |= dict([ray.get(fails_once.remote(str(folder / "failed")))])
    used |= dict([ray.get(killed_once.remote(str(folder / "killed")))])
    assert [ray.get(item) for item in yields.remote()] == [0, 1, 2]
    used |= dict(ray.get([actor.method.remote(), concurrent.method.remote()]))
    time.sleep(2.2)  # Ray kills its workers: what they did in their last second is lost
    ray.shutdown()
    with carbontrack.track("driver", output="rows.csv"):
        pass
    print(json.dumps({"used_s": used, "job_id": environment["env_vars"]["CARBONTRACK_JOB_ID"]}))


if __name__ == "__main__":
    main()
