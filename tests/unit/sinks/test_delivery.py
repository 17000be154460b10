"""Delivery: what becomes of records when the server does this or that."""

from __future__ import annotations

import json
import random
import stat
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from carbontrack.record import Record
from carbontrack.sinks.delivery import REQUESTS_PER_MINUTE, Delivery, RequestRate, rate_of
from carbontrack.sinks.post import PostResult
from carbontrack.system.urls import shown
from carbontrack.testing.clock import FakeClock
from tests.support.records import a_record

URL = "https://carbon.example/records?key=hunter2"


class ScriptedPoster:
    """Answers as its script says, and delivers once that is over."""

    url = URL

    def __init__(self, *script: PostResult) -> None:
        self.script = list(script)
        self.posted: list[list[str]] = []

    def close(self) -> None:
        """Holds no connection."""

    def post(self, records: Sequence[Record], *, timeout_s: float | None = None) -> PostResult:
        self.posted.append([record.record_id for record in records])
        return self.script.pop(0) if self.script else PostResult("delivered", "HTTP 204", 204)


class ListQueue:
    """A queue in memory."""

    def __init__(self, count: int) -> None:
        self.records = [a_record(number) for number in range(count)]

    def peek(self, limit: int) -> list[Record]:
        return self.records[:limit]

    def settle(self, record_ids: Sequence[str]) -> None:
        self.records = [r for r in self.records if r.record_id not in record_ids]


class LeapingClock(FakeClock):
    """A clock on which a wait is over at once, so that a test needs no second thread."""

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        if not event.is_set() and timeout_s is not None:
            self.advance(timeout_s)
        return event.is_set()


class Upper(random.Random):
    """Chance that always takes the longest wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


def delivery_of(poster: ScriptedPoster, tmp_path: Path, clock: FakeClock | None = None) -> Delivery:
    return Delivery(
        poster,  # type: ignore[arg-type]
        state_dir=tmp_path,
        batch=4,
        clock=clock or FakeClock(),
        rng=Upper(),
    )


def later(wait_s: float | None = None) -> PostResult:
    return PostResult("later", "HTTP 503", 503, wait_s)


def letters(state_dir: Path) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for path in (state_dir / "dead-letter").iterdir()
        for line in path.read_text().splitlines()
    ]


def test_batches_go_out_oldest_first(tmp_path: Path) -> None:
    """Ten records make batches of 4, 4 and 2, and are gone from the queue afterwards."""
    poster, queue = ScriptedPoster(), ListQueue(10)
    delivery = delivery_of(poster, tmp_path)
    while delivery.step([queue]):
        pass

    assert [len(batch) for batch in poster.posted] == [4, 4, 2]
    assert [record_id for batch in poster.posted for record_id in batch] == [
        a_record(number).record_id for number in range(10)
    ]
    assert (delivery.delivered, queue.records) == (10, [])


def test_a_batch_that_fails_is_sent_again_unchanged(tmp_path: Path) -> None:
    """What failed is the next thing that is tried, so the server sees the same key again."""
    poster, queue = ScriptedPoster(later(), later()), ListQueue(4)
    delivery = delivery_of(poster, tmp_path)
    for _ in range(3):
        delivery.step([queue])

    assert poster.posted[0] == poster.posted[1] == poster.posted[2]
    assert queue.records == []


def test_waits_grow_to_a_minute_and_start_again_after_success() -> None:
    """The longest wait doubles from a second to a minute; a success makes it a second again."""
    results = [later()] * 9 + [PostResult("delivered", "HTTP 200", 200), later()]

    assert waits(results) == [1, 2, 4, 8, 16, 32, 60, 60, 60, 0, 1]


def test_the_servers_wish_is_granted(tmp_path: Path) -> None:
    """Retry-After is waited for in full, and a little longer, so that not all come at once."""
    clock = LeapingClock()
    before_s = clock.monotonic_s()
    delivery_of(ScriptedPoster(), tmp_path, clock).wait_after(later(wait_s=30.0))

    assert 30.0 < clock.monotonic_s() - before_s <= 31.0


@pytest.mark.parametrize("asked_s", [0.0, 0.5])
def test_a_server_that_asks_for_no_wait_gets_our_own(asked_s: float) -> None:
    """The same waits as for a server that asks for nothing, or longer ones: never a loop."""
    own_s = waits(later() for _ in range(9))

    assert waits(later(asked_s) for _ in range(9)) == own_s == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert waits([later(45.0)] * 7) == [46.0] * 6 + [60.0]


def waits(results: Iterable[PostResult]) -> list[float]:
    """How long a delivery waits after each result."""
    clock, found = LeapingClock(), []
    delivery = delivery_of(ScriptedPoster(), Path(), clock)
    for result in results:
        before_s = clock.monotonic_s()
        delivery.wait_after(result)
        found.append(clock.monotonic_s() - before_s)
    return found


class TimedPoster(ScriptedPoster):
    """Notes when it is asked to post."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock, self.at_s = clock, list[float]()

    def post(self, records: Sequence[Record], *, timeout_s: float | None = None) -> PostResult:
        self.at_s.append(self._clock.monotonic_s())
        return super().post(records, timeout_s=timeout_s)


