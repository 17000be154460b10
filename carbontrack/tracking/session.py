"""The session: the shared state of a tracker's spans: sampler, ledger, record builder, sinks."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from carbontrack.attribution.process_tree import has_children, look_for_children
from carbontrack.errors import SinkError
from carbontrack.record import Record, Sink
from carbontrack.sampling.ledger import Mark
from carbontrack.sampling.sampler import at_least_once
from carbontrack.system.forking import OwnThread, at_end_of_worker, holding_forks
from carbontrack.system.host import process_identity
from carbontrack.system.interrupts import WeakValues, pass_on
from carbontrack.system.log import LOSSES, RateLimitedLog
from carbontrack.system.reentrance import passed_text
from carbontrack.tracking.checkpoints import Checkpointable, Checkpoints
from carbontrack.tracking.handle import end_abandoned
from carbontrack.tracking.outliving import follow_parents
from carbontrack.tracking.propagation import context_text
from carbontrack.tracking.record_builder import RecordBuilder
from carbontrack.tracking.tree import open_tasks, recount

if TYPE_CHECKING:
    from pathlib import Path

    from carbontrack.sampling.ledger import Ledger
    from carbontrack.sampling.sampler import Sampler
    from carbontrack.sinks.timelines import TimelineFiles
    from carbontrack.tracking.propagation import Propagator
    from carbontrack.tracking.remote_parent import RemoteParents

_log = logging.getLogger("carbontrack")


_WAIT_S, _MOST_WAITS = 0.005, 100
"""How long, and how often, the end waits for another thread that is writing a row."""


NO_PARENT: tuple[str | None, bool | None] = (None, None)
"""The parent of a root in a process that no other process measures."""


class RunIdentity:
    """The ids of one tracker in one process, and the parent of its roots in another process.

    A forked child is a separate run, nested in the spans that were open at the fork.
    """

    def __init__(
        self,
        ledger: Ledger,
        sampler: Sampler,
        propagator: Propagator | None,
        parents: RemoteParents | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.ledger = ledger
        self.sampler = sampler
        self.propagator = propagator
        self._checkpoints = checkpoints
        self._warnings = RateLimitedLog(sampler.clock)
        self.uncounted_calls = 0
        self.writes_each_call = False
        """Whether each call writes its own row: at exit, as no later tick could write the sum."""
        self._open_roots: dict[int, Any] = {}
        self.remote_parents = parents
        self.run_ids: dict[int, str] = {}
        """The id of this tracker in this process and in those that it was forked from, by epoch."""
        self.epoch = -1
        """The sampler's, when something was last begun; that of a span which a fork interrupts."""
        self._begin_epoch()

    def end(self) -> None:
        """Write open spans as interrupted."""
        raise NotImplementedError

    def close(self) -> None:
        """End, and close everything that was opened."""
        raise NotImplementedError

    def _begin_epoch(self) -> None:
        if self.epoch >= 0:
            with self.sampler.lock:
                recount(self.sampler)  # the fork may have come in the middle of an edge
            try:
                self.remote_parents = self._find_parents()
            except Exception as error:  # for lack of descriptors, for example
                pass_on(error)
                self.remote_parents = None
                _log.exception("the open spans of the parent process could not be read")
        if self.remote_parents is not None:
            with self.sampler.lock:
                self.sampler.tick_listeners.add(self)
        if "pyspark" in sys.modules:  # a call that becomes a root asks it under a lock
            with holding_forks():
                import carbontrack.tracking.task  # noqa: F401
        self.epoch = self.sampler.epoch
        self._pid = os.getpid()
        self.run_ids[self.epoch] = os.urandom(16).hex()
        self.numbers = itertools.count(1)
        self._open_roots.clear()
        self._said_end = False
        at_end_of_worker(self)

    def _find_parents(self) -> RemoteParents | None:
        """In a forked child, whatever was open at the fork, or is opened later by its parent."""
        said = None if self.propagator is None else self.propagator.extract()
        state_dir = None if self._checkpoints is None else self._checkpoints.state_dir
        roots = list(self._open_roots.values())
        if said is None and state_dir is None and roots:  # a tracker that was built by hand
            identity = process_identity(pid=self._pid)
            said = context_text(roots[0].row_id, identity, self.ledger.attribution.scope, None)
        if said is None and state_dir is None:
            return None
        with holding_forks():
            from carbontrack.tracking.remote_parent import ParentContext, RemoteParents

        context = None if said is None else ParentContext.parse(said)
        scope = self.ledger.attribution.scope
        return RemoteParents(context, state_dir, scope=scope, clock=self.sampler.clock)

    @property
    def run_id(self) -> str:
        """The id of this tracker in this process."""
        if self.epoch != self.sampler.epoch:
            self._begin_epoch()
        return self.run_ids[self.epoch]

    @property
    def parents(self) -> RemoteParents | None:
        """The parents of the roots of this process in other ones, if there may be any."""
        if self.epoch != self.sampler.epoch:
            self._begin_epoch()
        return self.remote_parents

    def parent_now(self, *, looks: bool = True) -> tuple[str | None, bool | None]:
        """The parent id for a root that begins now, and whether its record holds the root.

        `looks`: first looks again; no lock of the sampler may be held then.
        """
        parents = self.parents
        if parents is None:
            return NO_PARENT
        if looks:
            self.look_for_parents()
        return parents.of_new_root()

    def look_for_parents(self) -> None:
        """Check again which other process's record includes this one's energy, if that is due."""
        parents = self.remote_parents
        if parents is not None and parents.is_due:
            self.sampler.uninterrupted(parents.look)

    def new_ids(self) -> tuple[str, str]:
        """The run's id, and the id of a new record, which is the run's id and a number."""
        run_id = self.run_id
        return run_id, f"{run_id}-{next(self.numbers)}"

    def new_number(self) -> int:
        """The number in the id of a new record."""
        if self.epoch != self.sampler.epoch:
            self._begin_epoch()
        return next(self.numbers)

    def context_of(self, record_id: str) -> str:
        """The description of a record for child processes."""
        state_dir = None if self._checkpoints is None else self._checkpoints.state_dir
        return context_text(record_id, self._identity(), self.ledger.attribution.scope, state_dir)

    def warn(self, key: str, message: str) -> None:
        """Warn of a usage error, limited in rate; `key` distinguishes errors."""
        self._warnings.warn(key, message)

    def warn_uncounted_call(self, name: str) -> None:
        """Count a call made after the session was closed, and warn of it."""
        self.uncounted_calls += 1
        self._warnings.warn(
            f"closed {name}",
            f"{name} was called after its tracker was closed, so its calls are not counted; "
            f"{self.uncounted_calls} calls so far",
        )

    def new_call_id(self, row_id: str) -> str:
        """An id for a call that child processes may be inside, in the row `row_id`."""
        return f"{row_id}/{next(self.numbers)}"

    def call_began(self, key: int, call_id: str) -> None:
        """A call has begun that child processes may be inside."""
        if self.propagator is not None:
            self.propagator.inject(key, self.context_of(call_id.partition("/")[0]))
        if self._checkpoints is not None:
            scope = self.ledger.attribution.scope
            self.sampler.uninterrupted(partial(self._checkpoints.call_began, call_id, scope))

    def call_ended(self, key: int, call_id: str, at_s: float) -> None:
        """It has ended, at this moment; a second call does nothing."""
        if self.propagator is not None:
            self.propagator.withdraw(key)
        self.sampler.uninterrupted(partial(self._keep_end, call_id, at_s))

    def _keep_end(self, call_id: str, at_s: float) -> None:
        self.say_ended(call_id.partition("/")[0], at_s)
        if self._checkpoints is not None:
            self._checkpoints.call_ended(call_id)

    def say_ended(self, record_id: str | None, at_s: float) -> None:
        """Write for child processes, if there are any, when a root has ended."""
        if record_id is None or self._checkpoints is None:
            return
        try:
            look_for_children()
        except ChildProcessError:
            return
        except OSError as error:
            pass_on(error)
        self._write_end(self._checkpoints.state_dir, record_id, at_s)

    def _write_end(self, state_dir: Path, record_id: str, at_s: float) -> None:
        try:
            with holding_forks():
                from carbontrack.tracking.remote_parent import say_ended
            say_ended(state_dir, record_id, at_s, self._identity())
            self._said_end = True
        except Exception as error:  # the row must be written
            pass_on(error)
            text = f"child processes cannot detect when their parent's block ends: {error}"
            if self._checkpoints is not None and self._checkpoints.trouble:  # the user knows
                _log.debug("%s", text)
            else:
                self._warnings.warn("ended", text)

    def _identity(self) -> str:
        return process_identity() if self.propagator is None else self.propagator.identity

    def forget_ends(self) -> None:
        """Remove the description for child processes, unless there still are some."""
        if not self._said_end or self._checkpoints is None:
            return
        from carbontrack.tracking.remote_parent import forget_ends  # is loaded

        if not has_children():
            forget_ends(self._checkpoints.state_dir, self._identity())

    def write_each_call(self) -> None:
        """From the start, because the program is ending and this session will not be closed."""
        self.writes_each_call = True
        if self._checkpoints is not None:
            self._checkpoints.close()

    def keep(self, one: Checkpointable) -> None:
        """Write a checkpoint of open work now, in the thread that does it."""
        if self._checkpoints is not None and not self.writes_each_call:
            self._checkpoints.write(one.checkpoint)

    def keep_first(self, span: Any) -> None:
        """Write the first checkpoint of a root that was just opened, whatever handlers raise."""
        checkpoints = self._checkpoints
        if checkpoints is not None and not self.writes_each_call:
            write = partial(checkpoints.write, span.first_checkpoint)
            if checkpoints.only_appends:
                at_least_once(self.sampler, write)
            else:
                self.sampler.uninterrupted(write)

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether open work is kept in a journal."""
        return self._checkpoints is not None

    def drop_checkpoint(self, record_id: str | None) -> None:
        """Remove the checkpoint of a record that was delivered, or is part of another."""
        if self._checkpoints is not None:
            self._checkpoints.drop(record_id)


class Session(RunIdentity):
    """The state that all spans and calls of one tracker share; users see the tracker.

    Args:
        builder: builds the records.
        sinks: the sinks that receive them.
        spans: which spans are written, "roots" or "all".
        checkpoints: writes checkpoints of open work; None: there are none.
        timelines: the files for the power of root spans over time; None: none is kept.
        propagator: propagates the parent id to child processes; None: it is not propagated.
        parents: the parents of this process's root records in other ones, if there may be any.
    """

    def __init__(
        self,
        builder: RecordBuilder,
        *,
        sinks: Sequence[Sink],
        spans: Literal["roots", "all"] = "roots",
        checkpoints: Checkpoints | None = None,
        timelines: TimelineFiles | None = None,
        propagator: Propagator | None = None,
        parents: RemoteParents | None = None,
    ) -> None:
        super().__init__(builder.ledger, builder.sampler, propagator, parents, checkpoints)
        self.builder = builder
        self.sinks = tuple(sinks)
        self._open_sinks = {id(sink): sink for sink in sinks}
        self.spans = spans
        self._timelines = timelines
        self.lost_records = 0
        self.closed = self._has_ended = self._sinks_closed = self.owns_sampler = False
        self.sites: WeakValues[Hashable, Any] = WeakValues()
        """The decorated functions by key; an entry lives while its function does, or while it has
        an open window."""
        if checkpoints is not None or timelines is not None:
            with self.sampler.lock:
                self.sampler.tick_listeners.add(self)

    # -- open spans -------------------------------------------------------------------------

    def root_opened(self, span: Any) -> None:
        """Register an open root, so that it is written even if the program ends or is killed.

        The sampler's lock is held; a first checkpoint, by `keep`, comes after that.
        """
        if self._timelines is not None:
            span.begin_timeline()
        self._open_roots[id(span)] = span
        if self.propagator is not None:
            self.propagator.inject(id(span), self.context_of(span.row_id))
        if self._checkpoints is not None:
            self._checkpoints.write_soon()

    def forget_root(self, span: Any) -> None:
        """A root whose end could not be counted is no longer open."""
        self._open_roots.pop(id(span), None)
        if self.propagator is not None:
            self.propagator.withdraw(id(span))

    def span_closed(
        self,
        span: Any,
        record: Record | None,
        ended: tuple[str | None, float],
        *,
        written: bool,
    ) -> None:
        """Write the record of a closed span, if it has a row, and its timeline.

        `ended` is the id of the row that contains it, and the instant of its end.
        """
        is_root = id(span) in self._open_roots
        if is_root:
            if self.propagator is not None:
                self.propagator.withdraw(id(span))
            self.say_ended(*ended)
        if record is not None:
            self.deliver(record)
        if written and span.power_series is not None:
            self._keep_timeline(span)
        if is_root or span.is_kept:
            self.drop_checkpoint(span.record_id)
            if span.first_id is not None:
                self.drop_checkpoint(span.first_id)
            self._open_roots.pop(id(span), None)

    def after_tick(self, now_s: float) -> None:
        """Follow the parent, extend the timelines, and write checkpoints when they are due."""
        end_abandoned()
        self._say_passed()
        if self.remote_parents is not None:
            self._follow_parents(self.remote_parents)
        if self._timelines is not None:
            with self.sampler.lock:
                mark = Mark(self.sampler.counts, self.ledger.account)
                for root in list(self._open_roots.values()):
                    root.extend_timeline(mark)
        if self._checkpoints is not None:
            ones = []
            has_new = self._checkpoints.takes_new()
            if self._checkpoints.are_due(now_s):
                ones = self._open_ones()
            else:
                if self.sampler.apportioner is not None:
                    ones = self.sites.living()  # at every tick, as workers are killed at any time
                if has_new:
                    ones += [root for root in list(self._open_roots.values()) if root.is_new]
            self._checkpoints.write(*[one.checkpoint for one in ones])
            if not self._open_roots:
                self._checkpoints.rest(at_once=False)

    def fall_asleep(self) -> None:
        """Release what only an open run needs, because nothing is open on the sampler."""
        if self._checkpoints is not None:
            self._checkpoints.rest(at_once=True)
        for sink in self.sinks:
            if callable(getattr(sink, "rest", None)):
                _finish_sink("rest", sink)

    def _open_ones(self) -> list[Any]:
        """The open roots, their tasks and the decorated functions, while others are opened."""
        roots = list(self._open_roots.values())
        tasks = open_tasks(roots) if self.spans == "all" else ()
        return [*roots, *tasks, *self.sites.living()]

    def _follow_parents(self, parents: RemoteParents) -> None:
        """Begin new rows if another record includes the energy, or none does any more."""
        parents.look()
        held: list[Record] = []
        with self.sampler.lock:
            mark = Mark(self.sampler.counts, self.ledger.account)
            for root in list(self._open_roots.values()):
                if root.is_open:  # one that has just ended is there until its row is written
                    held += follow_parents(root, parents, mark)
            parents.seen = mark
        for record in held:
            self.deliver(record)
        for site in self.sites.living():
            site.follow_parents(parents)

    # -- sinks ------------------------------------------------------------------------------

    def deliver(self, record: Record) -> None:
        """Write a finished record to every sink; the failure of one is logged and counted."""
        for sink in self.sinks:
            try:
                sink.write(record)
            except Exception as error:  # must not reach the measured program
                pass_on(error)
                self.lost_records += 1
                lost = self.lost_records
                LOSSES.add(f"{sink!r}: {getattr(error, 'reason', '') or repr(error)}")
                self._warnings.warn(
                    f"write {sink!r}", f"{sink!r} did not accept a record: {error!r}; {lost} so far"
                )

    def _keep_timeline(self, span: Any) -> None:
        timeline = span.current_checkpoint().timeline
        if self._timelines is None or timeline is None:
            return
        try:
            self._timelines.write(timeline)
        except Exception as error:  # must not reach the measured program
            pass_on(error)
            self._warnings.warn("timeline", f"a timeline could not be written: {error}")

    # -- the end ----------------------------------------------------------------------------

    def end(self) -> None:
        """Write open roots as interrupted, and make sinks hurry. `close` follows.

        A second call completes what a signal handler has kept the first from doing.
        """
        if self._has_ended:
            return
        self.closed = True
        for _ in range(2):  # twice, as a call may become a span meanwhile, in another thread
            for one in self._open_ones():
                try:
                    one.interrupt()
                except Exception as error:
                    pass_on(error)
                    LOSSES.add(f"still open: {error!r}")
                    _log.exception("the record of an open span could not be written")
        if self.sinks:
            from carbontrack.sinks.capabilities import HurriedSink

            for sink in self.sinks:
                # starts the last attempts of a sink with a thread, without waiting for them
                if isinstance(sink, HurriedSink):
                    _finish_sink("hurry", sink)
        self._has_ended = True

    def close(self) -> None:
        """End, and close the sinks. A second call does nothing."""
        self.end()
        if self._sinks_closed:
            return
        self._wait_for_others()
        for key, sink in tuple(self._open_sinks.items()):
            _finish_sink("close", sink)
            self._open_sinks.pop(key, None)
        self.ledger.deferred_log.flush()
        self._say_passed()
        self.forget_ends()
        if self._checkpoints is not None:
            self._checkpoints.close()
        if self.owns_sampler:
            self.sampler.close()
        self._sinks_closed = True

    def _say_passed(self) -> None:
        text = passed_text()
        if text is not None:
            _log.warning("%s", text)

    def _wait_for_others(self) -> None:
        # Other threads that are writing a row: the end of the program may stop them between it and
        # the end of its checkpoint. The roots of a parent process are not ours to wait for.
        for _ in range(_MOST_WAITS):
            roots = list(self._open_roots.values())
            if all(root.is_of_parent for root in roots):
                return
            threading.Event().wait(_WAIT_S)

    def __del__(self) -> None:
        """The last reference to the tracker, and to all its spans, is gone: write and close."""
        try:
            if not self._sinks_closed and not sys.is_finalizing():
                self._close_unwaited()
        except Exception as error:  # at the exit of the interpreter, or half made
            pass_on(error)

    def _close_unwaited(self) -> None:
        self.end()
        if self.owns_sampler:
            self.owns_sampler = False
            self.sampler.close(with_meters=False)  # they may be in use elsewhere
        from carbontrack.sinks.capabilities import HurriedSink

        if any(isinstance(sink, HurriedSink) for sink in self.sinks):
            # which waits for a server; this may be any line of the program
            OwnThread(self.close, "carbontrack-close").start()
        else:
            self.close()


def open_roots(session: Session) -> list[Any]:
    """The root spans that are open, while other threads open and close them."""
    return [root for root in list(session._open_roots.values()) if root.is_open]


def add_sink(session: Session, sink: Sink) -> None:
    """Send every record from now on to this sink too, which is not closed with the session.

    Raises:
        ConfigError: the sink does not accept the records of such a tracker.
    """
    let_begin(sink, session)
    if sink not in session.sinks:
        session.sinks = (*session.sinks, sink)


def remove_sink(session: Session, sink: Sink) -> None:
    """Send it no further records."""
    session.sinks = tuple(one for one in session.sinks if one is not sink)


def let_begin(sink: Sink, session: Session) -> None:
    """Show a sink the session whose records it will get, if it wants to see that.

    Raises:
        ConfigError: it does not accept the records of such a tracker.
    """
    begin = getattr(sink, "begin_session", None)
    if callable(begin):
        begin(session)


def _finish_sink(step: Literal["hurry", "close", "rest"], sink: Sink) -> None:
    """Call a sink's method; a failure, or a missing `close`, is logged, and the others go on."""
    try:
        getattr(sink, step)()
    except SinkError as error:  # its message is for users
        if LOSSES.is_to_be_said(f"{sink!r}: {error.reason}", error.lost_records):
            _log.warning("%s", error)
    except Exception as error:  # must not reach the measured program
        pass_on(error)
        _log.warning("%r did not %s: %s", sink, step, error)
