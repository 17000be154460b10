"""What all sinks have in common, whatever they write to."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest

from carbontrack.record import Record
from carbontrack.sinks.buffered import BufferedSink
from tests.support.records import a_record


class RecallingSink(BufferedSink[tuple[int, str]]):
    """Recalls which thread has written which thread's record."""

    def __init__(self, path: Path) -> None:
        self.written: list[tuple[int, int]] = []
        self._path = path
        super().__init__(self._entry, self._append)

    @property
    def path(self) -> Path:
        """No file."""
        return self._path

    def _entry(self, record: Record) -> tuple[int, str]:
        return threading.get_ident(), record.record_id

    def _append(self, entry: tuple[int, str]) -> None:
        self.written.append((entry[0], threading.get_ident()))


def test_a_thread_writes_its_own_records(tmp_path: Path) -> None:
    """Not those of others, which might be stopped for good with them at the end of the program."""
    sink, record = RecallingSink(tmp_path / "none"), a_record()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [sink.write(record) for _ in range(2000)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(sink.written) == 8 * 2000
    assert all(owner == writer for owner, writer in sink.written)


class InterruptedSink(RecallingSink):
    """Is interrupted by a signal in the middle of its first write."""

    def _append(self, entry: tuple[int, str]) -> None:
        if not self.written:
            signal.raise_signal(signal.SIGUSR1)
        super()._append(entry)


def test_a_time_limit_of_the_program_passes_through(tmp_path: Path) -> None:
    """It may be an OSError, as that of a disk; the record waits as it does there."""

    def is_over(*_: object) -> None:
        raise TimeoutError("the program's time is over")

    sink = InterruptedSink(tmp_path / "none")
    before = signal.signal(signal.SIGUSR1, is_over)
    try:
        with pytest.raises(TimeoutError, match="the program's"):
            sink.write(a_record(1))
        assert sink.pending_ids == (a_record(1).record_id,)
        with pytest.raises(TimeoutError, match="the program's"):
            sink.close()
        assert sink.pending_ids == (a_record(1).record_id,)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        sink.close()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert (sink.pending_ids, len(sink.written)) == ((), 1)
