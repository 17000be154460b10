"""Dead letters sent again, as `carbontrack sync --dead-letters` does it.

Delivered records are removed from their file, rejected ones stay in it unchanged. Lines without a
record stay too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from carbontrack.record import Record
from carbontrack.sinks.delivery import (
    DEAD_LETTER_FOLDER,
    Delivery,
    Queue,
    letters_name,
    locked_letters,
    rate_of,
)
from carbontrack.sinks.factory import is_url, sink_for
from carbontrack.sinks.journal.journal import OnUnreadable
from carbontrack.sinks.journal.recovery import OpenSink, trouble_of_writing
from carbontrack.sinks.post import Poster, PostResult
from carbontrack.sinks.sync import AddressDrain, checked_for, in_parallel, is_meant
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import open_own, own_folder, replace_file
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import LOGGER

_TIMEOUT_S = 10.0
_NO_ADDRESS = "its address is not known: give it with --url"


@dataclass(frozen=True, slots=True)
class Resent:
    """The result for one file.

    Attributes:
        path: the file.
        output: where its records go; None if unknown.
        delivered: how many arrived, and are no longer in the file.
        remaining: how many are still in it.
        unreadable: how many of its lines hold no record, and are still in it.
        trouble: why records remain.
    """

    path: Path
    output: str | None = field(repr=False)
    delivered: int = 0
    remaining: int = 0
    unreadable: int = 0
    trouble: str | None = None


def resend(
    state_dir: Path,
    url: str | None = None,
    token: str | None = None,
    *,
    outputs: Iterable[str] = (),
    open_sink: OpenSink = sink_for,
    clock: Clock | None = None,
    on_unreadable: OnUnreadable | None = None,
) -> list[Resent]:
    """Send the records in dead-letter files again, those for one address or all.

    Args:
        state_dir: the state directory.
        url: only what is for this address.
        token: sent to `url`, and to the servers of `outputs`, and to no other: the addresses in the
            files are not trusted.
        outputs: the addresses that were given together with the token. They may also be those of
            files whose lines do not name theirs.
        open_sink: opens an output that is no URL.
        clock: the time source.
        on_unreadable: called with a file that cannot be read, by default the log is.
    """
    clock = clock or SystemClock()
    named = (*outputs, *((url,) if url else ()))
    known = {letters_name(output): output for output in named}
    files: list[tuple[DeadLetters, _Redelivery | None]] = []

    def report(path: Path, error: OSError) -> None:
        if on_unreadable is not None:
            on_unreadable(path, error)
        else:
            LOGGER.warning("%s: %s; its records are kept in it", path, error.strerror)

    for path in _files(state_dir, report):
        try:
            letters = DeadLetters.read(path, known.get(path.name))
        except OSError as error:
            pass_on(error)
            report(path, error)
            continue
        address = letters.output
        if url is not None and not (address is None or is_meant(address, url)):
            continue
        delivery = None
        if address is not None and is_url(address):
            own_token = checked_for(address, token, named)
            poster = Poster(address, token=own_token, timeout_s=_TIMEOUT_S, clock=clock)
            delivery = _Redelivery(
                poster, state_dir=state_dir, batch=200, clock=clock, rate=rate_of(address)
            )
        files.append((letters, delivery))
    in_parallel([partial(_send, one, to) for one, to in files if to is not None])
    return [
        _written(letters, open_sink)
        if delivery is None
        else letters.result(delivery.refusal or delivery.failure)
        for letters, delivery in files
    ]


def _send(letters: DeadLetters, delivery: _Redelivery) -> None:
    drain = AddressDrain(delivery)
    drain.deliver(letters)
    delivery.failure = drain.trouble


def _written(letters: DeadLetters, open_sink: OpenSink) -> Resent:
    """Write the records to the file or the plugin that they were for."""
    if letters.output is None:
        return letters.result(_NO_ADDRESS)
    return letters.result(_write(letters, letters.output, open_sink))


def _files(state_dir: Path, report: OnUnreadable) -> list[Path]:
    place = state_dir / DEAD_LETTER_FOLDER
    try:
        return sorted(own_folder(place, create=False).glob("*.ndjson"))
    except FileNotFoundError:
        return []
    except OSError as error:
        pass_on(error)
        report(place, error)
        return []


def _write(letters: DeadLetters, output: str, open_sink: OpenSink) -> str | None:
    """Write the records to a file; returns why some could not be."""
    trouble = None
    for record in letters.peek(letters.count()):
        failure = trouble_of_writing(record, output, open_sink)
        if failure is None:
            letters.settle([record.record_id])
        trouble = failure or trouble
    return trouble


class DeadLetters:
    """The records in one dead-letter file, as a queue."""

    def __init__(self, path: Path, output: str | None) -> None:
        self.path, self.output = path, output
        self._waiting: dict[str, Record] = {}
        self._lines: dict[str, list[bytes]] = {}
        self._delivered = self._refused = self._unreadable = 0

    @classmethod
    def read(cls, path: Path, output: str | None) -> DeadLetters:
        """Read a file; its own lines name the output, and `output` does where they do not.

        Raises:
            OSError: it cannot be read.
        """
        letters = cls(path, output)
        with open_own(path) as file:
            for line in file:
                letters._add(line)
        return letters

    def peek(self, limit: int) -> list[Record]:
        """The oldest records that were not tried yet."""
        return list(self._waiting.values())[:limit]

    def settle(self, record_ids: Sequence[str]) -> None:
        """Take records that have arrived out of the file."""
        gone = {line for record_id in record_ids for line in self._lines.pop(record_id, [])}
        for record_id in record_ids:
            self._waiting.pop(record_id, None)
        self._delivered += len(record_ids)
        try:
            _remove_lines(self.path, gone)
        except OSError as error:
            pass_on(error)
            LOGGER.warning("%s: %s; these records may arrive twice", self.path, error.strerror)

    def keep(self, record_ids: Sequence[str]) -> None:
        """Leave records that were refused again in the file."""
        for record_id in record_ids:
            self._waiting.pop(record_id, None)
        self._refused += len(record_ids)

    def count(self) -> int:
        """How many records were not tried yet."""
        return len(self._waiting)

    def result(self, trouble: str | None) -> Resent:
        """What was done with the file."""
        remaining = self._refused + len(self._waiting)
        return Resent(
            self.path,
            self.output,
            self._delivered,
            remaining,
            self._unreadable,
            trouble if remaining else None,
        )

    def _add(self, line: bytes) -> None:
        try:
            letter = json.loads(line)
            record = Record.from_row(letter["record"])
        except (ValueError, TypeError, LookupError, RecursionError, AttributeError):
            self._unreadable += 1
            return
        if isinstance(letter.get("output"), str):
            self.output = letter["output"]
        if record.status != "recovered" or record.record_id not in self._waiting:
            self._waiting[record.record_id] = record
        self._lines.setdefault(record.record_id, []).append(line)


class _Redelivery(Delivery):
    """A delivery of dead letters: what is refused again stays where it is."""

    refusal: str | None = None
    failure: str | None = None

    def _refuse(self, queue: Queue, records: list[Record], result: PostResult) -> PostResult:
        assert isinstance(queue, DeadLetters)
        queue.keep([record.record_id for record in records])
        self.refusal = result.reason
        return result


def _remove_lines(path: Path, gone: set[bytes]) -> None:
    """Replace the file by one without these lines; what others have added meanwhile stays.

    Raises:
        OSError: it could not be written; the file is unchanged.
    """
    with locked_letters(path):
        with open_own(path) as file:
            kept = [line for line in file if line not in gone]
        if kept:
            replace_file(path, b"".join(kept), mode=0o600)
        else:
            path.unlink()
