"""Whatever breaks around a measurement, the measured program does what it would have done alone.

Meters, clocks, sinks, grids, readers of usage, labels and the journal's directory fail at random,
in every way that Python has for failing; what the program computes, raises and returns is compared
with the same program unmeasured.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from typing import Any

from carbontrack.api.track import track
from carbontrack.attribution.policy import Attribution
from carbontrack.grid.intensity import GridIntensity
from carbontrack.record import Record
from carbontrack.sampling.ledger import Ledger
from carbontrack.sampling.sampler import Sampler
from carbontrack.sinks.journal.journal import Journal
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.checkpoints import Checkpoints
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import ScriptedUsage

ROUNDS = 150
ERRORS: tuple[type[Exception], ...] = (
    OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RuntimeError,
    MemoryError, RecursionError, UnicodeError, StopIteration, AssertionError, TimeoutError,
)  # fmt: skip
NONSENSE: tuple[Any, ...] = (None, math.nan, math.inf, -math.inf, -1.0, 1e300, "12", b"", [], True)


class Faults:
    """Lets one in a few calls fail, and counts by place how often it did."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.armed = False
        """Before anything starts, errors may be told."""

    def at(self, place: str, answer: Callable[[], Any], *, nonsense: bool = False) -> Any:
        """The answer; or an exception, or nonsense in its place."""
        if not self.armed or self._random.random() > 0.2:
            return answer()
        self.injected[place] += 1
        if nonsense and self._random.random() < 0.5:
            return self._random.choice(NONSENSE)
        raise self._random.choice(ERRORS)(place)


class BadMeter(FakeMeter):
    def __init__(self, faults: Faults, **facts: Any) -> None:
        super().__init__(**facts)
        self._faults = faults

    def read_joules(self, now_s: float) -> Any:
        return self._faults.at(
            "meter", lambda: super(BadMeter, self).read_joules(now_s), nonsense=True
        )

    def close(self) -> None:
        self._faults.at("meter close", super().close)


class BadClock(FakeClock):
    faults: Faults

    def suspended_s(self) -> Any:
        return self.faults.at("suspended", lambda: 0.0)


class BadUsage(ScriptedUsage):
    faults: Faults

    def read(self, now_s: float) -> Any:
        return self.faults.at("usage", lambda: super(BadUsage, self).read(now_s), nonsense=True)


class BadGrid:
    constant = False

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._good = GridIntensity("FR", 50.0, 40.0, 60.0, "test", 2024, "lifecycle")

    def at(self, when: datetime) -> Any:
        return self._faults.at("grid", lambda: self._good, nonsense=True)


class BadSink:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.written = 0

    def write(self, record: Record) -> None:
        self._faults.at("sink", lambda: None)
        self.written += 1

    def close(self) -> None:
        self._faults.at("sink close", lambda: None)


class BadLabel:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __str__(self) -> str:
        return str(self._faults.at("label", lambda: "label"))

    __repr__ = __str__


def bad_tracker(faults: Faults, folder: Path) -> tuple[Tracker, FakeClock]:
    """A tracker all of whose surroundings fail."""
    clock, usage = BadClock(), BadUsage(ours=0.5)
    clock.faults = usage.faults = faults
    meters = [
        BadMeter(faults, id=f"fake:{n}", component=c) for n, c in enumerate(("cpu", "gpu", "ram"))
    ]
    sampler = Sampler(meters, interval_s=1.0, clock=clock, usage=usage)
    ledger = Ledger(Attribution("process"), BadGrid(faults))
    journal = Journal(folder, clock)
    session = Session(
        RecordBuilder(Resource("argument"), ledger, sampler),
        sinks=[BadSink(faults)],
        checkpoints=Checkpoints(journal, (str(folder / "x.csv"),), 10.0),
    )
    return Tracker.of(session, owns_sampler=True), clock


class Unmeasured:
    """Stands in for a span, and for the clock, when the program runs alone."""

    def span(self, name: str, labels: object = None) -> Unmeasured:
        return self

    def advance(self, seconds: float) -> None:
        """Time does not matter to the program."""

    def snapshot(self) -> None:
        """Nothing to see."""

    def __enter__(self) -> Unmeasured:
        return self

    def __exit__(self, *error: object) -> None:
        """Pass errors on."""


def through(steps: Generator[int, str | None, str], seen: list[object]) -> str:
    """Take a generator's items, send it some, return what it returns."""
    sent: str | None = None
    while True:
        try:
            seen.append(steps.send(sent))
        except StopIteration as stop:
            return str(stop.value)
        sent = "go"


def program(
    tracker: Any,
    clock: Any,
    wrap: Callable[[Any], Any],
    labels: object,
    trouble: Callable[[], None],
) -> list[object]:
    """Something of everything; returns all that a program could notice."""
    seen: list[object] = []

    @wrap
    def double(number: int) -> int:
        clock.advance(0.01)
        return 2 * number

    @wrap
    def broken(error: Exception) -> None:
        raise error

    @wrap
    def count(to: int) -> Generator[int, str | None, str]:
        for number in range(to):
            clock.advance(0.3)
            seen.append((yield number))
        return "counted"

    @wrap
    async def soon(number: int) -> int:
        await asyncio.sleep(0)
        clock.advance(0.6)
        return number

    async def both() -> list[int]:
        return list(await asyncio.gather(soon(1), soon(2)))

    error = LookupError("the program's own")
    with tracker.span("outer", labels=labels) as outer:
        seen.extend(double(number) for number in range(5))
        trouble()
        clock.advance(1.5)
        with outer.span("inner", labels=labels):
            seen.append(through(count(3), seen))
            outer.snapshot()
        try:
            with outer.span("broken"):
                broken(error)
        except LookupError as caught:
            seen.append(caught is error)
        thread = threading.Thread(target=lambda: seen.append(double(21)))
        thread.start()
        thread.join()
    seen.append(asyncio.run(both()))
    seen.extend(double(number) for number in range(5))
    clock.advance(11.0)
    try:
        broken(error)
    except LookupError as caught:
        seen.append(caught is error)
    return seen


def test_hundreds_of_faults_reach_nobody(tmp_path: Path) -> None:
    """At least 500 faults in eight places; the program never notices one of them."""
    nobody = Unmeasured()
    alone = program(nobody, nobody, lambda function: function, {}, lambda: None)
    injected: Counter[str] = Counter()
    for seed in range(ROUNDS):
        faults, folder = Faults(seed), tmp_path / str(seed)
        tracker, clock = bad_tracker(faults, folder)
        faults.armed = True

        def trouble(folder: Path = folder, seed: int = seed) -> None:
            if seed % 3 == 0:
                shutil.rmtree(folder, ignore_errors=True)
            if seed % 6 == 0:
                folder.write_text("a file in its place")

        wrap = track(tracker=tracker, labels={"x": BadLabel(faults)}, window_s=(seed % 2) * 10)
        assert program(tracker, clock, wrap, {"x": BadLabel(faults)}, trouble) == alone
        tracker.close()
        injected += faults.injected
        assert tracker.session.sampler.leaves == 0
        assert not tracker.session.sampler.awake
    print(dict(injected))
    assert sum(injected.values()) >= 500
    places = ("meter", "suspended", "usage", "grid", "sink", "label", "meter close", "sink close")
    assert all(injected[place] > 10 for place in places)
