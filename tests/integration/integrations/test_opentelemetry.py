"""OpenTelemetry: what readers collect, what arrives by OTLP, and what is written onto spans."""

from __future__ import annotations

import contextvars
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider

import carbontrack
from carbontrack.integrations import opentelemetry
from carbontrack.integrations.exporters.opentelemetry_points import HW_TYPES, METRICS
from carbontrack.testing import FakeClock, FakeMeter

Points = dict[tuple[str, frozenset[tuple[str, Any]]], float]


def key(name: str, /, **attributes: str) -> tuple[str, frozenset[tuple[str, Any]]]:
    """A point's name and attributes; an underscore stands for a dot."""
    return name, frozenset((one.replace("_", ".", 1), text) for one, text in attributes.items())


def collected(reader: InMemoryMetricReader) -> Points:
    """All points that a reader collects now, each once."""
    data, found = reader.get_metrics_data(), Points()
    for metric in (
        metric
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ):
        for point in metric.data.data_points:
            at = metric.name, frozenset(point.attributes.items())
            assert at not in found
            found[at] = point.value
    return found


def tracker_of(clock: FakeClock, **given: Any) -> carbontrack.Tracker:
    """A tracker of a processor of 100 W and memory of 20 W."""
    cpu, ram = (
        FakeMeter("rapl:package-0", relative_uncertainty=0.1),
        FakeMeter("model:ram", "ram", watts=20.0),
    )
    return carbontrack.Tracker(**{"meters": [cpu, ram], "grid": 360.0, "clock": clock, **given})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def silent_afterwards() -> Iterator[None]:
    """Nothing is annotated or exported after a test."""
    yield
    opentelemetry.uninstrument()


WORK = {"carbontrack_name": "train", "carbontrack_basis": "measured"}


@pytest.mark.parametrize(
    "temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA]
)
def test_a_reader_collects_joules_of_known_power(
    clock: FakeClock, temporality: AggregationTemporality
) -> None:
    """By the conventions for hardware, and by names of ours for what these do not know."""
    reader = InMemoryMetricReader({ObservableCounter: temporality})
    with tracker_of(clock) as tracker:
        opentelemetry.instrument(MeterProvider([reader]), tracker)
        times = []
        for seconds in (10.0, 5.0):
            with tracker.span("train"):
                clock.advance(seconds)
            times.append(collected(reader))
    cpu = key("hw.energy", hw_id="rapl:package-0", hw_type="cpu", carbontrack_basis="measured")
    ram = key("hw.energy", hw_id="model:ram", hw_type="memory", carbontrack_basis="measured")
    region = {"carbontrack_region": times[0] and _region(times[0])}
    ours = key("carbontrack.process.energy", **WORK, **region, carbontrack_component="ram")
    grams = key("carbontrack.emissions", **WORK, **region)
    calls = key("carbontrack.calls", **WORK, **region)
    before = (10.0, 1.0) if temporality is AggregationTemporality.CUMULATIVE else (0.0, 0.0)
    for found, seconds, number in zip(
        times, (10.0, 5.0 + before[0]), (1, 1 + before[1]), strict=True
    ):
        assert found[cpu] == pytest.approx(100.0 * seconds)
        assert found[ram] == pytest.approx(20.0 * seconds)
        assert found[ours] == pytest.approx(20.0 * seconds)
        assert found[grams] == pytest.approx(120.0 * seconds / 1e4)
        assert found[calls] == number
        low, high = (found[f"carbontrack.emissions.{end}", grams[1]] for end in ("low", "high"))
        assert low < found[grams] < high
    assert [v for (name, _), v in times[1].items() if name == "carbontrack.grid.intensity"] == [360]


def _region(found: Points) -> str:
    return next(
        dict(attributes)["carbontrack.region"]
        for name, attributes in found
        if name == "carbontrack.grid.intensity"
    )


