"""Spans: their sums, their tree, their ends, and that nothing of ours reaches the program."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest

from carbontrack.api.track import current_span
from carbontrack.errors import ConfigError
from carbontrack.grid.intensity import GridIntensity
from carbontrack.meters.meter import MeterSet
from carbontrack.testing import FakeMeter
from carbontrack.tracking.context import current
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import Bench, joules


class InterruptedMeter(FakeMeter):
    """Lets a test act, once, in the middle of a read."""

    hook = None

    def read_joules(self, now_s):
        """The joules, after the hook."""
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
        return super().read_joules(now_s)


def test_a_span_is_the_difference_of_two_readings():
    """100 W for 10 s are 1000 J, exactly, with no tick in between."""
    with Bench() as bench:
        with bench.tracker.span("train") as run:
            bench.clock.advance(10.0)
        assert run.record.cpu_kwh == 1000.0 / JOULES_PER_KWH
        assert run.record.duration_s == 10.0
        assert run.record.basis == "measured"
        assert run.record.coverage == 1.0
        assert bench.records == [run.record]


def test_what_was_used_before_and_after_is_nobodys():
    """Only the time inside the span counts."""
    with Bench() as bench:
        bench.clock.advance(100.0)
        with bench.tracker.span("a") as a:
            bench.clock.advance(1.0)
        bench.clock.advance(100.0)
        with bench.tracker.span("b") as b:
            bench.clock.advance(2.0)
        assert joules(a.record) == pytest.approx(100.0)
        assert joules(b.record) == pytest.approx(200.0)


def test_a_record_exists_only_after_the_end():
    """While the span is open its record is None; afterwards it is always the same one."""
    with Bench() as bench:
        span = bench.tracker.span("a")
        assert span.record is None
        with span:
            bench.clock.advance(1.0)
            assert span.record is None
        assert span.record is span.record


def test_children_are_part_of_their_parent():
    """A parent has what it used alone and what its children used; nothing is in two children."""
    with Bench() as bench:
        with bench.tracker.span("parent") as parent:
            bench.clock.advance(1.0)
            with parent.span("one") as one:
                bench.clock.advance(2.0)
            with parent.span("two") as two:
                bench.clock.advance(3.0)
                with two.span("inner") as inner:
                    bench.clock.advance(4.0)
        assert joules(one.record) == pytest.approx(200.0)
        assert joules(inner.record) == pytest.approx(400.0)
        assert joules(two.record) == pytest.approx(700.0)
        assert joules(parent.record) == pytest.approx(1000.0)
        assert two.record.parent_id == parent.record.record_id
        assert inner.record.parent_id == two.record.record_id
        assert parent.record.parent_id is None
        assert bench.records == [parent.record]


def test_concurrent_roots_share_evenly():
    """At each instant the energy is split among the open leaves, and the sums are the whole."""
    with Bench() as bench:
        a = bench.tracker.span("a").open()
        bench.clock.advance(1.0)
        b = _open_elsewhere(bench, "b")
        bench.clock.advance(2.0)
        a.close()
        bench.clock.advance(3.0)
        b.close()
        assert joules(a.record) == pytest.approx(100.0 + 100.0)
        assert joules(b.record) == pytest.approx(100.0 + 300.0)


def _open_elsewhere(bench, name):
    """Open a root in a context of its own, as another thread would."""
    return contextvars.Context().run(bench.tracker.span(name).open)


def test_a_parent_with_children_is_no_leaf():
    """A parent and its child are one head against a concurrent root, not two."""
    with Bench() as bench:
        other = _open_elsewhere(bench, "other")
        with bench.tracker.span("parent") as parent, parent.span("child"):
            bench.clock.advance(10.0)
        other.close()
        assert joules(parent.record) == pytest.approx(500.0)
        assert joules(other.record) == pytest.approx(500.0)


def test_concurrent_children_share_their_parents_part():
    """Sums of children and what the parent used alone are the parent, to rounding."""
    with Bench() as bench:
        with bench.tracker.span("parent") as parent:
            bench.clock.advance(1.0)
            a, b = parent.span("a").open(), parent.span("b")
            bench.clock.advance(1.0)
            contextvars.Context().run(b.open)
            bench.clock.advance(2.0)
            a.close()
            bench.clock.advance(1.0)
            b.close()
        assert joules(a.record) == pytest.approx(100.0 + 100.0)
        assert joules(b.record) == pytest.approx(100.0 + 100.0)
        assert joules(parent.record) == pytest.approx(500.0)


def test_a_parent_that_ends_first_hands_its_children_on():
    """What a child used until then is the parent's; what it uses later goes further up."""
    with Bench() as bench:
        with bench.tracker.span("root") as root:
            parent = root.span("parent").open()
            child = parent.span("child").open()
            bench.clock.advance(1.0)
            parent.close()
            bench.clock.advance(2.0)
            child.close()
            bench.clock.advance(4.0)
        assert joules(parent.record) == pytest.approx(100.0)
        assert joules(child.record) == pytest.approx(300.0)
        assert joules(root.record) == pytest.approx(700.0)


