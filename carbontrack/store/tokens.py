"""Tokens: texts that let a client write to a project, or read it; only their hashes are kept.

A token is "ct_<id>_<secret>". The id finds its row, in logs and lists too; the secret has 192 bits
from the system's generator, so a plain SHA-256 of it cannot be tried out, and is quick to check.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Literal, Protocol, get_args

from carbontrack.errors import ConfigError, nearest
from carbontrack.values import NamedTuple

May = Literal["ingest", "read"]
_KINDS: tuple[May, ...] = get_args(May)
_TOKEN = re.compile(r"ct_([0-9a-f]{12})_([0-9a-f]{48})")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Token(NamedTuple):
    """The stored facts of a token; its secret is not stored.

    Attributes:
        id: the part of its text that may be shown.
        project: whose records it is for.
        may: "ingest" (write) or "read".
        created_at: when it was made, as text in UTC.
        revoked_at: since when it is refused; None: it is valid.
    """

    id: str
    project: str
    may: str
    created_at: str
    revoked_at: str | None = None


class Tokens(Protocol):
    """A place for tokens: a store, or a file of tokens."""

    def create_token(self, project: str, may: May = "ingest") -> str:
        """A new token for a project; its text is not stored."""
        ...

    def token(self, text: str) -> Token | None:
        """The token with that text; None for one that is unknown or revoked, or no token."""
        ...

    def tokens(self) -> list[Token]:
        """All tokens, those that are revoked too, by project and age."""
        ...

    def has_tokens(self) -> bool:
        """Whether there is any token, including revoked ones."""
        ...

    def revoke(self, token: str) -> bool:
        """Refuse a token, given by its id or its text, from now on; False if there is none."""
        ...


def new_token() -> tuple[str, str, str]:
    """A new token: its text, its id, and the hash that is kept."""
    token_id, secret = secrets.token_hex(6), secrets.token_hex(24)
    return f"ct_{token_id}_{secret}", token_id, _hash(secret)


def parts_of(text: str) -> tuple[str, str] | None:
    """The id of a token and the hash of its secret; None for a text that is no token."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else (found[1], _hash(found[2]))


def is_same(one: str, other: str) -> bool:
    """Whether two hashes are equal, in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def id_in(token: str) -> str:
    """The id of a token, given by its id or by its whole text."""
    found = _TOKEN.fullmatch(token)
    return token if found is None else found[1]


def checked_project(name: str) -> str:
    """The name of a project, checked.

    Raises:
        ConfigError: it is invalid.
    """
    if not isinstance(name, str) or not _PROJECT.fullmatch(name):
        raise ConfigError(
            f"{name!r:.80} cannot be a project's name: a name has 1 to 64 ASCII letters and "
            "digits, '.', '_' and '-', and begins with a letter or a digit"
        )
    return name


def checked_may(may: str) -> str:
    """What a token may do, checked.

    Raises:
        ConfigError: it is neither "ingest" nor "read".
    """
    if may not in _KINDS:
        raise ConfigError(
            f"a token is for 'ingest' or 'read', not {may!r:.40}{nearest(may, _KINDS)}"
        )
    return may


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
