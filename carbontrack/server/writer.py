"""The one writer: groups the rows that wait, and commits them in a thread.

A commit takes a disk some milliseconds whether it holds one row or thousands. So requests put
their rows into a queue and wait; all rows that arrived during a commit form the next one. A
request is answered when its rows are durable, and not before.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from carbontrack.errors import StoreUnavailable
from carbontrack.server.limits import Limits, Refused
from carbontrack.store.base import Added, Store
from carbontrack.store.rows import StoredRow
from carbontrack.system.clock import SystemClock


@dataclass(slots=True, eq=False)
class _Put:
    """The rows of one request, and the waiter for them."""

    project: str
    rows: Sequence[StoredRow]
    done: asyncio.Future[None]


class StoreWriter:
    """Takes rows from requests, and commits them in the order of their arrival.

    To be used in one event loop. `on_commit` is called there with what a commit has added, or None
    where it has failed, and with its seconds.
    """

    def __init__(
        self, store: Store, limits: Limits, on_commit: Callable[[Added | None, float], None]
    ) -> None:
        self.rows = 0
        self._store = store
        self._limits = limits
        self._on_commit = on_commit
        self._waiting: deque[_Put] = deque()
        self._wake = asyncio.Event()
        self._is_closing = False
        self._thread = ThreadPoolExecutor(1, "carbontrack-writer")

    async def put(self, project: str, rows: Sequence[StoredRow]) -> None:
        """Return when the rows are durable.

        A caller that is cancelled in the meantime leaves its rows in the queue: they are written.

        Raises:
            Refused: too many rows wait already.
            StoreUnavailable: they could not be written; they may be sent again.
        """
        if not rows:
            return
        if self.rows + len(rows) > self._limits.queued_rows:
            raise Refused(429, "too many records wait for the store", wait_s=0.0)
        one = _Put(project, rows, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self.rows += len(rows)
        self._wake.set()
        await one.done

    async def run(self) -> None:
        """Write until `close` is called and nothing waits any more."""
        while self._waiting or not self._is_closing:
            if self._waiting:
                await self._write(self._next_group())
            else:
                self._wake.clear()
                await self._wake.wait()
        self._thread.shutdown()

    def close(self) -> None:
        """Let `run` end once all that waits is written."""
        self._is_closing = True
        self._wake.set()

    def _next_group(self) -> list[_Put]:
        """The rows that wait longest, up to the size of a group."""
        group: list[_Put] = []
        count = 0
        while self._waiting:
            count += len(self._waiting[0].rows)
            if group and count > self._limits.group_rows:
                break
            group.append(self._waiting.popleft())
        return group

    async def _write(self, group: Sequence[_Put]) -> None:
        by_project: dict[str, list[_Put]] = {}
        for one in group:
            by_project.setdefault(one.project, []).append(one)
        for puts in by_project.values():
            await self._commit(puts)

    async def _commit(self, puts: Sequence[_Put]) -> None:
        """One transaction for the rows of a project."""
        rows = [row for one in puts for row in one.rows]
        began_s = SystemClock.monotonic_s()
        adding = asyncio.get_running_loop().run_in_executor(
            self._thread, self._store.add, puts[0].project, rows
        )
        await asyncio.wait({adding})
        error = adding.exception()
        added = None if error else adding.result()
        self._on_commit(added, SystemClock.monotonic_s() - began_s)
        if error is None or isinstance(error, StoreUnavailable) or len(puts) == 1:
            for one in puts:
                self._end(one, error)
            return
        for one in puts:  # an error of ours that one request brings out does not take the others
            await self._commit([one])

    def _end(self, one: _Put, error: BaseException | None) -> None:
        self.rows -= len(one.rows)
        if one.done.done():  # its sender has gone
            return
        if error is None:
            one.done.set_result(None)
        else:
            one.done.set_exception(error)
