"""Prometheus: what a scrape shows, by the meters' known power and by the rows that are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Metric,
    generate_latest,
    start_http_server,
    values,
    write_to_textfile,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.registry import Collector

import carbontrack
from carbontrack.integrations.exporters.labels import MOST_NAMES
from carbontrack.integrations.prometheus import CarbontrackCollector, PrometheusSink
from carbontrack.report.read import iter_records
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.units import JOULES_PER_KWH

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def key(name: str, /, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"carbontrack_{name}", frozenset(labels.items())


@contextmanager
def served(registry: CollectorRegistry) -> Iterator[str]:
    """The address of a real server of the registry."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def scraped(url: str, *, accept: str = "text/plain") -> Samples:
    """All samples at an address."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        parse = openmetrics if "openmetrics" in answer.headers["Content-Type"] else plain
        return samples_of(parse(answer.read().decode()))


def shown(registry: CollectorRegistry) -> Samples:
    """All samples of a registry, through its text."""
    return samples_of(plain(generate_latest(registry).decode()))


def samples_of(families: Iterable[Metric]) -> Samples:
    """All samples, each of which is there once."""
    found: Samples = {}
    for sample in (one for family in families for one in family.samples):
        at = sample.name, frozenset(sample.labels.items())
        assert at not in found
        found[at] = sample.value
    return found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def tracker_of(
    registry: CollectorRegistry, clock: FakeClock, *, labels: tuple[str, ...] = (), **given: Any
) -> carbontrack.Tracker:
    """A tracker of a processor of 100 W and a GPU of 50 W, with both exporters."""
    cpu = FakeMeter("fake:cpu", watts=100.0, relative_uncertainty=0.1)
    gpu = FakeMeter("fake:gpu", "gpu", watts=50.0)
    sinks = [PrometheusSink(registry, labels)]
    tracker = carbontrack.Tracker(
        **{"meters": [cpu, gpu], "grid": 360.0, "sinks": sinks, "clock": clock, **given}
    )
    registry.register(CarbontrackCollector(tracker))
    return tracker


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_a_scrape_shows_what_was_used(
    registry: CollectorRegistry, clock: FakeClock, accept: str
) -> None:
    """Joules of known power, in base units; the sum and its ends stand in families of their own."""
    policy = carbontrack.Attribution("machine", pue=1.2)
    with served(registry) as url, tracker_of(registry, clock, attribution=policy) as tracker:
        for _ in range(3):
            with tracker.span("train"):
                clock.advance(10.0)
        with tracker.span("serve"):
            clock.advance(1.0)
        found = scraped(url, accept=accept)
    near = pytest.approx
    assert found[key("energy_joules_total", name="train", component="cpu")] == near(3000.0)
    assert found[key("energy_joules_total", name="train", component="gpu")] == near(1500.0)
    assert found[key("energy_best_joules_total", name="train")] == near(4500.0 * 1.2)
    assert found[key("energy_low_joules_total", name="train")] == near(4200.0 * 1.2)
    assert found[key("energy_high_joules_total", name="train")] == near(4800.0 * 1.2)
    assert found[key("emissions_grams_total", name="train")] == near(0.54)
    assert found[key("emissions_low_grams_total", name="train")] < 0.54
    assert found[key("emissions_high_grams_total", name="train")] > 0.54
    assert found[key("calls_total", name="train")] == 3.0
    assert found[key("duration_seconds_total", name="train")] == near(30.0)
    assert found[key("emissions_grams_total", name="serve")] == near(0.018)
    meter = {"meter": "fake:cpu", "component": "cpu", "basis": "measured"}
    assert found[key("meter_energy_joules_total", **meter)] == near(3100.0)


def test_what_is_unknown_has_no_sample(registry: CollectorRegistry, clock: FakeClock) -> None:
    """Without a grid there are no grams, and of a component without a meter no joules."""
    with tracker_of(registry, clock, grid=None, meters=[FakeMeter(watts=1.0)]) as tracker:
        with tracker.span("train"):
            clock.advance(10.0)
        found = shown(registry)
    joules = [dict(labels) for name, labels in found if name.endswith("_energy_joules_total")]
    assert {labels["component"] for labels in joules} == {"cpu"}
    assert [name for name, _ in found if "grams" in name or "power" in name] == []
    assert key("calls_total", name="train") in found


def test_a_scrape_shows_what_is_open_and_reads_each_meter_once(
    registry: CollectorRegistry, clock: FakeClock
) -> None:
    """Power, and the energy so far by name; to be registered reads nothing, nor does a scrape of
    what is asleep."""
    meter = FakeMeter(watts=100.0)
    tracker = tracker_of(registry, clock, meters=[meter])
    assert meter.reads == 0
    with tracker:
        with tracker.span("train"), tracker.span("epoch"):
            clock.advance(10.0)
            reads = meter.reads
            found = shown(registry)
            assert meter.reads == reads + 1
            assert found[key("power_watts", component="cpu")] == pytest.approx(100.0)
            assert found[key("open_energy_joules", name="train")] == pytest.approx(1000.0)
            assert found[key("open_emissions_grams", name="train")] == pytest.approx(0.1)
            assert key("calls_total", name="train") not in found
            assert [v for (name, _), v in found.items() if "intensity" in name] == [360.0]
        reads = meter.reads
        clock.advance(1000.0)
        asleep = shown(registry)
    assert meter.reads == reads
    assert key("power_watts", component="cpu") not in asleep
    assert key("open_energy_joules", name="train") not in asleep
    meter_key = key("meter_energy_joules_total", meter=meter.id, component="cpu", basis="measured")
    assert asleep[meter_key] == pytest.approx(1000.0)
    assert asleep[key("missed_reads_total")] == asleep[key("lost_records_total")] == 0.0


def test_failures_are_counted(registry: CollectorRegistry, clock: FakeClock) -> None:
    """Missed reads of a meter, and records that a sink did not take."""
    from carbontrack.testing import FailingSink

    meter = FakeMeter(watts=100.0)
    with tracker_of(registry, clock, meters=[meter], sinks=[FailingSink()]) as tracker:
        with tracker.span("train"):
            clock.advance(1.5)
            meter.fail(2)
            clock.advance(3.0)
        found = shown(registry)
    assert found[key("missed_reads_total")] == 2.0
    assert found[key("lost_records_total")] == 1.0


HOSTILE = ["a,b", 'say "hi"', "back\\slash", "two\nlines", "\ud800 alone", "x" * 5000, "", "größe"]


def test_names_are_bounded_and_no_joule_is_lost(
    registry: CollectorRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Of more than 200 names the rest is `(other)`, said once; and any text can be scraped."""
    names = [*filter(None, HOSTILE), *(f"job {n}" for n in range(300))]
    with tracker_of(registry, clock, labels=("model",)) as tracker:
        for name in names:
            with tracker.span(name, labels={"model": HOSTILE[len(name) % len(HOSTILE)]}):
                clock.advance(1.0)
        found = shown(registry)
    calls = {labels: value for (name, labels), value in found.items() if "calls" in name}
    assert len(calls) == MOST_NAMES + 1
    other = frozenset({"name": "(other)", "model": "(other)"}.items())
    assert calls[other] == len(names) - MOST_NAMES
    assert max(len(dict(labels)["name"]) for labels in calls) == 200
    energy_j = [v for (name, _), v in found.items() if name.endswith("_energy_best_joules_total")]
    assert sum(energy_j) == pytest.approx(150.0 * len(names))
    assert caplog.text.count("names are exported") == 1