def test_an_address_gets_a_limited_number_of_requests_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No minute has more of them, however fast the server is; all arrive, and it is said once."""
    clock, queue = LeapingClock(), ListQueue(2000)
    poster = TimedPoster(clock)
    delivery = delivery_of(poster, tmp_path, clock)
    while delivery.step([queue]):
        pass
    at_s = poster.at_s
    most = max(bisect_left(at_s, begin_s + 60.0) - n for n, begin_s in enumerate(at_s))

    assert (delivery.delivered, len(at_s)) == (2000, 500)
    assert REQUESTS_PER_MINUTE / 2 <= most <= REQUESTS_PER_MINUTE
    (said,) = caplog.messages
    assert said.startswith(f"{shown(URL)}: more than {REQUESTS_PER_MINUTE} requests a minute")


def test_all_deliveries_to_an_address_share_its_rate(tmp_path: Path) -> None:
    """Two trackers with the same address are no reason for twice as many requests."""
    clock = LeapingClock()
    posters = [TimedPoster(clock), TimedPoster(clock)]
    deliveries = [delivery_of(poster, tmp_path, clock) for poster in posters]
    rate = RequestRate()
    for delivery in deliveries:
        delivery._rate = rate
        queue = ListQueue(400)
        while delivery.step([queue]):
            pass

    at_s = sorted(posters[0].at_s + posters[1].at_s)
    assert bisect_left(at_s, at_s[0] + 60.0) <= REQUESTS_PER_MINUTE
    assert rate_of("https://a.example/") is rate_of("https://a.example/")
    assert rate_of("https://a.example/") is not rate_of("https://b.example/")


def test_a_rate_keeps_no_program_from_its_end(tmp_path: Path) -> None:
    """What may not be sent in the time that is left waits for the next process."""
    clock, queue = LeapingClock(), ListQueue(400)
    poster = TimedPoster(clock)
    delivery = delivery_of(poster, tmp_path, clock)
    end_s = clock.monotonic_s() + 2.0
    delivery.finish_by(end_s)
    delivery.run(lambda: [queue], threading.Event())

    assert clock.monotonic_s() <= end_s
    assert 0 < len(queue.records) == 400 - 4 * len(poster.posted)


def test_a_refused_batch_is_set_aside_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost by a 403: each record has a line that says why and when."""
    poster, queue = ScriptedPoster(PostResult("refused", "HTTP 403", 403)), ListQueue(3)
    delivery = delivery_of(poster, tmp_path)
    delivery.step([queue])
    found = letters(tmp_path)

    assert [letter["status"] for letter in found] == [403] * 3
    assert {letter["reason"] for letter in found} == {"HTTP 403"}
    assert [Record.from_row(letter["record"]) for letter in found] == [  # type: ignore[arg-type]
        a_record(number) for number in range(3)
    ]
    assert all(letter["time"] for letter in found)
    assert (queue.records, delivery.refused, len(caplog.records)) == ([], 3, 1)
    assert "hunter2" not in caplog.text


