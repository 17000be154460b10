"""The command `carbontrack serve`: who is let in, what it says, and where no secret is."""

from __future__ import annotations

from pathlib import Path

from tests.support.records import a_record
from tests.support.serving import (
    bearer,
    carbontrack,
    new_token,
    rows_of,
    serving,
    serving_with,
    wait_until,
)


def test_without_tokens_this_machine_is_let_in(tmp_path: Path):
    """It is said once; a page of elsewhere that finds its way to this address gets nothing."""
    with serving(tmp_path) as server:
        assert server.post([a_record()]).status_code == 204
        assert server.get("/v1/report").json()["total"]["runs"] == 1
        elsewhere = server.post_body(b"[]", headers={"Host": "evil.example"})
        assert elsewhere.status_code == 403
        assert server.said().count("program on this machine may send and read") == 1
    assert len(rows_of(tmp_path, "default")) == 1


def test_the_first_token_ends_that(tmp_path: Path):
    """Once there is a token, nobody is let in without one, also by a server that runs."""
    with serving(tmp_path) as server:
        token = new_token("vision", tmp_path)
        assert wait_until(lambda: server.post([]).status_code == 401)
        assert server.post([a_record()]).status_code == 401
        assert server.post([a_record()], token).status_code == 204


def test_other_machines_need_a_token(tmp_path: Path):
    """With one, an address that others can reach may be listened on."""
    new_token("vision", tmp_path)
    with serving(tmp_path, "--host", "0.0.0.0") as server:
        assert server.url.startswith("http://0.0.0.0:")


def test_a_revoked_token_is_refused(tmp_path: Path):
    """Also by a server that runs, and that has taken it until then."""
    token = new_token("vision", tmp_path)
    with serving_with(tmp_path, token_s=0.2) as server:
        assert server.post([], token).status_code == 204
        assert carbontrack("serve", "--revoke", token, folder=tmp_path).returncode == 0
        assert wait_until(lambda: server.post([], token).status_code == 401)


def test_a_secret_is_nowhere(tmp_path: Path):
    """No token that was sent, right or wrong, is in a log, an answer, a metric or the store."""
    right = new_token("vision", tmp_path)
    reads = new_token("vision", tmp_path, "--read")
    wrong = right[:-6] + "abcdef"
    answers = []
    with serving(tmp_path) as server:
        for token in (right, reads, wrong):
            answers.append(server.post([a_record()], token))
            answers.append(server.post_body(b"[{}]", token))
            answers.append(server.post_body(b"\xff", token))
            answers.append(server.post_body(f'["{token}"]'.encode(), token))
            answers.append(server.get(f"/?token={token}", token))
            answers.append(server.get("/v1/report", token, params={"since": "x"}))
            answers.append(server.get(f"/{token}"))
            answers.append(server.get("/v1/report", auth=("any", token)))
            with server.connect() as connection:
                connection.sendall(f"{bearer(token)}\r\n\r\n".encode())
                connection.recv(1000)
        answers.append(server.get("/metrics"))
        assert server.stop() == 0
    stored = b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))
    stored += b"".join(answer.content + str(answer.headers).encode() for answer in answers)
    for token in (right, reads, wrong):
        assert token.rpartition("_")[2].encode() not in stored
    assert "Traceback" not in server.said()