def test_labels_that_cannot_be_labels_are_refused_at_once(registry: CollectorRegistry) -> None:
    """So is a second sink for the same registry, which would count each record twice."""
    for labels in (["name"], ["component"], ["n-gpus"], ["größe"], "model", [3]):
        with pytest.raises(carbontrack.ConfigError, match="label"):
            PrometheusSink(registry, labels)  # type: ignore[arg-type]
    PrometheusSink(registry)
    with pytest.raises(carbontrack.ConfigError, match="one sink is enough"):
        PrometheusSink(registry)


def test_a_failure_of_ours_leaves_the_metrics_of_the_program(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A scrape asks all collectors in turn, and one that raised would end it."""

    class Broken:
        @property
        def session(self) -> None:
            raise OSError

    Counter("theirs", "A counter of the program.", registry=registry).inc(3)
    registry.register(CarbontrackCollector(Broken()))  # type: ignore[arg-type]
    for _ in range(2):
        assert b"theirs_total 3.0" in generate_latest(registry)
    assert caplog.text.count("live values could not be exported") == 1


def test_a_scrape_does_not_wait_for_a_reading(
    registry: CollectorRegistry, clock: FakeClock
) -> None:
    """While a meter hangs in another thread, a scrape shows what was read before."""
    tracker = tracker_of(registry, clock, meters=[FakeMeter(watts=100.0)])
    sampler, held, done = tracker.session.sampler, threading.Event(), threading.Event()

    def hang() -> None:
        with sampler.lock:
            held.set()
            done.wait(60.0)

    with tracker, tracker.span("train"):
        clock.advance(2.0)
        shown(registry)
        clock.advance(2.0)
        thread = threading.Thread(target=hang)
        thread.start()
        held.wait(60.0)
        found = shown(registry)
        done.set()
        thread.join()
    meter = {"meter": "fake:cpu", "component": "cpu", "basis": "measured"}
    assert found[key("meter_energy_joules_total", **meter)] == pytest.approx(400.0)


def test_a_file_for_the_node_exporter_has_the_sums(
    registry: CollectorRegistry, clock: FakeClock, tmp_path: Path
) -> None:
    """A batch job writes its sums at its end, after its tracker was closed."""
    with tracker_of(registry, clock) as tracker, tracker.span("nightly"):
        clock.advance(10.0)
    write_to_textfile(str(tmp_path / "job.prom"), registry)
    found = samples_of(plain((tmp_path / "job.prom").read_text()))
    assert found[key("energy_best_joules_total", name="nightly")] == pytest.approx(1500.0)


def test_the_library_still_has_what_is_used_of_it() -> None:
    """A rename in prometheus_client fails here, with the name."""
    assert hasattr(values.ValueClass, "_multiprocess"), "ValueClass._multiprocess is gone"
    assert callable(getattr(Collector, "collect", None)), "collectors have no `collect` any more"
    for method in ("describe", "collect"):
        assert callable(getattr(PrometheusSink, method))
        assert callable(getattr(CarbontrackCollector, method))


# -- several processes -------------------------------------------------------------------------

APP = """
import os
import signal

import carbontrack
from carbontrack.integrations import prometheus
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

prometheus.install(labels=["model"])
registry = CollectorRegistry()
MultiProcessCollector(registry)
metrics = make_wsgi_app(registry)


def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    with carbontrack.track("infer", labels={"model": environ["QUERY_STRING"]}) as span:
        sum(range(100_000))
        if environ["PATH_INFO"] == "/fork" and os.fork() == 0:
            with carbontrack.track("inner"):
                sum(range(1_000_000))
            os._exit(0)
        elif environ["PATH_INFO"] == "/fork":
            os.wait()
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    (folder / "multi").mkdir()
    own = {"PROMETHEUS_MULTIPROC_DIR": "multi", "CARBONTRACK_OUTPUT": str(folder / "rows.csv")}
    own |= {"CARBONTRACK_REGION": "FR", "CARBONTRACK_STATE_DIR": str(folder / "state")}
    return {**os.environ, **own, **more}


@contextmanager
def two_workers(folder: Path, *options: str) -> Iterator[str]:
    """The address of two workers of gunicorn that serve the program above."""
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", "127.0.0.1:0"]
    server = subprocess.Popen(
        [*command, *options, "app:app"],
        cwd=folder,
        env=environment_of(folder),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        said = next(line for line in server.stderr if "Listening at" in line)
        yield said.split("Listening at: ")[1].split()[0]
    finally:
        server.terminate()
        server.communicate(timeout=60)


def asked(url: str) -> int:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return int(answer.read())


@pytest.mark.xdist_group("servers")
@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn forks")
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_workers_are_added_up_and_a_killed_one_is_not_forgotten(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The scrape of any worker has what all rows say, less those that lie in another row."""
    with two_workers(tmp_path, *options) as url:
        pids = {asked(f"{url}/?small") for _ in range(20)}
        os.kill(min(pids), signal.SIGKILL)
        answered = 20
        while answered < 40 or len(pids) < 3:
            try:
                pids.add(asked(f"{url}/{'fork' if answered % 10 == 0 else ''}?large"))
            except OSError:  # it was in the queue of the one that was killed
                continue
            answered += 1
        found = scraped(f"{url}/metrics")
    rows = [row for row in iter_records(tmp_path / "rows.csv") if not row.parent_holds]
    assert len(rows) == answered
    for model in ("small", "large"):
        own = [row for row in rows if row.labels["model"] == model]
        labels = {"name": "infer", "model": model}
        assert found[key("calls_total", **labels)] == len(own)
        for name, column, factor in (
            ("energy_best_joules_total", "energy_kwh", JOULES_PER_KWH),
            ("energy_high_joules_total", "energy_high_kwh", JOULES_PER_KWH),
            ("emissions_grams_total", "emissions_g", 1.0),
            ("duration_seconds_total", "duration_s", 1.0),
        ):
            total = sum(getattr(row, column) * factor for row in own)
            assert found[key(name, **labels)] == pytest.approx(total), name
    inner = [labels for name, labels in found if dict(labels).get("name") == "inner"]
    assert inner == [], "what lies in another row is counted twice"


SHARED = """
import carbontrack
from carbontrack.integrations import prometheus
from carbontrack.testing import FakeMeter

for begin in (
    lambda: prometheus.install(),
    lambda: carbontrack.Tracker(meters=[FakeMeter()], sinks=[prometheus.PrometheusSink(None)]),
):
    try:
        begin()
    except carbontrack.ConfigError as error:
        print(error)
"""


def test_workers_that_each_count_the_machine_are_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    """In multi-process mode scope "machine" would count the machine once for each worker."""
    done = subprocess.run(
        [sys.executable, "-c", SHARED],
        cwd=tmp_path,
        env=environment_of(tmp_path, CARBONTRACK_SCOPE="machine"),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("use scope='process'" in line for line in lines)


FORKS = """
import os, sys
import carbontrack
from carbontrack.integrations import prometheus
from prometheus_client import generate_latest

assert prometheus.install() is prometheus.install()  # a second one counts nothing twice
with carbontrack.track("before"):
    pass
if os.fork() == 0:
    with carbontrack.track("child"):
        pass
    text = generate_latest().decode()
    assert 'name="before"' not in text
    assert 'carbontrack_calls_total{name="child"} 1.0' in text
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
text = generate_latest().decode()
assert 'carbontrack_calls_total{name="before"} 1.0' in text
assert 'name="child"' not in text


@carbontrack.track("short", output=None)
def short():
    pass


short()
from carbontrack.api.track import PROVIDER

PROVIDER.close()
assert 'carbontrack_calls_total{name="short"} 1.0' in generate_latest().decode()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_one_line_exports_what_is_tracked_and_a_child_begins_at_nothing(tmp_path: Path) -> None:
    """`install` takes blocks and calls of whatever settings; a fork shows its own work only."""
    subprocess.run(
        [sys.executable, "-c", FORKS],
        cwd=tmp_path,
        env={**os.environ, "CARBONTRACK_REGION": "FR", "CARBONTRACK_STATE_DIR": "state"},
        check=True,
    )
