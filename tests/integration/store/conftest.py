"""A store on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.store.base import Store
from carbontrack.store.factory import open_store
from carbontrack.testing import FakeClock


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store can be made."""
    if request.param == "sqlite":
        return str(tmp_path / "team.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def clock() -> FakeClock:
    """The receiver's clock."""
    return FakeClock()


@pytest.fixture
def store(address: str, clock: FakeClock) -> Iterator[Store]:
    """A new store."""
    with open_store(address, clock=clock) as made:
        yield made
