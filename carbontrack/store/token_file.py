"""Tokens in a file, for a receiver whose tokens come with its configuration rather than its store.

A line is "ID PROJECT MAY SHA256 TIME" for a token, and "ID revoked TIME" for one that is refused
from then on; what follows a "#" is a comment. Lines are only ever appended, each by one write, so
that several processes may do it; who edits the file may also remove lines.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from carbontrack.errors import ConfigError, StoreUnavailable
from carbontrack.store.rows import time_text
from carbontrack.store.tokens import (
    May,
    Token,
    checked_may,
    checked_project,
    id_in,
    is_same,
    new_token,
    parts_of,
)
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.interrupts import pass_on

SIZE_LIMIT_BYTES: Final = 16 << 20
_HASH_DIGITS = 64
_APPENDING = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
_Found = dict[str, tuple[Token, str]]


class TokenFile:
    """The tokens of a file, which is read again when it has changed.

    Any thread may use it, and any number of processes may have the same file. A file that is not
    there has no tokens until the first is made.

    Raises:
        ConfigError: it cannot be read, or a line of it is neither of both.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        self.path = Path(path).expanduser().absolute()
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._known: _Found = {}
        if self.path.exists():
            try:
                self._known = _parsed(_text(self.path))
            except (OSError, ValueError) as error:
                pass_on(error)
                raise ConfigError(f"cannot read tokens from {self.path}: {error}") from error

    def create_token(self, project: str, may: May = "ingest") -> str:
        """A new token for a project; its text is not stored.

        Raises:
            ConfigError: that is no name of a project or no kind of token, or no file can be there.
        """
        text, token_id, hashed = new_token()
        project, may_too = checked_project(project), checked_may(may)
        self._append(f"{token_id} {project} {may_too} {hashed} {self._now()}")
        return text

    def token(self, text: str) -> Token | None:
        """The token with that text; None for one that is unknown or revoked, or no token.

        Raises:
            StoreUnavailable: the file cannot be read, or a line of it is neither of both: a client
                must not be refused for that.
        """
        parts = parts_of(text)
        if parts is None:
            return None
        token, hashed = self._current().get(parts[0], (None, "0" * _HASH_DIGITS))
        is_right = is_same(hashed, parts[1])
        return token if is_right and token is not None and token.revoked_at is None else None

    def tokens(self) -> list[Token]:
        """All tokens, those that are revoked too, by project and age."""
        found = self._current().values() if self.path.exists() else ()
        return sorted((one for one, _ in found), key=lambda one: (one.project, one.created_at))

    def has_tokens(self) -> bool:
        """Whether there is any token, including revoked ones."""
        return bool(self.tokens())

    def revoke(self, token: str) -> bool:
        """Refuse a token, given by its id or its text, from now on; False if there is none."""
        token_id = id_in(token)
        found = self._current().get(token_id) if self.path.exists() else None
        if found is None:
            return False
        if found[0].revoked_at is None:
            self._append(f"{token_id} revoked {self._now()}")
        return True

    def _now(self) -> str:
        return time_text(self._clock.now_utc())

    def _append(self, line: str) -> None:
        try:
            handle = os.open(self.path, _APPENDING, 0o600)
            try:
                size = os.fstat(handle).st_size
                # a line that an editor has left without its end is not continued
                is_open = size > 0 and _text(self.path)[-1:] != "\n"
                added = f"{chr(10) * is_open}{line}\n".encode()
                written = os.write(handle, added)
                if written < len(added):  # half a line would make the whole file one of no tokens
                    if os.fstat(handle).st_size == size + written:
                        os.ftruncate(handle, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            pass_on(error)
            raise ConfigError(f"cannot write tokens to {self.path}: {error.strerror}") from error

    def _current(self) -> _Found:
        with self._lock:
            try:
                found = self.path.stat()
                stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
                if stamp != self._stamp:
                    self._known = _parsed(_text(self.path))
                    self._stamp = stamp
            except (OSError, ValueError) as error:
                pass_on(error)
                raise StoreUnavailable(f"cannot read tokens from {self.path}: {error}") from error
            return self._known


def _text(path: Path) -> str:
    """The file's text.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too long, or no text.
    """
    with path.open("rb") as file:
        content = file.read(SIZE_LIMIT_BYTES + 1)
    if len(content) > SIZE_LIMIT_BYTES:
        raise ValueError(f"it is longer than {SIZE_LIMIT_BYTES >> 20} MiB")
    return content.decode()


def _parsed(text: str) -> _Found:
    """The tokens by their ids, with the hashes of their secrets.

    Raises:
        ValueError: a line is neither of both; says which, without what is in it.
    """
    found: _Found = {}
    for number, words in _lines(text):
        if len(words) == 5 and len(words[3]) == _HASH_DIGITS:
            token_id, project, may, hashed, at = words
            try:
                token = Token(token_id, checked_project(project), checked_may(may), at)
            except ConfigError as error:
                raise ValueError(f"line {number}: {error}") from error
            found[token_id] = token, hashed
        elif len(words) == 3 and words[1] == "revoked":
            if words[0] in found:
                token, hashed = found[words[0]]
                found[words[0]] = token._replace(revoked_at=words[2]), hashed
        else:
            raise ValueError(
                f"line {number} is neither 'ID PROJECT MAY SHA256 TIME' nor 'ID revoked TIME'"
            )
    return found


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words