def test_a_root_that_ends_before_its_child_keeps_its_own_time():
    """Closing in the wrong order loses nothing of either, and nothing is in both rows."""
    with Bench() as bench:
        root = bench.tracker.span("root").open()
        child = root.span("child").open()
        bench.clock.advance(1.0)
        root.close()
        bench.clock.advance(2.0)
        child.close()
        assert joules(root.record) == pytest.approx(100.0)
        assert joules(child.record) == pytest.approx(200.0)
        assert not bench.sampler.awake
        assert bench.sampler.leaves == 0


def test_a_span_after_its_parents_end_is_a_root():
    """Opened too late, it belongs to nobody, and is written."""
    with Bench() as bench:
        with bench.tracker.span("parent") as parent:
            bench.clock.advance(1.0)
        with parent.span("late") as late:
            bench.clock.advance(1.0)
        assert late.record.parent_id is None
        assert late.record in bench.records
        assert joules(late.record) == pytest.approx(100.0)


def test_with_all_spans_children_have_rows_too():
    """`spans="all"` writes each span, the inner ones first."""

    bench = Bench()
    bench.session.spans = "all"
    with bench, bench.tracker.span("outer") as outer, outer.span("inner"):
        bench.clock.advance(1.0)
    assert [record.name for record in bench.records] == ["inner", "outer"]


# -- how it ends -------------------------------------------------------------------------------


class OddError(Exception):
    """An exception whose text spans lines and is long."""


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (None, "ok", None),
        (ValueError("wrong"), "error", "ValueError: wrong"),
        (OddError("two\nlines\tand tabs"), "error", "OddError: two lines and tabs"),
        (SystemExit(0), "ok", None),
        (SystemExit(None), "ok", None),
        (SystemExit(3), "error", "SystemExit: 3"),
        (SystemExit("no"), "error", "SystemExit: no"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt:"),
        (asyncio.CancelledError(), "interrupted", "CancelledError:"),
        (GeneratorExit(), "ok", None),
    ],
)
def test_the_record_says_how_it_ended_and_the_exception_is_the_same(error, status, text):
    """Whatever ends the block leaves it as the same object; the record says what it was."""
    with Bench() as bench:
        caught = None
        try:
            with bench.tracker.span("a") as span:
                bench.clock.advance(1.0)
                if error is not None:
                    raise error
        except BaseException as got:
            caught = got
        assert caught is error
        assert span.record.status == status
        assert span.record.error == text
        assert joules(span.record) == pytest.approx(100.0)


def test_an_exception_keeps_its_cause_and_context():
    """Nothing is added to what the program raised."""
    with Bench() as bench:
        cause, error = KeyError("cause"), ValueError("error")
        with pytest.raises(ValueError, match="error"), bench.tracker.span("a"):
            raise error from cause
        assert error.__cause__ is cause
        assert error.__context__ is None


def test_a_long_message_is_cut_in_the_record_only():
    """The record keeps the beginning of a message; the exception keeps all of it."""
    with Bench() as bench:
        error = ValueError("x" * 10_000)
        with pytest.raises(ValueError, match="x" * 100), bench.tracker.span("a") as span:
            raise error
        assert len(span.record.error) == 200
        assert len(str(error)) == 10_000


def test_an_exception_that_cannot_be_printed_passes_unchanged():
    """A message that fails to be made is the program's business, and its record's loss only."""

    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    with Bench() as bench:
        error = UnprintableError()
        with pytest.raises(UnprintableError) as caught, bench.tracker.span("a") as span:
            raise error
        assert caught.value is error
        assert error.__context__ is None
        assert span.record.status == "error"
        assert "UnprintableError" in span.record.error


