"""Which cloud is this? Asked of the clouds' metadata services, only where a setting wants it.

The services answer at an address that exists inside their own networks alone. They are asked at
the same time, on threads of their own, and what has not answered within a second counts as silent.
A region that was found is kept until the machine is started anew.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from carbontrack.grid import names
from carbontrack.grid.intensity import GridIntensity, IntensitySource
from carbontrack.grid.region import Region, of
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import replace_privately
from carbontrack.system.http import Answer, exchange, new_session

LINK_LOCAL = "http://169.254.169.254"
"""The address of all three; Google's by number, so that no name server is asked."""
ALLOWED_S = 1.0
LARGEST_BYTES = 1 << 20


class CloudProbe:
    """One question to all metadata services; `region` is None until one of them has answered."""

    def __init__(
        self,
        *,
        cache: RegionCache | None = None,
        base_urls: Mapping[str, str] | None = None,
        allowed_s: float = ALLOWED_S,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._cache, self._base_urls, self._allowed_s = cache, base_urls or {}, allowed_s
        self._deadline_s = float("inf")
        self._over = threading.Event()
        self._left = len(SERVICES)
        self._lock = threading.Lock()
        self.region: Region | None = None

    def start(self) -> CloudProbe:
        """Answer from the cache, or ask; returns at once."""
        known = self._cache.load() if self._cache is not None else None
        if known is not None:
            self._found(known)
            return self
        self._deadline_s = self._clock.monotonic_s() + self._allowed_s
        for provider in SERVICES:
            job = threading.Thread(
                target=self._ask, args=(provider,), name=f"carbontrack-{provider}", daemon=True
            )
            with suppress(RuntimeError):  # no thread to be had: this one stays silent
                job.start()
        return self

    def wait(self) -> Region | None:
        """Wait for an answer, or for all to be silent, at most the allowed time."""
        left_s = min(self._deadline_s - self._clock.monotonic_s(), self._allowed_s)
        self._clock.wait(self._over, max(0.0, left_s))
        return self.region

    def _ask(self, provider: str) -> None:
        try:
            code = SERVICES[provider](self._open(provider))
            zone = names.cloud_code(provider, code)
            if zone is not None and self._clock.monotonic_s() <= self._deadline_s:
                self._found(zone)
                if self._cache is not None:
                    self._cache.save(zone)
        except Exception:  # noqa: S110 - not this cloud, or none: silence is the usual answer
            pass
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._over.set()

    def _open(self, provider: str) -> Ask:
        session = new_session(uses_proxies=False)  # one would answer for the machine it runs on
        base_url = self._base_urls.get(provider, LINK_LOCAL)

        def ask(method: str, path: str, headers: Mapping[str, str]) -> Answer:
            left_s = max(0.05, self._deadline_s - self._clock.monotonic_s())
            answer = exchange(
                session,
                method,
                f"{base_url}{path}",
                headers=headers,
                timeout_s=left_s,
                limit_bytes=LARGEST_BYTES,
            )
            if not answer.is_success:
                raise ValueError(f"HTTP {answer.status}")
            return answer

        return ask

    def _found(self, zone: str) -> None:
        self.region = of(zone, basis="metadata")
        self._over.set()


Ask = Callable[[str, str, Mapping[str, str]], Answer]


def _aws(ask: Ask) -> str:
    """IMDSv2: a token first, which forwarded requests cannot get, then the identity document."""
    token = ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}).body
    path = "/latest/dynamic/instance-identity/document"
    answer = ask("GET", path, {"X-aws-ec2-metadata-token": token.decode()})
    return _text(json.loads(answer.body)["region"])


def _gcp(ask: Ask) -> str:
    """The zone, as "projects/123/zones/europe-west1-b"; the header keeps others' services out."""
    answer = ask("GET", "/computeMetadata/v1/instance/zone", {"Metadata-Flavor": "Google"})
    if answer.headers.get("Metadata-Flavor") != "Google":
        raise ValueError("not Google's")
    return answer.body.decode().strip().rpartition("/")[2]


def _azure(ask: Ask) -> str:
    path = "/metadata/instance?api-version=2021-02-01"
    return _text(json.loads(ask("GET", path, {"Metadata": "true"}).body)["compute"]["location"])


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError("no text")
    return found


SERVICES: dict[str, Callable[[Ask], str]] = {"aws": _aws, "gcp": _gcp, "azure": _azure}


@dataclass(frozen=True, slots=True)
class RegionCache:
    """The region that was found since the last start of the machine, in one small file."""

    folder: Path
    procfs: Path = Path("/proc")

    def load(self) -> str | None:
        """The cloud region's code, or None if none was found since the machine was started."""
        try:
            boot, zone = self._path.read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return None
        return zone if boot == self._boot() and names.cloud_code(*_parts(zone)) == zone else None

    def save(self, zone: str) -> None:
        """Keep the code, in one step; where that fails, the next process asks again."""
        boot = self._boot()
        with suppress(OSError):
            if boot is not None:
                replace_privately(self._path, f"{boot} {zone}\n")

    @property
    def _path(self) -> Path:
        return self.folder / "cloud-region.txt"

    def _boot(self) -> str | None:
        """The kernel's random name of this boot (random(4)); None outside Linux: never cached."""
        try:
            text = (self.procfs / "sys/kernel/random/boot_id").read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return None
        return text.strip() or None


def _parts(zone: str) -> tuple[str, str]:
    provider, _, code = zone.partition(":")
    return provider, code


class Detected:
    """The intensity of one region until a probe has found another, and then of that one.

    `tell` hears of the new region, once, so that records can name it.
    """

    def __init__(
        self,
        first: Region,
        probe: CloudProbe,
        make: Callable[[Region], IntensitySource],
    ) -> None:
        self.region = first
        self.tell: Callable[[Region], object] | None = None
        self._probe, self._make = probe, make
        self._source = make(first)

    @property
    def prompt(self) -> bool:
        """As the source that answers by now."""
        return bool(getattr(self._source, "prompt", False))

    def at(self, when: datetime) -> GridIntensity:
        """The intensity at `when`, of the region that is known by now."""
        found = self._probe.region
        if found is not None and self.region is not found:
            self._move_to(found)
        return self._source.at(when)

    def _move_to(self, found: Region) -> None:
        self.region = found
        try:
            self._source = self._make(found)
        except ValueError:  # a live source that does not cover it: the first one goes on
            return
        if self.tell is not None:
            self.tell(found)
