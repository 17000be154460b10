"""Decorated functions in a forked child: what they had begun is the parent's."""

from __future__ import annotations

import os

import pytest

from carbontrack.api.track import track
from tests.support.bench import Bench


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_id_kept_for_the_next_window_is_the_parents():
    """A window without calls leaves its id to the next one, of this process and no other."""
    with Bench() as bench:

        @track("work", tracker=bench.tracker, window_s=10.0)
        def work():
            yield

        suspended = work()
        next(suspended)
        bench.run(20.0)  # a window in which no call has ended
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                list(work())
                bench.run(20.0)
                os.write(writing, " ".join(row.record_id for row in bench.records).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            childs = told.read().split()
        os.waitpid(child, 0)
        suspended.close()
    assert len(childs) == 1
    assert not {row.record_id for row in bench.records} & {*childs}
