"""A server for the tests of a module that do not change how it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.store.factory import open_store
from tests.support.serving import Team, serving


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A server with tokens of two projects."""
    folder = tmp_path_factory.mktemp("team")
    with open_store(str(folder / "team.db")) as store:
        tokens = {
            "send": store.create_token("vision"),
            "read": store.create_token("vision", "read"),
            "send_b": store.create_token("audio"),
            "read_b": store.create_token("audio", "read"),
        }
    with serving(folder) as server:
        yield Team(folder, server, **tokens)


@pytest.fixture
def send_token(tmp_path: Path) -> str:
    """A token of project `vision` in the store `team.db` of the test's folder."""
    with open_store(str(tmp_path / "team.db")) as store:
        return store.create_token("vision")
