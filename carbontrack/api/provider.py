"""The tracker provider: one tracker for each set of settings, on as few samplers as possible.

A tracker is made when it is first used, and costs nothing while nothing is open on it. It is kept
until the program ends or, if a program uses many settings, until others have replaced it.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from carbontrack.api.assembly import (
    HostKey,
    assemble,
    check,
    current_environment,
    host_key,
    make_sampler,
    wall_fit,
)
from carbontrack.config.environment import Environment
from carbontrack.config.load import SettingsCache, check_outputs, key_of, settings_from
from carbontrack.config.settings import Settings
from carbontrack.errors import CarbontrackError, ConfigError
from carbontrack.record import Sink
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.forking import holding_forks, remember
from carbontrack.system.interrupts import attempt, from_outside, pass_on, reentrant_lock
from carbontrack.system.log import LOGGER, LOSSES, OnceLog
from carbontrack.tracking.propagation import Propagator
from carbontrack.tracking.session import Session, add_sink, remove_sink
from carbontrack.tracking.tracker import NoOpTracker, Tracker

MOST_TRACKERS = 32
"""Trackers of `track` that are kept for their next use."""
_MOST_KEPT = 256
"""Settings and warnings that are remembered."""
_PATIENCE_S = 5.0
"""The longest wait for a tracker that another thread is making."""

T = TypeVar("T")
Key = tuple[Settings, str, Environment]
"""Settings, the origin of the region, and the part of the environment a tracker depends on."""


class TrackerProvider:
    """Finds or makes the trackers of this process."""

    def __init__(self) -> None:
        self._lock = reentrant_lock()
        self._shared: dict[Key, Tracker] = {}
        self._samplers: dict[HostKey, Sampler] = {}
        self._made: dict[int, tuple[weakref.ref[Session], Settings]] = {}
        """The sessions by id, each with the settings that it was created with. A reference wakes
        the sampler when its session goes."""
        self._closes_at_exit = self._is_exiting = self._handles_signals = False
        self._log = OnceLog()
        self._usable: dict[Hashable, Settings] = {}
        """Settings that were found usable, by arguments and environment."""
        self._loaded, self._propagator = SettingsCache(), Propagator()
        self.common_sinks = CommonSinks(self)
        self.is_closed_by_server = False
        remember(self)

    def environment(self) -> Environment:
        """The environment now, with the parent id that this process was started with."""
        now = current_environment()
        return now._replace(parent_id=self._propagator.original_parent(now.parent_id))

    def get(self, settings: Settings) -> Tracker:
        """The process's tracker for these settings, made when first needed.

        Raises:
            ConfigError: a setting cannot be used.
        """
        environment = self.environment()
        tracker = self._find(settings, environment)
        if tracker is None:
            with self._lock:
                tracker = self._find(settings, environment)
                if tracker is None:
                    tracker = self._made_or_none(settings, environment)
                    self._shared[_key(settings, environment)] = tracker
                    self._forget_idle()
        return tracker

    def _made_or_none(self, settings: Settings, environment: Environment, *sinks: Sink) -> Tracker:
        """A new tracker, or one that does nothing if the environment makes that fail.

        Raises:
            CarbontrackError: a setting cannot be used.
        """
        tracker, error = attempt(self._make, settings, environment, *sinks, passes=CarbontrackError)
        if tracker is None:
            self.warn_once(f"nothing is measured: {type(error).__name__}: {error}")
            LOGGER.debug("no tracker could be made", exc_info=error)
        return tracker or NoOpTracker()

    def _forget_idle(self) -> None:
        """Drop trackers with nothing open, oldest first; each closes with its last reference.

        A program that uses thousands of different settings needs each of them only briefly.
        """
        for key in list(self._shared)[:-MOST_TRACKERS]:
            tracker = self._shared[key]
            if isinstance(tracker, NoOpTracker) or not tracker.session.ledger.holders:
                del self._shared[key]

    def _find(self, settings: Settings, environment: Environment) -> Tracker | None:
        tracker = self._shared.get(_key(settings, environment))
        if tracker is None or isinstance(tracker, NoOpTracker):
            return tracker
        return None if tracker.session.closed else tracker

    def checked(self, given: Mapping[str, object], *, inside: bool) -> Settings:
        """Load the settings for these arguments, and check that they can be used.

        Settings that were usable before are not checked again. If a directory is removed while a
        server runs, or a settings file cannot be opened because of too many open files, the next
        block must not raise. Nor must it inside an open span, whose own settings apply anyway.

        Args:
            given: settings by name.
            inside: whether it is inside an open span.

        Raises:
            ConfigError: a setting cannot be used; inside a span only if it is an argument.
        """
        environment = self.environment()
        cache_key = key_of(given, environment)
        try:
            # what has worked holds: a file of settings that is out of reach for now changes nothing
            was_used = cache_key in self._usable
            settings = self._loaded.load(given, environment, strict=was_used)
        except ConfigError as error:
            pass_on(error)
            known = self._usable.get(cache_key)
            if known is None and not inside:
                raise
            kept, reason = known or settings_from(given), " ".join(str(error).split())  # may raise
            self.warn_once(f"the last settings that worked stay in use: {reason}")
            return kept
        # Now, as only the main thread can set handlers: servers decorate there and serve in others.
        self._flush_on_signals(settings)
        if not settings.disable and self._find(settings, environment) is None:
            if not inside:
                check_outputs(settings, environment.working_folder)
            if not inside or "region" in given or "intensity_source" in given:
                check(settings, environment)
            while len(self._usable) >= _MOST_KEPT:
                self._usable.pop(next(iter(self._usable), None), None)
            self._usable[cache_key] = settings
        return settings

    def load(self, given: Mapping[str, object]) -> Settings:
        """Like `load_settings`, but reuses what has not changed since the last call."""
        environment = self.environment()
        settings = self._loaded.load(given, environment)
        check_outputs(settings, environment.working_folder)
        return settings

    def ignored(self, given: Mapping[str, object], settings: Settings, session: Session) -> str:
        """The names of arguments that differ from a session's settings, joined by commas."""
        reference, theirs = self._made.get(id(session), (None, None))
        if reference is None or reference() is not session:
            theirs = None  # a tracker that somebody has built by hand
        names = (n for n in given if theirs is None or getattr(theirs, n) != getattr(settings, n))
        return ", ".join(names)

    def warn_once(self, message: str) -> None:
        """Log a warning, once in this process."""
        self._log.say(message)

    def make(self, settings: Settings, *sinks: Sink) -> Tracker:
        """A new tracker on the process's sampler; closed by its owner, or when the program ends.

        Raises:
            ConfigError: a setting cannot be used.
        """
        return self._made_or_none(settings, self.environment(), *sinks)

    def _make(self, settings: Settings, environment: Environment, *sinks: Sink) -> Tracker:
        with self._lock, holding_forks():
            wall = wall_fit(settings, environment)
            key = host_key(settings, environment, wall)
            if key not in self._samplers:
                self._close_unused_samplers()
                self._warn_of_second_sampler(key)
                self._samplers[key] = sampler = make_sampler(settings, environment, wall)
                sampler.when_asleep = self._after_session
            tracker = assemble(settings, environment, sampler=self._samplers[key],
                               propagator=self._propagator, sinks=sinks)  # fmt: skip
            if self._is_exiting:
                tracker.session.write_each_call()
            for sink in self.common_sinks.sinks:
                self.common_sinks.give(sink, tracker.session)
            # When the session goes, the sampler's thread is woken, in no frame of the program's.
            reference = weakref.ref(tracker.session, tracker.session.sampler.nudge)
            living = {key: made for key, made in self._made.items() if made[0]() is not None}
            self._made = {**living, id(tracker.session): (reference, settings)}
            if not self._closes_at_exit:
                self._closes_at_exit = LOSSES.has_speaker = True
                atexit.register(self._close_at_exit)
            self._flush_on_signals(settings)
            if "uvicorn.server" in sys.modules and not settings.flush_on_signals:
                from carbontrack.api.server_end import look_at_uvicorn  # loaded only under it

                look_at_uvicorn(self)
            return tracker

    def _after_session(self) -> None:
        # In the sampler's thread: it does not wait for who makes a tracker, and looks as well.
        if self._lock.acquire(blocking=False):
            try:
                self._close_unused_samplers()
            finally:
                self._lock.release()

    def _close_unused_samplers(self) -> None:
        used = {session.sampler for session in self.sessions()}
        for key, sampler in list(self._samplers.items()):
            if sampler not in used:
                del self._samplers[key]
                sampler.close()

    def _warn_of_second_sampler(self, key: HostKey) -> None:
        trees = key[:2]  # sysfs and procfs, which stand for the machine
        if any(other[:2] == trees and one.awake for other, one in self._samplers.items()):
            self.warn_once(
                "trackers with different settings of the meters (cpu_tdp_w, ram_w_per_gib, "
                "gpu_ids, gpu_model, meter_plugins, boundary) are in use at the same time: each "
                "counts the machine's energy separately, so do not add up records of both (double "
                "counting)"
            )

    def _flush_on_signals(self, settings: Settings) -> None:
        if not settings.flush_on_signals or self._handles_signals:
            return
        import signal  # its enumerations take a while to make

        from carbontrack.system.signals import flush_on  # loaded only if needed

        self._handles_signals = True
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                flush_on(getattr(signal, name), self.close)

    def _close_at_exit(self) -> None:
        # Trackers made after this, by exit handlers or daemon threads, write a row for each call:
        # there will be no later tick to write a sum.
        self._is_exiting = True
        self.close()

    def close(self) -> None:
        """Write open spans as interrupted, close the sinks, then the samplers."""
        # after trackers that are being made, which are closed too
        sessions = self._held(self.sessions)
        LOSSES.is_ending = True
        try:
            # all sinks make their last attempts at the same time
            raised = [*_each(session.end for session in sessions)]
            raised += _each(session.close for session in sessions)
        finally:
            LOSSES.is_ending = False
        raised += _each([LOSSES.say])
        samplers = self._held(self._forget_all)
        raised += _each(sampler.close for sampler in samplers)
        for error in raised[:1]:
            raise error

    def sessions(self) -> list[Session]:
        """The sessions of the trackers that were created here and are still in use."""
        return [own for own in (made[0]() for made in list(self._made.values())) if own is not None]

    def _forget_all(self) -> list[Sampler]:
        samplers = list(self._samplers.values())
        self._shared.clear()
        self._samplers.clear()
        return samplers

    def _held(self, do: Callable[[], T]) -> T:
        """Call it with the lock held, without waiting forever for a thread that hangs with it."""
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]
            return do()
        try:
            lock.acquire(timeout=_PATIENCE_S)
            return do()
        finally:
            if lock._is_owned():  # type: ignore[attr-defined]  # whatever a handler has raised
                lock.release()

    def forget_parent(self) -> None:
        """Make a new lock: one that another thread held at the fork would never be released."""
        self._lock = reentrant_lock()


