"""The trackers of this process: one for each set of settings, all on as few samplers as possible.

A tracker is made when it is first used, lives until the program ends, and costs nothing while
nothing is open on it.
"""

from __future__ import annotations

import atexit
import signal
import threading
import weakref
from collections.abc import Hashable, Mapping

from carbontrack.api.assembly import HostKey, assemble, check, host_key, make_sampler
from carbontrack.config import load
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.grid.region import HINTS
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.forking import holding_forks, remember
from carbontrack.system.log import LOGGER
from carbontrack.tracking.propagation import Kin
from carbontrack.tracking.session import Session
from carbontrack.tracking.tracker import Tracker

Key = tuple[object, ...]
"""Settings, and what else a tracker depends on: the working directory, the environment."""


class TrackerProvider:
    """Finds or makes the tracker for some settings."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._shared: dict[Key, Tracker] = {}
        self._samplers: dict[HostKey, Sampler] = {}
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._closes_at_exit = False
        self._is_ending = False
        self._flushes = False
        self._said: set[str] = set()
        self._worked: dict[Hashable, Settings] = {}
        """What was found for some arguments, here, and could be used."""
        self._settings: weakref.WeakKeyDictionary[Session, Settings] = weakref.WeakKeyDictionary()
        self._kin = Kin()
        remember(self)

    def get(self, settings: Settings) -> Tracker:
        """The process's tracker for these settings, here; made at the first asking.

        Raises:
            ConfigError: a setting cannot be used.
        """
        tracker = self.find(settings)
        if tracker is None:
            with self._lock:
                tracker = self.find(settings)
                if tracker is None:
                    tracker = self.make(settings)
                    self._shared[self._key(settings)] = tracker
        return tracker

    def _key(self, settings: Settings) -> Key:
        # where the region comes from is written, so it tells trackers apart as the region does
        said = settings.origins.get("region", "")
        return settings, said, self._kin.outside(), load.surroundings(settings, HINTS)

    def find(self, settings: Settings) -> Tracker | None:
        """The tracker for these settings, here, if they have been in use already."""
        tracker = self._shared.get(self._key(settings))
        return None if tracker is None or tracker.session.closed else tracker

    def checked(self, given: Mapping[str, object], *, inside: bool) -> Settings:
        """The settings for these arguments, here, found usable.

        What has worked is not checked again. A directory that vanishes while a server runs, or a
        file of settings that cannot be opened for want of descriptors, must not become an exception
        of its next block. Nor must they inside of an open span, whose own settings hold anyway.

        Args:
            given: settings by name.
            inside: a span is open around.

        Raises:
            ConfigError: a setting cannot be used; inside of a span only if it is an argument.
        """
        try:
            settings = load.load_settings(given, writes=False)
        except ConfigError as error:
            known = self._worked.get(load.question(given))
            if known is None and not inside:
                raise
            self.warn_once(f"settings that have worked before are kept: {error}")
            return load.from_arguments(given) if known is None else known
        # A server decorates in its main thread, which alone can, and serves in others.
        self._flush_on_signals(settings)
        if self.find(settings) is None:
            if not inside:
                load.check_outputs(settings)
            if not inside or "region" in given or "intensity_source" in given:
                check(settings)
            self._worked[load.question(given)] = settings
        return settings

    def ignored(self, given: Mapping[str, object], settings: Settings, session: Session) -> str:
        """The names of arguments that differ from what holds in a session, for a sentence."""
        theirs = self._settings.get(session)
        names = (n for n in given if theirs is None or getattr(theirs, n) != getattr(settings, n))
        return ", ".join(names)

    def warn_once(self, message: str) -> None:
        """Log a warning, once in this process."""
        if message not in self._said:
            self._said.add(message)
            LOGGER.warning("%s", message)

    def make(self, settings: Settings) -> Tracker:
        """A new tracker on the process's sampler; closed by its owner, or when the program ends.

        Raises:
            ConfigError: a setting cannot be used.
        """
        with self._lock, holding_forks():
            key = host_key(settings)
            if key not in self._samplers:
                self._warn_of_twins(key)
                self._samplers[key] = make_sampler(settings)
            tracker = assemble(settings, sampler=self._samplers[key], kin=self._kin)
            tracker.session.writes_at_once = self._is_ending
            self._sessions.add(tracker.session)
            self._settings[tracker.session] = settings
            if not self._closes_at_exit:
                self._closes_at_exit = True
                atexit.register(self._close_at_exit)
            self._flush_on_signals(settings)
            return tracker

    def _warn_of_twins(self, key: HostKey) -> None:
        trees = key[:2]  # of which machine: its sysfs and procfs
        if any(other[:2] == trees and one.awake for other, one in self._samplers.items()):
            self.warn_once(
                "trackers with different settings of the meters (cpu_tdp_w, ram_w_per_gib, "
                "gpu_ids, meter_plugins) are in use at the same time: each counts the machine's "
                "energy for itself, so the records of both must not be added up"
            )

    def _flush_on_signals(self, settings: Settings) -> None:
        if not settings.flush_on_signals or self._flushes:
            return
        from carbontrack.system.signals import flush_on  # hardly anyone asks for it

        self._flushes = True
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                flush_on(getattr(signal, name), self.close)

    def _close_at_exit(self) -> None:
        # What the program does after this, in handlers of its own or in daemon threads, gets a
        # tracker without a later: nobody will come again to write a sum.
        self._is_ending = True
        self.close()

    def close(self) -> None:
        """Write what is open as interrupted, close the sinks, then the samplers."""
        sessions = list(self._sessions)
        for session in sessions:  # all sinks make their last attempts at the same time
            session.end()
        for session in sessions:
            session.close()
        for sampler in list(self._samplers.values()):
            sampler.close()
        self._shared.clear()
        self._samplers.clear()

    def forget_parent(self) -> None:
        """Take a new lock: one that another thread held at the fork would never be free."""
        self._lock = threading.RLock()
