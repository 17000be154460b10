"""The public surface as `mypy --strict` sees it; nothing runs this file."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator

from typing_extensions import assert_type

import carbontrack
from carbontrack.testing import FakeClock, FakeMeter, MemorySink


@carbontrack.track
def bare(x: int, *, y: str = "") -> float:
    return float(x) + len(y)


@carbontrack.track("named", window_s=60, labels={"a": 1}, budget="5 g", region="FR")
def named(x: int) -> list[int]:
    return [x]


@carbontrack.track
async def coroutine(x: int) -> str:
    return str(x)


@carbontrack.track()
def generator(n: int) -> Iterator[int]:
    yield n


@carbontrack.track(window_s=0)
async def async_generator(n: int) -> AsyncIterator[int]:
    yield n


class Model:
    @carbontrack.track
    def predict(self, x: int) -> bytes:
        return bytes(x)


assert_type(bare(1, y="a"), float)
assert_type(named(1), list[int])
assert_type(generator(1), Iterator[int])
assert_type(async_generator(1), AsyncIterator[int])
assert_type(Model().predict(3), bytes)
half: Callable[[], float] = carbontrack.track(functools.partial(bare, 1))

with carbontrack.track("train", region="FR", output=None) as run:
    assert_type(run, carbontrack.Span)
    with run.span("epoch", labels={"n": 3}) as epoch:
        assert_type(epoch, carbontrack.Span)
    assert_type(run.snapshot(), carbontrack.Record)
assert_type(run.record, carbontrack.Record | None)


async def use() -> None:
    assert_type(await coroutine(1), str)
    async with carbontrack.track("a") as span:
        assert_type(span, carbontrack.Span)


tracker = carbontrack.Tracker(
    meters=[FakeMeter(watts=10.0)],
    grid=50.0,
    attribution=carbontrack.Attribution("process", pue=1.2),
    sinks=[
        MemorySink(),
        carbontrack.CsvSink("runs.csv"),
        carbontrack.JsonlSink("runs.jsonl"),
        carbontrack.SqliteSink("runs.sqlite"),
        carbontrack.HttpSink("https://carbon.example/records", token=None),
    ],
    interval_s=1.0,
    clock=FakeClock(),
)
with tracker as same, same.span("x"):
    assert_type(same, carbontrack.Tracker)
assert_type(carbontrack.auto(region="FR"), carbontrack.Tracker)
assert_type(carbontrack.current_span(), carbontrack.Span | None)
assert_type(carbontrack.lookup("FR"), carbontrack.GridIntensity)
assert_type(carbontrack.lookup("FR", year=2022), carbontrack.GridIntensity)

bare("x")  # type: ignore[arg-type]
named()  # type: ignore[call-arg]
Model().predict("x")  # type: ignore[arg-type]
carbontrack.track(3)  # type: ignore[call-overload]
