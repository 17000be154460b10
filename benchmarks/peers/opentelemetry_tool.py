"""OpenTelemetry's span, in batches to an exporter that drops them; it measures no energy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REQUIREMENT = "opentelemetry-sdk"
IMPORT = "import opentelemetry.sdk.trace"
SAMPLES = False
WAYS = {"life": "provider, span, `shutdown()`", "step": "`start_as_current_span()`",
        "call": "the same as a decorator"}  # fmt: skip


def provider() -> Any:
    """A provider as applications set it up, less the network."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )

    class Dropped(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002 - the base's own
            return SpanExportResult.SUCCESS

    made = TracerProvider()
    made.add_span_processor(BatchSpanProcessor(Dropped()))
    return made


def life() -> None:
    """One provider from start to stop."""
    made = provider()
    with made.get_tracer("x").start_as_current_span("x"):
        pass
    made.shutdown()


def decorated(function: Callable[[], None]) -> Callable[[], None]:
    """The function, traced."""
    return provider().get_tracer("x").start_as_current_span("x")(function)


@contextmanager
def session() -> Iterator[Callable[[], None]]:
    """Yield what opens and closes one span."""
    made = provider()
    tracer = made.get_tracer("x")

    def step() -> None:
        with tracer.start_as_current_span("x"):
            pass

    yield step
    made.shutdown()


@contextmanager
def sampling(interval_s: float) -> Iterator[None]:  # noqa: ARG001 - it has no sampler
    """An open span; nothing is sampled."""
    made = provider()
    with made.get_tracer("x").start_as_current_span("x"):
        yield
    made.shutdown()