def test_closing_twice_does_nothing():
    """The second end of a span changes neither its record nor the sums."""
    with Bench() as bench:
        with bench.tracker.span("a") as span:
            bench.clock.advance(1.0)
            span.close()
            bench.clock.advance(5.0)
        assert joules(span.record) == pytest.approx(100.0)
        assert len(bench.records) == 1
        assert not bench.sampler.awake


def test_a_discarded_span_is_not_written():
    """What did not come about leaves no row."""
    with Bench() as bench:
        span = bench.tracker.span("a").open()
        span.discard()
        assert bench.records == []
        assert not bench.sampler.awake


def test_times_are_utc_and_durations_monotonic():
    """A step of the wall clock moves the labels of a record, never its duration or its energy."""
    with Bench() as bench:
        bench.clock.set_wall(datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc))
        with bench.tracker.span("a") as span:
            bench.clock.advance(1.0)
            bench.clock.step_wall(-3600.0)
            bench.clock.advance(1.0)
        assert span.record.started_at == "2026-03-01T12:00:00.250000Z"
        assert span.record.ended_at == "2026-03-01T11:00:02.250000Z"
        assert span.record.duration_s == 2.0
        assert joules(span.record) == pytest.approx(200.0)


# -- meters that fail --------------------------------------------------------------------------


def test_a_failed_read_costs_nothing():
    """One failed read invents nothing and loses nothing, and is counted."""
    with Bench() as bench:
        with bench.tracker.span("a") as span:
            bench.run(1.0)
            bench.meter.fail()
            bench.run(1.0)
            bench.run(1.0)
        assert joules(span.record) == pytest.approx(300.0)
        assert span.record.missed_reads == 1
        assert span.record.coverage == 1.0


def test_a_failed_read_at_the_end_is_not_billed_to_the_next():
    """What a span could not see at its end is unknown, and the coverage says so."""
    with Bench() as bench:
        with bench.tracker.span("a") as a:
            bench.run(5.0)
            bench.clock.advance(5.0)
            bench.meter.fail()
        with bench.tracker.span("b") as b:
            bench.clock.advance(10.0)
        assert joules(a.record) == pytest.approx(500.0)
        assert a.record.coverage == pytest.approx(0.5)
        assert a.record.missed_reads == 1
        assert joules(b.record) == pytest.approx(1000.0)
        assert b.record.coverage == 1.0


def test_a_reset_is_dropped_and_told():
    """A counter that was reset costs its step; coverage and faults say how much and why."""
    with Bench() as bench:
        with bench.tracker.span("a") as span:
            bench.run(6.0)
            bench.meter.reset()
            bench.run(2.0)
            bench.run(2.0)
        assert joules(span.record) == pytest.approx(800.0)
        assert span.record.coverage == pytest.approx(0.8)
        assert span.record.faults == "reset:1"


def test_a_lost_meter_is_replaced_and_the_basis_says_so():
    """The next best meter counts from its last answer on; the record shows both, and the weaker."""
    meter = FakeMeter("rapl:package-0", watts=100.0)
    model = FakeMeter("model:cpu", watts=50.0, basis="modelled", relative_uncertainty=0.5)
    with Bench(MeterSet((meter,), {"cpu": lambda: model})) as bench:
        with bench.tracker.span("a") as span:
            bench.run(10.0, ticks=10)
            meter.gone()
            bench.run(1.0)
            bench.run(10.0, ticks=10)
        assert joules(span.record) == pytest.approx(1000.0 + 550.0)
        assert span.record.meters == "rapl:package-0;model:cpu"
        assert span.record.basis == "modelled"
        assert span.record.cpu_basis == "modelled"
        assert "substituted:1" in span.record.faults
        assert span.record.coverage == 1.0


def test_a_returning_meter_does_not_count_the_outage_again():
    """What its substitute covered is dropped from its own count."""
    meter = FakeMeter("rapl:package-0", watts=100.0)
    model = FakeMeter("model:cpu", watts=100.0, basis="modelled")
    with Bench(MeterSet((meter,), {"cpu": lambda: model})) as bench:
        with bench.tracker.span("a") as span:
            bench.run(10.0, ticks=10)
            meter.fail(10_000)
            bench.run(20.0, ticks=20)
            meter.back()
            bench.run(10.0, ticks=10)
        assert joules(span.record) <= 4000.0 + 1e-6
        assert joules(span.record) == pytest.approx(4000.0, rel=0.11)
        assert span.record.coverage <= 1.0


