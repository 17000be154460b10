"""A loop with a bar: what it shows, what it measures, and when it stops."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import carbontrack
from carbontrack import BudgetExceeded, ConfigError, progress
from carbontrack.api.progress import new_bar
from carbontrack.testing import FakeMeter
from tests.support.bench import Bench


class Paper:
    """A bar that keeps what it is told."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.n = 0.0
        self.total = options.get("total")
        self.texts: list[str] = []
        self.closed = False

    def update(self, n: float = 1) -> None:
        self.n += n

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        self.texts.append(s)

    def close(self) -> None:
        self.closed = True


def loop(bench: Bench, seconds: list[float], **given: Any) -> Iterator[tuple[int, Paper]]:
    """Run steps of so many seconds at 100 W in a loop with a bar."""
    papers: list[Paper] = []

    def bar(**options: Any) -> Paper:
        papers.append(Paper(**options))
        return papers[-1]

    found = progress(seconds, tracker=bench.tracker, name="loop", bar=bar, **given)
    for number, length in enumerate(found):
        bench.clock.advance(length)
        yield number, papers[-1]


def test_the_bar_tells_watts_grams_and_the_whole() -> None:
    """100 W for 1 s steps on a grid of 360 g/kWh are 10 mg a step."""
    with Bench(grid=360.0) as bench:
        paper = [paper for _, paper in loop(bench, [3.0, *[1.0] * 9])][-1]
    assert paper.options == {"total": 10, "desc": "loop"}
    assert paper.n == 10
    assert paper.closed
    assert paper.texts[0] == "100 W, 30.0 mg CO2e, about 300 mg in total"
    assert paper.texts[2] == "100 W, 50.0 mg CO2e, 120 mg (112 to 128 mg) in total"
    assert paper.texts[-1] == "100 W, 120 mg CO2e, 120 mg (120 to 120 mg) in total"
    (record,) = bench.records
    assert (record.name, record.status, record.duration_s) == ("loop", "ok", pytest.approx(12.0))


def test_without_a_length_there_is_no_forecast() -> None:
    """A generator's length is not known; total tells it."""
    with Bench() as bench:
        found = progress((n for n in range(3)), tracker=bench.tracker, bar=Paper)
        for _ in found:
            bench.clock.advance(1.0)
        assert found.forecast is None
        found = progress((n for n in range(3)), total=3, tracker=bench.tracker, bar=Paper)
        for _ in found:
            bench.clock.advance(1.0)
        assert found.forecast.energy_kwh == pytest.approx(300.0 / 3.6e6)
        assert len(found) == 3


@pytest.mark.parametrize(("budget", "done"), [("915 J", 3), ("917 J", 4), ("1000 J", 10)])
def test_it_stops_by_the_forecast_as_soon_as_that_is_sure(budget: str, done: int) -> None:
    """Ten steps of 100 J: 1000 J are 916 J and more after the third, 928 J after the fourth."""
    with Bench() as bench:
        reached = 0
        try:
            for _ in loop(bench, [1.0] * 10, budget=budget, forecast=True):
                reached += 1
        except BudgetExceeded as error:
            assert str(error).startswith("loop will be over budget: 1.00 kJ of ")  # noqa: PT017
    assert reached == done
    assert [record.status for record in bench.records] == ["budget" if done < 10 else "ok"]


def test_without_a_forecast_it_stops_when_the_budget_is_used_up() -> None:
    """Between two iterations, by what has been used."""
    reached = 0
    with Bench() as bench, pytest.raises(BudgetExceeded, match="loop is over budget: 600 J"):  # noqa: PT012
        for _ in loop(bench, [1.0] * 10, budget="550 J"):
            reached += 1
    assert reached == 6


def test_the_forecast_convicts_by_the_meters_lower_bound_too() -> None:
    """A meter of 50 % that says 1000 J may have seen 500 J."""
    with Bench([FakeMeter(watts=100.0, relative_uncertainty=0.5)]) as bench:
        assert len(list(loop(bench, [1.0] * 10, budget="501 J", forecast=True))) == 10
    bench = Bench([FakeMeter(watts=100.0, relative_uncertainty=0.5)])
    with bench, pytest.raises(BudgetExceeded):
        list(loop(bench, [1.0] * 10, budget="499 J", forecast=True))