class CommonSinks:
    """Sinks of all trackers of the process, in addition to their own.

    Closing a tracker does not close them.
    """

    def __init__(self, provider: TrackerProvider) -> None:
        self._provider = provider
        self.sinks: tuple[Sink, ...] = ()

    def add(self, sink: Sink) -> None:
        """Send it the records of all trackers, including future ones."""
        if sink not in self.sinks:
            self.sinks = (*self.sinks, sink)
            for session in self._provider.sessions():
                self.give(sink, session)

    def remove(self, sink: Sink) -> None:
        """Give it no further records."""
        self.sinks = tuple(one for one in self.sinks if one is not sink)
        for session in self._provider.sessions():
            remove_sink(session, sink)

    def give(self, sink: Sink, session: Session) -> None:
        """Send it the records of a tracker, unless it does not accept them."""
        try:
            add_sink(session, sink)
        except ConfigError as error:  # whoever opens this tracker has not chosen the sink
            pass_on(error)
            self._provider.warn_once(f"{sink!r} receives no records of a tracker: {error}")


def _each(ends: Iterable[Callable[[], None]]) -> list[BaseException]:
    """Call all of them, and return what signal handlers have raised meanwhile."""
    raised: list[BaseException] = []
    for end in ends:
        try:
            end()
        except BaseException as error:
            outside = from_outside(error) if isinstance(error, Exception) else error
            if outside is None:  # the module `os` of a faked file system that is over, for instance
                LOGGER.exception("a tracker could not be closed")
            else:
                raised.append(outside)
                _each([end])  # what it has not done
    return raised


def _key(settings: Settings, environment: Environment) -> Key:
    # the origin of the region is written to records, so it is part of the key
    origin = settings.origins.get("region", "")
    relative = any("://" not in o and not os.path.isabs(o) for o in settings.output)  # noqa: PTH117
    return (
        settings,
        origin,
        environment.for_tracker(state_dir=settings.state_dir, has_relative_output=relative),
    )
