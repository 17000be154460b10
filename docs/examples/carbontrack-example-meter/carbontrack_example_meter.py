"""A smart plug, or a file with watts in it, as a meter of carbontrack.

    meter_plugins="plug:http://192.168.1.20/rpc/Switch.GetStatus?id=0"    Shelly, second generation
    meter_plugins="plug:http://192.168.1.21/cm?cmnd=Status%208"           Tasmota
    meter_plugins="plug:/run/plug/watts"                                  a file, such as your own

The plug must carry this machine and nothing else.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from carbontrack.errors import MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Gauge
from carbontrack.meters.plugins import PluginHost

PERIOD_S = 1.0
"""Between two questions to the plug, and the longest time between two readings of the meter."""
STALE_S = 5.0
"""An answer older than this says nothing about now."""
TIMEOUT_S = 2.0
MOST_W = 3680.0
"""16 A at 230 V; more than this is a mistake of the plug."""
KEYS = ("apower", "Power")
"""Where the watts stand in an answer: Shelly's name, and Tasmota's."""


def make_meters(host: PluginHost) -> list[PlugMeter]:
    """What carbontrack calls when it looks for meters.

    Raises:
        MeterUnavailable: there is no plug; `carbontrack doctor` shows the reason and the cure.
    """
    if not host.address:
        raise MeterUnavailable(
            "it does not know the plug's address", 'meter_plugins="plug:http://…"'
        )
    read = from_url(host.address) if "://" in host.address else from_file(Path(host.address))
    try:
        first_w = read()
    except (OSError, ValueError) as error:
        raise MeterUnavailable(f"{host.address} does not answer: {error}") from error
    if "://" in host.address:
        read = Poll(read, first_w)
    return [PlugMeter(urlsplit(host.address).hostname or Path(host.address).name, read)]


class PlugMeter:
    """The whole machine, as the plug sees it.

    Half the width of the interval is 2 %: accuracy class 2 of household meters (IEC 62053-21).
    """

    component = "other"
    covers = ("cpu", "gpu", "ram", "other")
    """What is inside the plug's figure, so that carbontrack counts none of it again."""
    basis = "measured"
    resolution_s = PERIOD_S
    relative_uncertainty = 0.02
    max_period_s = PERIOD_S

    def __init__(self, name: str, read: Callable[[], float]) -> None:
        self.id = f"plug:{name}"
        self._read: Callable[[], float] | None = read
        self._gauge = Gauge(MOST_W)

    @property
    def fault_counts(self) -> dict[str, int]:
        """Silences that were too long to be bridged."""
        return self._gauge.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read; never waits for the plug."""
        if self._read is None:
            raise MeterGone(f"{self.id} is closed")
        try:
            power_w = self._read()
        except (OSError, ValueError) as error:
            raise MeterReadError(f"{self.id} shows nothing: {error}") from error
        return self._gauge.advance(power_w, now_s)

    def close(self) -> None:
        """Read it no more."""
        end = getattr(self._read, "close", None)
        self._read = None
        if end is not None:
            end()


class Poll:
    """Asks the plug in a thread, as carbontrack reads at every edge of a block and cannot wait.

    Calling it gives the last answer. A process that was forked has no thread and starts its own.
    """

    def __init__(self, ask: Callable[[], float], first_w: float) -> None:
        self._ask = ask
        self._answer = (first_w, time.monotonic())
        self._ended = threading.Event()
        self._pid = 0

    def __call__(self) -> float:
        """The last answer; OSError where there has been none for a while."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._ended = threading.Event()
            threading.Thread(target=self._run, args=(self._ended,), daemon=True).start()
        power_w, at_s = self._answer
        if time.monotonic() - at_s > STALE_S:
            raise OSError(f"it has not answered for {STALE_S:.0f} s")
        return power_w

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(PERIOD_S):
            try:
                self._answer = (self._ask(), time.monotonic())
            except (OSError, ValueError):
                continue  # what was said last holds until it is stale

    def close(self) -> None:
        """Ask no more."""
        self._ended.set()


def from_file(path: Path) -> Callable[[], float]:
    """How to read watts from a file."""
    return lambda: watts_in(path.read_text(encoding="utf-8"))


def from_url(url: str) -> Callable[[], float]:
    """How to ask a plug for its watts."""

    def ask() -> float:
        with urlopen(url, timeout=TIMEOUT_S) as answer:
            return watts_in(answer.read(65_536).decode())

    return ask


def watts_in(text: str) -> float:
    """The watts in an answer: a number alone, or in a JSON object under one of `KEYS`.

    Raises:
        ValueError: there is no number.
    """
    waiting = [json.loads(text)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (int, float)) and not isinstance(part, bool):
            return float(part)
        if isinstance(part, dict):
            found = [part[key] for key in KEYS if key in part]
            waiting += found or [inner for inner in part.values() if isinstance(inner, dict)]
    raise ValueError(f"there are no watts in {text[:80]!r}")