def test_names_and_units_are_those_of_the_conventions() -> None:
    """`hw.energy` as the semantic conventions have it; a change of theirs fails here."""
    found = "opentelemetry.semconv._incubating"
    hw_metrics = pytest.importorskip(f"{found}.metrics.hw_metrics", reason="conventions of before")
    hw_attributes = pytest.importorskip(f"{found}.attributes.hw_attributes")
    assert hw_metrics.HW_ENERGY in METRICS
    assert METRICS[hw_metrics.HW_ENERGY][0] == "J"
    known = {one.value for one in hw_attributes.HwTypeValues}
    assert set(HW_TYPES.values()) - known == {"other"}  # for which the conventions have none
    assert (hw_attributes.HW_ID, hw_attributes.HW_TYPE) == ("hw.id", "hw.type")


def test_open_blocks_are_shown_and_each_meter_is_read_once(clock: FakeClock) -> None:
    """One look serves all instruments of a collection; a second call of `instrument` adds none."""
    meter = FakeMeter(watts=100.0)
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    provider = MeterProvider(readers)
    with tracker_of(clock, meters=[meter]) as tracker:
        for _ in range(3):
            opentelemetry.instrument(provider, tracker)
        with tracker.span("job"), tracker.span("inner"):
            for reader in readers:
                clock.advance(10.0)
                reads = meter.reads
                found = collected(reader)
                assert meter.reads == reads + 1
        assert found[key("carbontrack.open.energy", carbontrack_name="job")] == pytest.approx(2000)
        assert found[key("carbontrack.open.emissions", carbontrack_name="job")] > 0.0
        assert not any("calls" in name for name, _ in found)
        assert not any("open" in name for name, _ in collected(readers[0]))


def test_a_collection_does_not_wait_for_a_reading(clock: FakeClock) -> None:
    """While a meter hangs, all metrics are there, as of the last reading: none of the others of
    that collection is lost."""
    reader, provider_free = InMemoryMetricReader(), threading.Event()
    provider = MeterProvider([reader])
    provider.get_meter("users").create_counter("requests").add(1)
    with tracker_of(clock) as tracker, tracker.span("job"):
        opentelemetry.instrument(provider, tracker)
        clock.advance(1.0)
        before = collected(reader)
        held = threading.Event()

        def hang() -> None:
            with tracker.session.sampler.lock:
                held.set()
                provider_free.wait(60.0)

        thread = threading.Thread(target=hang)
        thread.start()
        held.wait(60.0)
        found = collected(reader)
        provider_free.set()
        thread.join()
    assert found["requests", frozenset()] == 1
    assert {k: v for k, v in found.items() if k[0] == "hw.energy"} == {
        k: v for k, v in before.items() if k[0] == "hw.energy"
    }


def test_a_counter_never_falls_though_trackers_come_and_go(tmp_path: Path) -> None:
    """All that `track` and `auto` measure is exported, whatever their settings, made when it is."""
    reader = InMemoryMetricReader()
    opentelemetry.instrument(MeterProvider([reader]))
    opentelemetry.instrument(MeterProvider([InMemoryMetricReader()]))  # another one beside it
    last, joules = Points(), 0.0
    for tdp in (100.0, 50.0, 100.0):
        with carbontrack.auto(output=None, region="FR", cpu_tdp_w=tdp) as tracker:
            with tracker.span("job") as span:
                sum(range(300_000))
            joules += span.record.cpu_kwh * 3.6e6
            found = collected(reader)
        assert all(found[at] >= last[at] for at in last if "intensity" not in at[0])
        last = found
    assert [v for (n, _), v in last.items() if n == "carbontrack.calls"] == [3]
    ours = [
        v
        for (n, a), v in last.items()
        if "process.energy" in n and ("carbontrack.component", "cpu") in a
    ]
    assert ours == [pytest.approx(joules)]


def test_the_global_provider_may_be_set_later() -> None:
    """Instruments that were made before it was set are its own from then on, once."""
    reader = InMemoryMetricReader()
    opentelemetry.instrument()
    metrics.set_meter_provider(MeterProvider([reader]))
    opentelemetry.instrument()
    with carbontrack.track("job", output=None, region="FR"):
        pass
    assert [v for (name, _), v in collected(reader).items() if name == "carbontrack.calls"] == [1]