def test_dead_letters_are_for_their_user_alone(tmp_path: Path) -> None:
    """The folder is 0700, the file 0600, and its name is no part of a path."""
    poster = ScriptedPoster(PostResult("refused", "HTTP 403", 403))
    poster.url = "https://../..%2f/../../etc/passwd"
    delivery_of(poster, tmp_path).step([ListQueue(1)])
    (path,) = (tmp_path / "dead-letter").iterdir()

    assert stat.S_IMODE((tmp_path / "dead-letter").stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ".." not in path.name


def test_one_bad_record_does_not_take_others_with_it(tmp_path: Path) -> None:
    """A batch that is refused as such is halved until the one record is found."""

    class Picky(ScriptedPoster):
        def post(self, records: Sequence[Record], *, timeout_s: float | None = None) -> PostResult:
            super().post(records)
            bad = a_record(2).record_id in self.posted[-1]
            return (
                PostResult("divide", "HTTP 422", 422) if bad else PostResult("delivered", "", 200)
            )

    poster, queue = Picky(), ListQueue(10)
    delivery = delivery_of(poster, tmp_path)
    while delivery.step([queue]):
        pass

    assert (delivery.delivered, delivery.refused) == (9, 1)
    assert [Record.from_row(x["record"]) for x in letters(tmp_path)] == [a_record(2)]  # type: ignore[arg-type]


def test_without_room_for_dead_letters_records_stay(tmp_path: Path) -> None:
    """What cannot be set aside is kept in the queue."""
    (tmp_path / "dead-letter").write_text("a file in the way")
    poster, queue = ScriptedPoster(PostResult("refused", "HTTP 403", 403)), ListQueue(3)
    result = delivery_of(poster, tmp_path).step([queue])

    assert result is not None
    assert result.verdict == "later"
    assert len(queue.records) == 3


def test_the_thread_sleeps_while_nothing_waits_and_ends_when_told(tmp_path: Path) -> None:
    """An idle delivery makes no attempt and no tick; it delivers when woken."""
    clock, queue, wake = FakeClock(), ListQueue(0), threading.Event()
    poster = ScriptedPoster()
    delivery = delivery_of(poster, tmp_path, clock)
    thread = threading.Thread(target=delivery.run, args=(lambda: [queue], wake))
    thread.start()
    clock.until_waiting(1)
    clock.advance(86_400.0)
    idle = list(poster.posted)
    queue.records = [a_record(1)]
    delivery.finish_by(clock.monotonic_s() + 2.0)
    wake.set()
    thread.join(60.0)

    assert idle == []
    assert (thread.is_alive(), poster.posted) == (False, [[a_record(1).record_id]])


def test_what_comes_between_the_last_look_and_the_end_is_sent(tmp_path: Path) -> None:
    """A thread that has just found nothing, and is told to end meanwhile, looks once more."""
    clock, queue = LeapingClock(), ListQueue(0)
    poster = ScriptedPoster()
    delivery = delivery_of(poster, tmp_path, clock)

    def queues() -> list[ListQueue]:
        found, is_empty = [queue], not poster.posted and not delivery.stop.is_set()
        if is_empty:
            found = []
            queue.records = [a_record(1)]
            delivery.finish_by(clock.monotonic_s() + 10.0)
        return found

    delivery.run(queues, threading.Event())

    assert poster.posted == [[a_record(1).record_id]]


def test_at_the_end_three_failures_are_enough(tmp_path: Path) -> None:
    """Told to end, the delivery tries a few times at most and leaves the rest in the queue."""
    clock, queue = LeapingClock(), ListQueue(4)
    poster = ScriptedPoster(*[later()] * 100)
    delivery = delivery_of(poster, tmp_path, clock)
    delivery.finish_by(clock.monotonic_s() + 60.0)
    delivery.run(lambda: [queue], threading.Event())

    assert len(poster.posted) == 4
    assert len(queue.records) == 4


def test_a_surprise_does_not_end_the_thread(tmp_path: Path) -> None:
    """An error that nobody thought of is told by its kind, and delivery goes on."""
    clock, queue = LeapingClock(), ListQueue(1)

    class Surprising(ScriptedPoster):
        def post(self, records: Sequence[Record], *, timeout_s: float | None = None) -> PostResult:
            if not self.posted:
                self.posted.append([])
                raise ZeroDivisionError(URL)
            return super().post(records)

    poster = Surprising()
    delivery = delivery_of(poster, tmp_path, clock)
    delivery.finish_by(clock.monotonic_s() + 60.0)
    delivery.run(lambda: [queue], threading.Event())

    assert queue.records == []
