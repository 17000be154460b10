"""A log handler that waits for another thread, which opens a span: nothing may hang."""

from __future__ import annotations

import logging
import threading

from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker


def test_a_handler_that_needs_a_span_elsewhere_does_not_hang():
    """What a meter's loss has to say is said with no lock of ours held."""
    clock, meter = FakeClock(), FakeMeter()
    met = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            def other() -> None:
                with tracker.span("elsewhere"):
                    met.set()

            thread = threading.Thread(target=other, daemon=True)
            thread.start()
            thread.join(60.0)

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("carbontrack")
    logger.addHandler(handler)
    try:
        with Tracker(meters=[meter], clock=clock) as tracker, tracker.span("a"):
            clock.advance(2.0)
            meter.gone()
            clock.advance(2.0)
            assert met.wait(60.0)
    finally:
        logger.removeHandler(handler)
