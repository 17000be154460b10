"""The positions of a journal's live lines: entries, their updates, and shared facts.

An entry may name facts that it shares with many others: they are a separate line, before the first
entry that names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from carbontrack.values import NamedTuple

Key = tuple[str, ...]
Extent = tuple[int, int]
"""Where a line is in the file: its offset and its length."""
Name = TypeVar("Name", Key, str)


class SharedFacts(NamedTuple):
    """The common part of many entries: its name in this process's journal, and its line."""

    name: str
    line: bytes


def facts_in(entry: Mapping[str, Any]) -> str | None:
    """The name of the facts in an entry, or of those that it refers to, if any."""
    name = entry.get("facts")
    return name if isinstance(name, str) else None


def updated(entry: Mapping[str, Any], update: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entry with the columns of an update, if there is one."""
    record, columns = entry.get("record"), (update or {}).get("record")
    if not isinstance(record, dict) or not isinstance(columns, dict):
        return dict(entry)
    return {**entry, "record": record | columns}


def completed(entry: Mapping[str, Any], facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """The entry with the facts that it names, if they are known."""
    whole = {**(facts or {}), **entry}
    shared, own = (facts or {}).get("record"), whole.get("record")
    if isinstance(shared, dict) and isinstance(own, dict):
        whole["record"] = shared | own
    return whole


class Places:
    """Where the lines are that count.

    Attributes:
        entries: the entry of each live key, oldest first.
        updates: of keys that have one, the last.
        facts: the facts by name.
        live_bytes: the length of all entries and updates.
    """

    def __init__(self) -> None:
        self.entries: dict[Key, Extent] = {}
        self.updates: dict[Key, Extent] = {}
        self.facts: dict[str, Extent] = {}
        self.live_bytes = 0
        self._facts_of: dict[Key, str] = {}

    def __len__(self) -> int:
        return len(self.entries) + len(self.facts)

    def facts_of(self, key: Key) -> Extent | None:
        """The facts that an entry names, if it does."""
        return self.facts.get(self._facts_of.get(key, ""))

    def put(self, key: Key, extent: Extent, facts: str | None = None) -> None:
        """There is an entry, in place of the one before, that may name facts."""
        self.forget(key)  # before, so that the key is the last one
        self.entries[key] = extent
        if facts is not None:
            self._facts_of[key] = facts
        self.live_bytes += extent[1]

    def update(self, key: Key, extent: Extent) -> None:
        """There is an update of an entry, in place of the one before."""
        before = self.updates.get(key)
        self.updates[key] = extent
        self.live_bytes += extent[1] - (before[1] if before else 0)

    def forget(self, key: Key) -> None:
        """An entry, if there is one, counts no more."""
        self._facts_of.pop(key, None)
        for extents in (self.entries, self.updates):
            extent = extents.pop(key, None)
            if extent is not None:
                self.live_bytes -= extent[1]

    def moved(self, copy: Callable[[Extent], int]) -> Places:
        """Where the lines are after `copy` has appended each elsewhere; it returns the offset.

        Facts that no entry names are left behind.
        """
        there = Places()
        there._facts_of = dict(self._facts_of)
        named = set(self._facts_of.values()).intersection(self.facts)
        there.facts = _moved({name: self.facts[name] for name in named}, copy)
        there.entries = _moved(self.entries, copy)
        there.updates = _moved(self.updates, copy)  # of what is before them
        there.live_bytes = self.live_bytes
        return there


def _moved(extents: Mapping[Name, Extent], copy: Callable[[Extent], int]) -> dict[Name, Extent]:
    return {key: (copy(extent), extent[1]) for key, extent in extents.items()}
