"""What all sinks have in common, whatever they write to."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

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