class _Collector(BaseHTTPRequestHandler):
    """A server of OTLP over HTTP; its `server.requests` are what has arrived."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append(  # type: ignore[attr-defined]
            (self.path, ExportMetricsServiceRequest.FromString(body))
        )
        answer = ExportMetricsServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, ExportMetricsServiceRequest]]]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        server.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server.requests  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def test_it_arrives_by_otlp(clock: FakeClock) -> None:
    """The user's own exporter sends the metrics; a collector parses the protobuf."""
    with collector() as (url, requests), tracker_of(clock) as tracker:
        exporter = OTLPMetricExporter(f"{url}/v1/metrics")
        provider = MeterProvider([PeriodicExportingMetricReader(exporter, 3_600_000)])
        opentelemetry.instrument(provider, tracker)
        with tracker.span("train"):
            clock.advance(10.0)
        provider.shutdown()
    path, request = requests[-1]
    assert path == "/v1/metrics"
    (scope,) = request.resource_metrics[0].scope_metrics
    assert scope.scope.name == "carbontrack"
    found = {metric.name: metric for metric in scope.metrics}
    energy = found["hw.energy"]
    assert (energy.unit, energy.sum.is_monotonic) == ("J", True)
    joules = {
        {a.key: a.value.string_value for a in point.attributes}["hw.id"]: point.as_double
        for point in energy.sum.data_points
    }
    assert joules == {"rapl:package-0": pytest.approx(1000.0), "model:ram": pytest.approx(200.0)}
    assert found["carbontrack.emissions"].sum.data_points[0].as_double == pytest.approx(0.12)


# -- spans -------------------------------------------------------------------------------------

TRACER = TracerProvider().get_tracer("test")


def written(span: trace.Span) -> Mapping[str, Any]:
    """What was written onto a span."""
    return span.attributes or {}  # type: ignore[attr-defined]


def annotating(tracker: carbontrack.Tracker) -> None:
    opentelemetry.instrument(MeterProvider(), tracker, annotate=True)


def test_a_span_has_the_figures_of_the_block_inside(clock: FakeClock) -> None:
    """Joules, grams, how they are known, and the row to find them in."""
    with tracker_of(clock) as tracker:
        annotating(tracker)
        with TRACER.start_as_current_span("request") as span, tracker.span("infer") as block:
            clock.advance(10.0)
        with tracker.span("elsewhere"):
            clock.advance(1.0)
    assert written(span) == {
        "carbontrack.energy_j": pytest.approx(1200.0),
        "carbontrack.emissions_g": pytest.approx(0.12),
        "carbontrack.basis": "measured",
        "carbontrack.record_id": block.record_id,
    }


def test_what_is_unknown_is_not_written(clock: FakeClock) -> None:
    """No grid, no grams; and nothing at all onto a span that does not record or without asking."""
    with tracker_of(clock, grid=None) as tracker:
        with TRACER.start_as_current_span("before") as before, tracker.span("a"):
            clock.advance(1.0)
        annotating(tracker)
        with TRACER.start_as_current_span("request") as span, tracker.span("b"):
            clock.advance(1.0)
        with trace.use_span(trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)), tracker.span("c"):
            clock.advance(1.0)
    assert written(before) == {}
    assert set(written(span)) == {
        f"carbontrack.{name}" for name in ("energy_j", "basis", "record_id")
    }