def test_a_sleeping_machine_is_neither_billed_nor_hidden():
    """Suspend: the counter's step is dropped, the time asleep lowers the coverage."""
    with Bench() as bench:
        with bench.tracker.span("a") as span:
            bench.run(10.0)
            bench.clock.suspend(50.0)
            bench.meter.add_joules(99_999.0)
            bench.run(10.0)
            bench.run(30.0)
        assert joules(span.record) == pytest.approx(4000.0)
        assert span.record.duration_s == 50.0
        assert span.record.coverage == pytest.approx(0.4)
        assert "suspend:1" in span.record.faults


def test_a_sleep_between_two_spans_is_no_spans():
    """Nothing that happened before a span is in its record."""
    with Bench() as bench:
        with bench.tracker.span("a"):
            bench.run(1.0)
        bench.clock.suspend(5000.0)
        with bench.tracker.span("b") as b:
            bench.run(1.0)
        assert b.record.faults is None
        assert b.record.coverage == 1.0


def test_shorter_than_the_counter_is_modelled_never_zero():
    """A span between two refreshes of its counter takes the last known power."""
    meter = FakeMeter("nvml:GPU-1", "gpu", watts=300.0, resolution_s=0.1)
    with Bench([meter]) as bench:
        with bench.tracker.span("outer") as outer:
            bench.run(10.0, ticks=10)
            with outer.span("short") as short:
                bench.clock.advance(0.01)
                meter.watts = 0.0  # the counter stands still
        assert joules(short.record) == pytest.approx(3.0)
        assert short.record.basis == "modelled"
        assert short.record.gpu_basis == "modelled"


def test_shorter_than_the_counter_without_a_known_power_is_unknown():
    """Where no power was ever seen there is no number, rather than a zero."""
    meter = FakeMeter("nvml:GPU-1", "gpu", watts=0.0, resolution_s=0.1)
    with Bench([meter]) as bench:
        with bench.tracker.span("short") as short:
            bench.clock.advance(0.01)
        assert short.record.gpu_kwh is None
        assert short.record.energy_kwh is None
        assert short.record.emissions_g is None
        assert short.record.basis is None


def test_a_machine_without_meters_still_has_records():
    """Nothing to measure with: duration is known, energy is not."""
    with Bench([]) as bench:
        with bench.tracker.span("a") as span:
            bench.clock.advance(1.0)
        assert span.record.duration_s == 1.0
        assert span.record.energy_kwh is None
        assert span.record.coverage is None


# -- names, labels, contexts -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", None, 7, b"bytes"])
def test_a_bad_name_is_refused_before_anything_starts(name):
    """A tracker and a span refuse the same names in the same way."""
    with Bench() as bench:
        with pytest.raises(ConfigError, match="name"):
            bench.tracker.span(name)
        with bench.tracker.span("a") as span, pytest.raises(ConfigError, match="name"):
            span.span(name)


def test_labels_are_copied_at_the_beginning():
    """What the program does to its own mapping later does not reach the record."""
    with Bench() as bench:
        labels = {"n": 1}
        with bench.tracker.span("a", labels=labels) as span:
            labels["n"] = 2
        assert span.record.labels == {"n": 1}


def test_ids_are_unique_and_known_from_the_opening():
    """A span's record has the id that the span had from its opening."""
    with Bench() as bench:
        ids = []
        for _ in range(100):
            with bench.tracker.span("a") as span:
                ids.append(span.record_id)
            assert span.record.record_id == ids[-1]
            assert span.record.run_id == bench.session.run_id
        assert len(set(ids)) == 100


def test_the_current_span_follows_the_blocks():
    """Inside a block its span is the current one; outside none is."""
    with Bench() as bench:
        assert current_span() is None
        with bench.tracker.span("a") as a:
            assert current_span() is a
            with bench.tracker.span("b") as b:
                assert current_span() is b
                assert b.parent is a
            assert current_span() is a
        assert current_span() is None
        assert current.get() is None


