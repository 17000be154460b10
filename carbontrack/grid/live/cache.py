"""The last figures of a service on disk, so that the next process need not ask for them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from carbontrack.grid.slots import Slot
from carbontrack.private_files import replace_privately


class Cache:
    """One JSON file; what cannot be read is nothing, and what cannot be written is not kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, folder: Path, service: str, zone: str, signal: str) -> Cache:
        """The file of one service, zone and signal; names are made safe for any file system."""
        name = "".join(c if c.isalnum() else "-" for c in f"{service}-{zone}-{signal}".lower())
        return cls(folder / "intensity" / f"{name}.json")

    def load(self) -> list[Slot]:
        """The figures that were saved last; each carries its own time, so none passes as new."""
        import json

        try:
            entries = json.loads(self._path.read_text(encoding="utf-8"))
            return [Slot(float(s), float(e), float(g), bool(x)) for s, e, g, x in entries]
        except (OSError, ValueError, TypeError):
            return []

    def save(self, slots: Sequence[Slot]) -> None:
        """Replace the file in one step, so that no reader sees half of it."""
        import json

        with suppress(OSError):
            replace_privately(self._path, json.dumps(slots))
