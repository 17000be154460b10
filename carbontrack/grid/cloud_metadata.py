"""The cloud region of this machine, from the clouds' metadata services; only with a setting.

Each service answers at an address inside its own cloud's network only. All are queried at the same
time, in threads of their own; one that has not answered within a second is taken as absent. A
region that was found is kept until the next boot.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from carbontrack.grid import names
from carbontrack.grid.intensity import GridIntensity, IntensitySource, is_prompt
from carbontrack.grid.region import Region, of
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import replace_privately
from carbontrack.system.forking import OwnThread
from carbontrack.system.host import boot_id
from carbontrack.system.http import Answer, exchange, new_session
from carbontrack.system.interrupts import pass_on, suppressed

LINK_LOCAL = "http://169.254.169.254"
"""The address of all three; Google's as a number, so that no name server is queried."""
ALLOWED_S = 1.0
LARGEST_BYTES = 1 << 20


class CloudProbe:
    """One query to all metadata services; `region` is None until one of them has answered."""

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
        """Take the region from the cache, or query the services; returns at once."""
        known = self._cache.load() if self._cache is not None else None
        if known is not None:
            self._found(known)
            return self
        self._deadline_s = self._clock.monotonic_s() + self._allowed_s
        for provider in SERVICES:
            job = OwnThread(self._ask, f"carbontrack-{provider}", (provider,))
            with suppressed(RuntimeError):  # at the limit of threads: this one is not queried
                job.start()
        return self

    def wait(self) -> Region | None:
        """Wait until one has answered or all have failed, for at most the allowed time."""
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
        except Exception as error:  # another cloud or none, which is the usual case
            pass_on(error)
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._over.set()

    def _open(self, provider: str) -> Ask:
        session = new_session(uses_proxies=False)  # one would answer for its own machine
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
    """IMDSv2: first a token, which forwarded requests cannot get, then the identity document."""
    token = ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}).body
    path = "/latest/dynamic/instance-identity/document"
    answer = ask("GET", path, {"X-aws-ec2-metadata-token": token.decode()})
    return _text(json.loads(answer.body)["region"])


def _gcp(ask: Ask) -> str:
    """The zone, as "projects/123/zones/europe-west1-b"; the header proves Google's service."""
    answer = ask("GET", "/computeMetadata/v1/instance/zone", {"Metadata-Flavor": "Google"})
    if answer.headers.get("Metadata-Flavor") != "Google":
        raise ValueError("not Google's service")
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
    """The region that was found since the last boot, in one small file."""

    folder: Path
    procfs: Path = Path("/proc")

    def load(self) -> str | None:
        """The cloud region's code, or None if none was found since the last boot."""
        try:
            boot, zone = self._path.read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            pass_on(error)
            return None
        is_known = names.cloud_code(*_parts(zone)) == zone
        return zone if is_known and boot == boot_id(self.procfs) else None

    def save(self, zone: str) -> None:
        """Keep the code, in one step; where that fails, the next process queries again."""
        boot = boot_id(self.procfs)
        with suppressed(OSError):
            if boot is not None:  # without it an outdated file could not be recognised
                replace_privately(self._path, f"{boot} {zone}\n")

    @property
    def _path(self) -> Path:
        return self.folder / "cloud-region.txt"


def _parts(zone: str) -> tuple[str, str]:
    provider, _, code = zone.partition(":")
    return provider, code


class Detected:
    """The intensity of one region until a probe has found another, and then of that one.

    `tell` is called once with the new region, so that records can name it.
    """

    def __init__(
        self,
        first: Region,
        probe: CloudProbe,
        make: Callable[[Region], IntensitySource],
    ) -> None:
        self.region = first
        self.on_found: Callable[[Region], object] | None = None
        self._probe, self._make = probe, make
        self._source = make(first)
        self.prompt = is_prompt(self._source)
        """Also for the source of the new region: it depends on the settings, not on the region."""

    def at(self, when: datetime) -> GridIntensity:
        """The intensity at `when`, of the region known so far."""
        found = self._probe.region
        if found is not None and self.region is not found:
            self._move_to(found)
        return self._source.at(when)

    def _move_to(self, found: Region) -> None:
        self.region = found
        try:
            self._source = self._make(found)
        except ValueError:  # a live source that does not cover it: the first one stays
            return
        if self.on_found is not None:
            self.on_found(found)