def test_wrong_arguments_are_said_at_once(clock: FakeClock) -> None:
    """Two that are swapped, and a second tracker, of which nothing would be shown."""
    provider = MeterProvider([InMemoryMetricReader()])
    with tracker_of(clock) as tracker, tracker_of(clock) as other:
        for wrong in ((tracker,), ("otlp",), (provider, "train")):
            with pytest.raises(carbontrack.ConfigError, match="cannot use"):
                opentelemetry.instrument(*wrong)  # type: ignore[arg-type]
        for again in (tracker, tracker, None):
            opentelemetry.instrument(provider, again)
        with pytest.raises(carbontrack.ConfigError, match="another tracker"):
            opentelemetry.instrument(provider, other)


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads take turns after few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_collection_that_fails_leaves_nothing_for_the_next(clock: FakeClock) -> None:
    """The SDK logs the failure of one metric; the others are there, and all are the next time."""
    failures = [OSError()]

    class Seldom:
        span = None

        @property
        def session(self) -> Any:
            if failures:
                raise failures.pop()
            return tracker.session

    reader = InMemoryMetricReader()
    with tracker_of(clock) as tracker:
        seldom = Seldom()
        seldom.span = tracker.span  # type: ignore[assignment]
        failing = failures.pop()
        opentelemetry.instrument(MeterProvider([reader]), seldom)  # type: ignore[arg-type]
        failures.append(failing)
        with tracker.span("train"):
            clock.advance(1.0)
        first, second = collected(reader), collected(reader)
    assert not [name for name, _ in first if name == "hw.energy"]
    assert [name for name, _ in first if name == "carbontrack.missed_reads"]
    assert [value for (name, _), value in second.items() if name == "hw.energy"] == [100.0, 20.0]


