"""Metadata services are asked off the caller's thread, for a second at most, once a boot."""

import json
import threading
from contextlib import suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from carbontrack.errors import ConfigError
from carbontrack.grid.cloud_metadata import SERVICES, CloudProbe, Detected, RegionCache
from carbontrack.grid.intensity import Fixed
from carbontrack.grid.region import Region, intensity_for

NOW = datetime(2026, 8, 1, tzinfo=timezone.utc)


class Metadata:
    """The metadata services of three clouds, of which one is at home; the others know nothing."""

    def __init__(self, home=None, region=None):
        self.home, self.region, self.asked = home, region, []
        self.hold = threading.Event()
        self.hold.set()
        services = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with suppress(OSError):
                    services.hold.wait(60.0)
                    services.answer(self)

            do_PUT = do_GET  # noqa: N815 - the base class's spelling

            def log_message(self, *_args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.base_urls = dict.fromkeys(SERVICES, url)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request):
        self.asked.append(f"{request.command} {request.path}")
        path, headers = request.path, request.headers
        found = None
        if self.home == "aws" and path == "/latest/api/token" and request.command == "PUT":
            found = "tok" if headers["X-aws-ec2-metadata-token-ttl-seconds"] else None
        elif self.home == "aws" and path.startswith("/latest/dynamic"):
            if headers["X-aws-ec2-metadata-token"] == "tok":
                found = json.dumps({"region": self.region, "instanceType": "p5.48xlarge"})
        elif self.home == "gcp" and path.startswith("/computeMetadata"):
            if headers["Metadata-Flavor"] == "Google":
                found = f"projects/123/zones/{self.region}"
        elif self.home == "azure" and path.startswith("/metadata/instance?"):
            if headers["Metadata"] == "true":
                found = json.dumps({"compute": {"location": self.region}})
        elif self.home == "captive portal":
            found = "<html>Welcome</html>"
        request.send_response(404 if found is None else 200)
        if self.home == "gcp":
            request.send_header("Metadata-Flavor", "Google")
        body = (found or "").encode()
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


def wait_for_the_probe():
    names = {f"carbontrack-{provider}" for provider in SERVICES}
    for thread in threading.enumerate():
        if thread.name in names:
            thread.join(60.0)


def probe(services, **more):
    return CloudProbe(base_urls=services.base_urls, **more)


@pytest.mark.parametrize(
    ("home", "said", "zone"),
    [
        ("aws", "eu-west-3", "aws:eu-west-3"),
        ("gcp", "europe-west1-b", "gcp:europe-west1"),
        ("azure", "westeurope", "azure:westeurope"),
    ],
)
def test_each_cloud_names_its_region(home, said, zone):
    """As its documentation says, with the headers it asks for; basis metadata."""
    with Metadata(home, said) as services:
        found = probe(services).start().wait()

    assert (found.zone, found.basis, found.cloud_provider) == (zone, "metadata", home)
    assert found.pue is not None


@pytest.mark.parametrize(
    ("home", "said"),
    [(None, None), ("captive portal", None), ("aws", "mars-north-1"), ("azure", 7), ("gcp", "")],
)
def test_silence_and_nonsense_are_no_region(home, said):
    """Not in a cloud, behind a hotel's login page, or in a region that nobody knows."""
    with Metadata(home, said) as services:
        assert probe(services).start().wait() is None


def test_the_caller_never_waits_and_late_answers_do_not_count():
    """While the services hang, starting returns; what comes after the allowed time is ignored."""
    with Metadata("aws", "eu-west-3") as services:
        services.hold.clear()
        asked = probe(services, allowed_s=0.05).start()
        assert asked.region is None
        assert asked.wait() is None

        services.hold.set()
        wait_for_the_probe()
        assert asked.region is None


def test_nobody_listening_is_silence():
    """A machine of one's own, where the address leads nowhere."""
    nowhere = dict.fromkeys(SERVICES, "http://127.0.0.1:9")

    assert CloudProbe(base_urls=nowhere).start().wait() is None


def boot(tmp_path, boot_id):
    folder = tmp_path / "sys/kernel/random"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "boot_id").write_text(f"{boot_id}\n")
    return RegionCache(tmp_path / "state", procfs=tmp_path)


def test_a_region_is_asked_for_once_per_boot(tmp_path):
    """The second process finds it on disk; after a new start it is asked for again."""
    with Metadata("aws", "eu-west-3") as services:
        probe(services, cache=boot(tmp_path, "first")).start().wait()
        wait_for_the_probe()
        services.asked.clear()

        again = probe(services, cache=boot(tmp_path, "first")).start()
        assert again.region.zone == "aws:eu-west-3"
        assert again.wait() is again.region
        assert services.asked == []

        anew = probe(services, cache=boot(tmp_path, "second")).start()
        assert anew.wait().zone == "aws:eu-west-3"
        assert services.asked


@pytest.mark.parametrize("text", ["", "first", "first aws:mars", "a b c", "first FR", "\x00"])
def test_a_damaged_cache_is_an_empty_one(tmp_path, text):
    """Whatever stands there, it is not believed unless it is a region of this boot."""
    cache = boot(tmp_path, "first")
    cache.folder.mkdir()
    (cache.folder / "cloud-region.txt").write_text(text)

    assert cache.load() is None


def test_without_a_boot_id_nothing_is_kept(tmp_path):
    """Outside Linux nothing tells one boot from the next."""
    cache = RegionCache(tmp_path / "state", procfs=tmp_path)
    cache.save("aws:eu-west-3")

    assert cache.load() is None


def test_a_found_region_takes_over_while_a_run_lasts():
    """Until the answer the first region is billed, from then on the found one."""

    class Asked:
        region = None

    asked = Asked()
    told = []
    grid = Detected(Region("WORLD", "unknown"), asked, intensity_for)
    grid.on_found = told.append
    assert grid.at(NOW).zone == "WORLD"

    asked.region = Region("aws:eu-west-3", "metadata", "aws", "eu-west-3", 1.15)
    assert grid.at(NOW).zone == "aws:eu-west-3"
    assert grid.at(NOW) is grid.at(NOW)
    assert told == [asked.region]


def test_a_probe_that_finds_nothing_changes_nothing():
    """The first region goes on."""

    class Asked:
        region = None

    source = Fixed.of(123.0)
    assert (
        Detected(Region("FR", "timezone"), Asked(), lambda _region: source).at(NOW).g_per_kwh == 123
    )


def test_a_found_region_that_the_live_source_does_not_cover_is_not_billed():
    """The first region goes on; nothing reaches the measured program."""

    class Asked:
        region = Region("aws:eu-west-3", "metadata")

    def make(region):
        if region.basis == "metadata":
            raise ConfigError("does not cover it")
        return Fixed.of(123.0)

    told = []
    grid = Detected(Region("GB", "timezone"), Asked(), make)
    grid.on_found = told.append
    assert [grid.at(NOW).g_per_kwh for _ in range(3)] == [123.0] * 3
    assert told == []