def test_a_function_may_be_told_instead(caplog: pytest.LogCaptureFixture) -> None:
    """Once; and a warning may do."""
    told: list[Any] = []
    with Bench() as bench:
        list(loop(bench, [1.0] * 9, budget="500 J", forecast=True, on_exceed=told.append))
        assert [verdict.text for verdict in told] == ["over budget: 900 J of 500 J"]
        with caplog.at_level(logging.WARNING):
            list(loop(bench, [1.0] * 9, budget="500 J", forecast=True, on_exceed="warn"))
    assert caplog.messages.count("loop will be over budget: 900 J of 500 J") == 1


def test_the_loops_body_is_inside_the_span_and_a_break_ends_it() -> None:
    """Spans of the body are its children, and nothing stays open."""
    with Bench() as bench:
        found = progress(range(5), tracker=bench.tracker, bar=Paper)
        for number in found:
            assert carbontrack.current_span() is found.span
            bench.clock.advance(1.0)
            if number == 2:
                break
        assert carbontrack.current_span() is None
        assert bench.sampler.leaves == 0
    assert bench.records[0].status == "ok"
    assert bench.records[0].duration_s == pytest.approx(3.0)


def test_an_error_in_the_body_ends_it_too() -> None:
    """The error passes through unchanged."""
    with Bench() as bench:
        with pytest.raises(KeyError):  # noqa: PT012
            for _ in progress(range(5), tracker=bench.tracker, bar=Paper):
                raise KeyError
        assert carbontrack.current_span() is None
        assert len(bench.records) == 1


def test_many_short_iterations_share_a_look() -> None:
    """To look is dearer than an iteration may be."""
    with Bench() as bench:
        *_, (_, paper) = loop(bench, [0.001] * 1000)
    assert 5 <= len(paper.texts) <= 11
    assert paper.n == 1000


def test_looks_are_kept_few() -> None:
    """Of a long loop neighbours become one; the forecast stays exact."""
    with Bench() as bench:
        found = progress(range(2000), tracker=bench.tracker, bar=Paper)
        for _ in found:
            bench.clock.advance(1.0)
    assert found.forecast.energy_kwh == pytest.approx(200_000.0 / 3.6e6)
    assert max(map(len, found._course._steps.values())) <= 512


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"total": -1}, "total must be"),
        ({"total": 2.5}, "total must be"),
        ({"forecast": True}, "needs budget="),
        ({"budget": "5 bananas"}, "bananas"),
        ({"budget": "5 g", "on_exceed": "explode"}, "on_exceed"),
        ({"regoin": "FR"}, "region"),
    ],
)
def test_what_is_wrong_is_said_before_the_loop(given: Any, named: str) -> None:
    """Nothing has been started."""
    with pytest.raises(ConfigError, match=named):
        progress(range(3), output=None, **given)


def test_a_forecast_needs_a_length() -> None:
    """An iterator has none."""
    with pytest.raises(ConfigError, match="total="):
        progress(iter([]), budget="5 g", forecast=True, output=None)


def test_switched_off_the_loop_runs_and_the_bar_moves() -> None:
    """No numbers, no errors."""
    papers: list[Paper] = []

    def bar(**options: Any) -> Paper:
        papers.append(Paper(**options))
        return papers[-1]

    found = progress(range(3), disable=True, budget="0 J", forecast=True, bar=bar)
    assert list(found) == [0, 1, 2]
    assert papers[0].n == 3


def test_the_real_bar_shows_it() -> None:
    """tqdm's own line, on a stream."""
    stream = io.StringIO()
    with Bench(grid=360.0) as bench:
        for _ in progress(
            range(4),
            tracker=bench.tracker,
            name="train",
            bar=lambda **options: new_bar(file=stream, ncols=120, mininterval=0, **options),
        ):
            bench.clock.advance(1.0)
    last = stream.getvalue().rstrip().split("\r")[-1]
    assert last.startswith("train: 100%|")
    assert "100 W, 40.0 mg CO2e, 40.0 mg (40.0 to 40.0 mg) in total" in last