@pytest.mark.usefixtures("switching_often")
def test_blocks_of_threads_in_one_span_are_added_up(clock: FakeClock) -> None:
    """None is lost, though several end at the same time."""
    with tracker_of(clock) as tracker:
        annotating(tracker)
        with TRACER.start_as_current_span("request") as span:
            context = contextvars.copy_context()
            blocks: list[Any] = []

            def work() -> None:
                for _ in range(200):
                    with tracker.span("part") as block:
                        clock_turned.wait(0.001)
                    blocks.append(block)

            clock_turned = threading.Event()
            threads = [threading.Thread(target=context.copy().run, args=(work,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                clock.advance(0.01)
    joules = sum(block.record.energy_kwh or 0.0 for block in blocks) * 3.6e6
    assert written(span)["carbontrack.energy_j"] == pytest.approx(joules)


STEPS = st.recursive(
    st.just(None),
    lambda inner: st.tuples(st.sampled_from(["block", "span"]), st.lists(inner, max_size=3)),
    max_leaves=12,
)


@given(STEPS)
def test_each_span_has_the_joules_of_the_blocks_in_it_once(tree: Any) -> None:
    """However blocks and spans lie in each other: on a span is the sum of the outermost blocks of
    it, since a block has what is inside of it."""
    clock = FakeClock()
    expected: list[tuple[trace.Span, list[Any]]] = []

    def walk(node: Any, outermost: list[Any] | None) -> None:
        if node is None:
            clock.advance(1.0)
            return
        kind, inside = node
        with ExitStack() as opened:
            if kind == "span":
                span, outermost = opened.enter_context(TRACER.start_as_current_span("s")), []
                expected.append((span, outermost))
            else:
                block = opened.enter_context(tracker.span("b"))
                if outermost is not None:
                    outermost.append(block)
                    outermost = None
            for one in inside:
                walk(one, outermost)

    with tracker_of(clock) as tracker:
        annotating(tracker)
        walk(tree, None)
        for span, blocks in expected:
            joules = sum((block.record.energy_kwh or 0.0) * 3.6e6 for block in blocks)
            assert written(span).get("carbontrack.energy_j", 0.0) == pytest.approx(joules)
            assert ("carbontrack.record_id" in written(span)) == bool(blocks)


def test_long_calls_and_failing_blocks_are_written_too(clock: FakeClock) -> None:
    """A call of a second or longer is a block, whatever thread counts its end; an exception and
    a failing span of the user change nothing."""

    class Broken(trace.NonRecordingSpan):
        def is_recording(self) -> bool:
            raise OSError("broken")

    with tracker_of(clock) as tracker:
        annotating(tracker)

        @carbontrack.track("work", tracker=tracker)
        def work(seconds: float) -> None:
            clock.advance(seconds)

        found = []
        # the first one ends before the tick that would find it long; the others meet some
        for seconds in (1.05, 0.5, 1.5, 2.5):
            clock.advance(0.9)
            with TRACER.start_as_current_span("request") as span:
                work(seconds)
            found.append(written(span).get("carbontrack.energy_j"))
        of_long = [pytest.approx(120.0 * seconds) for seconds in (1.05, 1.5, 2.5)]
        assert found == [of_long[0], None, *of_long[1:]]
        start = TRACER.start_as_current_span
        with start("request") as span, suppress(ZeroDivisionError), tracker.span("failing"):
            clock.advance(1.0)
            raise ZeroDivisionError
        assert written(span)["carbontrack.energy_j"] == pytest.approx(120.0)
        with trace.use_span(Broken(trace.INVALID_SPAN_CONTEXT)), tracker.span("block"):
            clock.advance(1.0)


def test_the_instrumentor_is_one_of_theirs() -> None:
    """It has their base class, takes the same arguments, and leaves nothing behind."""
    reader = InMemoryMetricReader()
    instrumentor = opentelemetry.CarbontrackInstrumentor()
    assert isinstance(instrumentor, BaseInstrumentor)
    assert instrumentor.instrumentation_dependencies() == ()
    instrumentor.instrument(meter_provider=MeterProvider([reader]))
    for number in (1, 1):
        with carbontrack.track("job", output=None, region="FR"):
            pass
        found = collected(reader)
        calls = [value for (name, _), value in found.items() if name == "carbontrack.calls"]
        assert calls == ([number] if instrumentor.is_instrumented_by_opentelemetry else [])
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
    with pytest.raises(AttributeError, match="Instrumentr"):
        opentelemetry.CarbontrackInstrumentr  # noqa: B018


FORKS = """
import os
import carbontrack
from carbontrack.integrations import opentelemetry
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader


def calls(reader):
    scopes = reader.get_metrics_data().resource_metrics[0].scope_metrics
    points = {one.name: one.data.data_points for one in scopes[0].metrics}["carbontrack.calls"]
    return {one.attributes["carbontrack.name"]: one.value for one in points}


opentelemetry.instrument()
with carbontrack.track("before", output=None):
    pass
child = os.fork()
reader = InMemoryMetricReader()
set_meter_provider(MeterProvider([reader]))  # as servers want it, in each process
opentelemetry.instrument()
with carbontrack.track("after", output=None):
    pass
expected = {"before": 1, "after": 1} if child else {"after": 1}
assert calls(reader) == expected, calls(reader)
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_forked_worker_exports_its_own_work(tmp_path: Path) -> None:
    """Once, though `instrument` is called before the fork and after it."""
    own = {"CARBONTRACK_REGION": "FR", "CARBONTRACK_STATE_DIR": "state"}
    subprocess.run(
        [sys.executable, "-c", FORKS], cwd=tmp_path, env={**os.environ, **own}, check=True
    )


ENDS = """
import carbontrack
from carbontrack.integrations import opentelemetry
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

metrics.set_meter_provider(
    MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter(), 3_600_000)])
)
opentelemetry.instrument()


@carbontrack.track("step", output=None)
def step():
    pass


for _ in range(7):
    step()
"""


def test_the_last_calls_of_a_program_are_in_its_last_export(tmp_path: Path) -> None:
    """The provider ends after the last rows were written."""
    own = {"CARBONTRACK_REGION": "FR", "CARBONTRACK_STATE_DIR": "state"}
    done = subprocess.run(
        [sys.executable, "-c", ENDS],
        cwd=tmp_path,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    (scope,) = json.loads(done.stdout)["resource_metrics"][0]["scope_metrics"]
    found = {metric["name"]: metric["data"]["data_points"] for metric in scope["metrics"]}
    assert [point["value"] for point in found["carbontrack.calls"]] == [7]
