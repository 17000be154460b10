"""Run by tests: a local session of Spark whose tasks fail once each, and are measured.

Prints as JSON what each attempt that ended well has used of the CPU.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyspark import TaskContext
from pyspark.sql import SparkSession

import carbontrack
from carbontrack.integrations.spark import tracked

CALLS = 20
OUTPUT = str(Path("rows.csv").resolve())
Used = tuple[int, int, float]
"""A partition, an attempt, and the CPU seconds that it has used."""


def burn(cpu_s: float) -> None:
    end_s = time.process_time() + cpu_s
    while time.process_time() < end_s:
        sum(range(1000))


def fail_at_first() -> tuple[int, int]:
    """Which partition and attempt this is, unless it is the first attempt of the first two."""
    here = TaskContext.get()
    if here.partitionId() < 2 and here.attemptNumber() == 0:
        raise ValueError("the first attempt")
    return here.partitionId(), here.attemptNumber()


def work(numbers: Iterable[int]) -> Iterator[Used]:
    begun_s = time.process_time()
    with carbontrack.track("inside"):
        burn(0.2)
    yield (*fail_at_first(), time.process_time() - begun_s)


def without_wrapper(_: Iterable[int]) -> Iterator[int]:
    """Decorated functions alone, as people have them: each call a row, and short ones summed."""

    @carbontrack.track("own row", window_s=0, output=OUTPUT)
    def own_row() -> None:
        burn(0.01)

    @carbontrack.track("short", output=OUTPUT)
    def short() -> int:
        return sum(range(100))

    own_row()
    for _ in range(CALLS):
        short()
    fail_at_first()
    time.sleep(1.5)  # a tick
    short()
    yield os.getpid()


def each(numbers: Iterable[int]) -> None:
    for _ in numbers:
        burn(0.01)


def twice(numbers: Iterable[int]) -> Iterator[int]:
    return (number * 2 for number in numbers)


def main() -> None:
    session = SparkSession.builder.master("local[2,2]").config("spark.ui.enabled", "false")
    with session.getOrCreate() as spark:
        numbers = spark.sparkContext.parallelize(range(4), 4)
        used = numbers.mapPartitions(tracked(work, output=OUTPUT, labels={"l": 1})).collect()
        few = spark.sparkContext.parallelize(range(2), 2)
        few.foreachPartition(tracked(each, output=OUTPUT))
        doubled = few.mapPartitions(tracked(twice, "first", output=OUTPUT))
        assert doubled.mapPartitions(tracked(twice, "second", output=OUTPUT)).collect() == [0, 4]
        numbers.mapPartitions(without_wrapper).collect()
        app = spark.sparkContext.applicationId
    with carbontrack.track("driver", output="rows.csv"):
        pass
    print(json.dumps({"used": used, "app": app, "job_id": os.environ["CARBONTRACK_JOB_ID"]}))


if __name__ == "__main__":
    main()