def test_a_span_closed_in_another_thread_is_whole():
    """Leaving in another thread is fine; here the span counts as closed at once."""
    with Bench() as bench:
        span = bench.tracker.span("a").open()
        bench.clock.advance(3.0)
        thread = threading.Thread(target=span.close)
        thread.start()
        thread.join()
        assert joules(span.record) == pytest.approx(300.0)
        assert current_span() is None
        with bench.tracker.span("b") as b:
            assert b.parent is None


def test_spans_closed_elsewhere_leave_no_chain_behind():
    """Opening here and closing there, a thousand times, keeps none of them alive."""
    import weakref

    class Mark:
        pass

    with Bench() as bench, ThreadPoolExecutor(1) as executor:
        marks = []
        for _ in range(1000):
            mark = Mark()
            marks.append(weakref.ref(mark))
            span = bench.tracker.span("a", labels={"mark": mark}).open()
            executor.submit(span.close).result()
            bench.records.clear()
        del span, mark
        gc.collect()
        alive = sum(ref() is not None for ref in marks)
        assert alive <= 2
    current.set(None)


def test_closing_out_of_order_leaves_no_closed_span_current():
    """After all are closed, in any order, the context is as it was."""
    with Bench() as bench:
        a = bench.tracker.span("a").open()
        b = bench.tracker.span("b").open()
        a.close()
        assert current_span() is b
        b.close()
        assert current_span() is None
        assert current.get() is None


def test_threads_do_not_inherit_the_current_span_and_tasks_do():
    """A plain thread begins without a span; `asyncio.to_thread` and tasks carry it over."""
    seen = []

    async def main(tracker):
        with tracker.span("root") as root:
            await asyncio.gather(asyncio.create_task(look()), asyncio.to_thread(look_now))
            thread = threading.Thread(target=look_now)
            thread.start()
            thread.join()
        return root

    async def look():
        look_now()

    def look_now():
        seen.append(current_span())

    with Bench() as bench:
        root = asyncio.run(main(bench.tracker))
    assert sorted(span is root for span in seen) == [False, True, True]


def test_tasks_interleave_without_mixing_up():
    """A thousand tasks, each with its own span, each end in their own context."""

    async def task(tracker, number, gates):
        async with tracker.span(f"t{number}") as outer:
            for _gate in gates[number % 7 :: 3]:
                with tracker.span("inner") as inner:
                    assert inner.parent is outer
                    await asyncio.sleep(0)
                    assert current_span() is inner
                assert current_span() is outer
        assert current_span() is None
        return outer

    async def main(tracker):
        return await asyncio.gather(*(task(tracker, n, range(9)) for n in range(1000)))

    with Bench() as bench:
        spans = asyncio.run(main(bench.tracker))
        assert len({span.record.record_id for span in spans}) == 1000
        assert bench.sampler.leaves == 0
        assert not bench.sampler.awake


# -- snapshots ---------------------------------------------------------------------------------


def test_a_snapshot_tells_the_time_so_far():
    """At any moment a record of what has been used, which changes nothing."""
    with Bench() as bench:
        with bench.tracker.span("a") as span:
            bench.clock.advance(1.0)
            first = span.snapshot()
            bench.clock.advance(1.0)
            with span.span("child"):
                bench.clock.advance(1.0)
                second = span.snapshot()
        assert joules(first) == pytest.approx(100.0)
        assert joules(second) == pytest.approx(300.0)
        assert second.record_id == span.record.record_id
        assert joules(span.record) == pytest.approx(300.0)
        assert span.snapshot() is span.record
        assert bench.records == [span.record]


def test_a_snapshot_from_another_thread_is_the_same():
    """Any thread may look."""
    with Bench() as bench, bench.tracker.span("a") as span:
        bench.clock.advance(2.0)
        with ThreadPoolExecutor(1) as executor:
            seen = executor.submit(span.snapshot).result()
        assert joules(seen) == pytest.approx(200.0)


def test_a_snapshot_before_the_opening_is_a_mistake_that_is_said():
    """There is nothing to tell of a span that was never opened."""
    with Bench() as bench, pytest.raises(RuntimeError, match="not been opened"):
        bench.tracker.span("a").snapshot()


