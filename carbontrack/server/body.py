"""The body of a request: read within limits of size and time, and decoded into rows."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from carbontrack.server.limits import Limits, Refused
from carbontrack.store.rows import StoredRow, stored_row
from carbontrack.text import cut_to, visible

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""The next part of a request, as ASGI has it."""
_decoder = msgspec.json.Decoder(list[dict[str, Any]])
_LONE = re.compile("[\ud800-\udfff]")
"""A half of a pair that stands alone: Python joins those that are whole."""
_LONGEST_REASON = 300


class Disconnected(Exception):  # noqa: N818 - states what happened
    """The sender disconnected before its request was complete."""


def declared_length(headers: Mapping[str, str], limits: Limits) -> int:
    """The declared length of a body that may be read.

    Raises:
        Refused: it is not JSON, is compressed, is too long, or its length is not declared.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "send records as Content-Type: application/json")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(
            415, "send records without Content-Encoding", headers={"Accept-Encoding": "identity"}
        )
    if "content-length" not in headers or "transfer-encoding" in headers:
        raise Refused(411, "send the length of the body as Content-Length")
    length = int(headers["content-length"])  # which the HTTP parser has seen to be a number
    if length > limits.body_bytes:
        raise Refused(413, f"a body may have at most {limits.body_bytes:,} bytes, not {length:,}")
    return length


async def read_body(receive: Receive, length: int, limits: Limits) -> bytes:
    """The body, whose length was declared.

    Raises:
        Refused: it did not arrive in time.
        Disconnected: the sender has disconnected.
    """
    try:
        return await asyncio.wait_for(_read(receive, length), limits.body_s)
    except asyncio.TimeoutError:
        raise Refused(
            408,
            f"the body of {length:,} bytes did not arrive within {limits.body_s:g} s",
            headers={"Connection": "close"},
        ) from None


async def _read(receive: Receive, length: int) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        length -= len(parts[-1])
        if length < 0:  # the HTTP parser sees to that; the memory that is held depends on it
            raise Refused(400, "the body is longer than its Content-Length")
        if not message.get("more_body", False):
            return b"".join(parts)


def rows_in(body: bytes, limits: Limits) -> list[StoredRow]:
    """The rows in a body: a JSON array of records.

    Raises:
        Refused: it is not such an array, has too many records, or one of them is invalid.
    """
    received = _objects(body)
    if len(received) > limits.records:
        raise Refused(
            413, f"a request may have at most {limits.records:,} records, not {len(received):,}"
        )
    rows = []
    for place, one in enumerate(received):
        try:
            rows.append(stored_row(one))
        except ValueError as error:
            raise Refused(422, f"record {place}: {_short(str(error))}", record=place) from None
    return rows


def _objects(body: bytes) -> list[dict[str, Any]]:
    try:
        return _decoder.decode(body)
    except RecursionError:
        raise Refused(422, "the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise Refused(422, f"the body is not an array of records: {_short(str(error))}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = _without_lone_surrogates(body)
        if mended is not None:
            return _objects(mended)
        raise Refused(422, f"the body is not JSON in UTF-8: {_short(str(error))}") from None


def _without_lone_surrogates(body: bytes) -> bytes | None:
    """The body with U+FFFD in place of each; None where there is none.

    Python's JSON writes them for bytes of a file name or an argument that are not text.
    """
    if b"\\ud" not in body and b"\\uD" not in body:
        return None
    try:
        text = json.dumps(json.loads(body.decode()), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return _LONE.sub("\ufffd", text).encode() if _LONE.search(text) else None


def _short(reason: str) -> str:
    return cut_to(visible(reason), _LONGEST_REASON)
