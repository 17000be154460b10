"""A server whose PostgreSQL goes away: it says so, takes nothing, and goes on when it is back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carbontrack.store.factory import open_store
from tests.support.records import a_record
from tests.support.serving import serving, wait_until

pytestmark = pytest.mark.xdist_group("postgres")


def test_postgresql_killed_and_back(tmp_path: Path, postgres: Any, postgres_url: str):
    """503 and Retry-After meanwhile, and nothing that was acknowledged is lost."""
    with open_store(postgres_url) as store:
        token = store.create_token("vision")
    with serving(tmp_path, "--store", postgres_url) as server:
        assert server.post([a_record(1)], token).status_code == 204
        postgres.stop()
        try:
            away = server.post([a_record(2)], token)
            assert away.status_code == 503
            assert 5 <= int(away.headers["Retry-After"]) <= 60
            assert server.get("/healthz").status_code == 503
            assert server.get("/metrics").status_code == 200
        finally:
            postgres.start()
        assert wait_until(lambda: server.post([a_record(2)], token).status_code == 204)
        assert server.stop() == 0
        assert "Traceback" not in server.said()
    with open_store(postgres_url) as store:
        assert {row["record_id"] for row in store.rows("vision")} == {
            a_record(1).record_id,
            a_record(2).record_id,
        }
