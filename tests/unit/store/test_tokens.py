"""Tokens in a file, and names of projects."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError, StoreUnavailable
from carbontrack.store.token_file import TokenFile
from carbontrack.store.tokens import checked_project
from carbontrack.testing import FakeClock


def test_a_token_is_known_by_its_text_alone(tmp_path: Path):
    """The file has its hash, and no part of its secret."""
    tokens = TokenFile(tmp_path / "tokens")
    text = tokens.create_token("vision", "read")
    assert re.fullmatch(r"ct_[0-9a-f]{12}_[0-9a-f]{48}", text)
    token = tokens.token(text)
    assert token is not None
    assert (token.project, token.may, token.revoked_at) == ("vision", "read", None)
    assert text.rpartition("_")[2] not in tokens.path.read_text()
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    for wrong in (text[:-1], f"{text[:-1]}{'0' if text[-1] != '0' else '1'}", "", "ct__", text * 2):
        assert tokens.token(wrong) is None


def test_a_revoked_token_is_refused(tmp_path: Path):
    """By its id or its text; it stays in the list, and a second time changes nothing."""
    tokens = TokenFile(tmp_path / "tokens", clock=FakeClock())
    first, second = tokens.create_token("vision"), tokens.create_token("vision")
    assert tokens.revoke(first)
    assert tokens.revoke(second.split("_")[1])
    assert tokens.revoke(first)
    assert not tokens.revoke("ct_nobody")
    assert (tokens.token(first), tokens.token(second)) == (None, None)
    assert len(tokens.tokens()) == 2
    assert all(one.revoked_at for one in tokens.tokens())
    assert len(tokens.path.read_text().splitlines()) == 4


def test_what_another_process_or_an_editor_does_is_seen(tmp_path: Path):
    """Lines may have comments, be removed, or lack the last line's end."""
    path = tmp_path / "tokens"
    serving, other = TokenFile(path), TokenFile(path)
    assert not serving.has_tokens()
    text = other.create_token("vision")
    assert serving.token(text) is not None
    path.write_text(f"# ours\n\n{path.read_text().strip()}  # of the cluster")
    assert serving.token(text) is not None
    added = other.create_token("speech")
    assert [one.project for one in serving.tokens()] == ["speech", "vision"]
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "vision" in line))
    os.utime(path, ns=(1, 1))  # in the same tick of the file system's clock
    assert serving.token(added) is None
    assert serving.token(text) is not None


def test_a_file_that_cannot_be_read_refuses_nobody(tmp_path: Path):
    """A client that is refused gives its records up: it is told to come again instead."""
    path = tmp_path / "tokens"
    tokens = TokenFile(path)
    text = tokens.create_token("vision")
    path.rename(tmp_path / "moved")
    with pytest.raises(StoreUnavailable, match="No such file"):
        tokens.token(text)
    path.write_text("what is this?\n")
    with pytest.raises(StoreUnavailable, match="line 1"):
        tokens.token(text)
    with pytest.raises(ConfigError, match="line 1"):
        TokenFile(path)
    (tmp_path / "moved").replace(path)
    assert tokens.token(text) is not None


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path):
    """Before any token is told to anybody."""
    with pytest.raises(ConfigError, match="cannot write tokens"):
        TokenFile(tmp_path / "nowhere" / "tokens").create_token("vision")
    with pytest.raises(ConfigError, match="'read'"):
        TokenFile(tmp_path / "tokens").create_token("vision", "reed")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a b", ".hidden", "a/b", "ü", "x" * 65, "a\n", "'; --", None])
def test_a_project_has_a_plain_name(name: str):
    """It stands in URLs, logs and file names."""
    with pytest.raises(ConfigError, match="project's name"):
        checked_project(name)


@pytest.mark.parametrize("name", ["a", "team-1", "Vision.2026_q1", "x" * 64])
def test_plain_names_are_taken(name: str):
    """As they are."""
    assert checked_project(name) == name


LIMITED = """
import resource, sys
from carbontrack.errors import ConfigError
from carbontrack.store.token_file import TokenFile
tokens = TokenFile(sys.argv[1])
text = tokens.create_token("vision")
before = tokens.path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, resource.RLIM_INFINITY))
try:
    tokens.revoke(text)
except ConfigError as error:
    print(error)
assert tokens.path.read_bytes() == before
assert TokenFile(sys.argv[1]).token(text) is not None
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limit on the length of files")
def test_a_file_without_room_stays_whole(tmp_path: Path):
    """Half a line would keep out everybody; that a token is not revoked is said."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "tokens")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write tokens" in done.stdout
