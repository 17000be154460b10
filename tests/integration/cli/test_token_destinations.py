"""To whom a token is given: to the address that was named beside it, and to nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.sinks.journal.journal import Journal
from carbontrack.testing.receiver import Fault, Receiver
from tests.integration.cli.test_dead_letters import set_aside
from tests.support.records import a_record

ROOT = Path(__file__).parents[3]
TOKEN = "secret-7d1f-token"
PROGRAM = "import carbontrack\nwith carbontrack.track('x', region='FR'): pass"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a home, a stranger's repository and our own folder in it."""
    for name in ("home", "repo", "ours"):
        (tmp_path / name).mkdir()
    return tmp_path


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Python in a folder; a token may be printed nowhere."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={name: text for name, text in os.environ.items() if not name.startswith("XDG_")}
        | {"PYTHONPATH": str(ROOT), "HOME": str(folder.parent / "home")}
        | {"CARBONTRACK_STATE_DIR": str(folder.parent / "state")}
        | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert TOKEN not in done.stdout + done.stderr
    return done


def sync(folder: Path, *options: str, **environ: str) -> tuple[int, dict[str, object]]:
    """Exit code and result of `carbontrack sync`."""
    done = run(folder, "-m", "carbontrack", "sync", "--json", *options, **environ)
    return done.returncode, json.loads(done.stdout)


def project(place: Path, *lines: str) -> None:
    """What the stranger's pyproject.toml says."""
    (place / "repo" / "pyproject.toml").write_text("\n".join(["[tool.carbontrack]", *lines]))


def queue(place: Path, *urls: str) -> None:
    """A record of an ended process that waits for each address."""
    journal = Journal(place / "state")
    for number, url in enumerate(urls):
        journal.enqueue(a_record(number), url)
    journal.close()


def tokens(receiver: Receiver) -> list[str | None]:
    """What each request has shown of a token."""
    return [request.headers.get("Authorization") for request in receiver.requests]


def test_sync_gives_no_token_to_an_address_that_a_repository_named(place: Path) -> None:
    """Its records go there, as in the run that made them, and the token does not."""
    down = [True]
    with Receiver(faults=lambda _: Fault(503) if down[0] else None) as evil:
        project(place, f'output = "{evil.url}"')
        assert run(place / "repo", "-c", PROGRAM).returncode == 0
        down[0] = False
        code, found = sync(place / "ours", CARBONTRACK_HTTP_TOKEN=TOKEN)

    assert (code, found["remaining"], len(evil.records)) == (0, 0, 1)
    assert set(tokens(evil)) == {None}


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("way", ["--url", "output", "config"])
def test_what_wants_a_token_waits_until_the_user_names_the_address(
    place: Path, way: str, status: int
) -> None:
    """It stays in the journal, and what to do is said; then it is delivered with the token."""
    with Receiver(token=TOKEN) as server:
        server._judge = (  # type: ignore[method-assign]
            lambda headers, _: (
                Fault(204, store=True)
                if headers.get("Authorization") == f"Bearer {TOKEN}"
                else Fault(status)
            )
        )
        queue(place, server.url)
        code, found = sync(place / "ours", CARBONTRACK_HTTP_TOKEN=TOKEN)
        (address,) = found["addresses"]  # type: ignore[misc]
        assert (code, address["remaining"], address["refused"]) == (1, 1, 0)
        assert f"HTTP {status}, and no token is set for this address" in address["trouble"]
        for what_to_do in ("CARBONTRACK_HTTP_TOKEN", "CARBONTRACK_OUTPUT", "sync --url URL"):
            assert what_to_do in address["trouble"]
        assert not (place / "state" / "dead-letter").exists()

        given = {"CARBONTRACK_HTTP_TOKEN": TOKEN}
        options = ["--url", server.url] if way == "--url" else []
        if way == "output":
            given["CARBONTRACK_OUTPUT"] = f"runs.csv,{server.url}"
        if way == "config":
            config = place / "home" / ".config" / "carbontrack"
            config.mkdir(parents=True)
            (config / "config.toml").write_text(f'output = ["{server.url}"]')
        code, found = sync(place / "ours", *options, **given)

    assert (code, found["remaining"], len(server.records)) == (0, 0, 1)
    assert tokens(server) == [None, f"Bearer {TOKEN}"]


def test_a_run_without_a_token_keeps_its_records_too(place: Path) -> None:
    """They are not set aside: with a token, the next run sends them."""
    with Receiver(token=TOKEN) as server:
        output = {"CARBONTRACK_OUTPUT": server.url}
        first = run(place / "ours", "-c", PROGRAM, **output)
        assert "HTTP 401, and no token is set for this address" in first.stderr
        run(place / "ours", "-c", PROGRAM, CARBONTRACK_HTTP_TOKEN=TOKEN, **output)

    assert len(server.records) == 2
    assert not (place / "state" / "dead-letter").exists()


