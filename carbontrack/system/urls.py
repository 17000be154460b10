"""URLs: what may be shown of one, and whether two lead to the same server."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_PORTS = {"http": 80, "https": 443}
_PLAIN_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")


def shown(url: str) -> str:
    """The URL as it may be shown: without a password or the query, which often holds a key."""
    parts = _split(url)
    if parts is None:  # nobody can say what is what in it
        return f"{url.partition('://')[0]}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin_of(url: str) -> tuple[str, str, int] | None:
    """The scheme, host and port of a URL: what a secret is for; None where these are in doubt.

    They are in doubt where two readers of the URL may differ: with a user name in it, a backslash,
    white space, or a host with characters that no host has.
    """
    parts = _split(url)
    if parts is None or "@" in parts.netloc or not url.isprintable() or re.search(r"[\\\s]", url):
        return None
    host = _ascii(parts.hostname or "")
    if parts.scheme not in _PORTS or not _PLAIN_HOST.fullmatch(host):
        return None
    return parts.scheme, host, _PORTS[parts.scheme] if parts.port is None else parts.port


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port, parts.hostname
    except ValueError:
        return None
    return parts


def _ascii(host: str) -> str:
    """The host as it is sent and looked up: "bücher.example" is "xn--bcher-kva.example"."""
    if host.isascii():
        return host
    import idna  # requests does it so

    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        return ""
