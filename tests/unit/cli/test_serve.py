"""`carbontrack serve` on the command line: its tokens, its projects, and what it refuses."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from carbontrack.cli import main

Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `team.db`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys: Printed, *options: str) -> str:
    assert main(["serve", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "66000"), "--port"),
        (("--store", "mysql://x/y"), "postgresql"),
        (("--store", "gone/team.db"), "there is no directory"),
        (("--new-token", "a b"), "project"),
        (("--new-token", "a", "--list"), "--new-token and --list"),
        (("--read",), "--new-token"),
        (("--quota", "5"), "--project"),
        (("--project", "a"), "--quota"),
        (("--project", "a", "--quota", "-1"), "quota"),
        (("--project", "a", "--quota", "1.5"), "quota"),
        (("--project", "a", "--retention", "long"), "--retention"),
        (("--revoke", "feedfeedfeed"), "no token"),
        (("--tokens", "gone.txt"), "no such file"),
        (("--host", "0.0.0.0"), "--new-token"),
        (("--host", "no such host"), "cannot listen"),
    ],
)
def test_mistakes_are_bad_usage(capsys: Printed, options: tuple[str, ...], said: str):
    """What cannot be done is said before anything starts."""
    if options == ("--host", "no such host"):
        main(["serve", "--new-token", "vision"])
    assert main(["serve", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_report_says_what_a_store_is(
    capsys: Printed, caplog: pytest.LogCaptureFixture, folder: Path
):
    """Its records are of several projects, each with its rights: the server has their totals."""
    main(["serve", "--new-token", "vision"])
    assert main(["report", "team.db"]) == 2
    assert "no records in team.db" in capsys.readouterr().err
    assert "carbontrack serve" in caplog.text
    assert "/v1/report" in caplog.text


def test_a_port_that_is_taken_is_an_error(capsys: Printed):
    """It is said in one line, as bad usage."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"carbontrack: cannot listen on 127.0.0.1 port {port}: .+\n", said)


@pytest.mark.parametrize("where", [(), ("--tokens", "tokens.txt")])
def test_tokens_are_made_listed_and_revoked(capsys: Printed, where: tuple[str, ...]):
    """A new token is printed alone and once; lists have no secret."""
    token = printed(capsys, "--new-token", "vision", *where).strip()
    assert re.fullmatch(r"ct_[0-9a-f]{12}_[0-9a-f]{48}", token)
    made = json.loads(printed(capsys, "--new-token", "vision", "--read", "--json", *where))
    assert made["project"] == "vision"
    listed = printed(capsys, "--list", "--json", *where)
    assert [(one["project"], one["may"]) for one in json.loads(listed)["tokens"]] == [
        ("vision", "ingest"),
        ("vision", "read"),
    ]
    assert main(["serve", "--revoke", made["token"], *where]) == 0
    listed += printed(capsys, "--list", *where)
    assert listed.count("revoked 20") == 1
    for text in (token, made["token"]):
        assert text.rpartition("_")[2] not in listed


def test_limits_of_a_project_are_set_one_by_one(capsys: Printed):
    """One that is not named stays as it was, and `none` takes it away."""
    given = (("--quota", "600"), ("--retention", "30.5"), ("--quota", "none"))
    found = [json.loads(printed(capsys, "--project", "vision", *one, "--json")) for one in given]
    assert [(one["quota_records_per_min"], one["retention_days"]) for one in found] == [
        (600, None),
        (600, 30.5),
        (None, 30.5),
    ]
    assert "any number of records, keeps them 30.5 days" in printed(capsys, "--list")