def test_a_snapshot_that_meets_the_end_does_not_change_the_record():
    """Looking while the span is being closed leaves its record as it was at its end."""
    meter = InterruptedMeter(watts=100.0)
    with Bench([meter]) as bench:
        span = bench.tracker.span("a").open()
        bench.clock.advance(1.0)
        snapshots: list[object] = []
        looker = threading.Thread(target=lambda: snapshots.append(span.snapshot()))

        def look_meanwhile():
            looker.start()
            bench.clock.until_waiting(0)
            while not looker.is_alive():
                pass
            for _ in range(1000):
                pass

        meter.hook = look_meanwhile
        with bench.sampler.lock:
            span.close()
            bench.clock.advance(50.0)
        looker.join()
        assert span.record.duration_s == 1.0
        assert joules(span.record) == pytest.approx(100.0)
        assert joules(snapshots[0]) == pytest.approx(100.0)


# -- nothing of ours reaches the program -------------------------------------------------------


class BrokenGrid:
    """A live source that fails after it has answered once."""

    def __init__(self, answers=1):
        self.answers = answers

    def at(self, when):
        self.answers -= 1
        if self.answers < 0:
            raise RuntimeError("the source broke")
        return GridIntensity("FR", 50.0, 40.0, 60.0, "live", 2026, "lifecycle")


@pytest.mark.parametrize("answers", [0, 1, 2, 3])
def test_a_grid_that_fails_raises_nothing_and_keeps_its_last_answer(answers):
    """A source of intensity that breaks is said in the log; the span goes on."""
    with Bench(grid=BrokenGrid(answers)) as bench:
        with bench.tracker.span("a") as span:
            bench.run(1.0)
            with span.span("child"):
                bench.run(1.0)
        assert joules(span.record) == pytest.approx(200.0)
        assert bench.records == [span.record]
        assert not bench.sampler.awake
        if answers:
            assert span.record.intensity_g_per_kwh == 50.0
        else:
            assert span.record.emissions_g is None


def test_a_sink_that_fails_raises_nothing():
    """A record that cannot be written is counted; it is still in memory."""

    class Full:
        def write(self, record):
            raise OSError("disk full")

        def close(self):
            raise OSError("disk full")

    bench = Bench()
    bench.session.sinks = (Full(), bench.sink)
    with bench, bench.tracker.span("a") as span:
        bench.clock.advance(1.0)
    assert span.record is not None
    assert bench.records == [span.record]
    assert bench.session.lost_records == 1


def test_a_meter_whose_facts_become_impossible_raises_nothing(caplog):
    """A record that cannot be made is said in the log, and the span is over all the same."""

    class Changing(FakeMeter):
        """It says of itself what another one does, until it does not."""

        said_s = 0.1

        @property
        def resolution_s(self):
            return self.said_s

        @resolution_s.setter
        def resolution_s(self, said_s):
            """What the fake is made with is of no interest here."""

    meter = Changing()
    with Bench([meter]) as bench:
        meter.said_s = None
        with bench.tracker.span("a") as span:
            bench.clock.advance(1.0)
        assert "the values of a record could not be computed" in caplog.text
        assert (span.record.status, span.record.energy_kwh) == ("ok", None)
        assert not span.is_open
        assert current_span() is None
        assert not bench.sampler.awake
        with bench.tracker.span("b"):
            pass


def test_a_span_closed_by_the_garbage_collector_in_the_middle_of_a_read():
    """A finalizer may end a span while meters are read; nothing fails, nothing is counted twice."""
    meter = InterruptedMeter(watts=100.0)
    with Bench([meter]) as bench:
        root = bench.tracker.span("root").open()
        child = root.span("child").open()
        other = _open_elsewhere(bench, "other")
        bench.clock.advance(1.0)
        meter.hook = child.close
        bench.sampler.tick()
        bench.clock.advance(1.0)
        meter.hook = other.close
        root.close()
        used = joules(root.record) + joules(other.record)
        assert used <= 200.0 + 1e-9
        assert bench.sampler.leaves == 0
        assert not bench.sampler.awake


def test_repr_names_the_span_and_its_state():
    """A person who prints a span sees what it is."""
    with Bench() as bench:
        span = bench.tracker.span("a")
        assert repr(span) == "<Span 'a' not opened>"
        with span:
            assert repr(span) == "<Span 'a' open>"
        assert repr(span) == "<Span 'a' closed>"