def test_each_address_gets_only_what_is_its_own(place: Path) -> None:
    """Of many in the journal, the token goes to the server that the user named, on any path."""
    with Receiver() as ours, Receiver() as evil:
        port = ours.url.split(":")[2].partition("/")[0]
        same = [ours.url, f"{ours.url}/old?key=1", f"HTTP://127.0.0.1:{port}/other"]
        other = [
            evil.url,
            f"http://localhost:{port}/records",
            f"http://127.0.0.1:{port}@{evil.url.partition('//')[2]}",
        ]
        queue(place, *same, *other)
        sync(place / "ours", CARBONTRACK_HTTP_TOKEN=TOKEN, CARBONTRACK_OUTPUT=ours.url)

    given = [request for request in ours.requests if request.headers.get("Authorization")]
    assert len(given) == len(same)
    assert set(tokens(evil)) == {None}
    assert {request.record_ids[0] for request in given} == {
        a_record(number).record_id for number in range(3)
    }


def test_url_names_one_address_only(place: Path) -> None:
    """And a query, which is not shown, need not be typed."""
    with Receiver() as ours, Receiver() as evil:
        queue(place, f"{ours.url}?key=query-secret", evil.url)
        code, _ = sync(place / "ours", "--url", ours.url, CARBONTRACK_HTTP_TOKEN=TOKEN)
        assert (code, tokens(ours), tokens(evil)) == (0, [f"Bearer {TOKEN}"], [])


def test_the_next_run_gives_no_token_to_what_it_finds(place: Path) -> None:
    """It sends what was left for its own address, and leaves the rest."""
    with Receiver() as ours, Receiver() as evil:
        queue(place, ours.url, evil.url)
        run(place / "ours", "-c", PROGRAM, CARBONTRACK_HTTP_TOKEN=TOKEN,
            CARBONTRACK_OUTPUT=ours.url)  # fmt: skip
        run(place / "ours", "-m", "carbontrack", "recover", CARBONTRACK_HTTP_TOKEN=TOKEN)

    assert (len(ours.records), set(tokens(ours))) == (2, {f"Bearer {TOKEN}"})
    assert tokens(evil) == []


def test_dead_letters_are_no_way_to_a_token(place: Path) -> None:
    """A file in which a stranger's address stands; then the address that the user named."""
    with Receiver() as ours, Receiver() as evil:
        set_aside(place, evil.url, 0)
        set_aside(place, ours.url, 1)
        sync(place / "ours", "--dead-letters", CARBONTRACK_HTTP_TOKEN=TOKEN,
             CARBONTRACK_OUTPUT=ours.url)  # fmt: skip

    assert (len(evil.records), tokens(evil)) == (1, [None])
    assert (len(ours.records), tokens(ours)) == (1, [f"Bearer {TOKEN}"])


def test_a_redirect_takes_no_token_elsewhere(place: Path) -> None:
    """Not from `sync` either."""
    with Receiver() as evil:
        moved = Fault(307, {"Location": evil.url})
        with Receiver(faults=lambda _: moved) as ours:
            queue(place, ours.url)
            _, found = sync(place / "ours", "--url", ours.url, CARBONTRACK_HTTP_TOKEN=TOKEN)

    assert (evil.requests, tokens(ours)) == ([], [f"Bearer {TOKEN}"])
    assert found["addresses"][0]["refused"] == 1  # type: ignore[index]


def test_a_repository_gives_its_own_token_to_its_own_address_only(place: Path) -> None:
    """Else our records would land in a stranger's account on our server."""
    with Receiver() as ours, Receiver() as theirs:
        project(place, f'output = "{theirs.url}"', 'http_token = "theirs"')
        queue(place, ours.url, theirs.url)
        sync(place / "repo", "--url", ours.url)
        sync(place / "repo")

    assert tokens(ours) == [None]
    assert tokens(theirs) == ["Bearer theirs"]


def test_a_repository_with_our_token_is_one_line_from_working(place: Path) -> None:
    """The error names the line; with it the run and `sync` send the token there."""
    with Receiver(token=TOKEN) as team:
        project(place, f'output = ["runs.csv", "{team.url}?key=query-secret"]')
        refused = run(place / "repo", "-c", PROGRAM, CARBONTRACK_HTTP_TOKEN=TOKEN)
        line = f"CARBONTRACK_OUTPUT=runs.csv,{team.url} in the environment, next to http_token"
        assert refused.returncode == 1
        assert line in refused.stderr
        assert "query-secret" not in refused.stderr
        assert team.requests == []

        named = {"CARBONTRACK_OUTPUT": f"runs.csv,{team.url}", "CARBONTRACK_HTTP_TOKEN": TOKEN}
        assert run(place / "repo", "-c", PROGRAM, **named).returncode == 0
        queue(place, team.url)
        assert sync(place / "repo", **named)[0] == 0

    assert len(team.records) == 2
