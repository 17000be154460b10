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

from carbontrack import config
from carbontrack.assembly import HostKey, assemble, host_key, make_sampler
from carbontrack.forking import holding_forks, remember
from carbontrack.notices import LOGGER
from carbontrack.sampler import Sampler
from carbontrack.session import Session
from carbontrack.settings import Settings
from carbontrack.tracker import Tracker

Key = tuple[Settings, tuple[object, ...]]
"""Settings, and what else a tracker depends on: the working directory, the environment."""


class Trackers:
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
                    self._shared[(settings, config.surroundings(settings))] = tracker
        return tracker

    def find(self, settings: Settings) -> Tracker | None:
        """The tracker for these settings, here, if they have been in use already."""
        tracker = self._shared.get((settings, config.surroundings(settings)))
        return None if tracker is None or tracker.session.closed else tracker

    def learn(self, given: Mapping[str, object], settings: Settings) -> None:
        """Note what was found for these arguments, here, and can be used."""
        self._worked[config.question(given)] = settings

    def known(self, given: Mapping[str, object]) -> Settings | None:
        """What was found for these arguments, here, when it could be used."""
        return self._worked.get(config.question(given))

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
                self._samplers[key] = make_sampler(settings)
            tracker = assemble(settings, sampler=self._samplers[key])
            tracker.session.writes_at_once = self._is_ending
            self._sessions.add(tracker.session)
            if not self._closes_at_exit:
                self._closes_at_exit = True
                atexit.register(self._close_at_exit)
            if settings.flush_on_signals and not self._flushes:
                self._flushes = True
                self._flush_on_signals()
            return tracker

    def _flush_on_signals(self) -> None:
        from carbontrack.flush_signals import flush_on  # hardly anyone asks for it

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
        for session in list(self._sessions):
            session.close()
        for sampler in list(self._samplers.values()):
            sampler.close()
        self._shared.clear()
        self._samplers.clear()

    def forget_parent(self) -> None:
        """Take a new lock: one that another thread held at the fork would never be free."""
        self._lock = threading.RLock()
