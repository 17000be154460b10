"""What the server answers: each status of the contract, from a real process."""

from __future__ import annotations

import pytest

from carbontrack.sinks.jsonl import record_object
from tests.support.records import HOSTILE, a_record
from tests.support.serving import Team


def named(number: int, **changes: object):  # type: ignore[no-untyped-def]
    return a_record(number, **{"record_id": f"answers:{number}", **changes})


def test_204_comes_after_the_commit(team: Team):
    """What was answered with 204 is in the store, each text as it was sent."""
    records = [named(number, name=name) for number, name in enumerate(HOSTILE)]
    answer = team.server.post(records, team.send)
    assert (answer.status_code, answer.content) == (204, b"")
    stored = {row["record_id"]: row["name"] for row in team.stored()}
    assert {r.record_id: r.name for r in records}.items() <= stored.items()


def test_an_empty_array_is_taken(team: Team):
    """There is nothing to store, and nothing wrong."""
    assert team.server.post([], team.send).status_code == 204


def test_401_without_a_token_that_holds(team: Team):
    """No token, a wrong one, a malformed one: 401, and which kind of token is wanted."""
    wrong = team.send[:-4] + ("0000" if team.send[-4:] != "0000" else "1111")
    for token in (None, wrong, "x", f"{team.send}x", "ct_é"):
        answer = team.server.post_body(
            b"[]", headers={} if token is None else {"Authorization": f"Bearer {token}".encode()}
        )
        assert answer.status_code == 401, token
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_403_for_what_a_token_is_not_for(team: Team):
    """A read token may not send, and a token for sending may not read."""
    assert team.server.post([named(100)], team.read).status_code == 403
    assert team.server.get("/v1/report", team.send).status_code == 403


def test_413_for_too_many_records_and_too_many_bytes(team: Team):
    """1,000 records and 4 MiB are taken, and one more of either is not."""
    empty = [{"record_id": f"many:{n}"} for n in range(1001)]
    assert team.server.post(empty, team.send).status_code == 413
    assert team.server.post(empty[:1000], team.send).status_code == 422
    body = b"[]" + b" " * ((4 << 20) - 2)
    assert team.server.post_body(body, team.send).status_code == 204
    assert team.server.post_body(body + b" ", team.send).status_code == 413


def test_422_names_the_record_and_the_reason(team: Team):
    """One bad record: nothing of the request is stored, and the answer says which one and why."""
    records = [named(200), record_object(named(201)) | {"duration_s": "long"}]
    answer = team.server.post(records, team.send)
    assert answer.status_code == 422
    assert answer.json()["record"] == 1
    assert "duration_s" in answer.json()["error"]
    assert "answers:200" not in {row["record_id"] for row in team.stored()}


def test_415_and_411_before_anything_is_read(team: Team):
    """Another type of content, a compressed body, or one of unknown length is not taken."""
    for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
        assert team.server.post_body(b"[]", team.send, headers=headers).status_code == 415
    chunked = iter([b"[", b"]"])  # requests sends what has no length in chunks
    assert team.server.post_body(chunked, team.send).status_code == 411  # type: ignore[arg-type]


def test_newer_columns_are_kept(team: Team):
    """Columns that this version does not know are stored, and read back."""
    newer = {**record_object(named(300)), "schema": 9, "gravity_m": [1, {"a": None}]}
    assert team.server.post([newer], team.send).status_code == 204
    row = next(row for row in team.stored() if row["record_id"] == "answers:300")
    assert (row["schema"], row["gravity_m"]) == (9, [1, {"a": None}])


def test_a_lone_surrogate_is_no_reason_to_refuse(team: Team):
    """Our own sink sends names from bytes that are no text; these are stored, replaced."""
    answer = team.server.post([named(400, name="caf\udce9 \\ud800 😀")], team.send)
    assert answer.status_code == 204
    row = next(row for row in team.stored() if row["record_id"] == "answers:400")
    assert row["name"] == "caf\ufffd \\ud800 😀"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/report?by=nmae", 400),
        ("/v1/report?since=soon", 400),
        ("/v1/report?token=x", 400),
        ("/v1/reports", 404),
        ("/v1/records", 405),
        ("/healthz", 200),
    ],
)
def test_other_paths(team: Team, path: str, status: int):
    """A mistake in the address has its own answer, and no answer is kept by anyone."""
    answer = team.server.get(path, team.read)
    assert answer.status_code == status
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_tenants_cannot_reach_each_other(team: Team):
    """The same id in two projects is two records: none is read, and none is overwritten."""
    shared = named(500, name="of vision", status="recovered", energy_kwh=1.0)
    assert team.server.post([shared], team.send).status_code == 204
    theirs = record_object(named(500, name="of audio", energy_kwh=7.0))
    theirs["project"] = "vision"  # whoever sends such a key decides nothing
    assert team.server.post([theirs], team.send_b).status_code == 204
    mine = [row for row in team.stored() if row["record_id"] == "answers:500"]
    assert [(row["name"], row["status"]) for row in mine] == [("of vision", "recovered")]
    groups = team.server.get("/v1/report", team.read_b).json()["groups"]
    assert [(group["key"], group["energy_kwh"]) for group in groups] == [("of audio", 7.0)]
    names = {g["key"] for g in team.server.get("/v1/report", team.read).json()["groups"]}
    assert "of vision" in names
    assert "of audio" not in names


@pytest.mark.parametrize("finished_first", [True, False])
def test_a_recovered_record_yields(team: Team, finished_first: bool):
    """The finished record stays, whichever came first, and whoever repeats it."""
    record_id = f"answers:yields-{finished_first}"
    finished = a_record(record_id=record_id, energy_kwh=2.0)
    recovered = a_record(record_id=record_id, energy_kwh=1.0, status="recovered")
    order = [finished, recovered] if finished_first else [recovered, finished]
    for record in (*order, *order):
        assert team.server.post([record], team.send).status_code == 204
    rows = [row for row in team.stored() if row["record_id"] == record_id]
    assert [(row["status"], row["energy_kwh"]) for row in rows] == [("ok", 2.0)]
