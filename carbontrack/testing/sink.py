"""Sinks that keep records in memory or refuse them."""

from __future__ import annotations

from carbontrack.errors import SinkError
from carbontrack.record import Record


class MemorySink:
    """Keeps all records in `records`."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = False

    def write(self, record: Record) -> None:
        """Keep the record."""
        self.records.append(record)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class FailingSink(MemorySink):
    """Refuses the first `times` records with a SinkError and keeps the others."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.failures_left = times

    def write(self, record: Record) -> None:
        """Keep the record, after the first `times`.

        Raises:
            SinkError: for each of the first `times` records.
        """
        if self.failures_left > 0:
            self.failures_left -= 1
            raise SinkError("this sink is set to fail")
        super().write(record)
