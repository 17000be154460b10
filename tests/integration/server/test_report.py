"""The totals of a project over HTTP: those that `carbontrack report` prints of the same records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.record import Record
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.store.factory import open_store
from tests.support.records import a_record
from tests.support.serving import Team, serving_with

RUNS = [
    *(
        a_record(
            number,
            name=("train", "infer", "tune")[number % 3],
            labels={"model": "ab"[number % 2]},
            host_id=f"host-{number % 4}",
            region=("FR", "DE")[number % 2],
            started_at=f"2026-11-{20 + number % 5}T03:00:00Z",
            ended_at=f"2026-11-{20 + number % 5}T04:00:00Z",
            energy_kwh=0.1 * (number + 1),
            energy_low_kwh=0.05 * (number + 1),
            energy_high_kwh=0.2 * (number + 1),
            intensity_low_g_per_kwh=40.0,
            intensity_high_g_per_kwh=80.0,
            emissions_g=5.6 * (number + 1),
            basis=("modelled", "measured")[number % 2],
            cpu_basis=("modelled", "measured")[number % 2],
            scope=("process", "machine")[number % 5 == 0],
            job_id=("4711", "4712", None)[number % 3],
            rank=(number // 3) % 4 if number % 3 else None,
            world_size=8 if number % 3 else None,
            attempt=number % 2,
        )
        for number in range(24)
    ),
    a_record(30, parent_id="run-7f3a:1", parent_holds=True, energy_kwh=0.01),
    a_record(31, energy_kwh=None, emissions_g=None),
]


@pytest.fixture(scope="module")
def sent(team: Team) -> list[Record]:
    assert team.server.post(RUNS, team.send).status_code == 204
    return RUNS


@pytest.mark.parametrize("by", ["name", "day", "host", "region", "job", "label:model"])
def test_the_same_totals_as_of_a_file(
    team: Team, sent: list[Record], tmp_path: Path, by: str, capsys: pytest.CaptureFixture[str]
):
    """Every figure, its interval, the groups, and what was left out."""
    (tmp_path / "runs.csv").write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in sent))
    assert main(["report", str(tmp_path / "runs.csv"), "--by", by, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out) | {"sources": ["vision"]}
    found = team.server.get("/v1/report", team.read, params={"by": by}).json()
    assert found.keys() == expected.keys()
    assert [group["key"] for group in found["groups"]] == [g["key"] for g in expected["groups"]]
    for mine, theirs in zip(
        [found["total"], *found["groups"]],
        [expected["total"], *expected["groups"]],
        strict=True,
    ):
        assert mine.keys() == theirs.keys()
        for name, figure in theirs.items():
            is_number = isinstance(figure, float)
            assert mine[name] == (pytest.approx(figure, rel=1e-12) if is_number else figure), name
    assert {k: v for k, v in found.items() if k not in ("total", "groups")} == {
        k: v for k, v in expected.items() if k not in ("total", "groups")
    }


def test_reports_have_limits(tmp_path: Path):
    """One that would read too many records says so, and those beyond some that wait come back."""
    with open_store(str(tmp_path / "team.db")) as store:
        send, read = store.create_token("vision"), store.create_token("vision", "read")
    with serving_with(tmp_path, report_rows=10, waiting_reports=0) as server:
        busy = server.get("/v1/report", read)
    assert busy.status_code == 429
    assert "Retry-After" in busy.headers
    with serving_with(tmp_path, report_rows=10) as server:
        server.post(RUNS[:10], send)
        assert server.get("/v1/report", read).json()["total"]["runs"] == 10
        server.post(RUNS[10:11], send)
        large = server.get("/v1/report", read)
        assert large.status_code == 422
        assert "since" in large.json()["error"]
        assert server.get("/v1/report?since=2026-11-24", read).status_code == 200


def test_a_part_of_the_time(team: Team, sent: list[Record]):
    """`since` is included, `until` is not; days and times are in UTC."""
    asked = {"since": "2026-11-21", "until": "2026-11-23T00:00:00Z", "by": "day"}
    found = team.server.get("/v1/report", team.read, params=asked).json()
    assert [group["key"] for group in found["groups"]] == ["2026-11-21", "2026-11-22"]
    later = team.server.get("/v1/report", team.read, params={"since": "2030-01-01"})
    assert later.json()["total"]["runs"] == 0
    assert later.json()["groups"] == []


@pytest.mark.parametrize("by", ["name", "day", "host", "region", "job", "label:model"])
def test_every_grouping_has_a_page(team: Team, sent: list[Record], by: str):
    """Also that of a project without records."""
    for token in (team.read, team.read_b):
        assert team.server.get("/", token, params={"by": by}).status_code == 200
        assert team.server.get("/v1/report", token, params={"by": by}).status_code == 200
